"""Which axis of an array of video is which: clips, time, height, width and colours, in any order.

The order is taken from the number of axes and from the axis that has one or three entries; whether clips or frames
come first, which the shape does not say, from the values: frames close in time are alike, clips beside each other are
no more alike than others. What was decided is reported, and changed by the option `layout`, one letter per axis.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from phlogiston.datasets.base import Array, Decision
from phlogiston.errors import DataError, ShapeError

LETTERS = "NTHWC"  # clips, time, height, width, colours
COLOURS = (1, 3, 4)
_LEAST = 8  # pixels a side of what is taken for video unasked
_SIDE = 4  # the least a height or width may be beside colours that are not the last axis
_AHEAD = 0.75  # how much more alike neighbours along the first axis must be to be frames
_MOVING_MNIST = (20, 64, 64)  # frames, height, width of the one published file whose first axis is time
_NAMES = {"N": "clips", "T": "time", "H": "height", "W": "width", "C": "colours"}


def check_layout(layout: str, axes: int | None = None) -> str:
    """Return a layout in capitals.

    Raises:
        DataError: letters other than N, T, H, W and C, twice the same, no T, H or W, or too few for the array.
    """
    layout = layout.upper()
    if set(layout) - set(LETTERS) or len(set(layout)) != len(layout) or not set("THW") <= set(layout):
        raise DataError(f"layout is {layout!r}; expected the order of axes, such as NTHW, TNHW, NTHWC or NTCHW.")
    if axes is not None and axes != len(layout):
        raise DataError(f"layout is {layout!r} ({len(layout)} axes); the array has {axes}.")
    return layout


def is_video(shape: tuple[int, ...]) -> bool:
    """Say whether an array of this shape is video rather than pictures or a table."""
    if len(shape) == 4:
        return shape[1] not in (1, 3) and shape[3] not in COLOURS and min(shape[2:]) >= _LEAST
    if len(shape) == 5:
        axis = _colour_axis(shape)
        return axis is not None and min([n for i, n in enumerate(shape) if i not in (0, axis)][-2:]) >= _LEAST
    return False


def find_layout(array: Array, what: str = "the array", clips: bool = False) -> tuple[str, str]:
    """Find out which axis is which.

    Args:
        array: video of 3 to 5 axes.
        what: what messages call it.
        clips: whether it is known to hold several clips, so that four axes leave none for colours unless the last is.

    Returns:
        The layout, and the reason where values had to decide, else "".

    Raises:
        ShapeError: a shape that no video has, or one that means two things.
    """
    shape = array.shape
    if array.ndim == 3:
        return "THW", ""
    if array.ndim == 4 and shape[-1] in COLOURS:
        return "THWC", ""
    if array.ndim == 4 and shape[1] in (1, 3) and min(shape[2:]) > 4 and not clips:
        raise ShapeError(
            f"{what} has shape {shape}: clips of {shape[1]} grey frames, or one clip with {shape[1]} colours? "
            "Say layout='NTHW' or layout='TCHW'."
        )
    if array.ndim == 4:
        return _first_axis(array, "NTHW")
    if array.ndim == 5:
        layout = {4: "NTHWC", 2: "NTCHW", 1: "NCTHW"}.get(_colour_axis(shape) or 0)
        if layout is not None:
            return (layout, "") if layout == "NCTHW" else _first_axis(array, layout)
    raise ShapeError(
        f"{what} has shape {shape}; expected (clips, time, height, width), with 1 or 3 channels or without; another "
        "order of axes is named by layout=..."
    )


def _colour_axis(shape: tuple[int, ...]) -> int | None:
    """The axis of five that holds colours: the last, or before height and width, or before time."""
    if shape[4] in COLOURS:
        return 4
    return next((axis for axis in (2, 1) if shape[axis] in (1, 3) and min(shape[3:]) >= _SIDE), None)


def _first_axis(array: Array, layout: str) -> tuple[str, str]:
    """Whether clips or frames come first."""
    time_first = "TN" + layout[2:]
    first, second = (_order(array, axis) for axis in (0, 1))
    frames, height, width = _MOVING_MNIST
    sides = [array.shape[layout.index(letter)] for letter in "HW"]
    published = array.shape[0] == frames and array.shape[1] != frames and sides == [height, width]
    if first < _AHEAD * second:
        return time_first, "neighbours along the first axis are alike, those along the second are not"
    if published and second >= _AHEAD * first:
        return time_first, f"{frames} x n x {height} x {width} is the form of the Moving MNIST file"
    return layout, "" if second < _AHEAD * first else "the usual order: values do not distinguish clips from frames"


def _order(array: Array, axis: int) -> float:
    """How much less neighbours along an axis differ than others do: 1 where its order means nothing."""
    length = min(array.shape[axis], 16)
    if length < 4:
        return 1.0
    cut = tuple(
        slice(0, length) if i == axis else slice(0, 16) if i < 2 else slice(None, None, max(1, n // 32))
        for i, n in enumerate(array.shape)
    )
    rows = np.moveaxis(array[cut], axis, 0).reshape(length, -1).astype(np.float64)
    gaps = [float(np.abs(rows[lag:] - rows[:-lag]).mean()) for lag in range(1, length)]
    far = sum(gaps[1:]) / len(gaps[1:])
    return gaps[0] / far if gaps[0] > 0 and far > 0 else 1.0


def to_clips(array: Array, layout: str) -> Array:
    """Bring an array into the order (clips, time, height, width, colours); missing axes have one entry."""
    layout = check_layout(layout, array.ndim)
    array = array.transpose([layout.index(letter) for letter in LETTERS if letter in layout])
    for position, letter in enumerate(LETTERS):
        if letter not in layout:
            array = np.expand_dims(array, position)
    if array.shape[-1] not in COLOURS:
        raise ShapeError(f"layout={layout!r} gives {array.shape[-1]} channels of colour; expected 1 or 3.")
    return array[..., :3]


def decision(layout: str, shape: tuple[int, ...], why: str) -> Decision:
    """What was decided about the axes, for people."""
    read = ", ".join(f"{_NAMES[letter]} {n}" for letter, n in zip(layout, shape, strict=True))
    other = layout.replace("NT", "tn") if "NT" in layout else layout.replace("TN", "nt")
    return Decision("axes", f"read as {read}" + (f" ({why})" if why else ""), f"layout={other.upper()}")


def clip_layout(shapes: Sequence[tuple[int, ...]], what: str) -> str:
    """Find the layout of clips that come one by one, from all of their shapes.

    Raises:
        ShapeError: shapes that no clips have, or that differ in their order.
    """
    if all(len(shape) == 3 for shape in shapes):
        return "THW"
    for layout, axis in (("THWC", 3), ("TCHW", 1), ("CTHW", 0)):
        if all(len(shape) == 4 and shape[axis] in COLOURS for shape in shapes):
            return layout
    known = (len(shape) == 3 or (len(shape) == 4 and shape[3] in COLOURS) for shape in shapes)
    row = next((i for i, good in enumerate(known) if not good), 0)
    raise ShapeError(f"{what}: clip {row} has shape {shapes[row]}; expected (time, height, width[, 1 or 3 channels]).")
