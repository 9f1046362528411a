"""Which columns count as on a grid, and which never do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phlogiston.datasets.grid import CLOCK, describe_cells, fineness, grid_of, rounded
from phlogiston.errors import DataError

RANDOM = np.random.default_rng(0)
N = 600
TABLE = {
    "normal": RANDOM.standard_normal(N),
    "count": RANDOM.poisson(3.0, N).astype(float),
    "tenths": np.round(20 + 2 * RANDOM.standard_normal(N), 1),
    "float32": (RANDOM.integers(0, 17, N) / np.float32(16)).astype(np.float32).astype(float),
    "fine": np.round(RANDOM.standard_normal(N), 3),
    "uneven": RANDOM.choice([0.0, 1.0, 1.4, 9.3], N),
}


@pytest.mark.parametrize(
    ("name", "expected"),
    [("normal", None), ("count", 1.0), ("tenths", 0.1), ("float32", 1 / 16), ("fine", None), ("uneven", None)],
)
def test_grids_are_told_from_other_numbers(name: str, expected: float | None) -> None:
    cell = grid_of(TABLE[name])
    if expected is None:
        assert cell is None
        return
    assert cell is not None
    start, step = cell
    assert step == pytest.approx(expected, rel=1e-6)
    assert (TABLE[name].min() - start) / step == pytest.approx(0.5, abs=1e-3)


def test_few_rows_are_no_grid() -> None:
    assert grid_of(np.arange(40.0) % 4) is None
    assert grid_of(np.arange(60.0) % 4) is not None


def test_columns_with_linear_ties_are_left_alone() -> None:
    count, tenths, other = TABLE["count"], TABLE["tenths"], RANDOM.poisson(5.0, N).astype(float)
    x = np.stack([count, other, 2 * count - other + 3, tenths], 1)
    assert describe_cells(x, list("abcd"))["columns"] == [3]
    assert describe_cells(x[:, [0, 1, 3]], list("abd"))["columns"] == [0, 1, 2]
    assert describe_cells(x, list("abcd"), ["a"])["columns"] == [0]  # who names a column means it


def test_the_option_switches_and_names() -> None:
    x = np.stack([TABLE["count"], TABLE["fine"], TABLE["normal"]], 1)
    names = ["count", "fine", "normal"]
    assert describe_cells(x, names)["columns"] == [0]
    assert describe_cells(x, names, ["off"]) == {}
    assert describe_cells(np.round(x, 1), names, ["fine"])["columns"] == [1]
    with pytest.raises(DataError, match="grid names column 'normal', whose values are on no grid"):
        describe_cells(x, names, ["normal"])
    with pytest.raises(DataError, match="grid names a column 'age'"):
        describe_cells(x, names, ["age"])


def test_another_unit_changes_the_knots_and_nothing_else() -> None:
    x = TABLE["count"][:, None]
    plain, other = describe_cells(x, ["x"]), describe_cells(x * 0.254 - 17.0, ["x"])
    np.testing.assert_allclose(np.array(other["knots"]), np.array(plain["knots"]) * 0.254 - 17.0, rtol=1e-9)
    assert other["shares"] == plain["shares"]


def test_weights_count_like_repeated_rows_and_missing_entries_not_at_all() -> None:
    x, weight = TABLE["count"][:, None], RANDOM.integers(0, 4, N).astype(float)
    repeated = describe_cells(np.repeat(x, weight.astype(int), 0), ["x"])
    weighted = describe_cells(x, ["x"], weight=weight / 7)
    np.testing.assert_allclose(weighted["shares"], repeated["shares"], rtol=1e-12)
    assert weighted["knots"] == repeated["knots"]
    holes = np.where(RANDOM.random((N, 1)) < 0.3, 1e9, x)
    known = holes < 1e8
    assert describe_cells(holes, ["x"], known=known) == describe_cells(x[known[:, 0]], ["x"])


@given(st.integers(0, 6), st.lists(st.integers(-(10**6), 10**6), min_size=1, max_size=30), st.booleans())
def test_the_step_that_numbers_are_rounded_to(decimals: int, whole: list[int], gap: bool) -> None:
    values = np.array([*whole, np.nan] if gap else whole, dtype=np.float64) / 10**decimals
    step = fineness(values)
    assert step is not None
    assert step >= 10.0**-decimals * (1 - 1e-9)
    assert np.array_equal(rounded(values, step), values, equal_nan=True)
    if step < 1.0:  # no coarser one will do
        assert not np.array_equal(rounded(values, 10 * step), values, equal_nan=True)


def test_numbers_that_are_not_rounded_have_no_step() -> None:
    random = np.random.default_rng(0)
    assert fineness(random.normal(size=50)) is None
    assert fineness(1e12 + random.normal(size=50)) is None  # float64 holds four decimals there, all of them by itself
    assert fineness(np.full(3, np.nan)) is None
    assert fineness((random.integers(0, 9999, 50) / 100).astype(np.float32)) == 0.01
    assert fineness(random.normal(size=50).astype(np.float32)) is None
    assert fineness(random.integers(0, 10**6, 50) / 86_400, CLOCK) == 1 / 86_400
