"""Error bars of shares: never zero, and they cover at the ends, too."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import binom, binomtest

from phlogiston.evaluate.calibration import coverage
from phlogiston.evaluate.metric import from_rows, from_share, share_error


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (10, 10), (3, 10), (0, 500), (499, 500), (250, 500)])
def test_the_interval_reaches_to_the_farther_end_of_wilsons(hits: int, n: int) -> None:
    share = hits / n
    ends = binomtest(hits, n).proportion_ci(0.95, method="wilson")
    assert 1.959964 * share_error(share, n) == pytest.approx(max(share - ends.low, ends.high - share), rel=1e-6)


@pytest.mark.parametrize("n", [20, 100, 1000])
def test_intervals_cover_shares_near_the_ends(n: int) -> None:
    """Exact coverage by the binomial distribution: the plain formula covers 0.18 of p = 0.01 at n = 20."""
    hits = np.arange(n + 1)
    for p in (0.01, 0.03, 0.1, 0.5, 0.97, 0.999):
        error = np.array([share_error(k / n, n) for k in hits])
        covered = np.abs(hits / n - p) <= 1.96 * error
        assert float(binom.pmf(hits, n, p)[covered].sum()) > 0.92


def test_rows_that_all_hit_or_all_miss_state_an_error() -> None:
    for rows in (torch.ones(50), torch.zeros(50)):
        assert from_rows(rows).std_error == pytest.approx(share_error(1.0, 50))
    assert from_rows(torch.full((50,), 0.3)).std_error == pytest.approx(0.0, abs=1e-9)
    assert from_rows(torch.tensor([0.0, 1.0] * 50)).std_error == pytest.approx(0.05, rel=0.02)
    assert from_share(0.0, 50).std_error == pytest.approx(share_error(1.0, 50))
    every = coverage(np.random.default_rng(0).normal(size=(200, 30)), np.zeros(30), (0.9,))[0.9]
    assert every.value == 1.0
    assert every.std_error is not None
    assert every.std_error > 1.0 / 30.0
    assert math.isfinite(share_error(1.0, 1))
