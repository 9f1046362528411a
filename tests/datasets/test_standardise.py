"""Locations and scales: the mean and the standard deviation of ordinary columns, whatever their units and weights."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phlogiston.datasets.base import Split
from phlogiston.datasets.standardise import standardise
from phlogiston.datasets.weights import copies, effective_rows, written_out
from phlogiston.errors import DataError

QUICK = settings(deadline=None, max_examples=60)


@QUICK
@given(
    seed=st.integers(0, 99),
    kind=st.sampled_from(["normal", "lognormal", "cauchy", "bytes", "rare", "two", "counts"]),
    rows=st.integers(5, 300),
)
def test_ordinary_columns_get_their_mean_and_standard_deviation(seed: int, kind: str, rows: int) -> None:
    rng = np.random.default_rng(seed)
    x = {
        "normal": lambda: rng.normal(size=rows),
        "lognormal": lambda: np.exp(2 * rng.normal(size=rows)),
        "cauchy": lambda: rng.standard_t(2, rows),  # heavy tails are not wild
        "bytes": lambda: np.where(rng.random(rows) < 0.03, rng.integers(0, 256, rows), 0.0),
        "rare": lambda: (np.arange(rows) == 2).astype(float),
        "two": lambda: np.where(rng.random(rows) < 0.5, 1e9, 0) + rng.normal(size=rows),
        "counts": lambda: rng.poisson(0.5, rows).astype(float),
    }[kind]()
    if x.min() == x.max():
        return
    found = standardise(x[:, None])
    assert not found.wild
    assert found.location[0] == pytest.approx(x.mean(), rel=1e-12, abs=1e-12 * np.abs(x).max())
    assert found.scale[0] == pytest.approx(x.std(), rel=1e-12)


@QUICK
@given(
    seed=st.integers(0, 99),
    power=st.integers(-100, 100),
    shift=st.integers(-(2**40), 2**40),
    wild=st.booleans(),
)
def test_locations_and_scales_follow_every_change_of_units(seed: int, power: int, shift: int, wild: bool) -> None:
    x = np.random.default_rng(seed).integers(-(2**10), 2**10, 80) / 2.0**9  # exact in float64 after the change, too
    x[:2] = 0.0, 1.0
    if wild:
        x[5] = 2.0**20
    base, there = standardise(x[:, None]), standardise((x[:, None] + shift) * 2.0**power)
    assert there.scale[0] == base.scale[0] * 2.0**power
    assert there.location[0] / 2.0**power == pytest.approx(base.location[0] + shift, rel=1e-15, abs=1e-15)
    assert [c.row for c in there.wild] == [c.row for c in base.wild] == ([5] if wild else [])


@QUICK
@given(seed=st.integers(0, 99), unit=st.sampled_from([1.0, 0.5, 0.1, 3.0, 1e-9]), wild=st.booleans())
def test_a_row_of_weight_three_is_three_rows_and_one_of_weight_zero_is_none(seed: int, unit: float, wild: bool) -> None:
    rng = np.random.default_rng(seed)
    x, number = rng.normal(size=(60, 2)), rng.integers(0, 4, 60)
    number[:2] = 1, 3
    x[number == 0, 0] = 1e12  # rows that do not count decide nothing
    if wild:
        x[0, 1] = 1e9
    known = rng.random(x.shape) < 0.8
    known[0] = True
    weighted = standardise(x, known, unit * number)
    repeated = standardise(np.repeat(x, number, 0), np.repeat(known, number, 0))
    np.testing.assert_allclose(weighted.location, repeated.location, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(weighted.scale, repeated.scale, rtol=1e-12)
    assert len({c.row for c in weighted.wild}) == len(weighted.wild) == int(wild)
    assert copies(unit * number).tolist() == number.tolist()
    assert effective_rows(unit * number) == number.sum()
    split = written_out(Split({"x": x, "weight": unit * number}, double=("x",)))
    assert set(split.tensors) == {"x"}
    np.testing.assert_array_equal(split.numpy(), np.repeat(x, number, 0))


def test_weights_that_are_no_copies_stay_weights_of_mean_one() -> None:
    weight = np.array([0.0, 1.0, np.pi, np.e])
    assert copies(weight) is None
    split = written_out(Split({"x": np.arange(4.0)[:, None], "weight": 7 * weight}))
    assert split.numpy()[:, 0].tolist() == [1, 2, 3]
    assert split.tensors["weight"].numpy() == pytest.approx(weight[1:] / weight[1:].mean())
    assert effective_rows(weight) == pytest.approx(weight.sum() ** 2 / (weight**2).sum())


def test_a_column_without_values_and_rows_without_weight_are_refused() -> None:
    x = np.ones((3, 2))
    with pytest.raises(DataError, match="column 'b' of x holds no known value"):
        standardise(x, np.array([[True, False]] * 3), names=["a", "b"])
    with pytest.raises(DataError, match="no rows of positive weight"):
        standardise(x, weight=np.zeros(3))
    assert standardise(x).constant.all()
