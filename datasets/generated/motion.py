"""How objects move across a canvas, bounce, come and go and hide each other; and the clips made of them.

Position, velocity and acceleration per axis; at the bounds velocity and acceleration turn round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from phlogiston.datasets.base import Array, stream
from phlogiston.errors import DataError, unknown_name

BOUNDS = ("inside", "topleft", "centre")
OCCLUSION = ("max", "sum", "over")
SEQUENCES = ("x", "count", "boxes", "present", "visible")
_PACE = {"inside": (4.0, 0.5), "topleft": (10.0, 3.0), "centre": (4.0, 0.5)}  # px/frame, px/frame^2
_TRIES = 32
_LEVELS = 5
_CHUNK = 128
_GREY = 128  # of the bar that things pass behind


@dataclass(frozen=True)
class Motion:
    """How objects move.

    Attributes:
        bounds: what stays on the canvas: the box (`"inside"`), its top left corner (`"topleft"`) or its centre.
        speed: largest speed per axis, pixels per frame; None takes the protocol's (4, for `topleft` 10).
        acceleration: largest acceleration per axis; None takes the protocol's (0.5, for `topleft` 3).
        noise: standard deviation of what is added to the acceleration at each frame.
    """

    bounds: str = "inside"
    speed: float | None = None
    acceleration: float | None = None
    noise: float = 0.01

    def __post_init__(self) -> None:
        if self.bounds not in BOUNDS:
            raise unknown_name("bounds", self.bounds, BOUNDS)
        for name in ("speed", "acceleration", "noise"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < np.inf:
                raise DataError(f"{name}={value}: a number of at least 0 is expected.")

    @property
    def pace(self) -> tuple[float, float]:
        """Largest speed and acceleration."""
        speed, acceleration = _PACE[self.bounds]
        return (
            speed if self.speed is None else self.speed,
            acceleration if self.acceleration is None else self.acceleration,
        )


@dataclass(frozen=True)
class Templates:
    """Pictures of objects at several sizes, cut to their boxes.

    Attributes:
        pixels: uint8 (pictures, sizes, side, side), zero outside the box.
        sizes: int (pictures, sizes, 2), height and width of the box.
        labels: int64 (pictures,).
    """

    pixels: Array
    sizes: Array
    labels: Array


def prepare_templates(
    pictures: Array, labels: Array, scale: Sequence[float] = (1.0, 1.0), canvas: int = 50
) -> Templates:
    """Cut pictures to their bounding boxes, at one size or several.

    Args:
        pictures: (n, height, width) in 0 .. 1.
        labels: (n,).
        scale: least and largest size relative to the picture.
        canvas: side that the boxes must fit.

    Raises:
        DataError: sizes that make no sense, or do not fit.
    """
    low, high = scale
    if not 0 < low <= high:
        raise DataError(f"scale={tuple(scale)}: two positive numbers, the lesser first, are expected.")
    steps = np.linspace(low, high, 1 if low == high else _LEVELS)
    pieces: list[list[Array]] = []
    for step in steps:
        resized = _resize(pictures, float(step))
        pieces.append([_cut(picture) for picture in resized])
    side = max(max(piece.shape) for row in pieces for piece in row)
    if side >= canvas:
        raise DataError(f"at scale {high} a picture is {side} pixels large, the canvas {canvas}.")
    pixels = np.zeros((len(pictures), len(steps), side, side), np.uint8)
    extent = np.zeros((len(pictures), len(steps), 2), np.int64)
    for s, row in enumerate(pieces):
        for i, piece in enumerate(row):
            h, w = piece.shape
            pixels[i, s, :h, :w] = np.round(255 * piece)
            extent[i, s] = h, w
    return Templates(pixels, extent, np.asarray(labels, np.int64))


def _resize(pictures: Array, scale: float) -> Array:
    if scale == 1.0:
        return pictures
    from scipy.ndimage import gaussian_filter, zoom

    smooth = gaussian_filter(pictures, (0, *[0.4 * max(1 / scale - 1, 0)] * 2))
    return np.clip(zoom(smooth, (1, scale, scale), order=1, grid_mode=True, mode="grid-constant"), 0, 1)


def _cut(picture: Array) -> Array:
    lit = picture > 1e-3
    rows, columns = np.flatnonzero(lit.any(1)), np.flatnonzero(lit.any(0))
    if not len(rows):
        raise DataError("a picture is empty; there is nothing to move.")
    return picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def clips(
    rows: int,
    templates: Templates,
    motion: Motion,
    frames: int = 10,
    canvas: int = 50,
    counts: Sequence[int] = (0, 1, 2),
    occlusion: str = "max",
    turnover: float = 0.0,
    colour: bool = False,
    seed: int = 0,
    part: str = "train",
    screen: int = 0,
    grain: float = 0.0,
) -> dict[str, Array]:
    """Make clips of some templates; arguments and result as for `load`, clip i the same however many there are."""
    most = max(max(counts), 1)
    draw = {
        name: stream(seed, "moving_digits", part, name)
        for name in ("count", "which", "size", "place", "move", "noise", "turn", "colour", "grain")
    }
    number = np.asarray(counts)[(draw["count"].random(rows) * len(counts)).astype(int)]
    there = np.arange(most) < number[:, None]
    which = _distinct(draw["which"].random((rows, most)), len(templates.labels))
    size = (draw["size"].random((rows, most)) * templates.pixels.shape[1]).astype(int)
    extent = templates.sizes[which, size].astype(np.float64)  # (rows, most, 2)
    bar = _bar(screen, canvas)
    start = _place(draw["place"].random((rows, _TRIES, most, 2)), extent, there, canvas, bar)
    paths = _move(start, extent, draw["move"].random((rows, 2, most, 2)), draw["noise"], motion, frames, canvas)
    alive = _lifetimes(draw["turn"].random((rows, most, 2)), turnover, frames) & there[:, None]
    corner = np.round(paths).astype(np.int64)
    boxes = np.concatenate([corner, np.broadcast_to(extent[:, None], corner.shape)], -1).astype(np.float32)
    low, high = np.maximum(corner, 0), np.minimum(corner + extent[:, None], canvas)
    shown = np.clip(high - low, 0, None)
    behind = np.clip(np.minimum(high[..., 1], bar.stop) - np.maximum(low[..., 1], bar.start), 0, None)
    seen = shown[..., 0] * (shown[..., 1] - behind)
    visible = seen / extent.prod(-1)[:, None] * alive
    paint = _colours(draw["colour"].random((rows, most))) if colour else None
    x = _draw(templates, which, size, corner, alive, canvas, occlusion, paint)
    x[..., bar] = _GREY
    if grain:
        _add_noise(x, grain, draw["grain"])
    return {
        "x": x,
        "count": alive.sum(-1),
        "boxes": boxes * alive[..., None],
        "present": alive,
        "visible": visible.astype(np.float32),
        "ids": np.where(there, np.arange(most), -1),
        "label": np.where(there, templates.labels[which], -1),
    }


def _bar(screen: int, canvas: int) -> slice:
    """Columns of a bar in the middle of the canvas."""
    first = (canvas - screen) // 2
    return slice(first, first + screen)


def _add_noise(x: Array, grain: float, noise: np.random.Generator) -> None:
    """Add noise to pixels in place, some clips at a time; what leaves 0 .. 255 is cut off."""
    for first in range(0, len(x), _CHUNK):
        some = x[first : first + _CHUNK]
        drawn = 255.0 * grain * noise.standard_normal(some.shape, dtype=np.float32)
        some[:] = np.clip(np.round(some + drawn), 0, 255).astype(np.uint8)


def _distinct(uniform: Array, count: int) -> Array:
    """Pictures for each clip, no picture twice in one (where there are enough)."""
    most = uniform.shape[1]
    chosen = (uniform * count).astype(int)
    for j in range(1, most if count >= most else 0):
        for _ in range(j):  # at most j others can be in the way
            taken = (chosen[:, :j] == chosen[:, j : j + 1]).any(1)
            chosen[taken, j] = (chosen[taken, j] + 1) % count
    return chosen


def _place(uniform: Array, extent: Array, there: Array, canvas: int, bar: slice) -> Array:
    """First positions: whole boxes on the canvas, disjoint and not behind the bar; of several tries the best."""
    corner = uniform * (canvas - extent)[:, None]  # (rows, tries, most, 2)
    most = extent.shape[1]
    overlap = np.zeros(uniform.shape[:2])
    for i in range(most):
        if bar.stop > bar.start:
            left, right = corner[:, :, i, 1], corner[:, :, i, 1] + extent[:, None, i, 1]
            behind = np.clip(np.minimum(right, bar.stop) - np.maximum(left, bar.start) + 1, 0, None)
            overlap += behind * extent[:, None, i, 0] * there[:, None, i]
        for j in range(i):
            low = np.maximum(corner[:, :, i], corner[:, :, j])
            high = np.minimum(corner[:, :, i] + extent[:, None, i], corner[:, :, j] + extent[:, None, j])
            both = (there[:, i] & there[:, j])[:, None]
            overlap += np.clip(high - low + 1, 0, None).prod(-1) * both  # + 1: positions are rounded later
    best = overlap.argmin(1)  # the first of those without overlap
    return corner[np.arange(len(corner)), best]


def _move(
    start: Array, extent: Array, uniform: Array, noise: np.random.Generator, motion: Motion, frames: int, canvas: int
) -> Array:
    """Top left corners, (rows, frames, most, 2)."""
    fastest, strongest = motion.pace
    low = -extent / 2 if motion.bounds == "centre" else np.zeros_like(extent)
    high = {"inside": canvas - extent, "topleft": 0 * extent + canvas, "centre": canvas - extent / 2}[motion.bounds]
    position = start.copy()
    speed = fastest * (2 * uniform[:, 0] - 1)
    push = strongest * (2 * uniform[:, 1] - 1)
    kicks = motion.noise * noise.standard_normal((len(start), frames, *start.shape[1:]))
    out = np.empty((len(start), frames, *start.shape[1:]))
    for t in range(frames):
        out[:, t] = position
        position = position + speed
        speed = speed + push
        push = push + kicks[:, t]
        outside = (position < low) | (position > high)
        speed, push = np.where(outside, -speed, speed), np.where(outside, -push, push)
        position = np.clip(
            np.where(position < low, 2 * low - position, np.where(position > high, 2 * high - position, position)),
            low,
            high,
        )
        speed, push = np.clip(speed, -fastest, fastest), np.clip(push, -strongest, strongest)
    return out


def _lifetimes(uniform: Array, turnover: float, frames: int) -> Array:
    """Which digit is there when, (rows, frames, most)."""
    time = np.arange(frames)[:, None]
    changes = uniform[:, None, :, 0] < turnover
    late = uniform[:, None, :, 0] < turnover / 2
    when = 1 + (uniform[:, None, :, 1] * (frames - 1)).astype(int)
    return ~changes | np.where(late, time >= when, time < when)


def _colours(hue: Array) -> Array:
    """Bright colours of given hues in 0 .. 1, (..., 3) in 0 .. 1."""
    angle = 2 * np.pi * (hue[..., None] + np.array([0, 1 / 3, 2 / 3]))
    raw = 0.6 + 0.4 * np.cos(angle)
    return raw / raw.max(-1, keepdims=True)


def _draw(
    templates: Templates,
    which: Array,
    size: Array,
    corner: Array,
    alive: Array,
    canvas: int,
    occlusion: str,
    paint: Array | None,
) -> Array:
    rows, frames, _most, _ = corner.shape
    channels = () if paint is None else (3,)
    out = np.zeros((rows, frames, *channels, canvas, canvas), np.uint8)
    for first in range(0, rows, _CHUNK):
        cut = slice(first, first + _CHUNK)
        pixels = templates.pixels[which[cut], size[cut]]
        out[cut] = _draw_some(pixels, corner[cut], alive[cut], canvas, occlusion, None if paint is None else paint[cut])
    return out


def _draw_some(pixels: Array, corner: Array, alive: Array, canvas: int, occlusion: str, paint: Array | None) -> Array:
    rows, frames, most, _ = corner.shape
    side = pixels.shape[-1]
    wide = canvas + 2 * side  # room for what hangs over the edges
    colours = [None] if paint is None else list(range(3))
    sheets = [np.zeros((rows * frames, wide * wide), np.uint8) for _ in colours]
    offset = (np.arange(side)[:, None] * wide + np.arange(side)).ravel()
    for j in range(most):
        clip, frame = np.nonzero(alive[:, :, j])
        if not len(clip):
            continue
        at = np.clip(corner[clip, frame, j] + side, 0, canvas + side)
        flat = ((clip * frames + frame) * wide * wide + at[:, 0] * wide + at[:, 1])[:, None] + offset
        piece = pixels[clip, j].reshape(len(clip), -1)
        for sheet, c in zip(sheets, colours, strict=True):
            painted = piece if c is None or paint is None else (piece * paint[clip, j, c][:, None]).astype(np.uint8)
            ground = sheet.reshape(-1)
            old = ground[flat]
            if occlusion == "max":
                new = np.maximum(old, painted)
            elif occlusion == "sum":
                new = np.minimum(old.astype(np.uint16) + painted, 255).astype(np.uint8)
            else:
                new = (painted + old * (1 - piece / 255.0)).astype(np.uint8)
            ground[flat] = new
    inner = slice(side, side + canvas)
    views = [sheet.reshape(rows, frames, wide, wide)[:, :, inner, inner] for sheet in sheets]
    return views[0] if paint is None else np.stack(views, 2)
