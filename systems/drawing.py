"""Pen strokes as pictures: galleries for reports, and SVG, PNG and GIF files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from phlogiston.datasets.base import Array
from phlogiston.datasets.readers.sequences import strokes_of
from phlogiston.errors import ConfigError
from phlogiston.evaluate.figures import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Drawing = list[Array]
PEN = "black"


def drawings_of(x: Any, length: Any) -> list[Drawing]:
    """Turn stroke-3 (n, points, 3) and lengths (n,) into strokes in absolute coordinates."""
    rows = np.asarray(x.detach().cpu() if hasattr(x, "detach") else x)
    sizes = np.asarray(length.detach().cpu() if hasattr(length, "detach") else length)
    return [strokes_of(row, int(size)) for row, size in zip(rows, sizes, strict=True)]


def box(drawing: Drawing, margin: float = 0.06) -> tuple[float, float, float, float]:
    """Left, top, width and height of what a drawing needs; never empty."""
    if not drawing:
        return 0.0, 0.0, 1.0, 1.0
    points = np.concatenate(drawing)
    low, high = points.min(0), points.max(0)
    size = np.maximum(high - low, 1e-9)
    pad = margin * float(max(size.max(), 1e-6))
    size = np.maximum(size, 0.05 * float(size.max()))
    return float(low[0] - pad), float(low[1] - pad), float(size[0] + 2 * pad), float(size[1] + 2 * pad)


def show(axes: Axes, drawing: Drawing, colour: str = PEN, width: float = 1.2, square: bool = False) -> None:
    """Draw strokes, y downwards, points as dots; `square` pads the panel to a square."""
    for stroke in drawing:
        if len(stroke) > 1:
            axes.plot(stroke[:, 0], stroke[:, 1], color=colour, linewidth=width, solid_capstyle="round")
        else:
            axes.plot(stroke[:, 0], stroke[:, 1], color=colour, marker="o", markersize=2.0 * width)
    left, top, wide, high = box(drawing)
    if square:
        side = max(wide, high)
        left, top, wide, high = left - 0.5 * (side - wide), top - 0.5 * (side - high), side, side
    axes.set(xlim=(left, left + wide), ylim=(top + high, top), xticks=[], yticks=[])
    axes.set_aspect("equal", adjustable="box")
    for spine in axes.spines.values():
        spine.set(color="#8a94a3", linewidth=0.4)


def gallery(rows: Mapping[str, tuple[Any, Any]], *, columns: int = 12, alt: str = "", wide: bool = False) -> Figure:
    """Rows of drawings, each with a title.

    Args:
        rows: title -> stroke-3 (n, points, 3) and lengths (n,).
        columns: drawings shown of each row.
        alt: alternative text.
        wide: lines of writing: broad panels instead of square ones.
    """
    count = min(columns, max(len(x) for x, _ in rows.values()))
    size = (3.2, 0.9) if wide else (0.65, 0.85)
    figure = new_figure(size[0] * count, size[1] * len(rows) + 0.2, alt)
    for r, (title, (x, length)) in enumerate(rows.items()):
        for k, drawing in enumerate(drawings_of(x[:count], length[:count])):
            axes = figure.add_subplot(len(rows), count, r * count + k + 1)
            show(axes, drawing, square=not wide)
            if k == 0:
                axes.set_title(title, fontsize=9, loc="left")
    return figure


# ---- files


def svg(drawings: Sequence[Drawing], *, width: float = 400.0, stroke: float = 2.0) -> str:
    """Write drawings as SVG: one path per stroke, a new subpath wherever the pen was lifted.

    Args:
        drawings: strokes in absolute coordinates, y downwards.
        width: of one drawing, in pixels; several are laid out in a grid (broad ones below each other).
        stroke: line width in pixels.
    """
    boxes = [box(drawing) for drawing in drawings]
    broad = float(np.median([w / h for _, _, w, h in boxes])) if boxes else 1.0
    across = 1 if broad > 2.5 else math.ceil(math.sqrt(len(boxes)))
    cell = (width, width / max(broad, 1e-3) if broad > 2.5 else width)
    down = math.ceil(len(boxes) / across)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{across * cell[0]:.0f}" height="{down * cell[1]:.0f}" '
        f'viewBox="0 0 {across * cell[0]:.0f} {down * cell[1]:.0f}">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<g fill="none" stroke="{PEN}" stroke-width="{stroke:g}" stroke-linecap="round" stroke-linejoin="round">',
    ]
    for i, (drawing, (left, top, wide, high)) in enumerate(zip(drawings, boxes, strict=True)):
        scale = min(cell[0] / wide, cell[1] / high)
        dx = (i % across + 0.5) * cell[0] - (left + 0.5 * wide) * scale
        dy = (i // across + 0.5) * cell[1] - (top + 0.5 * high) * scale
        for points in drawing:
            placed = points * scale + [dx, dy]
            if len(placed) == 1:
                placed = np.concatenate([placed, placed + 1e-3])  # a dot, by its round cap
            parts.append(f'<path d="M{" L".join(f"{a:.2f},{b:.2f}" for a, b in placed)}"/>')
    return "\n".join([*parts, "</g>", "</svg>", ""])


def png(path: Path, drawings: Sequence[Drawing]) -> None:
    """Write drawings as one picture, a grid of panels."""
    figure = _panels(drawings)
    figure.savefig(path, dpi=110)


def _panels(drawings: Sequence[Drawing], shown: int | None = None) -> Figure:
    boxes = [box(d) for d in drawings]
    broad = float(np.median([w / h for _, _, w, h in boxes]))
    across = 1 if broad > 2.5 else math.ceil(math.sqrt(len(drawings)))
    down = math.ceil(len(drawings) / across)
    size = (8.0, 8.0 / broad + 0.1) if broad > 2.5 else (1.6, 1.6)
    figure = new_figure(max(2.0, across * size[0]), max(0.8, down * size[1]), "drawings")
    for i, drawing in enumerate(drawings):
        axes = figure.add_subplot(down, across, i + 1)
        show(axes, drawing if shown is None else _first(drawing, shown), width=1.6)
        left, top, wide, high = boxes[i]
        axes.set(xlim=(left, left + wide), ylim=(top + high, top))
        axes.set_axis_off()
    return figure


def _first(drawing: Drawing, points: int) -> Drawing:
    kept = []
    for stroke in drawing:
        if points <= 0:
            break
        kept.append(stroke[:points])
        points -= len(stroke)
    return kept


def gif(path: Path, drawings: Sequence[Drawing], frames: int = 40) -> None:
    """Write drawings as they are being drawn, all at once, with a pause at the end.

    Args:
        path: the file.
        drawings: strokes in absolute coordinates.
        frames: at most this many steps of the animation.
    """
    import imageio.v3 as iio
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    longest = max((sum(map(len, d)) for d in drawings), default=0)
    if not longest:
        raise ConfigError("there is no point to draw")
    counts = np.unique(np.linspace(1, longest, min(frames, longest)).round().astype(int))
    pictures = []
    for count in [*counts, *[longest] * 10]:
        canvas = FigureCanvasAgg(_panels(drawings, int(count)))
        canvas.figure.set_dpi(80)
        canvas.draw()
        pictures.append(np.asarray(canvas.buffer_rgba())[..., :3].copy())
    iio.imwrite(path, np.stack(pictures), duration=80, loop=0)
