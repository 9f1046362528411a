"""Location and scale of columns, in float64: what a table is standardised with, and which columns or cells cannot be.

For ordinary columns these are the mean and the standard deviation, weighted where rows have weights. A few wild cells
(a typing error of 1e10 among numbers near 1) would own both; they are set aside, and reported by column and row.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from phlogiston.datasets.base import Array
from phlogiston.errors import DataError, DataWarning

WILD_SDS = 1000.0
"""Standard deviations of the other cells from which on a cell may count as wild."""
WILD_GAP = 300.0
"""How many times farther out it must be than the outermost of the others. Above 255: bytes are never wild."""
WILD_SHARE = 0.05
"""At most this share of a column's rows is wild; more of them are a part of the data."""
GLANCE = 1000
"""Cells by which it is seen at once that none of a column is wild."""
STEPS = 64
"""A column must span more than so many of the steps in which its number format counts at its largest value."""
LARGEST, SMALLEST = 1e100, 1e-100
"""Scales that leave room for squares in float64."""


@dataclass(frozen=True)
class Wild:
    """A cell far outside everything else in its column.

    Attributes:
        column: position of the column.
        row: position of the row.
        value: what stands there.
        sds: how many standard deviations of the other cells it lies from their mean.
    """

    column: int
    row: int
    value: float
    sds: float


@dataclass(frozen=True)
class Standardisation:
    """What columns are standardised with.

    Attributes:
        location: float64 (columns,).
        scale: float64 (columns,), positive; 1 where a column never varies.
        constant: bool (columns,), True where a column never varies.
        limits: column -> (lowest, highest) value that is not wild, for the columns that hold wild cells.
        wild: the wild cells.
    """

    location: Array
    scale: Array
    constant: Array
    limits: dict[int, tuple[float, float]] = field(default_factory=dict)
    wild: tuple[Wild, ...] = ()


def standardise(
    x: Array,
    known: Array | None = None,
    weight: Array | None = None,
    names: Sequence[str] = (),
    precision: str = "float64",
    where: str = "x",
) -> Standardisation:
    """Find location and scale of every column.

    Args:
        x: (rows, columns); entries that are not known may hold anything.
        known: bool (rows, columns), True where known; None when everything is.
        weight: (rows,), 0 or more; a row of weight 0 is left out, and a common factor changes nothing.
        names: of the columns, for messages.
        precision: the number format the entries came in, `"float64"` or `"float32"`.
        where: what the columns belong to, for messages.

    Raises:
        DataError: no rows, a column without a known value, or one whose number format cannot distinguish its values.
    """
    x = np.asarray(x, dtype=np.float64)
    rows = np.arange(len(x)) if weight is None else np.flatnonzero(np.asarray(weight) > 0)
    if not len(rows):
        raise DataError(
            f"{where} has no rows{'' if weight is None else ' of positive weight'}; at least one is needed."
        )
    share = np.ones(len(rows)) if weight is None else np.asarray(weight, dtype=np.float64)[rows]
    if share.min() == share.max():
        share = np.ones(len(rows))  # spares the sorting that weighted medians need, and is the same
    location, scale = np.zeros(x.shape[1]), np.ones(x.shape[1])
    constant = np.zeros(x.shape[1], dtype=np.bool_)
    limits: dict[int, tuple[float, float]] = {}
    wild: list[Wild] = []
    for j in range(x.shape[1]):
        name = names[j] if j < len(names) else f"x{j}"
        here = rows if known is None else rows[known[rows, j]]
        if not len(here):
            raise DataError(f"column {name!r} of {where} holds no known value; leave it out.")
        values = x[here, j]
        weights = share if known is None else share[known[rows, j]]
        low, high = float(values.min()), float(values.max())
        if low == high:
            location[j], constant[j] = low, True
            continue
        location[j], scale[j] = _moments(values, weights)
        limit = _limits(values, weights, float(location[j]), float(scale[j]))
        if limit is not None:
            limits[j] = limit
            inside = (values >= limit[0]) & (values <= limit[1])
            location[j], scale[j] = _moments(values[inside], weights[inside])
            low, high = float(values[inside].min()), float(values[inside].max())
            for i in np.flatnonzero(~inside):
                wild.append(Wild(j, int(here[i]), float(values[i]), float(abs(values[i] - location[j]) / scale[j])))
        _check(name, where, low, high, float(scale[j]), precision)
    return Standardisation(location, scale, constant, limits, tuple(wild))


def wild_cells(values: Array) -> list[Wild]:
    """The wild cells of one column, (rows,), NaN where missing."""
    if not _may_be_wild(values):
        return []
    rows = np.flatnonzero(np.isfinite(values))
    if len(rows) < 2:
        return []
    known, weights = values[rows], np.ones(len(rows))
    limit = _limits(known, weights, *_moments(known, weights))
    if limit is None:
        return []
    inside = (known >= limit[0]) & (known <= limit[1])
    mean, sd = _moments(known[inside], weights[inside])
    return [Wild(0, int(rows[i]), float(known[i]), float(abs(known[i] - mean) / sd)) for i in np.flatnonzero(~inside)]


