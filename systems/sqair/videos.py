"""Videos as SQAIR takes them: checked, in one shape, and statistics of them that training starts from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from phlogiston.arrays import tensor_of
from phlogiston.errors import DataError, ShapeError
from phlogiston.inference.query.evidence import Known, Near, normalise

_SOME = 400  # frames that statistics are taken from


def checked(x: Any, name: str = "x") -> Tensor:
    """Videos as (videos, frames, channels, height, width), uint8 or float32 in 0 .. 1.

    Raises:
        ShapeError: not videos.
        DataError: NaN, infinite, or out of range.
    """
    if x is None:
        raise DataError(
            f"the data have no {name!r}: videos of shape (videos, frames, height, width) are expected. "
            "A folder of videos is read by --data video_folder --data-set data=FOLDER."
        )
    videos = tensor_of(name, x)
    if videos.dim() not in (4, 5):
        raise ShapeError(
            f"{name} has shape {tuple(videos.shape)}; expected (videos, frames, height, width) or "
            "(videos, frames, channels, height, width). One video: x[None]; single pictures: x[:, None]."
        )
    if videos.dim() == 4:
        videos = videos.unsqueeze(2)
    _, frames, channels, height, width = videos.shape
    if channels not in (1, 3) and width in (1, 3):
        raise ShapeError(
            f"{name} has shape {tuple(videos.shape)}: channels seem to be last. Put them before height and width: "
            f"{name}.transpose(0, 1, 4, 2, 3), of a tensor {name}.movedim(-1, 2)."
        )
    if frames < 1 or channels not in (1, 3) or min(height, width) < 8:
        raise ShapeError(
            f"{name} has shape {tuple(videos.shape)}, read as (videos, frames, channels, height, width): at least one "
            "frame, 1 or 3 channels and 8 x 8 pixels are needed."
        )
    if videos.dtype == torch.uint8:
        return videos
    videos = videos.float()
    if not bool(torch.isfinite(videos).all()):
        raise DataError(
            f"{name} holds {int((~torch.isfinite(videos)).sum())} pixels that are NaN or infinite; put 0 there and "
            "mark them in a mask."
        )
    if videos.numel() and (float(videos.min()) < -0.5 or float(videos.max()) > 1.5):
        raise DataError(
            f"{name} lies in {float(videos.min()):.3g} .. {float(videos.max()):.3g}; expected 0 .. 1, or uint8 "
            "0 .. 255."
        )
    return videos


def of_frames(videos: Tensor, shape: Sequence[int] | None) -> Tensor:
    """Refuse videos of other frames than (channels, height, width); None takes any.

    Raises:
        ShapeError: they have other channels or another size.
    """
    if shape is not None and list(videos.shape[2:]) != list(shape):
        raise ShapeError(f"videos have frames of {tuple(videos.shape[2:])}; this model was fitted on {tuple(shape)}.")
    return videos


def check_mask(mask: Any, videos: Tensor) -> Tensor | None:
    """A mask of videos as bool (videos, frames) or (videos, frames, height, width).

    Raises:
        ShapeError: it has another shape.
    """
    if mask is None:
        return None
    known = torch.as_tensor(mask).bool()
    if known.shape not in (videos.shape[:2], (*videos.shape[:2], *videos.shape[3:])):
        raise ShapeError(
            f"mask has shape {tuple(known.shape)}; expected (videos, frames), {tuple(videos.shape[:2])}, or with "
            "height and width."
        )
    return known


def scaled(videos: Tensor) -> Tensor:
    """Videos as float32 in 0 .. 1."""
    return videos.float() / 255.0 if videos.dtype == torch.uint8 else videos


def background(x: Tensor, kind: str) -> Tensor:
    """The mean, or the median, of some frames: (channels, height, width)."""
    videos = checked(x)
    frames = scaled(_some(videos))
    return frames.mean(0) if kind == "mean" else frames.median(0).values


def still(x: Tensor, least: float = 0.1) -> Tensor:
    """Pixels that never differ from the background by more than `least`, bool (height, width)."""
    videos = checked(x)
    frames = scaled(_some(videos, 5 * _SOME))
    return ((frames - background(videos, "static")).abs() <= least).all(0).all(0)


def _some(videos: Tensor, number: int = _SOME) -> Tensor:
    flat = videos.flatten(0, 1)
    chosen = torch.linspace(0, len(flat) - 1, min(len(flat), number)).round().long()
    return flat[chosen]


def statistics(x: Tensor, kind: str = "none", std: float = 0.3) -> dict[str, Any]:
    """Size in pixels, and energy in nats, of the typical thing that stands out.

    Connected regions of some first frames that differ from the background by more than 0.2; where there are none, a
    quarter of the picture half as bright as can be.
    """
    videos = checked(x)
    chosen = torch.linspace(0, len(videos) - 1, min(len(videos), _SOME)).round().long()
    frames = scaled(videos[chosen, 0])
    if kind == "static":
        frames = frames - background(videos, kind)
    sizes, energies = [], []
    for frame in frames.numpy():
        for box in components(np.abs(frame).max(0)):
            y, x0, h, w = box
            sizes.append((w + 2, h + 2))
            energies.append(float(np.square(frame[:, y : y + h, x0 : x0 + w]).sum() / (2 * std**2)))
    height, width = videos.shape[-2:]
    if not sizes:
        energy = 0.25 * height * width / 16 / (2 * std**2)
        return {"width": width / 4, "height": height / 4, "energy": energy}
    wide, high = np.median(np.array(sizes), 0)
    side = 1.05 * max(float(wide), float(high))
    square = 0.5 <= wide / high <= 2.0  # what turns or varies needs a square box
    return {
        "width": side if square else 1.05 * float(wide),
        "height": side if square else 1.05 * float(high),
        "energy": float(np.median(energies)),
    }


def flat_evidence(evidence: Any, shape: list[int]) -> tuple[Any, int | None]:
    """Evidence with videos flattened, as queries take it, and the number of frames they have.

    Args:
        evidence: site -> evidence; about `x` it may be videos (frames, [channels,] height, width).
        shape: channels, height, width of frames.
    """
    question = dict(normalise(evidence))
    frames = None
    flat = []
    for part in question.get("x", ()):
        value = part.value if isinstance(part, Known) else part.mean if isinstance(part, Near) else None
        if not isinstance(value, Tensor) or value.dim() < 3:
            flat.append(part)
            continue
        video = scaled(checked(value.reshape(1, -1, *shape)))
        frames = video.shape[1]
        if isinstance(part, Known):
            mask = part.mask
            if mask is not None:
                mask = torch.as_tensor(mask).reshape(1, frames, -1, *shape[1:]).expand(video.shape).reshape(-1)
            flat.append(Known(video.reshape(-1), mask))
        elif isinstance(part, Near):
            flat.append(Near(video.reshape(-1), part.sd))
    if flat:
        question["x"] = tuple(flat)
    return question, frames


def components(frame: np.ndarray, threshold: float = 0.2, least: int = 8) -> list[tuple[int, int, int, int]]:
    """Boxes (y, x, height, width) of connected regions brighter than `threshold`, of at least `least` pixels."""
    from scipy.ndimage import find_objects, label

    regions, _ = label(frame > threshold, np.ones((3, 3)))
    out = []
    for i, (rows, columns) in enumerate(find_objects(regions)):
        if (regions[rows, columns] == i + 1).sum() >= least:
            out.append((rows.start, columns.start, rows.stop - rows.start, columns.stop - columns.start))
    return out
