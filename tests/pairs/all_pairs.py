"""All pairs of the collection, and how `fit` trains one."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import global_pairs
import local_pairs
from pair_case import Case

from phlogiston.inference import Stage, fit
from phlogiston.inference.svi import schedules

CASES = {**global_pairs.CASES, **local_pairs.CASES}


@cache
def case_of(name: str) -> Case:
    """Make a case once."""
    return CASES[name]()


def recipe(case: Case, steps: int | None = None) -> Stage:
    return Stage(
        "all",
        steps or case.steps,
        objective=case.objective,
        learning_rate=case.rate,
        batch_size=case.batch_size,
        schedules={"learning_rate": schedules.exponential(1.0, 0.01)} if case.decay else {},
    )


def train(case: Case, stage: Stage, out: Path | None = None, callbacks: Any = ()) -> tuple[Any, Any]:
    model, guide = case.pair()
    options: Any = {"checkpoint_every": 5, "tensorboard": False, "progress": "off", "callbacks": callbacks}
    fit(model, guide, case.data, stages=stage, out=out, **(options if out else {"progress": "off"}))
    return model, guide


@cache
def trained(name: str) -> tuple[Any, Any]:
    """Train a pair once, for all questions."""
    case = case_of(name)
    return train(case, recipe(case))
