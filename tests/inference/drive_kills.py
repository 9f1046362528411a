"""Trains one small run over and over in forked children that die at random moments; started by test_resume.py.

    python drive_kills.py FOLDER

Writes FOLDER/result.json: for each series of kills, whether the run ended with the parameters, optimiser state and
records of the run that was never killed.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.append(str(Path(__file__).parent))

from inference_pairs import pair, rows

from phlogiston.inference.svi import checkpoints, objectives, schedules
from phlogiston.inference.svi.engine import Stage, fit
from phlogiston.inference.svi.run_folder.metrics import read_metrics

STAGES = [
    Stage("first", 23, batch_size=16, learning_rate=0.02, schedules={"learning_rate": schedules.cosine()}),
    Stage(
        "second",
        27,
        objective=objectives.make("iwae", num_particles=3),
        batch_size=7,
        optimizer="rmsprop",
        trainable=("guide.*",),
        schedules={"scale.z": schedules.linear(0.5, 1.0)},
    ),
]


class Killer:
    """Ends the process without notice at a step, or inside the writing of the checkpoint after it."""

    def __init__(self, at: int, writing: bool) -> None:
        self.at, self.writing = at, writing

    def on_step(self, state: Any) -> None:
        if state.step != self.at:
            return
        if not self.writing:
            os.kill(os.getpid(), signal.SIGKILL)

        def die(*args: Any) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        checkpoints.os.replace = die  # type: ignore[attr-defined]  # the temporary file is whole, the rename never comes


def train(out: Path, callbacks: list[Any]) -> None:
    model, guide = pair()
    fit(
        model,
        guide,
        rows(),
        stages=STAGES,
        out=out,
        valid=rows(count=9, seed=4),
        checkpoint_every=5,
        log_every=4,
        callbacks=callbacks,
        tensorboard=False,
    )


def in_child(out: Path, callbacks: list[Any]) -> int:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            train(out, callbacks)
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def ending(out: Path) -> tuple[dict[str, torch.Tensor], list[Any]]:
    tensors, _ = checkpoints.read(checkpoints.find(out))
    timeless = [
        {k: v for k, v in record.items() if k not in ("seconds", "rate")}
        for record in read_metrics(out / "metrics.jsonl")
    ]
    return tensors, timeless


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    fit(*pair(), rows(), stages=Stage("warm", 1))  # what torch imports at its first step, children then share
    dice = random.Random(0)
    assert in_child(folder / "whole", []) == 0
    tensors, records = ending(folder / "whole")
    results = []
    for series in range(5):
        out = folder / f"series-{series}"
        kills = []
        for at in sorted(dice.sample(range(1, 50), 4)):
            writing = dice.random() < 0.4
            code = in_child(out, [Killer(at, writing)])
            kills.append([at, writing, code])
        code = in_child(out, [])
        mine, my_records = ending(out)
        same = mine.keys() == tensors.keys() and all(torch.equal(mine[k], tensors[k]) for k in tensors)
        results.append({"kills": kills, "code": code, "same": same, "records": my_records == records})
    (folder / "result.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
