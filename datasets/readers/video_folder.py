"""Videos of your own: a folder of videos or of frames, or arrays, cut into clips with the background taken away.

A video is a file (mp4, avi, mov, webm, mkv, gif), a sub-folder of pictures in the order of their names, or an
array (frames, height, width[, 3]), or (videos, frames, height, width[, 3]), in an npy file or under any name in an npz
file; frames or colours may come first instead. Axes and range of arrays are decided once for all, told by `data info`,
and changed by `layout` and `value_range`. The background is the median over
time of each video: what does not move vanishes, what moves stays as the difference from it. Training, validation and
test clips are divided by time, the last ones being tested: neighbouring clips of one video are too alike to be divided
at random.
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Literal

import numpy as np

from phlogiston.datasets import axes, pictures
from phlogiston.datasets.base import Array, Dataset, Decision, Info, Split, recorded
from phlogiston.datasets.clips.decoder import Form
from phlogiston.datasets.clips.videos import Plan, finished, left_out, sources, streamed, with_colours
from phlogiston.datasets.pixels import BYTES, Range, Ranges, Values, as_range, range_of
from phlogiston.datasets.readers.video_labels import Video, common_labels, cut_label, stacked, videos_with_labels
from phlogiston.datasets.skipped import Skipped
from phlogiston.datasets.untrusted import arrays
from phlogiston.datasets.untrusted.media import read_video
from phlogiston.errors import DataError

INFO = Info(
    name="video_folder",
    title="your own videos: a folder of videos or frames, background subtracted, cut into clips",
    kind="yours",
    licence="yours",
    rows="yours",
    shape="clips of your frames",
    notes="pass data=FOLDER (on the command line --data video_folder --data-set data=FOLDER).",
)

ARRAYS = {".npz", ".npy"}


@recorded()
def load(
    root: str | PathLike[str] | None = None,
    *,
    data: str | None = None,
    length: int = 10,
    stride: int = 10,
    every: int = 1,
    size: tuple[int, int] | None = None,
    crop: tuple[int, int, int, int] | None = None,
    colour: bool = False,
    background: Literal["median", "none"] = "median",
    contrast: float = 0.0,
    layout: str = "auto",
    value_range: tuple[float, float] | None = None,
    valid: float = 0.1,
    test: float = 0.1,
    tensor: Literal["x", "frames"] = "x",
    stream: bool | None = None,
    workers: int | None = None,
) -> Dataset:
    """Read videos and cut them into clips.

    Args:
        root: folder that a relative path starts from.
        data: a folder of videos, or one video.
        length: frames per clip.
        stride: frames between the beginnings of clips.
        every: use every so many frames.
        size: height and width to scale frames to; as they are by default.
        crop: y, x, height, width of the part of the frames to use, before scaling.
        colour: keep three channels.
        background: `"median"` shows the difference from each video's median over time, `"none"` leaves videos alone.
        contrast: divide by the standard deviation within so many pixels; 0 for not at all.
        layout: order of the axes of arrays, such as THW, NTHW or TNHW (time first); found out by default.
        value_range: values of black and white of arrays; found out by default.
        valid: share of each video's clips for validation.
        test: share of each video's clips, its last ones, for test.
        tensor: name of the clips, as the system wants it: `"x"` (sqair), or `"frames"` with an axis of colours (vdsm).
        stream: decode training clips when they are asked for, and keep them on disk in the cache folder; by default
            where all frames together have a GiB or more. For videos and pictures, not for arrays.
        workers: processes that decode; by default one less than there are cores, 4 at most.

    Returns:
        `x` uint8 (clips, length, [3,] height, width), or `frames` (clips, length, colours, height, width).

    Raises:
        DataError: no such folder, no videos in it, videos of unlike frames, or too short ones. A video that cannot be
            read among others that can is left out with a `DataWarning`.
    """
    if length < 1 or stride < 1 or every < 1 or valid < 0 or test < 0 or valid + test >= 1:
        raise DataError(f"length={length}, stride={stride}, every={every}, valid={valid}, test={test}: out of range.")
    path = _existing(root, data)
    value_range = as_range(value_range)
    found = None if stream is False or value_range is not None else sources(path, stream)
    if found is not None:
        cut = Plan(length, stride, every, colour, background == "median", contrast, valid, test, tensor)
        return streamed(INFO, path, found, Form(crop, size), cut, workers)
    videos, told = read_videos(path, layout)
    ranges = _ranges(videos, value_range, told)
    parts: dict[str, list[Array]] = {"train": [], "valid": [], "test": []}
    shapes: dict[tuple[int, ...], str] = {}
    short = 0
    labels: dict[str, dict[str, list[Array]]] = {part: {} for part in parts}
    kept, unkept = common_labels(videos, moved=(size, crop) != (None, None))
    for name, video, about in videos:
        said = ranges.of(video) if Path(name).suffix.lower() in ARRAYS or value_range is not None else BYTES
        ready = prepare(video[::every], size, crop, colour, background, contrast, said)
        shapes.setdefault(ready.shape[1:], name)
        starts = range(0, len(ready) - length + 1, stride)
        clips = [ready[start : start + length] for start in starts]
        short += not clips
        for part, chosen in zip(parts, _by_time(len(clips), valid, test), strict=True):
            parts[part] += clips[chosen]
            for label in kept:
                cuts = [cut_label(about[label], len(video), every, start, length) for start in list(starts)[chosen]]
                labels[part].setdefault(label, []).extend(cuts)
    told += [*unkept, *left_out(short, len(videos), length)]
    _check_clips(path, shapes, len(parts["train"]), length, every)
    splits, options = _splits(parts, labels, kept, length, tensor), {"data": str(path.absolute())}
    return Dataset.of(INFO, splits, options, title=f"videos of {path.name}", notes="", decisions=tuple(told))


def _existing(root: str | PathLike[str] | None, data: str | None) -> Path:
    """The path of the videos.

    Raises:
        DataError: none was given, or nothing is there.
    """
    if data is None:
        raise DataError("video_folder reads your own videos: give data=FOLDER.")
    path = Path(root or ".") / Path(data).expanduser()
    if not path.exists():
        raise DataError(f"no file or folder {str(path)!r}.")
    return path


def _by_time(count: int, valid: float, test: float) -> tuple[slice, slice, slice]:
    """Which of a video's clips are for training, validation and test."""
    cut = count - round(test * count)
    before = cut - round(valid * count)
    return slice(0, before), slice(before, cut), slice(cut, None)


