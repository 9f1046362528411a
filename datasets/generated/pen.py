"""A pen that follows points smoothly: fast where its way is straight, slow where it bends, sampled at equal times.

Between corners the way is a Catmull-Rom spline with centripetal knots (Yuksel, Schaefer and Keyser, *Parameterization
and applications of Catmull-Rom curves*, 2011). Hands slow down in bends: their speed falls with the third root of the
curvature (Lacquaniti, Terzuolo and Viviani, 1983), so that samples lie close where a line is round.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from phlogiston.datasets.base import Array

_FINE = 16  # points of a segment, before sampling
_BEND = 2.0  # curvature at which the pen moves with speed 1
_SLOWEST, _FASTEST = 0.55, 1.8


class Traced(NamedTuple):
    """A sampled line.

    Attributes:
        points: (samples, 2).
        stroke: (samples,), the number of the stroke each belongs to.
        nearest: (samples,), the point of the line's design it is nearest to along the way.
    """

    points: Array
    stroke: Array
    nearest: Array


def trace(points: Array, corner: Array, first: Array, spacing: float) -> Traced:
    """Follow points and sample the way.

    Args:
        points: (points, 2); at least two of each stroke.
        corner: bool (points,), where the way has a corner: always sampled.
        first: bool (points,), where a stroke begins. Strokes are sampled from their first to their last point.
        spacing: between samples at speed 1.
    """
    again = 1 + (corner & ~first)  # a corner ends one piece and begins another
    at = np.repeat(np.arange(len(points)), again)
    through = points[at]
    begins = first[at].copy()
    begins[1:] |= at[1:] == at[:-1]
    start = np.flatnonzero(~begins[1:])  # segments go from these to the next point
    fine, curvature = _curve(through, start)
    # how long the pen takes, in samples, a whole number for every piece
    way = np.linalg.norm(np.diff(fine, axis=1), axis=2)
    speed = np.clip((np.maximum(curvature, 1e-9) / _BEND) ** (-1 / 3), _SLOWEST, _FASTEST)
    took = way / (spacing * 0.5 * (speed[:, 1:] + speed[:, :-1]))
    piece = np.cumsum(begins)[start] - 1
    total = np.bincount(piece, took.sum(1))
    samples = np.maximum(1, np.round(total))
    took *= (samples / total)[piece, None]
    # one clock for the whole line; lifting the pen takes one sample more
    lifted = np.cumsum(first[at][begins]) - 1
    clock = np.concatenate([np.zeros((len(took), 1)), np.cumsum(took, 1)], 1)
    before = np.cumsum(took.sum(1)) - took.sum(1)
    clock += (before + lifted[piece])[:, None]
    ticks = np.arange(round(float(samples.sum())) + int(lifted[-1]) + 1)
    sampled = np.column_stack([np.interp(ticks, clock.ravel(), fine[..., axis].ravel()) for axis in (0, 1)])
    design = (at[start][:, None] + np.linspace(0.0, 1.0, _FINE + 1)).ravel()
    nearest = np.floor(np.interp(ticks, clock.ravel(), design) + 0.5).astype(int)
    ends = np.bincount(lifted, samples).cumsum() + np.arange(int(lifted[-1]) + 1)  # the last tick of each stroke
    return Traced(sampled, np.searchsorted(np.round(ends), ticks), nearest)


def _curve(through: Array, start: Array) -> tuple[Array, Array]:
    """Points along every segment (segments, FINE + 1, 2), and the curvature there."""
    step = through[start + 1] - through[start]
    knot = np.maximum(np.linalg.norm(step, axis=1), 1e-9) ** 0.5
    slope = step / knot[:, None]
    head, tail = slope.copy(), slope.copy()  # derivatives at both ends of a segment
    inner = np.flatnonzero(start[1:] == start[:-1] + 1)  # segments whose end the next one begins at
    a, b = inner, inner + 1
    middle = slope[a] + slope[b] - (through[start[b] + 1] - through[start[a]]) / (knot[a] + knot[b])[:, None]
    tail[a] = head[b] = middle
    opening, closing = np.ones(len(start), bool), np.ones(len(start), bool)
    closing[a] = opening[b] = False
    bent = opening & ~closing
    head[bent] = 1.5 * slope[bent] - 0.5 * tail[bent]
    bent = closing & ~opening
    tail[bent] = 1.5 * slope[bent] - 0.5 * head[bent]
    u = np.linspace(0.0, 1.0, _FINE + 1)[:, None]
    p, q = through[start][:, None], through[start + 1][:, None]
    m, n = (head * knot[:, None])[:, None], (tail * knot[:, None])[:, None]
    c2, c3 = 3 * (q - p) - 2 * m - n, 2 * (p - q) + m + n
    fine = p + u * (m + u * (c2 + u * c3))
    first, second = m + u * (2 * c2 + 3 * u * c3), 2 * c2 + 6 * u * c3
    cross = np.abs(first[..., 0] * second[..., 1] - first[..., 1] * second[..., 0])
    return fine, cross / np.maximum(np.linalg.norm(first, axis=2), 1e-6) ** 3
