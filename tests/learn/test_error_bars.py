"""Nominal 95 % error bars of every query path cover the truth in 90 to 98 % of 200 repeats, thoroughly."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from phlogiston.errors import QueryWarning
from phlogiston.inference.query.evidence import HalfSpace, Known, Near, Within
from phlogiston.models.drmm import DRMM
from phlogiston.systems.drmm.query import DRMMQuery
from phlogiston.systems.mdn.system import MDN

pytestmark = [pytest.mark.learn, pytest.mark.timeout(3600)]
REPEATS = 200


@pytest.fixture(autouse=True)
def _poor_answers_are_the_point() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", QueryWarning)
        yield


def covered(ask: Callable[[int], Any], truth: float | None = None) -> float:
    """Share of repeats whose 1.96 stated errors reach the truth (by default the log of the mean, which is unbiased)."""
    answers = [ask(seed) for seed in range(REPEATS)]
    told = [a for a in answers if a.log_evidence_error is not None]
    assert len(told) > 0.9 * REPEATS, "most repeats must state an error"
    logs = torch.stack([a.log_evidence for a in answers]).double()
    centre = float(logs.logsumexp(0)) - math.log(REPEATS) if truth is None else truth
    inside = [abs(float(a.log_evidence) - centre) < 1.96 * float(a.log_evidence_error) for a in told]
    return float(np.mean(inside))


def drmm(frame: str, dim: int, seed: int, layers: int = 2, components: int = 5) -> DRMMQuery:
    torch.manual_seed(seed)
    model = DRMM(dim, layers, components, frame=frame)  # type: ignore[arg-type]
    with torch.no_grad():
        for i, f in enumerate(model.frames):
            f.mean.normal_().mul_(1.0 if i == 0 else 0.7)
            f.log_scale.normal_().mul_(0.3).add_(-0.4)
        for p in model.prior.parameters():
            p.normal_().mul_(0.7)
    return DRMMQuery(model)


@pytest.mark.parametrize("n", [100, 1000])
@pytest.mark.parametrize(
    ("frame", "dim", "rows", "offset"), [("diag", 2, 3, 0.5), ("tril", 5, 6, 1.0), ("tril", 6, 10, 1.5)]
)
def test_sequential_masses_of_drmm(frame: str, dim: int, rows: int, offset: float, n: int) -> None:
    query = drmm(frame, dim, 1)
    table = np.random.default_rng(2).standard_normal((rows, dim))
    evidence = {"x": HalfSpace(table, np.full(rows, offset))}
    assert 0.9 <= covered(lambda seed: query.ask(evidence, num_samples=n, seed=seed)) <= 0.98


@pytest.mark.parametrize("particles", [64, 128])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_grown_tuples_of_drmm(seed: int, particles: int) -> None:
    query = drmm("diag", 3, seed, layers=4, components=8)
    evidence = {"x": Known([0.0, 0.0, 0.0], [1, 0, 0])}
    truth = float(query.ask(evidence, num_samples=10, method="exact").log_evidence)  # type: ignore[arg-type]
    share = covered(lambda s: query.ask(evidence, num_samples=10, method="smc", num_particles=particles, seed=s), truth)
    assert 0.9 <= share <= 0.99  # the variance of so few light prefixes is rounded up, see `thinning_error`


@pytest.mark.parametrize("weights", ["point", "mean_field"])
def test_inputs_and_weights_of_mdn_that_are_drawn(weights: str) -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(80, 1)).astype(np.float32)
    y = (np.sin(2 * x) + 0.4 * generator.normal(size=(80, 1))).astype(np.float32)
    options = {"hidden": (8,), "num_components": 2, "steps": 30, "batch_size": 40, "weights": weights,
               "posterior_steps": 3, "weight_samples": 30, "init_scale": 0.3}  # fmt: skip
    system = MDN(options).fit({"x": x, "y": y}, progress="off")
    evidence = {"x": Near(0.3, 0.5), "y": Within(0.0, 0.8)}
    assert 0.9 <= covered(lambda seed: system.query(evidence, num_samples=500, seed=seed)) <= 0.98


def test_five_million_draws_agree_with_many_inequalities() -> None:
    query, rows = drmm("tril", 6, 4), 10
    table = np.random.default_rng(4).standard_normal((rows, 6))
    _, log_prior, means, factors = query.model.paths()
    generator, hits, draws = torch.Generator().manual_seed(0), 0, 5_000_000
    for _ in range(10):
        component = torch.multinomial(log_prior.exp(), draws // 10, replacement=True, generator=generator)
        order = component.sort().values
        noise = torch.randn(len(order), 6, generator=generator, dtype=torch.float64)
        x = torch.cat(
            [
                means[c] + part @ factors[c].mT
                for c, part in enumerate(noise.split(torch.bincount(order, minlength=len(means)).tolist()))
            ]
        )
        hits += int((x @ torch.as_tensor(table).mT + 1.2 >= 0).all(1).sum())
    evidence = {"x": HalfSpace(table, np.full(rows, 1.2))}
    found = [query.ask(evidence, num_samples=2000, seed=s) for s in range(10)]
    logs = torch.stack([a.log_evidence for a in found])  # type: ignore[misc]
    error = math.hypot(float(logs.std()) / 10**0.5, 1 / math.sqrt(hits))
    assert float(logs.logsumexp(0)) - math.log(10) == pytest.approx(math.log(hits / draws), abs=4.5 * error)