def _check_clips(path: Path, shapes: dict[tuple[int, ...], str], count: int, length: int, every: int) -> None:
    """Refuse frames of several shapes (shape -> a video that has it), and videos that leave no clip to train on."""
    if len(shapes) > 1:
        listed = ", ".join(f"{name}: {shape}" for shape, name in shapes.items())
        raise DataError(f"videos have frames of different shapes ({listed}); give size=(height, width).")
    if not count:
        raise DataError(
            f"no video in {str(path)!r} has {length} frames"
            + (f" left after taking every {every}." if every > 1 else ".")
            + " Choose a smaller length."
        )


def _splits(
    parts: dict[str, list[Array]],
    labels: dict[str, dict[str, list[Array]]],
    kept: Sequence[str],
    length: int,
    tensor: str,
) -> list[Split]:
    """Clips and what stands beside them, part by part."""
    empty = np.zeros((0, *parts["train"][0].shape), np.uint8)
    splits = []
    for part, clips in parts.items():
        beside = {label: stacked(labels[part].get(label, []), labels["train"][label]) for label in kept}
        timed = [label for label, values in beside.items() if values.ndim > 1 and values.shape[1] == length]
        whole = np.stack(clips) if clips else empty
        ready = with_colours(whole) if tensor == "frames" else whole
        splits.append(Split({tensor: ready, **beside}, sequences=(tensor, *timed)))
    return splits


def _ranges(videos: Sequence[Video], value_range: tuple[float, float] | None, told: list[Decision]) -> Ranges:
    """What black and white are, from all arrays together; files of videos and pictures hold 8 bits."""
    values = Values("the videos")
    for name, video, _ in videos:
        if Path(name).suffix.lower() in ARRAYS or value_range is not None:
            values.see(video, name)
    ranges = values.ranges(value_range)
    told += ranges.decisions()
    return ranges


