"""Masses of several inequalities far from everything a component expects, against quadrature, and the bounds used."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from phlogiston.distributions.far_corners import find_corners
from phlogiston.distributions.gaussian_conditioning import condition
from phlogiston.distributions.gaussian_evidence import ConditionedMixture
from phlogiston.distributions.linear_constraints import LinearEvidence, Rows, plan, simplify
from phlogiston.distributions.normal_interval import log_interval_mass
from phlogiston.distributions.resampling import effective_size, log_mean


def evidence(low: list[float], high: list[float], table: list[list[float]], offset: list[float]) -> LinearEvidence:
    """A box, and rows `table @ x + offset >= 0`."""
    a, b = torch.tensor(table, dtype=torch.float64).reshape(-1, len(low)), torch.tensor(offset, dtype=torch.float64)
    one = torch.ones(len(low), dtype=torch.float64)
    return LinearEvidence(
        torch.zeros(len(low), dtype=torch.bool), 0 * one,
        torch.tensor(low, dtype=torch.float64), torch.tensor(high, dtype=torch.float64), one,
        Rows(a, -b, torch.full_like(b, math.inf), torch.ones_like(b)),
    )  # fmt: skip


def masses(means: Tensor, factors: Tensor, e: LinearEvidence, nodes: int = 20_000) -> Tensor:
    """Log masses (P,) in the plane: the second entry given the first in closed form, the first by quadrature."""
    start, end = float(e.lower[0]), float(e.upper[0])
    x = start + (end - start) / nodes * (torch.arange(nodes, dtype=torch.float64) + 0.5)
    low, high = e.lower[1].expand(nodes), e.upper[1].expand(nodes)
    for (a, b), least in zip(e.rows.coefficients.tolist(), e.rows.lower.tolist(), strict=True):
        edge = (least - a * x) / b
        low, high = (torch.maximum(low, edge), high) if b > 0 else (low, torch.minimum(high, edge))
    every = []
    for mean, factor in zip(means, factors, strict=True):
        z = (x - mean[0]) / factor[0, 0]
        centre = mean[1] + factor[1, 0] * z
        inside = log_interval_mass((low - centre) / factor[1, 1], (high - centre) / factor[1, 1])
        every.append(torch.where(low < high, inside - 0.5 * z * z, -math.inf).logsumexp(0) - math.log(factor[0, 0]))
    return torch.stack(every) + math.log(float(x[1] - x[0])) - 0.5 * math.log(2 * math.pi)


def components(seed: int, count: int = 30, spread: float = 0.7) -> tuple[Tensor, Tensor, Tensor]:
    """Thin, strongly correlated components around the origin, such as a spiral leaves."""
    random = np.random.default_rng(seed)
    angle, wide = random.uniform(0, math.pi, count), random.uniform(0.1, 0.5, count)
    narrow = wide * random.uniform(0.02, 0.3, count)
    turn = np.stack([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)], -1).reshape(count, 2, 2)
    covariance = turn @ (np.stack([wide, narrow], -1)[:, :, None] ** 2 * turn.transpose(0, 2, 1))
    means = torch.as_tensor(random.normal(0, spread, (count, 2)))
    prior = torch.as_tensor(random.normal(size=count)).log_softmax(0)
    return prior, means, torch.linalg.cholesky(torch.as_tensor(covariance))


QUESTIONS: dict[str, Callable[[], LinearEvidence]] = {
    "a box and a half-space": lambda: evidence([2.0, 2.0], [2.6, 2.6], [[-0.5, 1.0]], [-0.8]),
    "a box and two": lambda: evidence([-0.3, -3.2], [0.3, -2.6], [[1.4, -0.05], [-0.05, 0.5]], [0.15, 1.6]),
    "a wedge of three": lambda: evidence([1.0, -9], [4.0, 9], [[1.0, 1.0], [-1.0, 1.1], [0.2, 1.0]], [-3.0, 0.4, -1.5]),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("question", list(QUESTIONS))
def test_masses_in_far_corners(question: str, seed: int) -> None:
    """The component that holds the mass is found even where one row after the other sees 100 nats less of it."""
    e = QUESTIONS[question]()
    prior, means, factors = components(seed)
    truth = float((prior + masses(means, factors, e)).logsumexp(0))
    mixture = ConditionedMixture(prior, means, factors, e)
    draws = mixture.sample(2000, generator=torch.Generator().manual_seed(seed))
    share = float(effective_size(draws.log_weights)) / 2000
    assert share > 0.3
    assert abs(float(log_mean(draws.log_weights)) - truth) < 5 / math.sqrt(share * 2000)
    assert draws.error is not None
    assert abs(float(log_mean(draws.log_weights)) - truth) < 5 * float(draws.error) + 1e-3


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("question", list(QUESTIONS))
def test_bounds_lie_above_the_masses_and_close(question: str, seed: int) -> None:
    e = QUESTIONS[question]()
    _, means, factors = components(seed)
    rows = simplify(e)
    corners = find_corners(condition(means, factors, e), rows, plan(rows.coefficients))
    known = corners.dropped >= 0
    truth = masses(means, factors, e)[known]
    assert int(known.sum()) > 8
    gap = corners.log_bound[known] - truth
    assert bool((gap > -1e-3).all())  # as far as the quadrature goes
    # what the bound leaves open varies by powers of the distance
    assert bool((gap < 4 + 3 * corners.low[known].log()).all()), (gap - 3 * corners.low[known].log()).max()


def test_many_directions_against_their_product() -> None:
    """In coordinates that do not depend on each other the mass of a far box is a product, however it is turned."""
    random = np.random.default_rng(0)
    dim = 5
    turn = torch.as_tensor(np.linalg.qr(random.normal(size=(dim, dim)))[0])
    scale = torch.tensor([0.05, 0.1, 0.3, 1.0, 2.0], dtype=torch.float64)
    factor = torch.linalg.cholesky(turn @ (scale.square().unsqueeze(1) * turn.T))
    distance = torch.tensor([3.0, 2.0, 4.0, 1.0, 2.0], dtype=torch.float64)
    # rows along the components' own axes, each beyond its distance, and one more that follows from them
    table = torch.cat([turn.T, turn.T[:2].sum(0, keepdim=True)])
    start = torch.cat([distance * scale, (distance * scale)[:2].sum().reshape(1) - 0.01])
    e = evidence([-math.inf] * dim, [math.inf] * dim, table.tolist(), (-start).tolist())
    mixture = ConditionedMixture(
        torch.zeros(1, dtype=torch.float64), torch.zeros(1, dim).double(), factor.unsqueeze(0), e
    )
    draws = mixture.sample(4000, generator=torch.Generator().manual_seed(0))
    truth = float(log_interval_mass(distance, torch.full_like(distance, math.inf)).sum())
    assert draws.error is not None
    assert abs(float(log_mean(draws.log_weights)) - truth) < max(5 * float(draws.error), 1e-6)
    assert float(draws.error) < 0.2


def test_a_known_mass_is_drawn_from_its_own_hard_row() -> None:
    """Which row is hard differs by component; one whose mass is plain from its hard row alone is drawn well, too."""
    e = evidence([0.9852, 1.9186], [1.1877, 2.1096], [], [])
    prior = torch.tensor([-2.0, 0.0], dtype=torch.float64).log_softmax(0)
    means = torch.tensor([[0.7732, 2.0515], [1.0, 1.6]], dtype=torch.float64)
    factors = torch.tensor([[[0.05, 0.0], [0.0087, 0.006]], [[0.05, 0.0], [0.0116, 0.0082]]], dtype=torch.float64)
    draws = ConditionedMixture(prior, means, factors, e).sample(1000, generator=torch.Generator().manual_seed(0))
    truth = float((prior + masses(means, factors, e)).logsumexp(0))
    assert float(log_mean(draws.log_weights)) == pytest.approx(truth, abs=0.02)
    assert float(effective_size(draws.log_weights)) > 900


def test_small_units_change_nothing_of_a_corner_of_dependent_rows() -> None:
    """No two rows are alike: which of two that are comes first is up to rounding, hence to the processor."""
    factor = torch.tensor([[[1.0, 0.0], [0.8, 0.6]]], dtype=torch.float64)
    found = []
    for unit in (1.0, 1e-10):
        table = [[1.0, 0.2], [0.2, 1.0], [1.0, 1.3]]
        e = evidence([-math.inf] * 2, [math.inf] * 2, table, [-3.0 * unit, -3.2 * unit, -5.0 * unit])
        mixture = ConditionedMixture(torch.zeros(1).double(), torch.zeros(1, 2).double(), unit * factor, e)
        draws = mixture.sample(500, generator=torch.Generator().manual_seed(0))
        assert bool(e.rows.violation(draws.x).max() < 1e-9 * unit)
        found.append(draws)
    assert torch.allclose(found[0].log_weights, found[1].log_weights)
    assert torch.allclose(found[0].x, found[1].x / 1e-10)
