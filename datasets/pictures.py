"""Picture files: one by one, and folders of them.

What the file says is followed: the rotation a camera noted (EXIF), 16 bits where there are 16, one channel where it is
grey. Transparency is dropped. A still GIF is a picture, a moving one a video.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from phlogiston.datasets.base import Array, Decision
from phlogiston.datasets.pixels import Values
from phlogiston.datasets.readers.tables import TABLES, Table
from phlogiston.datasets.skipped import Skipped
from phlogiston.datasets.untrusted.limits import check_count
from phlogiston.datasets.untrusted.media import moves, open_picture
from phlogiston.errors import DataError, DataWarning, ShapeError

PICTURES = (".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".avif")
VIDEOS = (".gif", ".mp4", ".avi", ".mov", ".webm", ".mkv", ".m4v")
_NO_DATA = (".txt", ".md", ".json", ".db", ".ini", ".html", ".log", "")  # what lies about in folders of pictures


def is_picture(path: Path) -> bool:
    """Say whether a file is a picture by its name, or a GIF that does not move."""
    suffix = path.suffix.lower()
    return (
        path.is_file()
        and not path.name.startswith(".")
        and (suffix in PICTURES or (suffix == ".gif" and not moves(path)))
    )


def videos_of(folder: Path) -> list[Path]:
    """Every video below a folder, by name; a GIF only where it moves."""
    return [p for p in sorted(folder.rglob("*")) if p.suffix.lower() in VIDEOS and p.is_file() and not is_picture(p)]


def read(path: Path) -> Array:
    """Read one picture.

    Returns:
        (height, width) where it is grey, else (height, width, 3): uint8; uint16 where a channel has 16 bits; float32
        where it holds floats.

    Raises:
        DataError: it cannot be read, or holds several pictures.
    """
    from PIL import ImageOps

    with open_picture(path) as picture:
        frames = getattr(picture, "n_frames", 1)
        if frames > 1:
            raise DataError(f"{str(path)!r} holds {frames} frames; it is a video, or save each as a file.")
        shown = ImageOps.exif_transpose(picture)
        if shown.mode.startswith("I"):
            return _sixteen_bits(np.array(shown), path)
        if shown.mode == "F":
            return np.array(shown, dtype=np.float32)
        return np.array(shown.convert("L" if shown.mode in ("1", "L", "LA", "La") else "RGB"))


def _sixteen_bits(values: Array, path: Path) -> Array:
    if values.min(initial=0) < 0 or values.max(initial=0) > 65535:
        raise DataError(f"{str(path)!r} has more than 16 bits per channel; convert it to 8 or 16 first.")
    return values.astype(np.uint16)


def to_bytes(picture: Array, path: Path) -> Array:
    """A picture as `read` returns it, as uint8.

    Raises:
        DataError: floats, whose range one picture does not determine.
    """
    if picture.dtype.kind == "f":
        raise DataError(f"{str(path)!r} holds floats; convert it to 8 or 16 bits.")
    return picture if picture.dtype == np.uint8 else np.round(picture / 257.0).astype(np.uint8)


def square(picture: Array, size: int) -> Array:
    """Cut the middle square out of a picture (height, width[, channels]) of floats and scale it to size x size."""
    from PIL import Image

    side = min(picture.shape[:2])
    top, left = (picture.shape[0] - side) // 2, (picture.shape[1] - side) // 2
    cut = picture[top : top + side, left : left + side].astype(np.float32)
    if side == size:
        return cut
    how = Image.Resampling.BOX if side > size else Image.Resampling.BILINEAR
    layers = cut[..., None] if cut.ndim == 2 else cut
    done = [
        np.asarray(Image.fromarray(np.ascontiguousarray(layers[..., c])).resize((size, size), how))
        for c in range(layers.shape[-1])
    ]
    return done[0] if cut.ndim == 2 else np.stack(done, -1)


def read_folder(folder: Path, size: int = 0, value_range: tuple[float, float] | None = None) -> Table:
    """Read every picture below `folder`, in order of path; sub-folders of the first level give the stream `label`.

    Args:
        folder: holds them.
        size: cut the middle square out and scale it to so many pixels a side; 0 leaves pictures as they are.
        value_range: values of black and white; by default what the files' formats say.

    Returns:
        A table whose `x` holds flattened pictures in [0, 1]; grey ones among coloured ones are coloured, too.

    Raises:
        DataError: there is none, or none can be read.
        ShapeError: they differ in size.
    """
    files = sorted(path for path in folder.rglob("*") if is_picture(path))
    if not files:
        readable = ", ".join((*TABLES, *PICTURES))
        raise DataError(
            f"{str(folder)!r} holds no data. Expected train.csv (or .npz), or pictures; readable: {readable}."
        )
    decisions = _beside_videos(folder, files)
    skipped, values = Skipped("pictures"), Values(f"the pictures of {str(folder)!r}")
    names: list[Path] = []
    pictures: list[Array] = []
    for file in files:
        picture = skipped.read(str(file.relative_to(folder)), read, file)
        if picture is not None:
            if picture.dtype.kind == "f" or value_range is not None:
                values.see(picture, repr(str(file)))
            names.append(file)
            pictures.append(picture)
    decisions += skipped.decisions()
    ranges = values.ranges(value_range)
    depth = {"uint8": 255.0, "uint16": 65535.0}
    ready = []
    for picture in pictures:
        given = picture.dtype.kind == "f" or value_range is not None
        unit = ranges.of(picture).to_unit(picture) if given else picture / depth[picture.dtype.name]
        ready.append(square(unit, size) if size else unit)
    stacked = _stacked(ready, names, decisions)
    check_count(stacked[0].size, "columns", f"{str(folder)!r}: values of a picture")
    decisions += _summary(folder, files, pictures, stacked.shape[1:], size, ranges.decisions())
    table = Table(
        str(folder),
        stacked.reshape(len(stacked), -1).astype(np.float64),
        _columns(stacked),
        image_shape=stacked.shape[1:],
    )
    labels: list[str | None] = [p.relative_to(folder).parts[0] if p.parent != folder else None for p in names]
    if any(label is not None for label in labels):
        table.text["label"] = labels
        decisions.append(Decision("labels", f"the folders' names: {len(set(labels) - {None})} in 'label'"))
    table.decisions += decisions
    return table


def _beside_videos(folder: Path, files: Sequence[Path]) -> list[Decision]:
    """Leave a few videos among pictures out, and say so; refuse pictures among more videos.

    Raises:
        DataError: there are more videos than pictures.
    """
    videos = videos_of(folder)
    if not videos:
        return []
    shown = ", ".join(str(path.relative_to(folder)) for path in videos[:3]) + ", ..." * (len(videos) > 3)
    text = f"{str(folder)!r} holds {len(files):,} pictures and {len(videos):,} videos ({shown})"
    if len(videos) > len(files):
        raise DataError(f"{text}. Separate them, or read the videos by datasets.load('videos', data=...).")
    warnings.warn(f"{text}; the videos are left out.", DataWarning, stacklevel=3)
    return [Decision("skipped", f"{len(videos):,} videos among the pictures: {shown}")]


def _columns(stacked: Array) -> tuple[str, ...]:
    return tuple(f"x{i}" for i in range(int(np.prod(stacked.shape[1:]))))


def _stacked(pictures: Sequence[Array], names: Sequence[Path], decisions: list[Decision]) -> Array:
    """One array of pictures; grey ones beside coloured ones are repeated to three channels."""
    sizes = Counter(picture.shape[:2] for picture in pictures)
    if len(sizes) > 1:
        (most, count), *_ = sizes.most_common(1)
        other = next(i for i, picture in enumerate(pictures) if picture.shape[:2] != most)
        raise ShapeError(
            f"{str(names[other])!r} has {pictures[other].shape[0]} x {pictures[other].shape[1]} pixels, {count} of "
            f"{len(pictures)} pictures have {most[0]} x {most[1]}. Scale all by size={min(map(min, sizes))}."
        )
    grey = [picture.ndim == 2 for picture in pictures]
    if all(grey) or not any(grey):
        return np.stack(pictures)
    decisions.append(Decision("colours", f"{sum(grey)} grey pictures among coloured ones are repeated to 3 channels"))
    return np.stack([np.repeat(p[..., None], 3, -1) if p.ndim == 2 else p for p in pictures])


def _summary(
    folder: Path,
    files: Sequence[Path],
    pictures: Sequence[Array],
    shape: tuple[int, ...],
    size: int,
    ranges: Sequence[Decision],
) -> list[Decision]:
    bits = Counter(
        {"uint8": "8 bits", "uint16": "16 bits", "float32": "floats"}[picture.dtype.name] for picture in pictures
    )
    held = ", ".join(f"{count:,} of {kind}" for kind, count in sorted(bits.items()))
    out = [*ranges] or [
        Decision("values", f"pictures: {held}; black is 0, white the largest value", "value_range=0,4095")
    ]
    option = f"size={size or min(shape[:2])}"
    out.append(
        Decision("axes", " x ".join(map(str, shape)) + (" after cutting the middle square out" if size else ""), option)
    )
    read = set(files)
    rest = Counter(
        path.suffix.lower() for path in folder.rglob("*")
        if path.is_file() and path not in read and not path.name.startswith(".")
        and path.suffix.lower() not in (*_NO_DATA, *VIDEOS)
    )  # fmt: skip
    if rest:
        listed = ", ".join(f"{count} {suffix}" for suffix, count in sorted(rest.items()))
        out.append(Decision("other files", f"left alone, being no pictures: {listed}"))
    return out
