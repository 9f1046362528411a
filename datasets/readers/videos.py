"""Videos: clips of your own, from npz files or folders of videos.

    datasets.load("clips.npz")                        frames (rows, T, H, W, C), bytes or floats in [0, 1]; and labels
    datasets.load("videos/", size=64, length=16)       videos/walk/a.mp4, videos/run/b.gif: folders are actions

Frames may also be (rows, T, H, W), have colours first or, as in the Moving MNIST file, time first; may be 0 and 1, 0 to
1, or 0 to 255 in any type of number: axes and range are decided once for all clips, reported by `data info`, and
changed by `layout` and `value_range`. An npy file or an array of that form is read, too.

An npz holds `frames` and optionally `action` (rows,), `identity` (rows,) or (rows, attributes), `group` (rows,), which
clips show one individual, `mask` (rows, T), and `names`, a JSON text {label: [names]}. Clips of unequal length, an
array of arrays, are filled up and marked in `mask`; such arrays are read without running what a pickle may say. A
folder may hold train.npz, valid.npz and test.npz, or videos.
"""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from phlogiston.datasets import axes, pictures
from phlogiston.datasets.base import PARTS, Array, Dataset, Decision, Info, Split, part_rows, recorded, stream
from phlogiston.datasets.clips import mapped
from phlogiston.datasets.pixels import Ranges, Values, as_range
from phlogiston.datasets.readers import clip_tables
from phlogiston.errors import DataError, ShapeError

INFO = Info(
    name="videos",
    title="your own clips: an npz with frames, or a folder of videos; pass the path instead of a name",
    kind="yours",
    licence="yours",
    rows="yours",
    shape="T frames x C x size x size, labels where there are some",
    notes="Clips of unequal length are filled up and marked in 'mask'. by='group' keeps individuals apart.",
)


def accepts(data: Any) -> bool:
    """Say whether data of the user's are clips: a video, a folder of videos, an npz (or mapping) with `frames`.

    So are arrays whose shape is that of video: of 5 axes, or 4 without 1, 3 or 4 colours.
    """
    if isinstance(data, Mapping):
        return clip_tables.clips_key({name: clip_tables.shape_of(value) for name, value in data.items()}) is not None
    if not isinstance(data, str | PathLike):
        return axes.is_video(clip_tables.shape_of(data))
    path = Path(data).expanduser()
    if path.is_dir():
        return clip_tables.holds_frames(path / "train.npz") or (
            bool(pictures.videos_of(path)) and not any(pictures.is_picture(p) for p in path.rglob("*"))
        )
    return path.suffix.lower() in pictures.VIDEOS or clip_tables.holds_frames(path)


@recorded("data")
def load(
    root: str | PathLike[str] | None = None,
    *,
    data: Any = None,
    valid: float = 0.0,
    test: float = 0.2,
    by: str = "clip",
    size: int = 0,
    length: int = 0,
    every: int = 1,
    layout: str = "auto",
    value_range: tuple[float, float] | None = None,
    seed: int = 0,
) -> Dataset:
    """Read clips.

    Args:
        root: folder that relative paths start from.
        data: a path or a mapping, see above.
        valid: share of the clips (or individuals) for validation.
        test: the same for testing; where a folder brings parts of its own, both are ignored.
        by: "clip" divides clips at random, "group" individuals, so that those tested on are new.
        size: cut the middle square out and scale it to so many pixels; 0 leaves frames as they are.
        length: keep so many frames of each clip, from the first on; 0 keeps all.
        every: take every so manieth frame.
        layout: order of the axes of `frames`, such as NTHW, TNHW (time first), NTHWC or NTCHW; found out by default.
        value_range: values of black and white; found out from all clips by default.
        seed: of the division.

    Returns:
        `frames` uint8 (rows, T, C, size, size), `mask` bool (rows, T) where clips differ in length, int64 (rows,) per
        label, and `group`.

    Raises:
        DataError: no clips, a damaged file, or values that are no pixels. A video that cannot be read among others
            that can is left out with a `DataWarning`.
        ShapeError: clips of different sizes.
    """
    if data is None:
        raise DataError("no data given. Pass a path instead of a name: datasets.load('clips.npz').")
    if by not in ("clip", "group"):
        raise DataError(f"by is {by!r}; choose 'clip' or 'group'.")
    if every < 1 or length < 0 or size < 0:
        raise DataError(f"every={every}, length={length}, size={size}; expected 1 or more, 0 or more, 0 or more.")
    options = {"size": size, "length": length, "every": every}
    value_range = as_range(value_range)
    array = mapped.large(data, root)
    if array is not None:
        if by == "group":
            raise DataError("by='group' needs an npz that says who is who; an array of clips says nothing of it.")
        told = {"value_range": None if value_range is None else list(value_range)}
        cut = mapped.Cut(valid, test, size, length, every, seed)
        return mapped.streamed(INFO, told, array, layout, value_range, cut, scaled)
    name, tables, labels, decisions = clip_tables.read(data, root, layout)
    ranges = _ranges(tables, value_range)
    decisions += ranges.decisions()
    longest = max(_longest(table["frames"], every, length) for table in tables.values())
    ragged = any("mask" in table or _is_ragged(table["frames"], every, length, longest) for table in tables.values())
    ready = {part: _tidy(table, longest, ragged, options, ranges) for part, table in tables.items()}
    if set(ready) == {"all"}:
        ready = _divide(ready["all"], valid, test, by, seed)
    first = ready["train"]
    parts = [ready.get(part) or {k: v[:0] for k, v in first.items()} for part in PARTS]
    splits = (Split(part, sequences=("frames",)) for part in parts)
    if ragged:
        decisions.append(
            Decision("missing", "clips differ in length or have a mask: frames that are not there in 'mask'")
        )
    return Dataset.of(
        INFO,
        splits,
        {"value_range": None if value_range is None else list(value_range)},
        name=name,
        title=Path(name).name,
        notes="",
        categorical=labels,
        decisions=tuple(dict.fromkeys(decisions)),
    )


