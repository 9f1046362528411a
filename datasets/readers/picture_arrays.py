"""Arrays of pictures: which axis holds colours, and what their numbers mean."""

from __future__ import annotations

import numpy as np

from phlogiston.datasets.base import Array, Decision
from phlogiston.datasets.pixels import range_of
from phlogiston.errors import DataError


def as_pictures(
    x: Array, what: str, value_range: tuple[float, float] | None = None
) -> tuple[Array, tuple[int, ...] | None, list[Decision]]:
    """Bring an array of three axes or more into [0, 1] and colours last, where it holds pictures.

    Args:
        x: (rows, height, width), with 1, 3 or 4 colours last or first; or numbers that are no pictures.
        what: what messages call it.
        value_range: values of black and white; found out by default.

    Returns:
        The array, float64 in [0, 1] for pictures and as it was for others; the shape of a picture, or None; and what
        was decided.

    Raises:
        DataError: values outside `value_range`, or one was given for what are no pictures.
    """
    decisions: list[Decision] = []
    if x.ndim == 4 and x.shape[-1] not in (1, 3, 4) and x.shape[1] in (1, 3):
        x = np.moveaxis(x, 1, -1)
        decisions.append(
            Decision("axes", f"read as rows, colours, height, width; kept as {' x '.join(map(str, x.shape[1:]))}")
        )
    if x.ndim > 4 or (x.ndim == 4 and x.shape[-1] not in (1, 3, 4)):
        if value_range is not None:
            raise DataError(f"value_range is given, but {what} of shape {x.shape} holds no pictures.")
        return (
            x,
            None,
            [Decision("axes", f"{' x '.join(map(str, x.shape[1:]))} is no picture; kept as a row of numbers")],
        )
    if x.ndim == 4 and x.shape[-1] == 4:
        x = x[..., :3]
        decisions.append(Decision("colours", "the fourth channel is taken for transparency and dropped"))
    known = x[~np.isnan(x)] if x.dtype.kind == "f" else x  # missing entries are reported like those of any table
    if value_range is None and not _could_be_pixels(known):
        decisions.append(
            Decision("values", f"{_span(known)} are not taken for pixels; kept as they are", "value_range=0,255")
        )
        return x, x.shape[1:], decisions
    ranges = range_of([known], what, value_range)
    return ranges.of(x).to_unit(x), x.shape[1:], [*decisions, *ranges.decisions()]


def _could_be_pixels(x: Array) -> bool:
    """Numbers recognised as pixels: from 0 to 1, or whole ones from 0 to 255 (or 16 bits)."""
    try:
        range_of([x], "")
    except DataError:
        return False
    return x.dtype.kind != "f" or bool(x.max(initial=0.0) <= 1.0 or (x == np.round(x)).all())


def _span(x: Array) -> str:
    return f"{x.min(initial=0):.6g} to {x.max(initial=0):.6g}"
