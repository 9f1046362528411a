"""A reader of the synthetic script, independent of any model: it compares shapes with the letters' templates.

All ways of cutting a line into letters are compared at once: the best cut ends at every point with one of the letters,
and what it costs is the squared distance between the segment and the letter's curve, at equal steps along both. Slant
and size are tried on a grid, and the cheapest pair wins.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from phlogiston.datasets.base import Array
from phlogiston.datasets.generated import script

_STEPS = 16
_SLANTS = np.linspace(-0.5, 0.5, 11)
_SIZES = np.exp(np.linspace(-0.4, 0.4, 7))
_LETTERS = script.ALPHABET.replace(" ", "")
_FEWEST, _MOST = 3, 20  # points of one letter
_PER_LETTER = 0.15
_GAP = 0.75  # a wider gap between letters is a space


def _along(points: Array, down: Array) -> Array:
    """Length along the line up to each point, pen-up moves not counted."""
    steps = np.linalg.norm(np.diff(points, axis=0), axis=1) * down[1:]
    return np.concatenate([[0.0], np.cumsum(steps)])


def _resample(points: Array, along: Array, first: Array, last: Array) -> Array:
    """Take segments [first, last) of a line at equal steps, centred: (segments, steps * 2)."""
    places = along + 1e-9 * np.arange(len(along))  # strictly rising, so that both ends of a pen-up move are kept
    start, end = places[first], places[last - 1]
    at = start[:, None] + (end - start)[:, None] * np.linspace(0.0, 1.0, _STEPS)
    out = np.stack([np.interp(at, places, points[:, 0]), np.interp(at, places, points[:, 1])], -1)
    return (out - out.mean(1, keepdims=True)).reshape(len(first), -1)


@cache
def _templates() -> Array:
    """Letters at equal steps, centred, y downwards: (letters, steps * 2)."""
    templates = []
    for letter in _LETTERS:
        row, _ = script.write(letter, speed=0.25)
        points = np.cumsum(row[:, :2], 0)
        down = np.concatenate([[1.0], 1.0 - row[:-1, 2]])
        whole = np.array([0]), np.array([len(points)])
        templates.append(_resample(points, _along(points, down), *whole)[0])
    return np.array(templates)


def read(x: Array, length: int | None = None) -> str:
    """Read a line of writing.

    Args:
        x: (points, 3): dx, dy, pen.
        length: how many points count; all by default.

    Returns:
        Its text; empty where there are too few points for a letter.
    """
    x = np.asarray(x, dtype=np.float64)[:length]
    if len(x) < _FEWEST:
        return ""
    points = np.cumsum(x[:, :2], 0)
    down = np.concatenate([[1.0], 1.0 - (x[:-1, 2] > 0.5)])
    best, text = np.inf, ""
    for slant in _SLANTS:
        upright = points + [slant, 0.0] * points[:, 1:] if slant else points.copy()  # y points down
        words = _cut(upright, down)
        for cost, line in words:
            if cost < best:
                best, text = cost, line
    return text


def _cut(points: Array, down: Array) -> list[tuple[float, str]]:
    """Cut upright points into letters in the cheapest way, for every size: (cost, text) each."""
    n = len(points)
    first, last = np.array(
        [(start, end) for start in range(n) for end in range(start + _FEWEST, min(n, start + _MOST) + 1)]
    ).T
    templates = _templates()
    shapes = _resample(points, _along(points, down), first, last)
    answers = []
    for size in _SIZES:
        scaled = shapes / size
        square = (scaled**2).sum(1)[:, None] - 2 * scaled @ templates.T + (templates**2).sum(1)
        letter = square.argmin(1)
        # every point counts, or long segments would cost little
        cost = square.min(1) / _STEPS * (last - first) + _PER_LETTER
        total = np.full(n + 1, np.inf)
        total[0] = 0.0
        back = np.full(n + 1, -1)
        for end in range(_FEWEST, n + 1):
            inside = np.flatnonzero(last == end)
            if len(inside):
                totals = total[first[inside]] + cost[inside]
                k = int(totals.argmin())
                total[end], back[end] = totals[k], inside[k]
        if not np.isfinite(total[n]):
            continue
        answers.append((float(total[n]), _spell(points / size, first, letter, back, n)))
    return answers


def _spell(points: Array, first: Array, letter: Array, back: Array, end: int) -> str:
    text = ""
    right: Array | None = None  # the segment to the right of the current one
    while end > 0:
        start = first[back[end]]
        piece = points[start:end, 0]
        if right is not None and right.min() - piece.max() > _GAP:
            text = f" {text}"
        text = _LETTERS[letter[back[end]]] + text
        right, end = piece, start
    return text


def edit_distance(a: str, b: str) -> int:
    """Fewest insertions, deletions and replacements that turn `a` into `b`."""
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, 1):
        previous, row[0] = row[0], i
        for j, above in enumerate(b, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (left != above))
    return row[-1]


def recovered(read: str, true: str) -> float:
    """Share of the characters of `true` that were read, spaces aside: 1 - edit distance / length, not below 0."""
    read, true = read.replace(" ", ""), true.replace(" ", "")
    return max(0.0, 1.0 - edit_distance(read, true) / max(1, len(true)))
