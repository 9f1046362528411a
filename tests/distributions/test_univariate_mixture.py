"""Mixtures on the line in extreme units: CRPS, deviations and shortest regions against scipy and first principles."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from phlogiston.distributions.mixtures import univariate as line
from phlogiston.distributions.mixtures.diagonal import DiagMixture, FactorisedMixture
from phlogiston.distributions.mixtures.univariate import Intervals
from phlogiston.distributions.truncated_normal import TruncatedNormal
from phlogiston.errors import DataWarning

LOGITS, LOC, SCALE = np.array([0.0, -1.0]), np.array([0.0, 4.0]), np.array([1.0, 0.5])


def held(found: Intervals, logits: np.ndarray, loc: np.ndarray, scale: np.ndarray) -> float:
    """Probability inside, by scipy."""
    weight = np.exp(logits - np.logaddexp.reduce(logits))
    lower, upper, mask = (t.numpy() for t in found)

    def cdf(v: float) -> float:
        return float((weight * scipy.stats.norm.cdf((v - loc) / scale)).sum())

    return sum(cdf(u) - cdf(v) for v, u, k in zip(lower, upper, mask, strict=True) if k)


@pytest.mark.parametrize(
    ("dtype", "unit"),
    [(torch.float32, u) for u in (1e-30, 1e-23, 1e-20, 1e20, 1e30)] + [(torch.float64, u) for u in (1e-170, 1e170)],
)
def test_crps_and_deviation_know_no_units(dtype: torch.dtype, unit: float) -> None:
    weight = np.exp(LOGITS) / np.exp(LOGITS).sum()
    axis = np.linspace(-30, 30, 600_001)
    below = (weight * scipy.stats.norm.cdf((axis[:, None] - LOC) / SCALE)).sum(-1)
    want = float(np.trapezoid((below - (axis >= 1.0)) ** 2, axis))
    mean = (weight * LOC).sum()
    sd = math.sqrt((weight * (SCALE**2 + (LOC - mean) ** 2)).sum())
    logits, loc, scale = (torch.tensor(t, dtype=dtype) for t in (LOGITS, LOC * unit, SCALE * unit))
    for mixture in (
        DiagMixture(logits, loc.unsqueeze(-1), scale.unsqueeze(-1)),
        FactorisedMixture(logits.unsqueeze(0), loc.unsqueeze(0), scale.unsqueeze(0)),
    ):
        assert float(mixture.crps(torch.tensor([unit], dtype=dtype))) / unit == pytest.approx(want, rel=1e-4)
        assert float(mixture.stddev) / unit == pytest.approx(sd, rel=1e-5)


def test_a_variance_that_the_dtype_does_not_hold_is_told() -> None:
    for unit in (1e-30, 1e30):
        scale = torch.tensor([[unit]], dtype=torch.float32)
        mixture = DiagMixture(torch.zeros(1), torch.zeros(1, 1), scale)
        with pytest.warns(DataWarning, match="leaves the range of float32; use stddev"):
            assert float(mixture.variance) in (0.0, math.inf)
        with pytest.warns(DataWarning, match="float32"):
            assert float(TruncatedNormal(0.0, scale, 0.0, math.inf).variance) in (0.0, math.inf)
    mixture = DiagMixture(torch.zeros(1), torch.zeros(1, 1), torch.full((1, 1), 1e10))
    assert float(mixture.variance) == pytest.approx(1e20)


def test_the_gradient_of_the_crps_is_finite_in_large_units() -> None:
    loc, scale = (torch.tensor(t * 1e30, dtype=torch.float32, requires_grad=True) for t in (LOC, SCALE))
    line.crps(torch.tensor(1e30), torch.tensor(LOGITS, dtype=torch.float32), loc, scale).backward()
    assert loc.grad is not None
    assert scale.grad is not None
    assert torch.isfinite(loc.grad).all()
    assert torch.isfinite(scale.grad).all()
    assert (loc.grad != 0).any()


@pytest.mark.parametrize("unit", [1e-150, 1e-30, 1.0, 1e12, 1e15, 1e150])
def test_highest_density_regions_know_no_units(unit: float) -> None:
    found = line.highest_density(0.9, *(torch.tensor(t) for t in (LOGITS, LOC * unit, SCALE * unit)))
    assert held(found, LOGITS, LOC * unit, SCALE * unit) == pytest.approx(0.9, abs=1e-6)


def test_single_precision_regions_know_no_units() -> None:
    for unit in (1e-30, 1e30):
        parameters = [torch.tensor(t, dtype=torch.float32) for t in (LOGITS, LOC * unit, SCALE * unit)]
        found = line.highest_density(0.9, *parameters)
        assert found.lower.dtype == torch.float32
        assert held(found, *(t.double().numpy() for t in parameters)) == pytest.approx(0.9, abs=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 8), st.sampled_from([0.01, 0.05, 0.3, 0.5, 0.9, 0.999]), st.floats(0.2, 3))
def test_regions_hold_what_they_promise_above_one_level(seed: int, k: int, p: float, spread: float) -> None:
    random = np.random.default_rng(seed)
    parameters = (random.normal(0, 1.5, k), random.normal(0, 8, k), np.exp(random.normal(0, spread, k)))
    tensors = [torch.tensor(t) for t in parameters]
    found = line.highest_density(p, *tensors)
    assert held(found, *parameters) == pytest.approx(p, abs=1e-6)
    # the shortest region: its ends have one density, which is nowhere exceeded outside
    ends = torch.cat([found.lower[found.mask], found.upper[found.mask]])
    levels = line.log_density(ends, *tensors)
    level = float(levels.mean())
    assert float(levels.max() - levels.min()) < 1e-6
    points = (tensors[1][:, None] + tensors[2][:, None] * torch.linspace(-5, 5, 401).double()).flatten()
    above = line.log_density(points, *tensors) > level + 1e-6
    assert found.contains(points[above]).all()
    assert (found.lower[found.mask] < found.upper[found.mask]).all()


# mixtures with spikes on broad humps, whose small regions older searches lost
@pytest.mark.parametrize(
    ("p", "logits", "loc", "scale"),
    [
        (0.05, [-0.5, -1.3, -1.5, 1.8], [-0.7, 0.3, 0.3, -0.1], [14.5, 0.0014, 3.9, 2.3]),
        (0.05, [-0.9, 0.9, -0.1, 4.0, -2.3], [-1.2, -1.0, -2.2, 2.5, 1.2], [0.007, 0.003, 0.05, 0.4, 12.0]),
        (0.5, [-1.6, 2.3, 1.5, 0.5, 1.1], [-11.9, -9.2, 5.6, -9.0, 18.7], [0.2, 0.016, 0.5, 3.0, 0.009]),
    ],
)
def test_regions_of_spikes_on_broad_humps(p: float, logits: list[float], loc: list[float], scale: list[float]) -> None:
    arrays = [np.array(t) for t in (logits, loc, scale)]
    found = line.highest_density(p, *(torch.tensor(t) for t in arrays))
    assert held(found, *arrays) == pytest.approx(p, abs=1e-6)
