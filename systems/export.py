"""Writing samples into files a person or another program can open: npz, csv, parquet, png, gif, mp4, svg, mid, wav."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from phlogiston.datasets.base import Array
from phlogiston.datasets.frames import Names, make_frame
from phlogiston.datasets.readers.frame_files import check_written, write_table
from phlogiston.datasets.untrusted.media import need_av
from phlogiston.errors import ConfigError, unknown_name
from phlogiston.systems import export_sequences

TABLES = (".csv", ".parquet")
SUFFIXES = (".npz", *TABLES, ".png", ".gif", ".mp4", *export_sequences.SUFFIXES)
_SIDE = 256  # pictures are enlarged to about this size, pixel by pixel
_FRAMES_PER_SECOND = 8


@dataclass
class Samples:
    """What a system drew, with what is needed to show it.

    Attributes:
        tensors: name -> array, one row per sample.
        names: what they are called in a table.
        image_shape: shape of a picture when a row of `x` is a flattened one.
    """

    tensors: dict[str, Array]
    names: Names = field(default_factory=Names)
    image_shape: tuple[int, ...] | None = None


def check_suffix(path: Path) -> None:
    """Refuse a file that cannot be written, before any work is done for it.

    Raises:
        UnknownNameError: the suffix is none of `SUFFIXES`.
        DataError: what writes videos or Parquet is not installed.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise unknown_name("kind of sample file", path.suffix or path.name, SUFFIXES)
    if path.suffix.lower() == ".mp4":
        need_av(path)
    if path.suffix.lower() == ".parquet":
        check_written(path)


def write(path: Path, samples: Samples) -> None:
    """Write samples in the form the suffix asks for.

    `.npz` holds every tensor; `.csv` and `.parquet` the columns of `x`, those of further tables beside it (a
    regression's `y`), rounded as those of training are, dates as dates, and the labels of streams; `.png` a grid of
    pictures, or a scatter of two columns; `.gif` and `.mp4` videos side by side, or one picture after the other.

    Raises:
        UnknownNameError: the suffix is none of `SUFFIXES`.
        ConfigError: these samples cannot be shown in that form.
    """
    check_suffix(path)
    kind = path.suffix.lower()
    if kind == ".npz":
        extra = {
            "columns" if site == "x" else f"columns_{site}": np.array(names)
            for site, names in samples.names.columns.items()
            if names and site in samples.tensors
        }
        np.savez_compressed(path, allow_pickle=False, **samples.tensors, **extra)
    elif export_sequences.is_sequences(samples.tensors):
        names = tuple(samples.names.columns.get("x") or ())
        export_sequences.write(path, samples.tensors["x"], samples.tensors["length"], names)
    elif kind in export_sequences.SUFFIXES:
        raise ConfigError(f"these samples are no sequences; a {kind} file cannot show them. Use .npz.")
    elif kind == ".parquet":
        write_table(path, make_frame(_columns(samples, kind)))
    elif kind == ".csv":
        _write_csv(path, _columns(samples, kind))
    elif kind == ".png":
        _write_png(path, samples)
    else:
        _write_video(path, samples)


def _write_csv(path: Path, columns: Mapping[str, Any]) -> None:
    """Columns as text: what `write_table` writes, without loading pandas for it."""
    cells = [["" if value is None else str(value) for value in _entries(column)] for column in columns.values()]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*cells, strict=True))


def _entries(column: Any) -> list[Any]:
    """A column as a list, spans of time as numbers of days; None where missing."""
    if not isinstance(column, np.ndarray):
        return list(column)
    if column.dtype.kind == "m":
        column = column / np.timedelta64(1, "D")
    if column.dtype == np.float32:
        return [f"{value:.9g}" for value in column.tolist()]  # as many digits as come back the same
    values: list[Any] = column.tolist()
    return [None if value is None or value != value else value for value in values]


def _columns(samples: Samples, kind: str) -> dict[str, Any]:
    """The columns of a table of samples by name: numbers and dates, then labels."""
    x, found = _table(samples, kind)
    names = samples.names
    numbers = {name: names.column(name, x[:, j], made_up=True) for j, name in enumerate(found)}
    streams = [name for name in names.categories if name in samples.tensors]
    return {**numbers, **{name: names.labelled(name, samples.tensors[name]) for name in streams}}


def _table(samples: Samples, kind: str) -> tuple[Array, tuple[str, ...]]:
    """Return numbers (n, columns) and the columns' names: `x`, then every other table of as many rows."""
    x = samples.tensors.get("x")
    if x is None or x.ndim != 2:
        shapes = {name: value.shape for name, value in samples.tensors.items()}
        raise ConfigError(f"these samples are no table ({shapes}); a {kind} file cannot show them. Use .npz.")
    sites = ["x", *(s for s, value in samples.tensors.items() if s != "x" and value.ndim == 2 and len(value) == len(x))]
    names: list[str] = []
    for site in sites:
        width = samples.tensors[site].shape[1]
        own = samples.names.columns.get(site, ())
        # names that do not fit the columns would mislabel them
        names += own if len(own) == width else [site] if width == 1 and site != "x" else _counted(site, width)
    return np.concatenate([samples.tensors[site] for site in sites], axis=1), tuple(names)


