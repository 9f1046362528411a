"""A reader of the synthetic script, independent of any model: it compares shapes with the letters' templates.

All ways of cutting a line into letters are compared at once: the best cut ends at every point with one of the letters,
and what it costs is the squared distance between the segment and the letter's curve, at equal steps along both. Hand,
slant and size are tried on a grid, and the cheapest of all wins. A joined letter has three templates: one with the
stroke that leads to it from the baseline, one without, and one that comes from a letter that ended high.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np

from phlogiston.datasets.base import Array
from phlogiston.datasets.generated import script
from phlogiston.datasets.generated.script_hands import HANDS, MANNERS

_STEPS = 20
_SLANTS = np.linspace(-0.3, 0.7, 11)
_SIZES = np.exp(np.linspace(-0.4, 0.4, 7))
_LETTERS = script.ALPHABET.replace(" ", "")
_FEWEST, _MOST = 3, 36  # points of one letter
_PER_LETTER = 0.15
_LEAN = 0.2  # how far a line may lean beyond what its hand does
_GAP = {hand: manner.word - 0.1 for hand, manner in MANNERS.items()}  # a wider gap between letters is a space


class Reading(NamedTuple):
    """A line as it was read.

    Attributes:
        text: what it says; empty where there are too few points for a letter.
        hand: in which hand.
        slant: and how slanted.
        cost: of the cut.
    """

    text: str
    hand: str
    slant: float
    cost: float


def _resample(points: Array, first: Array, last: Array) -> Array:
    """Take segments [first, last) of a line at equal steps, centred: (segments, steps * 2).

    Moves of the lifted pen count like any others: a dot or a bar is where it is.
    """
    places = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1) + 1e-9)])
    start, end = places[first], places[last - 1]
    at = start[:, None] + (end - start)[:, None] * np.linspace(0.0, 1.0, _STEPS)
    out = np.stack([np.interp(at, places, points[:, 0]), np.interp(at, places, points[:, 1])], -1)
    return (out - out.mean(1, keepdims=True)).reshape(len(first), -1)


@cache
def _templates(hand: str) -> tuple[Array, str]:
    """Upright letters at equal steps, centred, y downwards: (templates, steps * 2), and the letter of each."""
    templates, letters = [], ""
    for letter in _LETTERS:
        # alone; and, in a joined hand, after a letter that ends low and after one that ends high
        for before in ("", "i", "o") if MANNERS[hand].joined else ("",):
            row, position = script.write(before + letter, speed=0.4, hand=hand)
            points = np.cumsum(row[:, :2], 0) / MANNERS[hand].size
            first = np.flatnonzero(position == len(before))[:1]
            templates.append(_resample(points, first, np.array([len(points)]))[0])
            letters += letter
    return np.array(templates), letters


def read(x: Array, length: int | None = None) -> str:
    """Read a line of writing.

    Args:
        x: (points, 3): dx, dy, pen.
        length: how many points count; all by default.

    Returns:
        Its text; empty where there are too few points for a letter.
    """
    return reading(x, length).text


def reading(x: Array, length: int | None = None) -> Reading:
    """Read a line of writing, and in which hand and slant it is; arguments as `read`."""
    x = np.asarray(x, dtype=np.float64)[:length]
    best = Reading("", HANDS[0], 0.0, np.inf)
    if len(x) < _FEWEST:
        return best
    points = np.cumsum(x[:, :2], 0)
    for slant in _SLANTS:
        hands = [h for h in HANDS if MANNERS[h].slant[0] - _LEAN <= slant <= MANNERS[h].slant[1] + _LEAN]
        upright = points + [slant, 0.0] * points[:, 1:]  # y points down
        for hand, cost, text in _cut(upright, hands):
            if cost < best.cost:
                best = Reading(text, hand, float(slant), cost)
    return best


def _cut(points: Array, hands: list[str]) -> list[tuple[str, float, str]]:
    """Cut upright points into letters in the cheapest way, for every hand and size: hand, cost and text each."""
    n = len(points)
    reach = min(n, _MOST)
    end, count = (
        grid.ravel() for grid in np.meshgrid(np.arange(1, n + 1), np.arange(_FEWEST, reach + 1), indexing="ij")
    )
    inside = count <= end
    shapes = np.zeros((len(end), 2 * _STEPS))
    shapes[inside] = _resample(points, (end - count)[inside], end[inside])
    square, ways, letters = (shapes**2).sum(1), [], []
    for hand in hands:
        templates, names = _templates(hand)
        product, own = shapes @ templates.T, (templates**2).sum(1)
        for size in _SIZES * MANNERS[hand].size:
            distance = (square / size**2)[:, None] - 2.0 / size * product + own
            letter = distance.argmin(1)
            cost = np.take_along_axis(distance, letter[:, None], 1)[:, 0]
            # every point counts, or long segments would cost little
            letters.append(letter)
            ways.append((hand, size, names, np.where(inside, cost / _STEPS * count + _PER_LETTER, np.inf)))
    costs = np.array([way[3] for way in ways]).reshape(len(ways), n, -1)
    total = np.full((len(ways), n + 1), np.inf)
    total[:, 0] = 0.0
    back = np.zeros((len(ways), n + 1), dtype=int)
    rows = np.arange(len(ways))
    for stop in range(_FEWEST, n + 1):
        start = stop - np.arange(_FEWEST, min(stop, reach) + 1)
        totals = total[:, start] + costs[:, stop - 1, : len(start)]
        back[:, stop] = totals.argmin(1)
        total[:, stop] = totals[rows, back[:, stop]]
    return [
        (hand, float(total[k, n]), _spell(points / size, names, letters[k].reshape(n, -1), back[k], _GAP[hand]))
        for k, (hand, size, names, _) in enumerate(ways)
        if np.isfinite(total[k, n])
    ]


def _spell(points: Array, names: str, letter: Array, back: Array, gap: float) -> str:
    text = ""
    end = len(points)
    right: Array | None = None  # the segment to the right of the current one
    while end > 0:
        start = end - _FEWEST - back[end]
        piece = points[start:end, 0]
        if right is not None and right.min() - piece.max() > gap:
            text = f" {text}"
        text = names[letter[end - 1, back[end]]] + text
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
