"""One picture of sequences: drawings as drawings, fingers on their screen, everything else over time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from phlogiston.datasets.base import Array, Dataset
from phlogiston.datasets.readers.sequences import STROKES, strokes_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN = 24
_COLUMNS = 4
_STEPS = 1_000  # of long recordings the beginning is shown


def holds(data: Dataset) -> bool:
    """Say whether a dataset is one of sequences: `x` (rows, steps, columns) and `length` (rows,)."""
    tensors = data.train.tensors
    return "length" in tensors and "x" in tensors and tensors["x"].ndim == 3


def draw(drawing: Figure, data: Dataset) -> None:
    """Draw sequences spread over the training rows.

    Args:
        drawing: an empty figure.
        data: see `holds`.
    """
    x, length = data.train.numpy(), data.train.numpy("length")
    columns = tuple(data.meta.columns) or tuple(f"x{i}" for i in range(x.shape[2]))
    rows = np.unique(np.linspace(0, len(x) - 1, _SHOWN).astype(np.int64))
    wide = _COLUMNS if set(columns) != set(STROKES) else 6
    for index, row in enumerate(rows):
        axes = drawing.add_subplot(-(-len(rows) // wide), wide, index + 1)
        own = x[row, : min(int(length[row]), _STEPS)].astype(np.float64)
        if columns == STROKES:
            _strokes(axes, own)
        elif columns[:2] == ("x", "y") and "dt" in columns:
            _touches(axes, own, columns)
        else:
            _over_time(axes, own, columns, legend=index == 0)


def _strokes(axes: Any, own: Array) -> None:
    for stroke in strokes_of(own):
        axes.plot(stroke[:, 0], stroke[:, 1], color="#1f3a5f", linewidth=1.0, solid_capstyle="round")
        if len(stroke) == 1:
            axes.plot(stroke[:, 0], stroke[:, 1], ".", color="#1f3a5f", markersize=2)
    axes.set_aspect("equal", adjustable="datalim")
    axes.invert_yaxis()  # y grows downwards
    axes.axis("off")


def _touches(axes: Any, own: Array, columns: tuple[str, ...]) -> None:
    times = np.cumsum(own[:, columns.index("dt")])
    axes.scatter(own[:, 0], own[:, 1], c=times, s=3, cmap="plasma", linewidths=0)
    axes.set(xlim=(-0.03, 1.03), ylim=(1.03, -0.03), xticks=[], yticks=[], aspect="equal")


def _over_time(axes: Any, own: Array, columns: tuple[str, ...], legend: bool) -> None:
    times = np.cumsum(own[:, columns.index("dt")]) if "dt" in columns else np.arange(len(own))
    for k, name in enumerate(columns):
        if name != "dt":
            axes.plot(times, own[:, k], linewidth=0.7, label=name)
    axes.tick_params(labelsize=5)
    if legend:
        axes.legend(fontsize=5, frameon=False)
