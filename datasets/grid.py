"""Which columns of a table lie on a grid, and how their cells are filled: pixels, counts, rounded measurements.

A density of numbers on a grid grows without bound as its components shrink onto the grid's values, and tells nothing.
A value of such a column stands for a cell, and the density is that of a number anywhere in the cell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from phlogiston.datasets.base import Array
from phlogiston.errors import DataError

FEWEST_ROWS = 50
REPEATS = 5
"""Rows a value must have on average: with fewer, the grid is too fine to matter."""
MOST_CELLS = 4096
MOST_KNOTS = 64
OUTSIDE = 5e-4
"""Share of the map's distribution function below the lowest cell, and above the highest."""
EVERYWHERE = 1e-3
"""Share that is spread evenly over all cells, for cells without a row are possible, too."""
APART = 0.25
"""Of a column with two values: the share of a cell's probability that separates it from the other on either side."""
EDGE = 1e-3
"""Width of these sides, in cells: hardly any noise falls there."""
DECIMALS = tuple(10.0**-n for n in range(7))
"""Steps that numbers are rounded to."""
CLOCK = (1.0, 1 / 24, 1 / 1440, 1 / 86400)
"""Steps that dates and spans of time are rounded to, in days."""
TIED = 1e-9
"""Share of a column's variance that other columns leave unexplained up to which it is a combination of theirs."""


def grid_of(values: Array, strict: bool = True) -> tuple[float, float] | None:
    """Lower edge of a cell and the width of the cells of a column; None where it is on no grid.

    Args:
        values: (rows,), finite.
        strict: demand enough rows for each value; otherwise any even spacing counts.
    """
    distinct = np.unique(values)
    if len(distinct) < 2 or (strict and (len(values) < FEWEST_ROWS or REPEATS * len(distinct) > len(values))):
        return None
    gaps = np.diff(distinct)
    step = float(gaps.min())
    whole = np.round(gaps / step)
    # the smallest of many rounded differences is off by more than their mean
    step = float(gaps.sum() / whole.sum())
    if np.abs(gaps / step - whole).max() > 1e-3 or whole.sum() >= MOST_CELLS:
        return None
    if strict and np.median(whole) > 1:
        return None
    return float(distinct[0]) - 0.5 * step, step


def fineness(values: Array, steps: Sequence[float] = DECIMALS) -> float | None:
    """The coarsest of some steps that every value is a multiple of; None where there is none.

    Args:
        values: of any shape; NaN and infinite ones do not count.
        steps: from coarse to fine.
    """
    known = values[np.isfinite(values)]
    if not known.size:
        return None
    precision = 4 * np.finfo(values.dtype if values.dtype.kind == "f" else np.float64).eps
    for step in steps:
        for part in (known[:1000], known):  # most columns are seen through at once
            cells = part.astype(np.float64) / step
            slack = precision * np.abs(cells)
            if not ((slack < 0.01) & (np.abs(cells - np.round(cells)) <= slack + 1e-9)).all():
                break
        else:
            return step
    return None


def rounded(values: Array, step: float) -> Array:
    """Values as the nearest multiples of a step, to the last decimal where it is a power of ten."""
    if step in DECIMALS:
        return np.round(values.astype(np.float64), DECIMALS.index(step))
    return np.round(values.astype(np.float64) / step) * step


