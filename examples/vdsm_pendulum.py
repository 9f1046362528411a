"""From sixteen frames to sixty: pendulums whose swing is read from a short clip and goes on by itself.

Slow, fast and damped pendulums in several colours. The model sees clips of sixteen frames; one code holds the kind of
swing, another how the pendulum looks. The script continues held-out clips to sixty frames, says how far the disc of the
re-created frames is from where physics has it, and writes the codes with the labels into one file.

    python examples/vdsm_pendulum.py --out runs/pendulum

writes longer.gif and codes.npz. `--smoke` takes seconds and shows little.

After Vowels, Camgoz and Bowden, VDSM, CVPR 2021.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from phlogiston import datasets
from phlogiston.datasets.generated import pendulum
from phlogiston.systems.export import Samples, write
from phlogiston.systems.vdsm import VDSM
from phlogiston.systems.vdsm.config import PRESETS

SMOKE: dict[str, Any] = {
    "encoder_widths": (8, 8, 8), "decoder_widths": (16, 8, 8), "recurrent": 16,
    "steps": 8, "warm_steps": 4, "sequence_steps": 2, "aggregate": 1,
}  # fmt: skip


def disc(clips: np.ndarray) -> np.ndarray:
    """Where the disc of frames (n, T, C, H, W) is, x and y, (n, T, 2): it has a colour, the rod is grey."""
    colour = clips.max(2) - clips.min(2)
    light = np.where(colour > 0.3 * colour.max((2, 3), keepdims=True), colour, 0.0)
    at = np.arange(light.shape[-1]) + 0.5
    total = light.sum((-1, -2)) + 1e-6
    return np.stack([(light.sum(-2) * at).sum(-1), (light.sum(-1) * at).sum(-1)], -1) / total[..., None]


def main() -> None:
    """Train, continue, measure, export."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/pendulum"))
    parser.add_argument("--smoke", action="store_true", help="seconds, to see that it runs")
    chosen = parser.parse_args()
    data = datasets.load("pendulum", size=32, **({"sizes": (24, 0, 6)} if chosen.smoke else {}))
    system = VDSM({**PRESETS["cpu-pendulum"], **(SMOKE if chosen.smoke else {})}).fit(data)
    for name, metric in system.evaluate(data, ["probes"]).items():
        print(f"{name.replace('_', ' ')}: {metric}")

    clips = data.test.tensors["frames"][:6]
    again, seen = system.reconstruct(clips), clips.shape[1]
    off = np.linalg.norm(disc(again.numpy()) - pendulum.centre(data.test.numpy("angle")[:6]) / 2, axis=-1)
    print(f"disc off by {np.median(off):.2f} pixels of 32, median")
    longer = torch.cat([again, system.predict(clips, 60 - seen)], 1)
    print(f"{seen} frames seen, {longer.shape[1]} made")
    chosen.out.mkdir(parents=True, exist_ok=True)
    write(chosen.out / "longer.gif", Samples({"frames": longer.numpy()}))
    codes = {name: value.numpy() for name, value in system.encode(data.test).items()}
    write(chosen.out / "codes.npz", Samples({**codes, "action": data.test.numpy("action")}))
    print(chosen.out)


if __name__ == "__main__":
    main()
