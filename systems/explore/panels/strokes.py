"""Pen strokes between page and system: what is drawn with a mouse becomes steps like those of the data, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from phlogiston.datasets.base import Split
from phlogiston.errors import EvidenceError, PhlogistonError
from phlogiston.systems import drawing
from phlogiston.systems.explore.panels import rows
from phlogiston.systems.explore.panels.common import numbers

Strokes = list[list[list[float]]]
MOST_POINTS = 2000


def held_out(run: str, n: int) -> Split | None:
    """The first held-out rows of the data that a run was trained on; None where they are not to be had."""
    try:
        split = rows.held_out(run).split
    except (PhlogistonError, OSError):
        return None
    return Split(split[:n])


def drawn(x: Any, length: Any) -> list[Strokes]:
    """Drawings (n, points, 3) as lists of strokes in absolute coordinates, y downwards."""
    return [[numbers(stroke, 4) for stroke in one] for one in drawing.drawings_of(x, length)]


def scale_of(x: Any, length: Any) -> dict[str, float]:
    """How long a step is in the median, and how wide and high a drawing is in most cases."""
    points, sizes = np.asarray(x, dtype=np.float64), np.asarray(length)
    steps = np.concatenate([np.linalg.norm(row[1:n, :2], axis=1) for row, n in zip(points, sizes, strict=True)])
    boxes = np.array([drawing.box(one)[2:] for one in drawing.drawings_of(points, sizes)])
    wide, high = np.quantile(boxes, 0.8, axis=0) if len(boxes) else (1.0, 1.0)
    step = float(np.median(steps[steps > 0])) if (steps > 0).any() else 1.0
    return {"step": step, "width": float(wide), "height": float(high)}


def as_steps(strokes: Any, step: float) -> list[list[float]]:
    """Strokes in absolute coordinates as steps (points, 3) of dx, dy and pen, about `step` apart.

    The first point is the origin; the pen stays down at the end: what is drawn goes on from there.

    Raises:
        EvidenceError: strokes that are no lists of two numbers, or too many points.
    """
    points: list[list[float]] = []
    pen: list[int] = []
    for stroke in strokes or ():
        array = np.asarray(stroke, dtype=np.float64)
        if array.ndim != 2 or array.shape[1] != 2 or not np.isfinite(array).all():
            raise EvidenceError("a stroke must be a list of points, two finite numbers each")
        dense = _apart(array, step)
        points += dense.tolist()
        pen += [0] * (len(dense) - 1) + [1]
        if len(points) > MOST_POINTS:
            raise EvidenceError(f"the beginning has more than {MOST_POINTS:,} points; draw less of it")
    if not points:
        return []
    pen[-1] = 0
    offsets = np.diff(np.asarray(points), axis=0, prepend=np.asarray(points[:1])).round(4)
    return [[*offset, float(up)] for offset, up in zip(offsets.tolist(), pen, strict=True)]


def _apart(points: np.ndarray, step: float) -> np.ndarray:
    """Of the many points of a mouse, those that are about a step apart, and the last one."""
    kept = [points[0]]
    for point in points[1:]:
        if np.linalg.norm(point - kept[-1]) >= 0.6 * step:
            kept.append(point)
    if len(kept) > 1 and np.linalg.norm(points[-1] - kept[-1]) < 0.6 * step:
        kept[-1] = points[-1]
    return np.asarray(kept)


def origin(strokes: Sequence[Any]) -> list[float]:
    """Where the first stroke begins: what steps leave out."""
    return [float(v) for v in strokes[0][0]] if strokes and len(strokes[0]) else [0.0, 0.0]
