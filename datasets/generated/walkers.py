"""Walkers: people as articulated blobs who enter a scene at one side, cross it and leave at the other.

A stand-in for clips of pedestrians (Kosiorek et al., *Sequential Attend, Infer, Repeat*, 2018, section 4.2, used a set
that its authors have since withdrawn): objects higher than wide, that change shape while they move, come and go, and
overlap. Boxes, identities and visibility are known.
"""

from __future__ import annotations

from os import PathLike

import numpy as np

from phlogiston.datasets.base import Array, Dataset, Info, Split, recorded, sized_parts, stream
from phlogiston.errors import DataError

INFO = Info(
    name="walkers",
    title="clips of people who enter, cross and leave, with counts, boxes and identities",
    kind="built in",
    licence="none: drawn by code",
    rows="512 / 64 / 64",
    shape="12 frames of 48 x 64",
    notes="height 14 to 18 pixels; background='street' adds a fixed background to subtract.",
)

_CHUNK = 64


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
        background: `"black"`, or `"street"`, the same fixed pattern in all clips.
        colour: dress everybody differently; frames then have three channels.
        noise: standard deviation of the camera's noise, as a share of white.
        seed: of everything.

    Returns:
        Splits with `x` uint8 (clips, frames, [3,] height, width); `count` int64 (clips, frames), people of whom at
        least a quarter is visible; `boxes` float32 (clips, frames, people, 4) as y, x, height, width in pixels;
        `present` bool and `visible` float32 (clips, frames, people); `ids` int64 (clips, people).

    Raises:
        DataError: options out of range.
    """
    if frames < 1 or min(height, width) < 24 or most < 1:
        raise DataError(
            f"frames={frames}, height={height}, width={width}, most={most}: at least one frame, 24 "
            "pixels and one walker are needed."
        )
    if background not in ("black", "street"):
        raise DataError(f"background={background!r}: choose 'black' or 'street'.")
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
    tall = 14.0 + 4.0 * u[..., 0]
    pace = (speed[0] + (speed[1] - speed[0]) * u[..., 1]) * np.where(u[..., 2] < 0.5, 1.0, -1.0)
    # when the middle of the picture is crossed: some are in the picture at first, others enter or have left
    crossing = 2.4 * frames * u[..., 3] - 0.7 * frames
    feet = 0.62 * height + (0.36 * height) * u[..., 4]
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
    visible = np.clip(high - low, 0, None).prod(-1) / boxes[..., 2:].prod(-1) * there[:, None]
    present = visible > 0.25
    ground = street(height, width) if background == "street" else np.zeros((height, width))
    x = np.empty((rows, frames, channels, height, width), np.uint8)
    for first in range(0, rows, _CHUNK):
        cut = slice(first, first + _CHUNK)
        x[cut] = _draw(
            centre[cut], feet[cut], tall[cut], stride[cut], bob[cut], shade[cut], there[cut], ground, channels, noise,
            draw["noise"],
        )  # fmt: skip
    return {
        "x": x if colour else x[:, :, 0],
        "count": present.sum(-1),
        "boxes": (boxes * present[..., None]).astype(np.float32),
        "present": present,
        "visible": visible.astype(np.float32),
        "ids": np.where(there, np.arange(most), -1),
    }


def _draw(
    centre: Array, feet: Array, tall: Array, stride: Array, bob: Array, shade: Array, there: Array, ground: Array,
    channels: int, noise: float, generator: np.random.Generator,
) -> Array:  # fmt: skip
    """Paint walkers one behind the other: head, trunk and two swinging legs, all of soft ellipses."""
    rows, frames, most = centre.shape
    height, width = ground.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    out = np.broadcast_to(ground.astype(np.float32), (rows, frames, channels, height, width)).copy()
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
        paint = shade[:, j, :channels].astype(np.float32)[:, None, :, None, None]
        out = out * (1 - body[:, :, None]) + paint * body[:, :, None]
    if noise:
        out = out + noise * generator.standard_normal(out.shape, dtype=np.float32)
    return np.round(255 * np.clip(out, 0, 1)).astype(np.uint8)
