"""Moving digits: short clips of handwritten digits that drift, accelerate and bounce, with boxes and identities.

The set on which SQAIR was published (Kosiorek, Kim, Posner and Teh, *Sequential Attend, Infer, Repeat*, NeurIPS 2018):
none, one or two digits per clip on a canvas of 50 x 50; position, velocity and acceleration per axis; at the bounds
velocity and acceleration turn round. The published protocol (`bounds="topleft"`) keeps the box's top left corner on
the canvas, so that a digit may leave it through the right and the lower edge although it still counts;
`bounds="inside"` keeps the whole box visible and moves more gently. With `screen` they pass behind a grey bar.

Digits come from scikit-learn's 8 x 8 pictures, enlarged (`source="digits"`), or from MNIST (`source="mnist"`), each
cut to its bounding box; `shapes` mixes discs and squares of several shades among them. Training, validation and test
clips show different digits.
"""

from __future__ import annotations

from collections.abc import Iterator
from os import PathLike
from typing import Literal

import numpy as np

from phlogiston.datasets.base import Array, Dataset, Info, Split, recorded, sized_parts
from phlogiston.datasets.generated.motion import OCCLUSION, SEQUENCES, Motion, Templates, clips, prepare_templates
from phlogiston.errors import DataError, unknown_name

INFO = Info(
    name="moving_digits",
    title="clips of none, one or two moving digits, with counts, boxes and identities",
    kind="built in",
    licence="digits: CC BY 4.0 (UCI Machine Learning Repository), shipped inside scikit-learn; MNIST: CC BY-SA 3.0",
    rows="8,000 / 256 / 256",
    shape="10 frames of 50 x 50",
    notes="bounds='topleft' is the published protocol; source='mnist' takes MNIST's digits; screen=24 hides some.",
)

SOURCES = ("digits", "mnist")


@recorded()
def load(
    root: str | PathLike[str] | None = None,
    *,
    sizes: tuple[int, int, int] = (8_000, 256, 256),
    source: Literal["digits", "mnist"] = "digits",
    frames: int = 10,
    canvas: int = 50,
    counts: tuple[int, ...] = (0, 1, 2),
    bounds: Literal["inside", "topleft", "centre"] = "inside",
    speed: float | None = None,
    acceleration: float | None = None,
    noise: float = 0.01,
    scale: tuple[float, float] = (1.0, 1.0),
    occlusion: Literal["max", "sum", "over"] = "max",
    turnover: float = 0.0,
    colour: bool = False,
    shapes: bool = False,
    screen: int = 0,
    grain: float = 0.0,
    seed: int = 0,
) -> Dataset:
    """Make clips.

    Args:
        root: folder of MNIST's files, for `source="mnist"`.
        sizes: clips for training, validation and test.
        source: whose digits.
        frames: frames per clip.
        canvas: height and width in pixels.
        counts: numbers of digits to draw from, all equally likely.
        bounds: what stays on the canvas, see `Motion`.
        speed: largest speed per axis in pixels per frame.
        acceleration: largest acceleration per axis.
        noise: standard deviation of the noise on the acceleration.
        scale: least and largest size relative to digits about 20 pixels high.
        occlusion: pixels of several digits combine by their maximum, their sum (cut at white), or the last one covers.
        turnover: probability that a digit enters late or leaves early.
        colour: paint each digit in a colour of its own; frames then have three channels.
        shapes: half of the pictures are discs (label 10) and squares (label 11).
        screen: width in pixels of an upright bar in the middle of the canvas, behind which things are hidden.
        grain: standard deviation of the noise on every pixel, as a share of white.
        seed: of everything.

    Returns:
        Splits with `x` uint8 (clips, frames, canvas, canvas), or (clips, frames, 3, canvas, canvas) in colour; `count`
        int64 (clips, frames); `boxes` float32 (clips, frames, digits, 4) as y, x, height, width in pixels; `present`
        bool and `visible` float32 (clips, frames, digits), the share of the box on the canvas and not
        behind the bar; `ids` and `label` int64 (clips, digits), -1 where there is no such digit.

    Raises:
        DataError: options out of range, or digits larger than the canvas.
    """
    _check(source, frames, canvas, counts, occlusion, turnover, screen, grain)
    motion = Motion(bounds, speed, acceleration, noise)
    parts = []
    for (name, rows), (pictures, labels) in zip(sized_parts(sizes, "clips"), _pictures(source, root), strict=True):
        if shapes:
            pictures, labels = _with_shapes(pictures, labels)
        templates = prepare_templates(pictures, labels, scale, canvas)
        tensors = clips(
            rows, templates, motion, frames, canvas, counts, occlusion, turnover, colour, seed, name, screen, grain
        )
        parts.append(Split(tensors, sequences=SEQUENCES))
    return Dataset.of(
        INFO,
        parts,
        kind="built in" if source == "digits" else "fetched",
    )


