"""One picture of a data set: a scatter for two columns, grids of pictures, clips or sequences, histograms otherwise."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from phlogiston.datasets import preview_sequences
from phlogiston.datasets.base import Array, Dataset
from phlogiston.datasets.streamed import in_memory
from phlogiston.errors import DataError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_UNKNOWN = "#f0d9c8"  # the colour of what is missing
_POINTS, _PICTURES, _HISTOGRAMS, _CLIPS = 5_000, 64, 36, 8


def figure(data: Dataset) -> Figure:
    """Draw the training rows.

    Args:
        data: must have a tensor `x` of shape (rows, features), or clips: `frames` (rows, T, C, H, W), or `x` with time
            on axis 1, (rows, T, [C,] H, W); or sequences, `x` (rows, steps, columns) with `length`.

    Returns:
        A matplotlib figure: points coloured by the first categorical stream, up to 64 pictures, up to 36 columns, up to
        8 clips over time, or up to 24 sequences.

    Raises:
        DataError: there is no such tensor.
    """
    from matplotlib.figure import Figure

    rows = len(data.train)
    data = replace(data, train=in_memory(data.train))
    videos = _videos(data)
    if videos is not None:
        return _clips(data, videos)
    if preview_sequences.holds(data):
        drawing = Figure(figsize=(9, 7), layout="constrained")
        preview_sequences.draw(drawing, data)
        drawing.suptitle(f"{data.meta.title or data.meta.name}\n{rows:,} training rows", fontsize=9)
        return drawing
    if "x" not in data.train.tensors or data.train.tensors["x"].ndim != 2:
        raise DataError(f"data {data.meta.name!r} has no table 'x' to draw; it holds {sorted(data.train.tensors)}.")
    x = _known(data)
    drawing = Figure(figsize=(7, 7), layout="constrained")
    if data.meta.image_shape:
        _pictures(drawing, x, data.meta.image_shape)
    elif x.shape[1] == 2:
        _scatter(drawing, data)
    else:
        _histograms(drawing, data)
    drawing.suptitle(f"{data.meta.title or data.meta.name}\n{len(x):,} training rows")
    return drawing


def _known(data: Dataset) -> Array:
    """Rows of `x`, NaN where an entry is missing."""
    x = data.train.numpy()
    return np.where(data.train.numpy("mask"), x, np.nan) if "mask" in data.train.tensors else x


def _videos(data: Dataset) -> Array | None:
    """Clips as (rows, T, channels, height, width), from `frames` or from an `x` that is a video; None without."""
    frames, x = data.train.tensors.get("frames"), data.train.tensors.get("x")
    if frames is not None and frames.ndim == 5:
        return data.train.numpy("frames")
    if x is None or x.ndim not in (4, 5) or "x" not in data.train.sequences:
        return None
    return data.train.numpy("x")[:, :, None] if x.ndim == 4 else data.train.numpy("x")


def _clips(data: Dataset, frames: Array) -> Figure:
    """Clips spread over the training rows, time from left to right."""
    from matplotlib.figure import Figure

    rows = np.unique(np.linspace(0, len(frames) - 1, _CLIPS).astype(np.int64))
    times = np.unique(np.linspace(0, frames.shape[1] - 1, _CLIPS).astype(np.int64))
    drawing = Figure(figsize=(0.9 * len(times) + 1.2, 0.9 * len(rows) + 0.6), layout="constrained")
    stream = next(iter(data.meta.categorical), None)
    mask = data.train.tensors.get("mask")
    known = mask.numpy() if mask is not None and mask.shape == frames.shape[:2] else None
    axes = drawing.subplots(len(rows), len(times), squeeze=False)
    for i, row in enumerate(rows):
        for j, time in enumerate(times):
            picture = np.moveaxis(frames[row, time], 0, -1)
            axes[i, j].imshow(picture if picture.shape[-1] == 3 else picture[..., 0], cmap="gray")
            axes[i, j].set(xticks=[], yticks=[])
            if known is not None and not known[row, time]:  # no frame there
                axes[i, j].cla()
                axes[i, j].set(xticks=[], yticks=[], facecolor=_UNKNOWN)
        if stream is not None and (code := int(data.train.numpy(stream)[row])) >= 0:
            label = data.meta.categorical[stream][code]
            axes[i, 0].set_ylabel(label, fontsize=7, rotation=0, ha="right", va="center")
    drawing.suptitle(f"{data.meta.title or data.meta.name}\n{len(frames):,} training rows", fontsize=9)
    return drawing


def _scatter(drawing: Figure, data: Dataset) -> None:
    x = _known(data)[:_POINTS]  # rows with a missing entry have no place in the plane and are not drawn
    axes = drawing.add_subplot()
    stream = next(iter(data.meta.categorical), None)
    codes = data.train.numpy(stream)[:_POINTS] if stream else np.zeros(len(x), dtype=np.int64)
    for code in np.unique(codes):
        label = None if stream is None else "missing" if code < 0 else data.meta.categorical[stream][code]
        shown = x[codes == code]
        axes.scatter(shown[:, 0], shown[:, 1], s=4, linewidths=0, alpha=0.6, label=label)
    if stream is not None:
        axes.legend(title=stream)
    axes.set_aspect("equal", adjustable="datalim")
    if data.meta.columns:
        axes.set(xlabel=data.meta.columns[0], ylabel=data.meta.columns[1])


def _pictures(drawing: Figure, x: Array, shape: tuple[int, ...]) -> None:
    rows = np.random.default_rng(0).permutation(len(x))[:_PICTURES]  # files are often sorted by kind
    side = int(np.ceil(np.sqrt(len(rows))))
    for i, row in enumerate(rows):
        axes = drawing.add_subplot(side, side, i + 1)
        picture = np.ma.masked_invalid(np.clip(x[row].reshape(shape), 0.0, 1.0))
        axes.imshow(picture, cmap="gray", vmin=0.0, vmax=1.0)
        axes.set_facecolor(_UNKNOWN)
        axes.set(xticks=[], yticks=[])


def _histograms(drawing: Figure, data: Dataset) -> None:
    x = data.train.numpy()
    mask = data.train.numpy("mask") if "mask" in data.train.tensors else np.ones(x.shape, dtype=np.bool_)
    count = min(x.shape[1], _HISTOGRAMS)
    side = int(np.ceil(np.sqrt(count)))
    for i in range(count):
        axes = drawing.add_subplot(side, side, i + 1)
        axes.hist(x[mask[:, i], i], bins=40)
        name = data.meta.columns[i] if i < len(data.meta.columns) else str(i)
        axes.set_title(name, fontsize=8)
        axes.set_yticks([])
        axes.tick_params(labelsize=6)
