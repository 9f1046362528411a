"""Masses of many inequalities: no component is given up, error bars hold, and memory stays bounded."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from phlogiston.distributions import gaussian_conditioning, sequential_draws
from phlogiston.distributions.gaussian_conditioning import condition
from phlogiston.distributions.gaussian_evidence import ConditionedMixture, Draws
from phlogiston.distributions.linear_constraints import LinearEvidence, Rows
from phlogiston.distributions.resampling import group_sizes, grouped_error, log_mean

INF = math.inf


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def half_spaces(dim: int, count: int, offset: float, seed: int, **changes: Any) -> LinearEvidence:
    table = torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    nothing = LinearEvidence.nothing(dim)
    low = torch.full((count,), -offset, dtype=torch.float64)
    return LinearEvidence(
        nothing.known,
        nothing.values,
        nothing.lower,
        nothing.upper,
        nothing.box_weight,
        Rows(table, low, torch.full_like(low, INF), torch.ones_like(low)),
        **changes,
    )


def mixture(components: int, dim: int, seed: int, full: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    log_prior = torch.randn(components, generator=g, dtype=torch.float64).mul(0.7).log_softmax(0)
    means = 1.5 * torch.randn(components, dim, generator=g, dtype=torch.float64)
    sd = torch.exp(0.3 * torch.randn(components, dim, generator=g, dtype=torch.float64) - 0.6)
    if not full:
        return log_prior, means, sd
    lower = torch.tril(torch.randn(components, dim, dim, generator=g, dtype=torch.float64), -1) * 0.5
    return log_prior, means, sd.unsqueeze(-1) * (torch.eye(dim, dtype=torch.float64) + lower)


def rejection(mix: tuple[Tensor, Tensor, Tensor], rows: Rows, draws: int) -> tuple[float, float, np.ndarray]:
    """Log mass, its standard error, and the components' shares of it, by plain draws."""
    log_prior, means, factors = (t.numpy() for t in mix)
    rng = np.random.default_rng(0)
    hits = np.zeros(len(means))
    for c, count in enumerate(rng.multinomial(draws, np.exp(log_prior))):
        noise = rng.standard_normal((count, means.shape[1]))
        x = means[c] + (noise * factors[c] if factors.ndim == 2 else noise @ factors[c].T)
        hits[c] = ((x @ rows.coefficients.numpy().T) >= rows.lower.numpy()).all(1).sum()
    total = hits.sum()
    return math.log(total / draws), 1 / math.sqrt(total), hits / total


QUESTIONS = [(4, 12, 0.9, 14), (5, 14, 1.5, 25), (5, 14, 1.5, 31)]


@pytest.mark.parametrize(("dim", "count", "offset", "seed"), QUESTIONS)
def test_many_inequalities_agree_with_rejection(dim: int, count: int, offset: float, seed: int) -> None:
    mix, e = mixture(25, dim, seed), half_spaces(dim, count, offset, seed)
    truth, error, shares = rejection(mix, e.rows, 1_000_000)
    query = ConditionedMixture(*mix, e)
    for pilot in (None, 0):
        found: list[Draws] = [query.sample(1000, pilot=pilot) for _ in range(10)]
        logs = torch.stack([log_mean(d.log_weights) for d in found])
        stated = torch.stack([d.error for d in found if d.error is not None])
        assert len(stated) == 10
        own = stated.square().mean().sqrt().item() / 10**0.5
        assert abs(log_mean(logs).item() - truth) < 4.5 * math.hypot(error, own)
        share = torch.zeros(25, dtype=torch.float64)
        for d in found:
            share.index_add_(0, d.component, d.log_weights.softmax(0) / 10)
        assert np.abs(share.numpy() - shares).max() < 0.03  # every component that matters is met as often as it should
        inside = (d.x @ e.rows.coefficients.T)[d.log_weights > -INF] >= e.rows.lower - 1e-9
        assert inside.all()


@pytest.mark.parametrize(("dim", "count", "full"), [(2, 3, False), (5, 6, True), (4, 8, True)])
def test_error_bars_of_sequential_masses_hold(dim: int, count: int, full: bool) -> None:
    """Of 60 answers some 57 lie within 1.96 stated errors; fewer than 48 by chance less than once in 10,000 runs."""
    query = ConditionedMixture(*mixture(12, dim, 1, full), half_spaces(dim, count, 0.7, 1))
    found = [query.sample(400) for _ in range(60)]
    logs = torch.stack([log_mean(d.log_weights) for d in found])
    errors = torch.stack([d.error for d in found if d.error is not None])
    truth = log_mean(logs)  # without bias on the scale of probabilities
    assert ((logs - truth).abs() < 1.96 * errors).sum() >= 48
    assert 0.6 < errors.square().mean().sqrt() / logs.std() < 1.7


