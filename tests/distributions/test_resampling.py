"""Resampling: unbiased, never more than asked for, exact for heavy items."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from phlogiston.distributions.resampling import (
    _threshold,
    compact,
    effective_size,
    log_mean,
    replace_dead,
    resample_distinct,
    systematic,
)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


weights_strategy = st.lists(st.floats(-30, 3), min_size=2, max_size=60)


@settings(max_examples=200, deadline=None)
@given(weights_strategy, st.integers(1, 40))
def test_inclusion_probabilities_sum_to_n(logs: list[float], n: int) -> None:
    weights = torch.tensor(logs, dtype=torch.float64).exp()
    if len(logs) <= n:
        return
    c = _threshold(weights, n)
    assert (weights / c).clamp(max=1).sum().item() == pytest.approx(n, rel=1e-9)


@settings(max_examples=200, deadline=None)
@given(weights_strategy, st.integers(1, 40), st.integers(0, 1000))
def test_thinning_keeps_at_most_n_and_heavy_items_exactly(logs: list[float], n: int, seed: int) -> None:
    log_weights = torch.tensor(logs, dtype=torch.float64)
    index, new, _ = resample_distinct(log_weights, n, torch.Generator().manual_seed(seed))
    assert len(index) <= n
    assert len(index.unique()) == len(index)
    assert len(index) >= min(n, len(logs)) - 1
    if len(logs) > n:
        c = _threshold((log_weights - log_weights.max()).exp(), n).log() + log_weights.max()
        kept = dict(zip(index.tolist(), new.tolist(), strict=True))
        for i, w in enumerate(logs):
            if w > c + 1e-9:
                assert kept[i] == w


def test_expected_weights_equal_the_inputs() -> None:
    log_weights = torch.randn(40, dtype=torch.float64) * 3
    total = torch.zeros(40, dtype=torch.float64)
    runs = 4000
    for _ in range(runs):
        index, new, _ = resample_distinct(log_weights, 12)
        total[index] += new.exp()
    weights = log_weights.exp()
    c = _threshold(weights, 12)
    chance = (weights / c).clamp(max=1)
    error = c * (chance * (1 - chance) / runs).sqrt()
    # five standard errors on 40 items: fails by chance once in 40,000 runs
    assert ((total / runs - weights).abs() <= 5 * error + 1e-9 * weights).all()


def test_weights_of_very_different_size_do_not_break_the_threshold() -> None:
    log_weights = torch.cat([torch.zeros(100), torch.full((5000,), -40.0)]).double()
    index, _, _ = resample_distinct(log_weights, 150)
    assert 149 <= len(index) <= 150
    assert set(range(100)) <= set(index.tolist())


def test_thinning_drops_impossible_items() -> None:
    index, new, _ = resample_distinct(torch.tensor([0.0, -math.inf, 1.0]), 5)
    assert index.tolist() == [0, 2]
    assert new.tolist() == [0.0, 1.0]


def test_systematic_counts_are_within_one_of_their_expectation_and_skip_zero_weights() -> None:
    weights = torch.tensor([0.0, 0.1, 0.0, 0.45, 0.45, 0.0])
    counts = torch.bincount(systematic(weights, 101), minlength=6)
    assert counts.sum() == 101
    assert ((counts - 101 * weights).abs() < 1).all()


@settings(max_examples=200, deadline=None)
@given(weights_strategy, st.integers(1, 500), st.integers(0, 10**6))
def test_systematic_always_draws_as_many_as_asked_for_each_near_its_expectation(
    logs: list[float], n: int, seed: int
) -> None:
    weights = torch.tensor(logs, dtype=torch.float64).exp()
    index = systematic(weights, n, torch.Generator().manual_seed(seed))
    assert len(index) == n
    assert (index.diff() >= 0).all()
    counts = torch.bincount(index, minlength=len(weights))
    assert ((counts - n * weights / weights.sum()).abs() < 1 + 1e-9).all()


def test_compact_numbers_the_items_that_occur() -> None:
    index = torch.randint(0, 50, (30,))
    used, place = compact(index, 50)
    want = index.unique(return_inverse=True)
    assert torch.equal(used, want[0])
    assert torch.equal(place, want[1])


def test_replacing_dead_rows_keeps_weighted_means() -> None:
    log_weights = torch.randn(50, dtype=torch.float64)
    log_weights[::3] = -math.inf
    values = torch.randn(50, dtype=torch.float64)
    index, new = replace_dead(log_weights)
    assert torch.isfinite(new).all()
    before = (log_weights.exp() * values).sum()
    assert (new.exp() * values[index]).sum().item() == pytest.approx(before.item())


def test_summaries_survive_all_zero_weights() -> None:
    dead = torch.full((4,), -math.inf)
    assert effective_size(dead) == 0
    assert torch.isneginf(log_mean(dead))
    assert effective_size(torch.zeros(4)) == 4
