"""Walkers: people as articulated blobs who enter a scene at one side, cross it and leave at the other.

A stand-in for clips of pedestrians (Kosiorek et al., *Sequential Attend, Infer, Repeat*, 2018, section 4.2, used a set
that its authors have since withdrawn): objects higher than wide, that change shape while they move, come and go, and
overlap. On the `"square"` they are the smaller the farther away they are, cast shadows, and pass behind a tree. Boxes,
identities and visibility are known.
"""

from __future__ import annotations

from os import PathLike

import numpy as np

from phlogiston.datasets.base import Array, Dataset, Info, Split, recorded, sized_parts, stream
from phlogiston.errors import DataError, unknown_name

INFO = Info(
    name="walkers",
    title="clips of people who enter, cross and leave, with counts, boxes and identities",
    kind="built in",
    licence="none: drawn by code",
    rows="512 / 64 / 64",
    shape="12 frames of 48 x 64",
    notes="height 14 to 18 pixels; background='street' adds a fixed background, 'square' a tree, shadows, perspective.",
)

BACKGROUNDS = ("black", "street", "square")
_CHUNK = 64
_TRUNK = (0.44, 0.60)  # columns of the tree, as shares of the width
_FAR, _NEAR = 9.0, 19.0  # heights of people at the back and at the front of the square, pixels


@recorded()
def load(
    root: str | PathLike[str] | None = None,
    *,
    sizes: tuple[int, int, int] = (512, 64, 64),
    frames: int = 12,
    height: int = 48,
    width: int = 64,
    most: int = 3,
    speed: tuple[float, float] = (1.5, 4.0),
    background: str = "black",
    colour: bool = False,
    noise: float = 0.0,
    seed: int = 0,
) -> Dataset:
    """Draw clips.

    Args:
        root: unused.
        sizes: clips for training, validation and test.
        frames: frames per clip.
        height: of a frame, pixels.
        width: of a frame, pixels.
        most: most people in a clip, over all its frames.
        speed: least and largest speed, pixels per frame.
        background: `"black"`; `"street"`, the same fixed pattern in all clips; or `"square"`, one with a tree in front,
            seen in perspective, with shadows.
        colour: dress everybody differently; frames then have three channels.
        noise: standard deviation of the camera's noise, as a share of white.
        seed: of everything.

    Returns:
        Splits with `x` uint8 (clips, frames, [3,] height, width); `count` int64 (clips, frames), people of whom at
        least a quarter is in the picture, seen or behind the tree; `boxes` float32 (clips, frames, people, 4) as y, x,
        height, width in pixels; `present` bool, and `visible` float32, the share of the box that is in the picture and
        not behind the tree (clips, frames, people); `ids` int64 (clips, people).

    Raises:
        DataError: options out of range.
    """
    if frames < 1 or min(height, width) < 24 or most < 1:
        raise DataError(
            f"frames={frames}, height={height}, width={width}, most={most}: at least one frame, 24 "
            "pixels and one walker are needed."
        )
    if background not in BACKGROUNDS:
        raise unknown_name("background of walkers", background, BACKGROUNDS)
    if not 0 < speed[0] <= speed[1]:
        raise DataError(f"speed={speed}: two positive numbers, the lesser first, are expected.")
    parts = [
        Split(
            clips(n, frames, height, width, most, speed, background, colour, noise, seed, part),
            sequences=("x", "count", "boxes", "present", "visible"),
        )
        for part, n in sized_parts(sizes, "clips")
    ]
    return Dataset.of(
        INFO,
        parts,
    )


def street(height: int, width: int) -> Array:
    """The fixed background, (height, width) in 0 .. 1: a pavement, a wall with windows, a lamp post."""
    y, x = np.mgrid[:height, :width] / np.array([height, width])[:, None, None]
    ground = np.where(y > 0.55, 0.30 + 0.10 * np.sin(40 * y), 0.18)
    windows = (y < 0.45) & ((x * 6) % 1 > 0.35) & ((y * 6) % 1 > 0.3)
    post = (np.abs(x - 0.8) < 0.012) & (y < 0.8)
    return np.where(post, 0.45, np.where(windows, 0.32, ground))