def test_groups_are_as_many_as_the_draws_allow() -> None:
    assert group_sizes(10) == [10]
    assert group_sizes(40) == [8] * 5
    assert sum(group_sizes(1001)) == 1001
    assert len(group_sizes(1001)) == 16
    assert grouped_error(torch.zeros(10), [10]) is None
    assert grouped_error(torch.zeros(40), [10] * 4) == 0


def test_errors_of_few_groups_are_stretched_to_cover() -> None:
    means = torch.randn(20_000, 4, dtype=torch.float64) * 0.01
    errors = torch.stack([grouped_error(row, [1] * 4) for row in means[:2000]])  # type: ignore[arg-type]
    inside = (torch.stack([log_mean(row) for row in means[:2000]]).abs() < 1.96 * errors).double().mean()
    # of 2,000 means 95 % +- 0.5 %
    assert 0.93 < inside < 0.97


def test_draws_in_parts_are_draws_of_the_same_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    mix, e = mixture(12, 5, 2), half_spaces(5, 6, 0.7, 2)
    whole = ConditionedMixture(*mix, e).sample(20_000)
    monkeypatch.setattr(sequential_draws, "_MAX_FLOATS", 20_000)
    monkeypatch.setattr(sequential_draws, "_MAX_GATHERED", 100)
    parts = ConditionedMixture(*mix, e).sample(20_000)
    assert whole.error is not None
    assert parts.error is not None
    gap = log_mean(whole.log_weights) - log_mean(parts.log_weights)
    assert abs(gap.item()) < 4.5 * math.hypot(whole.error.item(), parts.error.item())
    for moment in (1, 2):
        a, b = (d.log_weights.softmax(0) @ d.x**moment for d in (whole, parts))
        assert ((a - b).abs() < 6 * whole.x.std(0) ** moment * (2 / 10_000) ** 0.5).all()


@pytest.mark.parametrize("known", [False, True])
def test_components_conditioned_one_by_one_are_those_conditioned_together(
    known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, means, factors = mixture(3, 9, 3)
    nothing = LinearEvidence.nothing(9)
    fixed, values = nothing.known.clone(), nothing.values.clone()
    if known:
        fixed[1], values[1], fixed[5], values[5] = True, 0.3, True, -0.2
    soft, sd = torch.tensor([0, 7, 4]), torch.tensor([0.3, 0.1, 2.0], dtype=torch.float64)
    e = LinearEvidence(
        fixed, values, nothing.lower, nothing.upper, nothing.box_weight, nothing.rows,
        soft, torch.tensor([0.2, 1.0, 0.0], dtype=torch.float64), sd, torch.zeros_like(sd), torch.ones_like(sd),
    )  # fmt: skip
    together = condition(means, factors, e)
    monkeypatch.setattr(gaussian_conditioning, "_MAX_FLOATS", 10)
    single = condition(means, factors, e)
    assert torch.allclose(together.log_terms, single.log_terms, atol=1e-10)
    assert torch.allclose(together.mean, single.mean, atol=1e-10)
    assert torch.allclose(together.factor @ together.factor.mT, single.factor @ single.factor.mT, atol=1e-10)
    assert single.factor.shape[-1] == 9


class _Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation returned."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, Tensor):
                self.numbers = max(self.numbers, value.untyped_storage().nbytes() // 8)
        return result


@pytest.mark.parametrize("count", [1, 3])
def test_a_half_space_over_many_columns_needs_a_row_of_numbers_per_draw(count: int) -> None:
    dim, n = 2000, 1000
    e = half_spaces(dim, count, 5.0, 0)
    with _Largest() as largest:
        draws = ConditionedMixture(*mixture(4, dim, 0, full=False), e).sample(n)
    assert largest.numbers <= max(2 * count, 4) * n * dim
    assert (draws.x @ e.rows.coefficients.T >= e.rows.lower - 1e-9).all()


def test_correlated_columns_need_a_factor_per_component_and_none_per_draw() -> None:
    dim, n = 300, 1000
    soft = torch.arange(dim)
    one, zero = torch.ones(dim, dtype=torch.float64), torch.zeros(dim, dtype=torch.float64)
    e = half_spaces(dim, 1, 5.0, 0, soft=soft, soft_mean=zero, soft_sd=one, soft_fraction=zero, soft_weight=one)
    with _Largest() as largest:
        ConditionedMixture(*mixture(3, dim, 0), e).sample(n)
    assert largest.numbers <= 3 * 3 * dim * 2 * dim  # once n * dim^2
