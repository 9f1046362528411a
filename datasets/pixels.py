"""What the numbers of pictures mean: which value is black, which is white, decided once for a whole collection.

Numbers do not say their range: 0 and 1 may be black and white or the two darkest of 256 greys. A range that is chosen
clip by clip turns a dark clip bright, so that it is decided from the data type and the extremes of *all* values,
reported (`Range.decision`), and changed by the option `value_range`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from phlogiston.datasets.base import Array, Decision
from phlogiston.errors import DataError

OVERSHOOT = 0.1  # of the range: resizing by splines leaves it by so much; clipped where the user gives the range
_OPTION = "value_range=0,255"
_SIXTEEN = 65535.0


@dataclass(frozen=True)
class Range:
    """Which values are black and white.

    Attributes:
        black: the value of black.
        white: the value of white; what lies outside is clipped.
        description: how they were recognised, for people.
    """

    black: float
    white: float
    description: str = ""

    def to_unit(self, values: Array) -> Array:
        """Values as float64 in [0, 1]."""
        unit = (np.asarray(values, dtype=np.float64) - self.black) / (self.white - self.black)
        return np.clip(unit, 0.0, 1.0)

    def to_bytes(self, values: Array) -> Array:
        """Values as uint8, 0 to 255."""
        if values.dtype == np.uint8 and (self.black, self.white) == (0.0, 255.0):
            return values
        return np.round(self.to_unit(values) * 255.0).astype(np.uint8)

    @property
    def decision(self) -> Decision:
        """The decision, as `Meta.decisions` holds it."""
        return Decision("values", f"{self.description}: black is {self.black:g}, white {self.white:g}", _OPTION)


BYTES = Range(0.0, 255.0, "8-bit pictures")


class Values:
    """Gathers what a collection of arrays holds, one array after another.

    Args:
        what: what messages call the collection.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self._extremes: dict[str, tuple[float, float]] = {}

    def see(self, values: Array, where: str = "") -> None:
        """Take an array into account.

        Args:
            values: bool, integers or floats.
            where: what messages call this array; the collection by default.

        Raises:
            DataError: another type, NaN or infinity.
        """
        where = where or self.what
        if values.dtype.kind not in "biuf":
            raise DataError(f"{where} holds {values.dtype} values; pixels are numbers.")
        if not values.size:
            return
        low, high = float(values.min()), float(values.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            row = int((~np.isfinite(values.reshape(len(values), -1))).any(1).argmax()) if values.ndim else 0
            raise DataError(f"{where} holds NaN or infinity in entry {row}, which are no pixels.")
        kind = "float" if values.dtype.kind == "f" else values.dtype.name
        before = self._extremes.get(kind, (low, high))
        self._extremes[kind] = (min(low, before[0]), max(high, before[1]))

    def ranges(self, value_range: tuple[float, float] | None = None) -> Ranges:
        """Decide which values are black and white, per type of numbers.

        Args:
            value_range: values of black and white, where the user says so.

        Raises:
            DataError: values that could mean several things, or lie outside `value_range`.
        """
        if value_range is None:
            return Ranges({kind: _decide(kind, *span, self.what) for kind, span in self._extremes.items()})
        black, white = (float(value) for value in value_range)
        if not (np.isfinite([black, white]).all() and black < white):
            raise DataError(f"value_range={black:g},{white:g}; expected the values of black and white, black the less.")
        slack = OVERSHOOT * (white - black)
        for kind, (low, high) in self._extremes.items():
            if low < black - slack or high > white + slack:
                raise DataError(f"{self.what}: {kind} values from {low:.9g} to {high:.9g}; {value_range=} was given.")
        return Ranges({kind: Range(black, white, "value_range was given") for kind in self._extremes})


@dataclass(frozen=True)
class Ranges:
    """The range of each type of numbers in a collection.

    Attributes:
        by_kind: "float" or the name of a type -> its range.
    """

    by_kind: dict[str, Range]

    def of(self, values: Array) -> Range:
        """The range of an array of the collection."""
        kind = "float" if values.dtype.kind == "f" else values.dtype.name
        return self.by_kind.get(kind, BYTES)

    def decisions(self) -> tuple[Decision, ...]:
        """What was decided, one entry per type."""
        return tuple(range_.decision for range_ in self.by_kind.values())


def range_of(arrays: Iterable[Array], what: str, value_range: tuple[float, float] | None = None) -> Ranges:
    """Decide the range of arrays in memory; see `Values`."""
    values = Values(what)
    for array in arrays:
        values.see(array)
    return values.ranges(value_range)


def _decide(kind: str, low: float, high: float, what: str) -> Range:
    span = f"{kind} values from {low:.9g} to {high:.9g}"
    if kind == "bool":
        return Range(0.0, 1.0, "true and false")
    if kind == "float":
        white = 1.0 if high <= 1.0 else 255.0 if 2.0 <= high <= 255.0 else None
        if white is not None and low >= 0:
            return Range(0.0, white, span)
    elif low >= 0:
        if high == 1:
            return Range(0.0, 1.0, f"{kind} values 0 and 1 only")
        if high <= 255:
            return Range(0.0, 255.0, span)
        if kind == "uint16":
            return Range(0.0, _SIXTEEN, span)
    slack = 1.0 + OVERSHOOT
    likely = "0,1" if low >= -OVERSHOOT and high <= slack else "-1,1" if -slack <= low < 0 and high <= slack else ""
    likely = likely or ("0,255" if low >= -255 * OVERSHOOT and 2 <= high <= 255 * slack else f"{low:.6g},{high:.6g}")
    raise DataError(
        f"{what}: {span}; pixels are 0 to 255 or 0 to 1. Say which are black and white, for example "
        f"value_range={likely}."
    )


def as_range(value_range: Any) -> tuple[float, float] | None:
    """Two numbers as an option may bring them.

    Raises:
        DataError: something else.
    """
    if value_range is None:
        return None
    try:
        black, white = (float(value) for value in value_range)
    except (TypeError, ValueError):
        raise DataError(
            f"value_range is {value_range!r}; expected two numbers, the values of black and white."
        ) from None
    return black, white
