"""Frames of an array on disk, read by their place in the file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, cast

import numpy as np

from phlogiston.datasets import axes
from phlogiston.datasets.base import Array, Dataset, Decision, Info, Split, part_rows
from phlogiston.datasets.clips.streamed import HELD, StreamedClips
from phlogiston.datasets.permutation import Permutation
from phlogiston.datasets.pixels import Ranges, range_of
from phlogiston.datasets.streamed import ArrayRows
from phlogiston.datasets.untrusted.arrays import map_file
from phlogiston.errors import DataError

LARGE = 1 << 30
"""Bytes of clips from which they stay on disk."""
SAMPLED = 64
"""Clips (or times, where these come first) that range and axes are found from."""


class MappedFrames:
    """Frames of a memory-mapped array of clips, numbered clip by clip: frame `t` of clip `i` is `i * time + t`.

    Args:
        array: of 4 or 5 axes, whole and in the order of its file.
        layout: order of its axes, such as NTHWC; frames must be contiguous in it, N and T first.
        name: what messages call it.
        ranges: values of black and white.

    Raises:
        DataError: colours stand before time, so that frames are scattered over the file.
    """

    def __init__(self, array: Any, layout: str, name: str, ranges: Ranges) -> None:
        if set(layout[:2]) != {"N", "T"}:
            raise DataError(f"{name}: axes {layout}; clips that stay on disk need N and T first, such as NTHWC.")
        self.name, self.ranges = name, ranges
        self._inner = layout[2:]
        self._time_first = layout[0] == "T"
        first, second = array.shape[:2]
        self.clips, self.time = (second, first) if self._time_first else (first, second)
        self._frame = array.shape[2:]
        width = int(np.prod(self._frame))
        table = np.memmap(array.filename, array.dtype, "r", array.offset, (first * second, width))
        self._rows = ArrayRows([table], name, ("pixels",) * width)
        self.shape = self._tidy(np.zeros((1, *self._frame), array.dtype)).shape[1:]

    def __len__(self) -> int:
        return self.clips * self.time

    def read(self, numbers: Array) -> Array:
        """Return frames by number, uint8.

        Raises:
            DataError: values outside of what a sample of the array had.
        """
        clip, time = np.divmod(numbers, self.time)
        values = self._rows.read(time * self.clips + clip if self._time_first else numbers)
        range_ = self.ranges.of(values)
        if values.dtype != np.uint8 or range_.white != 255.0:
            low, high = values.min(), values.max()
            slack = 1e-6 * (range_.white - range_.black)
            if not (low >= range_.black - slack and high <= range_.white + slack):  # NaN is in no range
                raise DataError(
                    f"{self.name} holds values from {low:.6g} to {high:.6g}, beyond those of a sample of it (black "
                    f"{range_.black:g}, white {range_.white:g}). Say value_range=black,white."
                )
        return self._tidy(range_.to_bytes(values).reshape(-1, *self._frame))

    def expect(self, numbers: Array) -> None:
        """Nothing is to be done ahead."""

    def _tidy(self, frames: Array) -> Array:
        """Colours last, three of them at most."""
        return axes.to_clips(frames, f"T{self._inner}")[0]


@dataclass(frozen=True)
class Cut:
    """How clips are divided and cut; see `readers.videos.load`."""

    valid: float
    test: float
    size: int
    length: int
    every: int
    seed: int


def large(data: Any, root: str | PathLike[str] | None) -> Any:
    """A memory-mapped array of clips, or an npy file of such, that stays on disk; None for anything else."""
    if isinstance(data, np.memmap):
        array: Any = data
        if data.nbytes < LARGE or data.filename is None or data.mode == "c":
            return None
    elif isinstance(data, str | PathLike) and Path(data).suffix.lower() == ".npy":
        path = Path(root or ".") / Path(data).expanduser()
        if not path.is_file() or path.stat().st_size < LARGE:
            return None
        array = map_file(path)
    else:
        return None
    whole = type(array.base).__name__ == "mmap" and array.flags.c_contiguous  # a view does not say where it begins
    return array if whole and array.ndim in (4, 5) and array.dtype.kind in "biuf" else None


def streamed(
    info: Info,
    told: dict[str, Any],
    array: Any,
    layout: str,
    value_range: tuple[float, float] | None,
    cut: Cut,
    scaled: Callable[[Array, int], Array],
) -> Dataset:
    """Divide clips at random into training clips, which stay on disk, and others.

    Args:
        info: of the source of data.
        told: options to keep.
        array: the clips.
        layout: order of its axes, or "auto".
        value_range: values of black and white; from a sample by default.
        cut: how they are divided and cut.
        scaled: cuts the middle square out of frames and scales it.

    Raises:
        DataError, ShapeError: no clips, no pixels, or axes that are not in the order of clips.
    """
    name = str(array.filename)
    some = array[:: max(1, len(array) // SAMPLED), ...]
    why = "layout was given"
    if layout == "auto":
        layout, why = axes.find_layout(array, repr(name), clips=True)
    layout = axes.check_layout(layout, array.ndim)
    ranges = range_of([np.asarray(some)], repr(name), value_range)
    frames = MappedFrames(array, layout, name, ranges)
    length = len(range(0, frames.time, cut.every))
    length = min(length, cut.length) if cut.length else length
    counts = [round(share * frames.clips) if share < 1 else int(share) for share in (cut.test, cut.valid)]
    part_rows(frames.clips, valid=counts[1], test=counts[0], what=name)
    order = Permutation(frames.clips, (cut.seed,))(np.arange(frames.clips)) * frames.time
    test, valid, train = np.split(order, np.cumsum(counts))

    def finish(clips: Array, first: Array) -> Array:
        flat = scaled(clips.reshape(-1, *clips.shape[2:]), cut.size)
        return np.moveaxis(flat.reshape(*clips.shape[:2], *flat.shape[1:]), -1, 2)

    part = StreamedClips(frames, train, length, finish, "frames", cut.every)
    held = part.some(valid), part.some(test)
    decisions = [
        Decision("memory", f"{len(part):,} training clips stay on disk"),
        axes.decision(layout, array.shape, why),
        *ranges.decisions(),
        Decision("values", f"found from {len(some):,} clips or times", "value_range=0,255"),
    ]
    if len(held[0]) < len(valid) or len(held[1]) < len(test):
        decisions.append(Decision("parts", f"{HELD >> 20} MiB of validation and of test clips at most are used"))
    return Dataset.of(
        info, (cast(Split, part), *held), told, name=name, title=Path(name).name, notes="", decisions=tuple(decisions)
    )