def square(height: int, width: int) -> Array:
    """The square without people, (height, width, 3) in 0 .. 1: houses, paving that narrows, worn and uneven."""
    y, x = np.mgrid[:height, :width] / np.array([height, width])[:, None, None]
    houses = y < 0.36
    window = houses & ((x * 9) % 1 > 0.45) & ((y * 9) % 1 > 0.4)
    depth = np.clip((y - 0.30) / 0.70, 0.05, 1.0)
    joints = ((0.6 / depth) % 0.5 < 0.06) | (((x - 0.5) / depth * 3) % 1 < 0.05)
    worn = 0.03 * stream(0, "walkers", "square").standard_normal((height, width))
    stone = np.where(joints, 0.22, 0.30) + worn
    grey = np.where(window, 0.12, np.where(houses, 0.36 + 0.5 * worn, stone))
    tint = np.where(houses[..., None], np.array([1.1, 0.95, 0.8]), np.array([1.0, 0.97, 0.92]))
    return np.clip(grey[..., None] * tint, 0.0, 1.0)


def _trunk(width: int) -> tuple[int, int]:
    """First column of the tree's trunk, and the first one beyond it."""
    return round(_TRUNK[0] * width), round(_TRUNK[1] * width)


def tree(height: int, width: int) -> tuple[Array, Array]:
    """The tree that stands in front: its colours (height, width, 3), and bool (height, width), where it is."""
    y, x = np.mgrid[:height, :width]
    first, last = _trunk(width)
    trunk = (x >= first) & (x < last)
    crown = np.hypot((x - (first + last) / 2) / (0.30 * width), y / (0.30 * height)) < 1.0
    leaves = 0.22 + 0.10 * np.sin(2.1 * x + 1.3 * y) * np.cos(1.7 * y)
    bark = 0.20 + 0.06 * np.sin(1.9 * x)
    green, brown = np.array([0.6, 1.0, 0.5]), np.array([1.0, 0.8, 0.6])
    colours = np.where(crown[..., None], leaves[..., None] * green, bark[..., None] * brown)
    return colours, trunk | crown


def clips(
    rows: int,
    frames: int,
    height: int,
    width: int,
    most: int,
    speed: tuple[float, float],
    background: str = "black",
    colour: bool = False,
    noise: float = 0.0,
    seed: int = 0,
    part: str = "train",
) -> dict[str, Array]:
    """Draw clips; arguments and result as for `load`, clip i the same however many there are."""
    draw = {name: stream(seed, "walkers", part, name) for name in ("count", "walk", "look", "noise")}
    number = (draw["count"].random(rows) * (most + 1)).astype(int)
    there = np.arange(most) < number[:, None]
    u = draw["walk"].random((rows, most, 6))
    near = u[..., 4]
    if background == "square":
        near = np.sort(near, 1)  # who is nearer is drawn later
        tall = _FAR + (_NEAR - _FAR) * near + u[..., 0]
    else:
        tall = 14.0 + 4.0 * u[..., 0]
    pace = (speed[0] + (speed[1] - speed[0]) * u[..., 1]) * np.where(u[..., 2] < 0.5, 1.0, -1.0)
    # when the middle of the picture is crossed: some are in the picture at first, others enter or have left
    crossing = 2.4 * frames * u[..., 3] - 0.7 * frames
    feet = 0.62 * height + (0.36 * height) * near
    time = np.arange(frames)[:, None]
    centre = width / 2 + pace[:, None] * (time - crossing[:, None])  # (rows, frames, most)
    stride = np.sin(2 * np.pi * (np.abs(pace[:, None]) * time / (0.9 * tall[:, None]) + u[:, None, :, 5]))
    bob = 0.03 * tall[:, None] * np.abs(stride)
    shade = 0.55 + 0.45 * draw["look"].random((rows, most, 3))
    if not colour:
        shade = np.repeat(shade[..., :1], 3, -1)
    channels = 3 if colour else 1
    wide = 0.42 * tall
    boxes = np.stack(
        [
            (feet - tall)[:, None] - bob,
            centre - wide[:, None] / 2,
            np.broadcast_to(tall[:, None], centre.shape) + bob,
            np.broadcast_to(wide[:, None], centre.shape),
        ],
        -1,
    )
    low = np.clip(boxes[..., :2], 0, None)
    high = np.minimum(boxes[..., :2] + boxes[..., 2:], [height, width])
    area = boxes[..., 2:].prod(-1)
    shown = np.clip(high - low, 0, None)
    present = (shown.prod(-1) / area > 0.25) & there[:, None]
    if background == "square":
        first, last = _trunk(width)
        behind = np.clip(np.minimum(high[..., 1], last) - np.maximum(low[..., 1], first), 0, None)
        shown[..., 1] = np.clip(shown[..., 1] - behind, 0, None)
    visible = shown.prod(-1) / area * there[:, None]
    ground = np.zeros((height, width, 3))
    if background != "black":
        ground = square(height, width) if background == "square" else np.repeat(street(height, width)[..., None], 3, -1)
    x = np.empty((rows, frames, channels, height, width), np.uint8)
    for first in range(0, rows, _CHUNK):
        cut = slice(first, first + _CHUNK)
        x[cut] = _draw(
            centre[cut], feet[cut], tall[cut], stride[cut], bob[cut], shade[cut], there[cut], ground, channels, noise,
            draw["noise"], background == "square",
        )  # fmt: skip
    return {
        "x": x if colour else x[:, :, 0],
        "count": present.sum(-1),
        "boxes": (boxes * present[..., None]).astype(np.float32),
        "present": present,
        "visible": visible.astype(np.float32),
        "ids": np.where(there, np.arange(most), -1),
    }