def tell_wild(cells: Sequence[Wild], names: Sequence[str], where: str = "x", left_out: str = "the cell") -> None:
    """Warn of wild cells by column, row and distance.

    Args:
        cells: the result of `standardise`.
        names: of the columns.
        where: what the columns belong to.
        left_out: what is left out of training on their account.
    """
    if not cells:
        return
    shown = "; ".join(
        f"column {names[c.column]!r}, row {c.row}: {c.value:.6g} is {c.sds:.3g} standard deviations from the rest"
        for c in cells[:5]
    )
    more = f"; and {len(cells) - 5} more" if len(cells) > 5 else ""
    warnings.warn(
        f"{where} holds {len(cells)} wild value{'s' if len(cells) > 1 else ''}: {shown}{more}. Locations and scales "
        f"are those of the rest, and training leaves {left_out} out. Correct them, or mark them as missing.",
        DataWarning,
        stacklevel=3,
    )


def rounding(value: float, precision: str) -> float:
    """What two records of the same number near `value` may differ by, if one of them was kept in `precision`."""
    return 8.0 * float(np.finfo(precision).eps) * abs(value)


def _moments(values: Array, weights: Array) -> tuple[float, float]:
    """Weighted mean and standard deviation, safe from overflow and cancellation."""
    start = values[0]
    gap = values - start
    widest = float(np.abs(gap).max())
    if widest == 0 or not np.isfinite(widest):
        return float(start), 1.0
    unit = 2.0 ** np.floor(np.log2(widest))  # a power of two: scaling by it rounds nothing
    gap = gap / unit
    mean = float((gap * weights).sum() / weights.sum())
    sd = float(np.sqrt(((gap - mean) ** 2 * weights).sum() / weights.sum()))
    return float(start + unit * mean), float(unit * sd)


def _limits(values: Array, weights: Array, mean: float, sd: float) -> tuple[float, float] | None:
    """Lowest and highest value that is not wild; None where no cell is."""
    if not sd > 0 or np.abs(values - mean).max() / sd < WILD_SHARE**-0.5 - 0.5:
        return None  # a small share cannot own the scale without lying many of its standard deviations out
    equal = weights.min() == weights.max()
    if equal and not _may_be_wild(values):
        return None
    middle = float(np.median(values)) if equal else _weighted_median(values, weights)
    gap = np.abs(values - middle)
    count = min(len(gap) - 1, int(WILD_SHARE * len(gap)) + 1 if equal else len(gap) - 1)
    order = np.argpartition(gap, len(gap) - 1 - count)[-1 - count :]
    order = order[np.argsort(gap[order])]
    far, mass = gap[order], weights[order]
    beyond = np.cumsum(mass[::-1])[::-1]  # the weight of this cell and all farther ones
    for i in range(1, len(order)):
        if far[i - 1] > 0 and far[i] > WILD_GAP * far[i - 1] and beyond[i] <= WILD_SHARE * weights.sum():
            rest = gap < far[i]
            _, spread = _moments(values[rest], weights[rest])
            if spread > 0 and far[i] > WILD_SDS * spread:
                edge = float(np.sqrt(far[i - 1]) * np.sqrt(far[i]))
                return middle - edge, middle + edge
    return None


def _may_be_wild(values: Array) -> bool:
    """Whether some cells may be wild, by a glance at a thousand of them; False is certain, but for one in 10^20.

    Where a small share is wild, all the others lie within 1 / WILD_GAP of the outermost cell's distance to the middle.
    """
    if len(values) < 4 * GLANCE:
        return True
    some = values[np.random.default_rng(0).integers(0, len(values), GLANCE)]
    some = some[np.isfinite(some)]
    low, high = np.nanmin(values), np.nanmax(values)
    if len(some) < GLANCE // 2 or not np.isfinite(high - low):
        return True
    middle = np.median(some)
    reach = 2.0 * max(high - middle, middle - low) / WILD_GAP
    return bool((np.abs(some - middle) <= reach).mean() > 1.0 - 3.0 * WILD_SHARE)


def _weighted_median(values: Array, weights: Array) -> float:
    """The median of rows repeated as often as they weigh."""
    order = np.argsort(values)
    reached = np.cumsum(weights[order]) / weights.sum()
    i = int(np.searchsorted(reached, 0.5 - 1e-12))
    at = float(values[order[i]])
    if abs(reached[i] - 0.5) < 1e-12 and i + 1 < len(values):
        return at + 0.5 * (float(values[order[i + 1]]) - at)
    return at


def _check(name: str, where: str, low: float, high: float, scale: float, precision: str) -> None:
    """Refuse a column whose values its number format cannot distinguish, or whose squares float64 cannot hold."""
    largest = max(abs(low), abs(high))
    step = float(np.finfo(precision).eps) * largest
    if high - low <= STEPS * step:
        other = " Pass float64, or subtract" if precision == "float32" else " Subtract"
        raise DataError(
            f"column {name!r} of {where} varies by {high - low:.3g} about {low:.6g}, where {precision} counts in steps "
            f"of about {step:.2g}: too coarse to distinguish its values.{other} a common offset before they are "
            "rounded; if the variation is nothing but rounding, round it away or leave the column out."
        )
    if not SMALLEST < scale < LARGEST or largest > LARGEST:
        raise DataError(
            f"column {name!r} of {where} has values up to {largest:.3g} and a standard deviation of {scale:.3g}; "
            f"expected between {SMALLEST:g} and {LARGEST:g}. Use another unit."
        )