def _counted(site: str, width: int) -> list[str]:
    return [f"{site}{i}" for i in range(width)]


def _pictures(samples: Samples) -> Array | None:
    """Return uint8 pictures (n, height, width, 3), or None where samples are none."""
    x = samples.tensors.get("x")
    if x is None:
        return None
    if samples.image_shape is not None and x.ndim == 2:
        return _colour(x.reshape(len(x), *samples.image_shape))
    return None


def _videos(samples: Samples) -> Array | None:
    """Return uint8 videos (n, time, height, width, 3), or None: any tensor of five axes, channels first or last."""
    for value in samples.tensors.values():
        if value.ndim == 5:
            last = np.moveaxis(value, 2, -1) if value.shape[2] in (1, 3) and value.shape[-1] not in (1, 3) else value
            return _colour(last.reshape(-1, *last.shape[2:])).reshape(*last.shape[:4], 3)
    return None


def _colour(pictures: Array) -> Array:
    """Turn (n, height, width[, 1 or 3]) in [0, 1], or bytes, into uint8 (n, height, width, 3)."""
    if pictures.dtype != np.uint8:
        pictures = np.round(255.0 * np.clip(np.nan_to_num(pictures), 0.0, 1.0)).astype(np.uint8)
    if pictures.ndim == 3:
        pictures = pictures[..., None]
    return np.repeat(pictures, 3, axis=-1) if pictures.shape[-1] == 1 else pictures[..., :3]


def _grid(pictures: Array) -> Array:
    """Lay pictures (n, height, width, 3) out in a near-square grid with a light line between them."""
    n, height, width, _ = pictures.shape
    across = math.ceil(math.sqrt(n))
    down = math.ceil(n / across)
    grid = np.full((down * (height + 1) - 1, across * (width + 1) - 1, 3), 128, dtype=np.uint8)
    for i, picture in enumerate(pictures):
        top, left = i // across * (height + 1), i % across * (width + 1)
        grid[top : top + height, left : left + width] = picture
    return grid


def _enlarge(frames: Array) -> Array:
    """Repeat pixels until the longer side is about `_SIDE`; (..., height, width, 3)."""
    factor = max(1, _SIDE // max(frames.shape[-3:-1]))
    return np.repeat(np.repeat(frames, factor, axis=-3), factor, axis=-2)


def _write_png(path: Path, samples: Samples) -> None:
    import imageio.v3 as iio

    pictures, videos = _pictures(samples), _videos(samples)
    if videos is not None:  # one row per video, time from left to right
        pictures = np.stack([np.concatenate(list(video), axis=1) for video in videos])
        iio.imwrite(path, np.concatenate(list(pictures), axis=0))
    elif pictures is not None:
        iio.imwrite(path, _enlarge(_grid(pictures)))
    else:
        _scatter(path, samples)


def _scatter(path: Path, samples: Samples) -> None:
    from matplotlib.figure import Figure

    x, names = _table(samples, ".png")
    if x.shape[1] != 2:
        raise ConfigError(f"samples of {x.shape[1]} columns make no picture. Use .npz or .csv.")
    drawing = Figure(figsize=(6, 6), layout="constrained")
    axes = drawing.add_subplot()
    axes.scatter(x[:, 0], x[:, 1], s=4, linewidths=0, alpha=0.6)
    if samples.tensors["x"].shape[1] == 2:  # a plane; an input and a target have units of their own
        axes.set_aspect("equal", adjustable="datalim")
    axes.set(xlabel=names[0], ylabel=names[1])
    drawing.savefig(path, dpi=150)


def _write_video(path: Path, samples: Samples) -> None:
    import imageio.v3 as iio

    videos, pictures = _videos(samples), _pictures(samples)
    if videos is not None:
        frames = np.stack([_grid(videos[:, t]) for t in range(videos.shape[1])])
    elif pictures is not None:
        frames = pictures
    else:
        raise ConfigError(f"these samples are neither videos nor pictures; {path.suffix} cannot show them. Use .npz.")
    frames = _enlarge(frames)
    if path.suffix.lower() == ".gif":
        iio.imwrite(path, frames, duration=1000 / _FRAMES_PER_SECOND, loop=0)
        return
    even = [(0, 0), *((0, side % 2) for side in frames.shape[1:3]), (0, 0)]  # the codec wants even sides
    options: dict[str, Any] = {"plugin": "pyav", "codec": "libx264", "fps": _FRAMES_PER_SECOND}
    iio.imwrite(path, np.pad(frames, even, mode="edge"), **options)