def _ranges(tables: Mapping[str, dict[str, Any]], value_range: tuple[float, float] | None) -> Ranges:
    """What black and white are, from all clips of all parts."""
    values = Values("the clips")
    encoded = all(
        table.pop("encoded", False) for table in tables.values()
    )  # video files hold 8 bits, whatever they show
    for table in tables.values():
        for row, clip in enumerate(table["frames"]):
            if not encoded or value_range is not None:
                values.see(np.asarray(clip), f"clip {row}")
    return values.ranges(value_range)


# ---- bringing into form


def _kept(clip: Array, every: int, length: int) -> Array:
    clip = clip[::every]
    return clip[:length] if length else clip


def _longest(clips: Any, every: int, length: int) -> int:
    if not len(clips):
        raise DataError("there are no clips.")
    if isinstance(clips, np.ndarray):
        return len(_kept(np.empty(clips.shape[1]), every, length)) if clips.ndim > 1 else 0
    return max(len(_kept(clip, every, length)) for clip in clips)


def _is_ragged(clips: Any, every: int, length: int, longest: int) -> bool:
    if isinstance(clips, np.ndarray):
        return _longest(clips, every, length) < longest
    return any(len(_kept(clip, every, length)) < longest for clip in clips)


def _tidy(
    table: dict[str, Any], longest: int, ragged: bool, options: Mapping[str, int], ranges: Ranges
) -> dict[str, Array]:
    """Scale, cut, fill up and move channels to the front."""
    every, length, size = options["every"], options["length"], options["size"]
    frames: Array | None = None
    known = np.zeros((len(table["frames"]), longest), dtype=bool)
    for row, clip in enumerate(table["frames"]):
        kept = _kept(np.asarray(clip), every, length)
        ready = scaled(ranges.of(kept).to_bytes(kept), size)
        ready = np.moveaxis(ready, -1, 1)
        if frames is None:
            frames = np.zeros((len(known), longest, *ready.shape[1:]), dtype=np.uint8)
        if not len(ready):
            raise DataError(f"clip {row} has no frames.")
        if ready.shape[1:] != frames.shape[2:]:
            raise ShapeError(
                f"clip {row} has frames of {ready.shape[1:]} (colours, height, width), clip 0 of {frames.shape[2:]}. "
                "Scale them by size=..."
            )
        frames[row, : len(ready)] = ready
        known[row, : len(ready)] = True
        if "mask" in table:
            known[row, : len(ready)] &= _kept(table["mask"][row], every, length)[: len(ready)]
    assert frames is not None
    out: dict[str, Array] = {"frames": frames}
    out.update({key: value for key, value in table.items() if key not in ("frames", "mask")})
    if ragged:
        out["mask"] = known
    return out


def scaled(clip: Array, size: int) -> Array:
    """Cut the middle square out and scale it."""
    if not size or clip.shape[1:3] == (size, size):
        return clip
    from PIL import Image

    height, width = clip.shape[1:3]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = clip[:, top : top + side, left : left + side]
    out = np.empty((len(clip), size, size, clip.shape[-1]), dtype=np.uint8)
    how = Image.Resampling.BOX if side > size else Image.Resampling.BILINEAR
    for t, picture in enumerate(square):
        image = Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture)
        out[t] = np.asarray(image.resize((size, size), how)).reshape(size, size, -1)
    return out


def _divide(table: dict[str, Array], valid: float, test: float, by: str, seed: int) -> dict[str, dict[str, Array]]:
    rows = len(table["frames"])
    if by == "group" and "group" not in table:
        raise DataError("by='group' needs to know who is who: give 'group' or 'identity' in the npz.")
    who = table["group"] if by == "group" else np.arange(rows)
    people = np.unique(who)
    counts = [round(share * len(people)) if share < 1 else int(share) for share in (valid, test)]
    part_rows(len(people), valid=counts[0], test=counts[1], what="the data")
    order = people[stream(seed, "videos").permutation(len(people))]
    chosen = dict(zip(("test", "valid", "train"), np.split(order, [counts[1], sum(counts)]), strict=True))
    return {part: {k: v[np.isin(who, names)] for k, v in table.items()} for part, names in chosen.items()}