def describe_cells(
    x: Array,
    names: Sequence[str],
    grid: Sequence[str] = ("auto",),
    known: Array | None = None,
    weight: Array | None = None,
    filled: Mapping[str, tuple[float, float]] | None = None,
    apart: bool = False,
) -> dict[str, list[Any]]:
    """Find the columns on a grid and the map of each, as `distributions.cell_map.CellMap` takes them.

    Columns that are exact linear combinations of others are left alone: a map would bend the plane they lie in. With
    fewer rows than columns that cannot be told, and none counts as such.

    Args:
        x: (rows, columns); entries that are not known may hold anything.
        names: of the columns.
        grid: `("auto",)`, `("off",)`, or the names of the columns on a grid.
        known: bool (rows, columns), True where known; None when everything is.
        weight: (rows,), 0 or more; a common factor changes nothing.
        filled: columns whose source filled the cells with noise itself: lower edge of a cell, and the width.
        apart: map columns of two values so that their cells do not touch; for models that know the masses of cells.

    Returns:
        Arguments of a `CellMap`, JSON-able; empty where no column is on a grid.

    Raises:
        DataError: a column named in `grid` that does not exist, or is on no grid.
    """
    if tuple(grid) == ("off",):
        return {}
    auto = tuple(grid) == ("auto",)
    for name in () if auto else grid:
        if name not in names:
            raise DataError(
                f"grid names a column {name!r}; expected 'auto', 'off', or columns of x: {', '.join(names)}"
            )
    share = np.ones(len(x)) if weight is None else np.asarray(weight, dtype=np.float64)
    rows = share > 0
    fields = ("columns", "start", "step", "knots", "shares", "filled", "apart")
    result: dict[str, list[Any]] = {field: [] for field in fields}
    candidates: list[tuple[int, tuple[float, float]]] = []
    for j, name in enumerate(names):
        if not auto and name not in grid:
            continue
        here = rows if known is None else rows & known[:, j]
        cell = (filled or {}).get(name) or grid_of(x[here, j], strict=auto)
        if cell is not None:
            candidates.append((j, cell))
        elif not auto:
            raise DataError(
                f"grid names column {name!r}, whose values are on no grid: expected evenly spaced values, at most "
                f"{MOST_CELLS} cells"
            )
    tied = _tied(x, known, rows) if candidates and auto else np.zeros(len(names), dtype=np.bool_)
    for j, (start, step) in candidates:
        if tied[j]:
            continue
        here = rows if known is None else rows & known[:, j]
        start, knots, shares = _distribution(x[here, j], share[here], start, step)
        noisy = names[j] in (filled or {})
        two = apart and len(knots) == 3 and not noisy
        if two:
            knots, shares = _apart(knots, shares, step)
        for key, value in zip(fields, (j, start, step, knots, shares, noisy, two), strict=True):
            result[key].append(value)
    return result if result["columns"] else {}


def _distribution(values: Array, share: Array, start: float, step: float) -> tuple[float, list[float], list[float]]:
    """Lowest edge, knots, and the smoothed distribution function there."""
    cell = np.floor((values - start) / step).astype(np.int64)
    first = int(cell.min())
    mass = np.bincount(cell - first, weights=share / share.sum())
    count = len(mass)
    reached = np.concatenate([[0.0], np.cumsum(mass)])
    reached = (1 - EVERYWHERE) * reached / reached[-1] + EVERYWHERE * np.arange(count + 1) / count
    reached = OUTSIDE + (1 - 2 * OUTSIDE) * reached
    keep = np.arange(count + 1)
    if count >= MOST_KNOTS:  # the edges where another of equal shares begins, so that heavy cells keep theirs
        part = np.floor(reached * MOST_KNOTS / 2)
        keep = np.flatnonzero(np.r_[True, (part[1:] != part[:-1])] | np.r_[(part[1:] != part[:-1]), True])
    edges = start + step * (first + keep)
    return start + step * first, edges.tolist(), reached[keep].tolist()


def _apart(knots: Sequence[float], shares: Sequence[float], step: float) -> tuple[list[float], list[float]]:
    """The map of two cells with a gap between their images.

    Images that touch share a border that no normal component ends at: each value would lend the other some six per cent
    of its probability. Between values of a count that is smoothing; between yes and no it is an error.
    """
    pairs = zip(knots, knots[1:], shares, shares[1:], strict=False)
    inner = [
        (at, share)
        for low, high, below, above in pairs
        for at, share in (
            (low, below),
            (low + EDGE * step, below + APART * (above - below)),
            (high - EDGE * step, above - APART * (above - below)),
        )
    ]
    where, reached = zip(*inner, (knots[-1], shares[-1]), strict=True)
    return list(where), list(reached)


def _tied(x: Array, known: Array | None, rows: Array) -> Array:
    """Which columns are exact linear combinations of others: bool (columns,)."""
    complete = rows if known is None else rows & known.all(1)
    table = np.asarray(x[complete], dtype=np.float64)
    count = table.shape[1]
    if len(table) <= count + 1:
        return np.zeros(count, dtype=np.bool_)
    table = table - table.mean(0)
    length = np.sqrt((table**2).sum(0))
    varies = length > 0
    values, vectors = np.linalg.eigh((table[:, varies] / length[varies]).T @ (table[:, varies] / length[varies]))
    # a column is tied if it takes part in a combination that never varies
    result = np.zeros(count, dtype=np.bool_)
    result[varies] = (vectors[:, values < TIED * max(1, count)] ** 2).sum(1) > 1e-6
    return result