def _planes(colours: Array, channels: int) -> Array:
    """Colours (height, width, 3) as so many channels: all three, or their mean."""
    return (colours if channels == 3 else colours.mean(-1, keepdims=True)).astype(np.float32)


def _draw(
    centre: Array, feet: Array, tall: Array, stride: Array, bob: Array, shade: Array, there: Array, ground: Array,
    channels: int, noise: float, generator: np.random.Generator, square: bool,
) -> Array:  # fmt: skip
    """Paint walkers one behind the other: head, trunk and two swinging legs, all of soft ellipses; on the square with
    shadows before their feet, and behind a tree.
    """
    rows, frames, most = centre.shape
    height, width = ground.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    planes = np.moveaxis(_planes(ground, channels), -1, 0)
    out = np.broadcast_to(planes, (rows, frames, channels, height, width)).copy()
    for j in range(most):
        size = tall[:, None, j, None, None].astype(np.float32)
        cx = centre[:, :, j, None, None].astype(np.float32)
        foot = feet[:, None, j, None, None].astype(np.float32)
        lift, swing = (a[:, :, j, None, None].astype(np.float32) for a in (bob, stride))
        body = np.zeros((rows, frames, height, width), np.float32)
        for dx, up, rx, ry in (
            (0.0, 0.90, 0.10, 0.10),
            (0.0, 0.60, 0.14, 0.24),
            (0.12 * swing, 0.20, 0.06, 0.22),
            (-0.12 * swing, 0.20, 0.06, 0.22),
        ):
            px, py = cx + dx * size, foot - lift - up * size
            distance = np.sqrt(((x - px) / (rx * size)) ** 2 + ((y - py) / (ry * size)) ** 2)
            np.maximum(body, np.clip((1.0 - distance) * rx * size + 0.5, 0, 1), out=body)
        body *= there[:, j, None, None, None]
        if square:
            flat = np.sqrt(((x - cx - 0.15 * size) / (0.28 * size)) ** 2 + ((y - foot) / (0.06 * size)) ** 2)
            shadow = np.clip((1.0 - flat) * 2.0, 0.0, 1.0) * there[:, j, None, None, None]
            out *= (1.0 - 0.45 * shadow)[:, :, None]
        paint = shade[:, j, :channels].astype(np.float32)[:, None, :, None, None]
        out = out * (1 - body[:, :, None]) + paint * body[:, :, None]
    if square:
        colours, where = tree(height, width)
        out[..., where] = np.moveaxis(_planes(colours, channels), -1, 0)[:, where]
    if noise:
        out = out + noise * generator.standard_normal(out.shape, dtype=np.float32)
    return np.round(255 * np.clip(out, 0, 1)).astype(np.uint8)
