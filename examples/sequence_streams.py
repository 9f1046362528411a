"""Play along: a recurrent mixture density network that continues, answers and repairs streams of a control knob.

The streams are fuzzy sines of our own making: a knob that swings, at a pace that wanders, read at uneven times. The
script trains on them, then

1. continues a stream, and answers one (call and response);
2. plays in real time, one event after the other, first listening and then playing;
3. fills in a stretch that was lost, given what came before *and after* it;
4. exports one step through `torch.export`, and writes MIDI and sound.

    python examples/sequence_streams.py --out runs/streams

With recordings of your own instrument: `datasets.load("control", root="folder/of/logs")`.

Reference: Martin and Torresen, "An interactive musical prediction system with mixture density recurrent neural
networks", NIME 2019.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from phlogiston.datasets.base import Dataset, Meta, Split
from phlogiston.errors import QueryWarning
from phlogiston.inference.query.evidence import Known
from phlogiston.systems import music
from phlogiston.systems.sequence import SequenceModel


def fuzzy_sines(rows: int, steps: int, seed: int) -> Split:
    """Streams of (dt, knob): a sine of wandering pace with noise, at uneven times."""
    random = np.random.default_rng(seed)
    dt = 0.05 * np.exp(0.2 * random.standard_normal((rows, steps)))
    pace = 2.0 * np.exp(0.1 * np.cumsum(0.3 * random.standard_normal((rows, steps)), 1))
    phase = random.uniform(0, 2 * np.pi, (rows, 1)) + np.cumsum(pace * dt, 1)
    knob = np.clip(0.5 + 0.4 * np.sin(phase) + 0.01 * random.standard_normal((rows, steps)), 0, 1)
    return Split({"x": np.stack([dt, knob], -1), "length": np.full(rows, steps)}, sequences=("x",))


def main() -> None:
    """Train, continue, answer, play, repair, export."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/streams"))
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows, steps = (20, 60) if arguments.smoke else (200, 200)
    data = Dataset(
        fuzzy_sines(rows, steps, 0), fuzzy_sines(8, steps, 1), fuzzy_sines(8, steps, 2),
        Meta("fuzzy sines", columns=("dt", "knob")),
    )  # fmt: skip
    system = SequenceModel(hidden=48, layers=1, num_components=5, steps=5 if arguments.smoke else 800).fit(data)
    print("nats per event:", system.evaluate(data, ["nats_per_step"])["nats_per_step"])

    call = data.test.tensors["x"][0, :50]
    answer = system.respond(call, seconds=2.0, seed=1)["x"][0]
    stream = system.stream(seed=2)
    for event in call:
        stream.hear(event)
    began = time.perf_counter()
    played = torch.stack([stream.step() for _ in range(50)])
    print(f"in real time: {1000 * (time.perf_counter() - began) / 50:.2f} ms per event")

    whole = data.test.tensors["x"][1, :40].double()
    mask = torch.ones_like(whole, dtype=torch.bool)
    mask[15:22, 1] = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", QueryWarning)
        repaired = system.query({"x": Known(whole, mask)}, num_samples=500, seed=0)
    middle, low, high = (repaired.quantile("x", q)[:, 1] for q in (0.5, 0.05, 0.95))
    print(
        "lost and found:",
        [round(v, 2) for v in whole[15:22, 1].tolist()],
        [round(v, 2) for v in middle[15:22].tolist()],
    )

    target = arguments.out / "step.pt2"
    target.unlink(missing_ok=True)
    system.export(target)
    (arguments.out / "answer.mid").write_bytes(music.midi(answer.numpy(), ("dt", "knob")))
    (arguments.out / "answer.wav").write_bytes(music.wav(answer.numpy(), ("dt", "knob")))

    figure = Figure(figsize=(9, 5), layout="constrained")
    top, bottom = figure.subplots(2)
    at = call[:, 0].cumsum(0)
    top.plot(at, call[:, 1], color="#1d3557", label="call")
    top.plot(at[-1] + answer[:, 0].cumsum(0), answer[:, 1], color="#c2410c", label="response")
    top.plot(at[-1] + played[:, 0].cumsum(0), played[:, 1], color="#8a94a3", label="another, played event by event")
    top.legend(frameon=False)
    times = whole[:, 0].cumsum(0)
    bottom.plot(times, whole[:, 1], color="#1d3557", label="what was")
    bottom.fill_between(
        times[14:23], low[14:23], high[14:23], color="#c2410c", alpha=0.25, label="90 % of what may have been"
    )
    bottom.plot(times[14:23], middle[14:23], color="#c2410c", label="filled in, median")
    bottom.set(xlabel="seconds")
    bottom.legend(frameon=False)
    figure.savefig(arguments.out / "streams.png", dpi=120)
    print(f"picture, MIDI, sound and the exported step in {arguments.out}")


if __name__ == "__main__":
    main()
