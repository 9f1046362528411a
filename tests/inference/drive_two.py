"""Trains small pairs on two processes; started by test_parallel.py, and starts its own second process.

    python drive_two.py FOLDER equal|kill

`equal` writes what each process ended with to FOLDER/rank-<r>.json; `kill` ends the second process without notice in
the middle of training.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

sys.path.append(str(Path(__file__).parent))

from inference_pairs import LinearGaussian, flat, pair, rows

from phlogiston.errors import TrainingError, TrainingWarning
from phlogiston.inference.svi.engine import Stage, fit
from phlogiston.inference.svi.parallel import make_fabric

CASES: dict[str, tuple[str, int, dict[str, Any]]] = {
    # name: (pair, rows, stage)
    "elbo": ("point", 60, {"objective": "elbo", "batch_size": 16}),
    "mean_field": ("point", 60, {"objective": "mean_field", "batch_size": 16}),
    "enum": ("enumerated", 60, {"objective": "enum", "batch_size": 16}),
    "iwae": ("point", 60, {"objective": "iwae", "batch_size": 16}),
    "global terms": ("global", 60, {"batch_size": 16}),
    "ragged": ("point", 15, {"batch_size": 15}),
    "fewer rows than processes": ("point", 5, {"batch_size": 1}),
    "clipped": ("point", 60, {"batch_size": 16, "clip": 0.5}),
}


def train(case: str, fabric: Any = None, out: Path | None = None, **options: Any) -> tuple[Any, Any, Any]:
    kind, count, stage = CASES[case]
    model, guide = pair(kind)
    recipe = [
        Stage("a", 30, learning_rate=0.01, **stage),
        Stage("b", 20, learning_rate=0.01, trainable=("model.*",), **stage),
    ]
    history = fit(
        model,
        guide,
        rows(kind, count),
        stages=recipe,
        fabric=fabric,
        out=out,
        log_every=10,
        tensorboard=False,
        **options,
    )
    return model, guide, history


def digest(*modules: torch.nn.Module) -> str:
    return hashlib.sha256(flat(*modules).numpy().tobytes()).hexdigest()


class Poisoned(LinearGaussian):
    """Not a number at one step, on the second process only."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank, self.calls = rank, 0
        self.load_state_dict(pair()[0].state_dict())

    def forward(self, x: torch.Tensor) -> None:
        self.calls += 1
        super().forward(x * float("nan") if self.rank == 1 and 5 <= self.calls <= 6 else x)


class Interrupt:
    def on_step(self, state: Any) -> None:
        if state.step == 7 and state.fabric.global_rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)


def equal(folder: Path, fabric: Any) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for case in CASES:
        model, guide, history = train(case, fabric, folder / case)
        result[case] = {
            "end": flat(model, guide).tolist(),
            "digest": digest(model, guide),
            "loss": history.loss.tolist(),
        }
    # sampled noise: both processes end alike, and differ from one another while they sample
    model, guide = pair("gaussian", seed=fabric.global_rank)  # different beginnings: the first process's counts
    fit(model, guide, rows(), stages=Stage("a", 20, batch_size=16), fabric=fabric)
    result["sampled"] = digest(model, guide)
    poisoned, guide = Poisoned(fabric.global_rank), pair()[1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrainingWarning)
        history = fit(poisoned, guide, rows(), stages=Stage("a", 20, batch_size=16), fabric=fabric)
    result["poisoned"] = {"digest": digest(poisoned, guide), "skipped": history.skipped, "rollbacks": history.rollbacks}
    try:
        train("elbo", fabric, folder / "signal", callbacks=[Interrupt()])
    except SystemExit as error:
        result["signal"] = error.code
    model, guide, history = train("elbo", fabric, folder / "signal")
    result["continued"] = flat(model, guide).tolist()
    try:
        train("ragged", fabric, folder / "elbo")
    except Exception as error:
        result["refused"] = type(error).__name__ + ": " + str(error)
    model, guide, history = train("elbo", fabric, valid=rows("point", 11, seed=5), checkpoint_every=25)
    result["valid_loss"] = history.records[-1]["valid_loss"]
    return result


class Die:
    def on_step(self, state: Any) -> None:
        if state.step == 5 and state.fabric.global_rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)


def main(folder: Path, what: str) -> None:
    torch.set_num_threads(1)
    fabric = make_fabric(devices=2, accelerator="cpu")
    if what == "equal":
        (folder / f"rank-{fabric.global_rank}.json").write_text(json.dumps(equal(folder, fabric)))
        return
    try:
        train("elbo", fabric, folder / "killed", callbacks=[Die()], checkpoint_every=2)
    except TrainingError as error:
        (folder / "error.txt").write_text(str(error))
        os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
