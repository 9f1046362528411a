"""Figures made of pictures: labelled rows, grids and mosaics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from phlogiston.errors import DataError, ShapeError
from phlogiston.evaluate.figures import array, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

UNKNOWN = (0.94, 0.85, 0.78)  # the colour of missing pixels


def show_image(axes: Axes, picture: Any) -> None:
    """Show one picture with values in [0, 1], (height, width[, 3]) or (1 or 3, height, width), without ticks."""
    shown = _pictures(array(picture)[None], (0.0, 1.0))[0]
    axes.imshow(shown, cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def image_rows(
    rows: Sequence[tuple[str, Any]], *, titles: Sequence[str] = (), size: float = 1.0, alt: str = ""
) -> tuple[Figure, np.ndarray]:
    """Show rows of pictures, each with its label at the left: real ones first, what a model makes of them below.

    Args:
        rows: label and pictures with values in [0, 1], (n, height, width[, 3]) or (n, 1 or 3, height, width); a row may
            be shorter than others.
        titles: one above each column.
        size: width of a picture in inches.
        alt: alternative text.

    Returns:
        The figure and its axes (rows, columns), to draw on.

    Raises:
        ShapeError: a row is no batch of images.
    """
    pictures = [_pictures(images, (0.0, 1.0)) for _, images in rows]
    columns = max(map(len, pictures))
    aspect = pictures[0].shape[1] / pictures[0].shape[2]
    figure = new_figure(
        size * columns + 0.07 * max(len(line) for label, _ in rows for line in label.split("\n")) + 0.1,
        (size * aspect + 0.04) * len(rows) + 0.25 * bool(titles),
        alt or f"rows of pictures: {', '.join(label for label, _ in rows)}",
    )
    figure.set_layout_engine("constrained", w_pad=0.02, h_pad=0.02, wspace=0.0, hspace=0.0)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for panels, (label, _), row in zip(axes, rows, pictures, strict=True):
        for panel in panels[len(row) :]:
            panel.set_axis_off()
        for panel, picture in zip(panels, row, strict=False):
            show_image(panel, picture)
        panels[0].set_ylabel(label, fontsize=9, rotation=0, ha="right", va="center")
    for panel, title in zip(axes[0], titles, strict=False):
        panel.set_title(title, fontsize=8, pad=2)
    return figure, axes


def image_columns(columns: Sequence[tuple[str, Any]], *, size: float = 0.9, alt: str = "") -> Figure:
    """Show columns of pictures below their titles: what is known first, then the truth, then what a model makes of it.

    Args:
        columns: title and pictures as `image_rows` takes them, equally many each.
        size: width of a picture in inches.
        alt: alternative text.
    """
    rows = np.stack([_pictures(images, (0.0, 1.0)) for _, images in columns], 1)
    return image_rows([("", row) for row in rows], titles=[title for title, _ in columns], size=size, alt=alt)[0]


def frame(axes: Axes, colour: str, width: float = 1.5) -> None:
    """Draw a coloured frame around a picture."""
    axes.spines[:].set(visible=True, color=colour, linewidth=width)


def image_grid(
    images: Any,
    *,
    columns: int | None = None,
    titles: Sequence[str] = (),
    limits: tuple[float, float] | None = None,
    alt: str = "",
) -> Figure:
    """Show images side by side.

    Args:
        images: (n, height, width), (n, height, width, 3) or (n, 3, height, width); uint8, or floats, NaN where a pixel
            is missing (drawn in a colour of its own).
        columns: images per row; about square if not given.
        titles: one word above each image.
        limits: values shown as black and white; 0 and 255 for uint8, 0 and 1 for floats unless they leave it.
        alt: alternative text.

    Raises:
        ShapeError: not a batch of images.
    """
    shown = _pictures(images, limits)
    columns = columns or min(len(shown), math.ceil(math.sqrt(len(shown) * 1.6)))
    rows = math.ceil(len(shown) / columns)
    aspect = shown.shape[1] / shown.shape[2]
    size = min(1.1, 11.0 / columns)
    height = rows * (size * aspect + (0.22 if titles else 0.06))
    figure = new_figure(columns * size, height, alt or f"{len(shown)} images in {rows} rows")
    figure.set_layout_engine("constrained", w_pad=0.02, h_pad=0.02, wspace=0.0, hspace=0.0)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for i, panel in enumerate(axes):
        panel.set_axis_off()
        if i >= len(shown):
            continue
        panel.imshow(shown[i], cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
        if i < len(titles):
            panel.set_title(titles[i], fontsize=8, pad=2)
    return figure


def image_grids(groups: Mapping[str, Any], *, columns: int | None = None, alt: str = "") -> Figure:
    """Show several sets of images beside each other, a mosaic each.

    Args:
        groups: label -> images as `image_grid` takes them.
        columns: images per row of a mosaic; square if not given.
        alt: alternative text.

    Raises:
        DataError: no groups.
        ShapeError: a group is not a batch of images.
    """
    if not groups:
        raise DataError("there are no images to show.")
    mosaics = {label: _mosaic(_pictures(images), columns) for label, images in groups.items()}
    figure = new_figure(3.2 * len(mosaics), 3.5, alt or f"images: {', '.join(mosaics)}")
    for panel, (label, mosaic) in zip(figure.subplots(1, len(mosaics), squeeze=False)[0], mosaics.items(), strict=True):
        panel.imshow(mosaic, cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
        panel.set_title(label, fontsize=9)
        panel.set_axis_off()
    return figure


def _pictures(images: Any, limits: tuple[float, float] | None = None) -> np.ndarray:
    """Return images as floats in [0, 1], (n, height, width) or (n, height, width, 3)."""
    pictures = np.asarray(images.detach().cpu() if hasattr(images, "detach") else images)
    if pictures.ndim == 4 and pictures.shape[1] in (1, 3) and pictures.shape[-1] not in (1, 3):
        pictures = np.moveaxis(pictures, 1, -1)
    if pictures.ndim not in (3, 4) or len(pictures) == 0 or (pictures.ndim == 4 and pictures.shape[-1] not in (1, 3)):
        raise ShapeError(
            f"images have shape {pictures.shape}; expected (n, height, width), or with 1 or 3 colours first or last."
        )
    if limits is None:
        limits = (0.0, 255.0 if pictures.dtype == np.uint8 else 1.0)
        known = pictures[np.isfinite(pictures)] if pictures.dtype.kind == "f" else pictures
        if pictures.dtype != np.uint8 and known.size and (known.min() < -0.01 or known.max() > 1.01):
            limits = (float(known.min()), float(known.max()))
    low, high = limits
    shown = np.clip((pictures.astype(np.float64) - low) / max(high - low, 1e-12), 0.0, 1.0)
    shown = shown[..., 0] if shown.ndim == 4 and shown.shape[-1] == 1 else shown
    if not np.isnan(shown).any():
        return shown
    coloured = shown if shown.ndim == 4 else np.repeat(shown[..., None], 3, -1)
    return np.where(np.isnan(coloured).any(-1, keepdims=True), UNKNOWN, coloured)


def _mosaic(pictures: np.ndarray, columns: int | None) -> np.ndarray:
    """Put (n, height, width[, 3]) pictures into one, a pixel of grey between them."""
    columns = columns or math.ceil(math.sqrt(len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    padded = np.pad(pictures, [(0, 0), (0, 1), (0, 1), *[(0, 0)] * (pictures.ndim - 3)], constant_values=0.5)
    empty = np.full((rows * columns - len(pictures), *padded.shape[1:]), 1.0)
    cells = np.concatenate([padded, empty]).reshape(rows, columns, *padded.shape[1:])
    cells = np.moveaxis(cells, 2, 1)  # (rows, height, columns, width, ...)
    return cells.reshape(rows * padded.shape[1], columns * padded.shape[2], *padded.shape[3:])[:-1, :-1]
