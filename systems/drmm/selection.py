"""The structure of a deep residual mixture, chosen by cross-validation on the training rows.

What suits a table depends on more than its size: of two tables of 500 rows one wants three components that share most
of their shape, the other 4,096 paths. Candidates are fitted by EM alone (`systems.drmm.start`), which takes tens of
milliseconds and ranks them much as full training does, and the one that gives rows it has not seen the highest mean log
density is trained.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from phlogiston.datasets.base import Split
from phlogiston.inference.svi import progress
from phlogiston.systems.drmm.config import STEPS, Config, Structure, fixed
from phlogiston.systems.drmm.start import MOST_FEATURES
from phlogiston.systems.table_rows import copies

FEWEST_ROWS = 10  # below, nothing can be held out: one Gaussian without shear
FOLDS = 5
LARGE, FOLDS_OF_LARGE = 2_000, 2
MOST_ROWS, LEAST_ROWS, WORK = 8_000, 2_000, 6e6  # rows looked at: WORK / features ** 2, within these limits
ROWS_A_FACTOR_ANALYSER = 100  # with fewer a component, those EM only places rank too high before they are trained
IMPOSSIBLE = -1e6  # nats that a row without density counts

SINGLE = Structure(1, 1, "diag", 1.0)
CANDIDATES = (
    SINGLE,
    Structure(1, 1, "tril", 60.0),
    Structure(1, 3, "tril", 60.0),
    Structure(1, 8, "tril", 60.0),
    Structure(1, 16, "tril", 60.0),
    Structure(1, 16, "tril", 10.0),
    Structure(2, 16, "tril", 1.0),
    Structure(1, 4, "diag", 10.0),
    Structure(2, 16, "diag", 10.0),
    Structure(3, 16, "diag", 1.0),
    Structure(3, 16, "diag", 10.0),
)
WIDE = (
    SINGLE,
    Structure(1, 1, "lowrank", 1.0),
    Structure(1, 4, "lowrank", 1.0),
    Structure(1, 16, "lowrank", 1.0),
    Structure(2, 16, "diag", 10.0),
    Structure(3, 16, "diag", 1.0),
)
"""Candidates beyond `MOST_FEATURES` columns."""


def choose(
    make: Callable[[Config], Any],
    config: Config,
    train: Split,
    described: Callable[[Config], dict[str, Any]],
    show: str = "off",
) -> dict[str, Any]:
    """Choose the options that are "auto".

    Args:
        make: builds a deep residual mixture with a configuration.
        config: the configuration, some of whose options are "auto".
        train: the training rows.
        described: the schema under a configuration without "auto".
        show: how to show progress; see `inference.svi.progress.make`.

    Returns:
        Values of the options that are "auto"; empty where none is. The same for the same rows.
    """
    structure = _best(make, config, train, described, show) if config.open else fixed(config)
    decided = dataclasses.asdict(structure) | {"steps": structure.steps if config.open else STEPS}
    return {name: value for name, value in decided.items() if getattr(config, name) == "auto"}


def _best(
    make: Callable[[Config], Any],
    config: Config,
    train: Split,
    described: Callable[[Config], dict[str, Any]],
    show: str,
) -> Structure:
    features = len(described(_with(config, SINGLE))["location"])
    rows, fold = _folds(train, features)
    if not len(fold):
        return SINGLE
    most = config.max_enum if config.guide == "exact" else None
    candidates = [c for c in (CANDIDATES if features <= MOST_FEATURES else WIDE) if most is None or c.paths <= most]
    scores: list[Tensor] = []
    bar = progress.make(show, len(candidates))
    try:
        with torch.random.fork_rng(devices=[]):
            for candidate in candidates:
                options = _with(config, candidate)
                scores.append(_held_out(make, options, described(options), rows, fold))
                bar.update(len(scores), "structure", -float(max(scores)))
    finally:
        bar.close()
    return candidates[int(torch.stack(scores).argmax())]


def _with(config: Config, structure: Structure) -> Config:
    return dataclasses.replace(config, **dataclasses.asdict(structure), steps=1)


def _folds(train: Split, features: int) -> tuple[Split, Tensor]:
    """At most so many rows, and the fold of each; none where there are too few. Copies of a row share their fold."""
    generator = torch.Generator().manual_seed(0)
    most = int(min(max(WORK / features**2, LEAST_ROWS), MOST_ROWS))
    index = torch.randperm(len(train), generator=generator)[:most]
    rows = Split(train[index], double=train.double)
    copy = copies(rows.tensors["x"])
    distinct = int(copy.max()) + 1
    if distinct < FEWEST_ROWS:
        return rows, torch.empty(0, dtype=torch.int64)
    place = torch.randperm(distinct, generator=generator)[copy]
    return rows, place % (FOLDS_OF_LARGE if distinct > LARGE else FOLDS)


def _held_out(
    make: Callable[[Config], Any], config: Config, schema: Mapping[str, Any], rows: Split, fold: Tensor
) -> Tensor:
    """Mean log density of rows under models started without their fold, nats a row."""
    total, count = torch.zeros((), dtype=torch.float64), 0.0
    for f in range(int(fold.max()) + 1):
        torch.manual_seed(f)
        kept, held = (
            Split({name: value[part] for name, value in rows.tensors.items()}, double=rows.double)
            for part in (fold != f, fold == f)
        )
        system = make(config)
        system.schema = dict(schema)
        system.build()
        system.initialise(system.prepare(kept), seed=f)
        score = system.log_prob(held, joint=bool(schema["categorical"])).value.clamp(min=IMPOSSIBLE)
        weight = held.tensors.get("weight", torch.ones(len(held))).double()
        total, count = total + weight @ score, count + float(weight.sum())
    return total / max(count, 1e-12)