def read_videos(path: Path, layout: str = "auto") -> tuple[list[Video], list[Decision]]:
    """Read all videos of a folder, or one video.

    Args:
        path: a folder or a file.
        layout: order of the axes of arrays.

    Returns:
        Name, frames (frames, height, width[, 3]) and labels of each, and what was decided.

    Raises:
        DataError: nothing there that is a video, or none that can be read.
    """
    told: list[Decision] = []
    if path.is_file():
        return [video._replace(name=path.name) for video in _read(path, layout, told)], told
    skipped = Skipped("videos")
    videos: list[Video] = []
    if any(pictures.is_picture(p) for p in path.iterdir()):
        videos += [Video(path.name, video) for video in [skipped.read(path.name, _frames, path)] if video is not None]
    for inside in sorted(path.iterdir()):
        if inside.is_dir() and any(pictures.is_picture(p) for p in inside.iterdir()):
            found: list[Video] | None = [
                Video("", f) for f in [skipped.read(inside.name, _frames, inside)] if f is not None
            ]
        elif inside.suffix.lower() in ARRAYS or (
            inside.suffix.lower() in pictures.VIDEOS and not pictures.is_picture(inside)
        ):
            found = skipped.read(inside.name, _read, inside, layout, told)
        else:
            continue
        videos += [video._replace(name=inside.name) for video in found or []]
    told += skipped.decisions()
    if not videos:
        kinds = ", ".join(sorted({*pictures.VIDEOS, *ARRAYS}))
        raise DataError(f"no videos in {str(path)!r}: expected {kinds} files, or folders of pictures.")
    return videos, list(dict.fromkeys(told))


def _frames(folder: Path) -> Array:
    files = sorted(p for p in folder.iterdir() if pictures.is_picture(p))
    frames = [pictures.to_bytes(pictures.read(file), file) for file in files]
    if len({frame.shape[:2] for frame in frames}) > 1:
        raise DataError(f"the pictures in {str(folder)!r} have different sizes.")
    coloured = any(frame.ndim == 3 for frame in frames)
    return np.stack([np.repeat(f[..., None], 3, -1) if coloured and f.ndim == 2 else f for f in frames])


def _read(path: Path, layout: str, told: list[Decision]) -> list[Video]:
    suffix = path.suffix.lower()
    if suffix in ARRAYS:
        content = arrays.load(path)
        found = content if isinstance(content, dict) else {"": content}
        videos = videos_with_labels(found, lambda array, name: _videos_of(array, name, path, layout, told))
        if not videos:
            raise DataError(f"{str(path)!r} holds no array of shape (frames, height, width) or with 3 colours behind.")
        return videos
    if suffix not in pictures.VIDEOS:
        raise DataError(f"{str(path)!r} is no video: expected one of {', '.join(sorted({*pictures.VIDEOS, *ARRAYS}))}.")
    return [Video("", read_video(path))]


def _videos_of(array: Array, name: str, path: Path, layout: str, told: list[Decision]) -> list[Array]:
    """The videos an array holds, (frames, height, width, colours); none where it holds something else."""
    if not 3 <= array.ndim <= 5 or array.dtype.kind not in "biuf":
        if name:
            told.append(Decision("left out", f"{path.name}: {name} {array.dtype} {array.shape} is no video"))
        return []
    found, why = (
        (layout, "layout was given") if layout != "auto" else axes.find_layout(array, f"{path.name} {name}".strip())
    )
    clips = axes.to_clips(array, found)
    told.append(axes.decision(axes.check_layout(found), array.shape, why))
    return list(clips)


def prepare(
    video: Array,
    size: tuple[int, int] | None = None,
    crop: tuple[int, int, int, int] | None = None,
    colour: bool = False,
    background: str = "median",
    contrast: float = 0.0,
    range_: Range | None = None,
) -> Array:
    """Turn one video into what a model reads: uint8 (frames, [3,] height, width).

    Args:
        video: (frames, height, width[, 1, 3 or 4]).
        size: see `load`; as are the others.
        crop: see `load`.
        colour: see `load`.
        background: see `load`.
        contrast: see `load`.
        range_: which values are black and white; from this video alone by default.

    Raises:
        DataError: NaN, or a part that lies outside the frames.
    """
    range_ = range_ or range_of([video], "the video").of(video)
    frames = range_.to_unit(video).astype(np.float32)
    frames = frames[..., None] if frames.ndim == 3 else frames[..., :3]
    if crop is not None:
        y, x, h, w = crop
        if min(y, x) < 0 or min(h, w) < 1 or y + h > frames.shape[1] or x + w > frames.shape[2]:
            raise DataError(f"crop={crop} lies outside frames of {frames.shape[1:3]}.")
        frames = frames[:, y : y + h, x : x + w]
    if size is not None and tuple(size) != frames.shape[1:3]:
        frames = _scaled(frames, size)
    return finished(frames, np.median(frames, 0) if background == "median" else None, colour, contrast)


def _scaled(frames: Array, size: tuple[int, int]) -> Array:
    import torch
    from torch.nn.functional import interpolate

    pixels = torch.from_numpy(np.ascontiguousarray(np.moveaxis(frames, -1, 1)))
    small = interpolate(pixels, size=tuple(size), mode="bilinear", antialias=True, align_corners=False)
    return np.moveaxis(small.numpy(), 1, -1)