def _check(
    source: str, frames: int, canvas: int, counts: tuple[int, ...], occlusion: str, turnover: float, screen: int,
    grain: float,
) -> None:  # fmt: skip
    """Refuse options that make no clips."""
    if source not in SOURCES:
        raise unknown_name("source of moving digits", source, SOURCES)
    if occlusion not in OCCLUSION:
        raise unknown_name("occlusion", occlusion, OCCLUSION)
    if frames < 1 or canvas < 8 or not counts or min(counts) < 0:
        raise DataError(
            f"frames={frames}, canvas={canvas}, counts={counts}: at least 1 frame, 8 pixels, one count, none negative."
        )
    if not 0.0 <= turnover <= 1.0:
        raise DataError(f"turnover={turnover}: a probability is expected.")
    if not 0 <= screen < canvas or not 0.0 <= grain <= 1.0:
        raise DataError(f"screen={screen}, grain={grain}: a width below canvas={canvas}, and 0 .. 1, are expected.")


def endless(
    templates: Templates, batch: int, motion: Motion | None = None, *, frames: int = 10, canvas: int = 50, seed: int = 0
) -> Iterator[dict[str, Array]]:
    """Yield batches of fresh clips for ever.

    Args:
        templates: what `prepare_templates` makes.
        batch: clips per batch.
        motion: how they move.
        frames: frames per clip.
        canvas: side in pixels.
        seed: of the stream.
    """
    step = 0
    while True:
        part = f"endless {step}"
        yield clips(batch, templates, motion or Motion(), frames, canvas, (0, 1, 2), "max", 0.0, False, seed, part)
        step += 1


def _with_shapes(pictures: Array, labels: Array) -> tuple[Array, Array]:
    """As many discs and squares as digits, of six shades, after these."""
    side = pictures.shape[-1]
    at = np.arange(side) - (side - 1) / 2
    radius = 10.0
    disc = np.clip(radius - np.hypot(at[:, None], at) + 0.5, 0.0, 1.0)
    square = ((np.abs(at) < radius - 1)[:, None] & (np.abs(at) < radius - 1)).astype(float)
    index = np.arange(len(pictures))
    shade = 0.5 + 0.1 * (index // 2 % 6)
    more = np.where((index % 2 == 0)[:, None, None], disc, square) * shade[:, None, None]
    return np.concatenate([pictures, more.astype(pictures.dtype)]), np.concatenate([labels, 10 + index % 2])


def _pictures(source: str, root: str | PathLike[str] | None) -> list[tuple[Array, Array]]:
    """Digits of 28 x 28 (or 22 x 22) pixels in 0 .. 1 with labels, for training, validation and test."""
    if source == "mnist":
        from phlogiston.datasets.fetched import mnist

        data = mnist.load(root)
        shape = (28, 28)
    else:
        from phlogiston.datasets.generated import digits

        data = digits.load(dequantise=False)
        shape = (8, 8)
    result = []
    for split in (data.train, data.valid, data.test):
        pictures = split.numpy("x").reshape(-1, *shape)
        if source == "digits":
            from scipy.ndimage import zoom

            pictures = np.clip(zoom(pictures, (1, 2.6, 2.6), order=3, grid_mode=True, mode="grid-constant"), 0, 1)
            pictures[pictures < 0.06] = 0.0  # ringing of the splines
        result.append((pictures, split.numpy("label")))
    return result
