"""The scores of rivals, which are computed by lines of their own, against integrals and ours."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pandas
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from phlogiston.datasets.fetched import uci


@pytest.fixture(scope="module")
def regression(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("benchmarks/rivals/regression.py")


@pytest.fixture(scope="module")
def quality(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("benchmarks/rivals/quality.py")


def test_rivals_learn_from_the_rows_ours_learn_from(regression: ModuleType) -> None:
    for split in (0, 3):
        ours, theirs = uci.split_rows(308, split), regression.split_rows(308, split)
        assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_scores_of_gaussians_and_quantiles_are_the_integrals(regression: ModuleType) -> None:
    y, mean, sd = np.array([1.3]), np.array([0.5]), np.array([0.7])
    want = quad(lambda t: (norm.cdf(t, mean[0], sd[0]) - (t >= y[0])) ** 2, -8, 8, points=[y[0]])[0]
    assert regression.gaussian_scores(y, mean, sd, False)["crps"] == pytest.approx(want, rel=1e-6)
    quantiles = norm.ppf(regression.LEVELS, mean[0], sd[0])[None, ::-1]  # crossed: they are sorted
    assert regression.quantile_crps(y, quantiles) == pytest.approx(want, rel=2e-3)
    whole = np.array([2.0])
    found = regression.gaussian_scores(whole, mean, sd, True)
    assert found["nll_cells"] == pytest.approx(-np.log(norm.cdf(2.5, 0.5, 0.7) - norm.cdf(1.5, 0.5, 0.7)))
    below = norm.cdf(np.arange(-20, 20) + 0.5, 0.5, 0.7)
    want = float(np.square(below - (np.arange(-20, 20) >= 2)).sum())
    assert found["crps_cells"] == pytest.approx(want)
    assert regression.quantile_crps(whole, quantiles, whole=True) == pytest.approx(want, rel=0.03)


def test_gaps_take_out_what_they_say(quality: ModuleType) -> None:
    table = quality.load("wine")
    at_random, by_a_column = quality.gaps(table, 0), quality.gaps(table, 0, "mar")
    assert at_random.mean() == pytest.approx(0.2, abs=0.03)
    assert not by_a_column[:, :2].any()
    high = table.frame["alcohol"].to_numpy() > table.frame["alcohol"].median()
    assert by_a_column[high, 2:].mean() > 2 * by_a_column[~high, 2:].mean()
    left = quality.punched(table.frame, at_random)
    assert np.array_equal(left.isna().to_numpy(), at_random)


def test_filled_and_made_up_tables_are_scored(quality: ModuleType) -> None:
    table = quality.load("wine")
    hole, labels = quality.gaps(table, 0), sorted(table.frame["kind"].unique())
    sure = pandas.get_dummies(table.frame["kind"])[labels].to_numpy(float)
    numbers = table.frame.drop(columns="kind")
    right = quality.imputation(table, hole, numbers, labels, sure)
    assert right["rmse"] == 0.0
    assert right["accuracy"] == 1.0
    assert right["log_score"] == pytest.approx(-np.log(1 + 2 * quality.FLOOR))
    moved = quality.imputation(table, hole, numbers + numbers.std(ddof=0), labels, sure)
    assert moved["rmse"] == pytest.approx(1.0)
    learned, other = quality.halves(table, 0)
    assert quality.privacy(learned, learned, other) == 0.0
    assert quality.privacy(other, learned, other) == np.inf
    assert quality.use(learned, other, "kind", 0) > 0.9
