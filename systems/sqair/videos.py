"""Films as SQAIR takes them: checked, in one shape, and what can be said of them before any training."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from phlogiston.errors import DataError, ShapeError

_SOME = 400  # frames that statistics look at


def checked(x: Any, name: str = "x") -> Tensor:
    """Films as (films, frames, channels, height, width), uint8 or float32 in 0 .. 1.

    Raises:
        ShapeError: no films.
        DataError: NaN, infinite, or out of range.
    """
    if x is None:
        raise DataError(f"the data have no {name!r}: films of shape (films, frames, height, width) are expected.")
    films = x if isinstance(x, Tensor) else torch.as_tensor(np.asarray(x))
    if films.dim() not in (4, 5):
        raise ShapeError(
            f"{name} has shape {tuple(films.shape)}; expected (films, frames, height, width) or "
            "(films, frames, channels, height, width). One film: x[None]; single pictures: x[:, None]."
        )
    if films.dim() == 4:
        films = films.unsqueeze(2)
    _, frames, channels, height, width = films.shape
    if frames < 1 or channels not in (1, 3) or min(height, width) < 8:
        raise ShapeError(
            f"{name} has shape {tuple(films.shape)}, read as (films, frames, channels, height, width): at least one "
            "frame, 1 or 3 channels and 8 x 8 pixels are needed."
        )
    if films.dtype == torch.uint8:
        return films
    films = films.float()
    if not bool(torch.isfinite(films).all()):
        raise DataError(
            f"{name} holds {int((~torch.isfinite(films)).sum())} pixels that are NaN or infinite; put 0 there and mark "
            "them in a mask."
        )
    if films.numel() and (float(films.min()) < -0.5 or float(films.max()) > 1.5):
        raise DataError(
            f"{name} lies in {float(films.min()):.3g} .. {float(films.max()):.3g}; expected 0 .. 1, or uint8 0 .. 255."
        )
    return films


def scaled(films: Tensor) -> Tensor:
    """Films as float32 in 0 .. 1."""
    return films.float() / 255.0 if films.dtype == torch.uint8 else films


def background(x: Tensor, kind: str) -> Tensor:
    """The mean, or the median, of some frames: (channels, height, width)."""
    films = checked(x)
    frames = scaled(_some(films))
    return frames.mean(0) if kind == "mean" else frames.median(0).values


def _some(films: Tensor) -> Tensor:
    flat = films.flatten(0, 1)
    chosen = torch.linspace(0, len(flat) - 1, min(len(flat), _SOME)).round().long()
    return flat[chosen]


def statistics(x: Tensor, kind: str = "none", std: float = 0.3) -> dict[str, Any]:
    """Size in pixels, and energy in nats, of the typical thing that stands out.

    Connected regions of some first frames that differ from the background by more than 0.2; where there are none, a
    quarter of the picture half as bright as can be.
    """
    films = checked(x)
    chosen = torch.linspace(0, len(films) - 1, min(len(films), _SOME)).round().long()
    frames = scaled(films[chosen, 0])
    if kind == "static":
        frames = frames - background(films, kind)
    sizes, energies = [], []
    for frame in frames.numpy():
        for box in components(np.abs(frame).max(0)):
            y, x0, h, w = box
            sizes.append((w + 2, h + 2))
            energies.append(float(np.square(frame[:, y : y + h, x0 : x0 + w]).sum() / (2 * std**2)))
    height, width = films.shape[-2:]
    if not sizes:
        energy = 0.25 * height * width / 16 / (2 * std**2)
        return {"width": width / 4, "height": height / 4, "energy": energy}
    wide, high = np.median(np.array(sizes), 0)
    side = 1.05 * max(float(wide), float(high))
    square = 0.5 <= wide / high <= 2.0  # what turns or varies wants a square box
    return {
        "width": side if square else 1.05 * float(wide),
        "height": side if square else 1.05 * float(high),
        "energy": float(np.median(energies)),
    }


def question(evidence: Any, shape: list[int]) -> tuple[Any, int | None]:
    """Evidence with films flattened, as queries take it, and the number of frames they have.

    Args:
        evidence: site -> pieces; those about `x` may be films (frames, [channels,] height, width).
        shape: channels, height, width of frames.
    """
    from phlogiston.inference.query.evidence import Known, Near, normalise

    pieces = dict(normalise(evidence))
    frames = None
    flat = []
    for piece in pieces.get("x", ()):
        value = piece.value if isinstance(piece, Known) else piece.mean if isinstance(piece, Near) else None
        if not isinstance(value, Tensor) or value.dim() < 3:
            flat.append(piece)
            continue
        film = scaled(checked(value.reshape(1, -1, *shape)))
        frames = film.shape[1]
        if isinstance(piece, Known):
            mask = piece.mask
            if mask is not None:
                mask = torch.as_tensor(mask).reshape(1, frames, -1, *shape[1:]).expand(film.shape).reshape(-1)
            flat.append(Known(film.reshape(-1), mask))
        elif isinstance(piece, Near):
            flat.append(Near(film.reshape(-1), piece.sd))
    if flat:
        pieces["x"] = tuple(flat)
    return pieces, frames


def components(frame: np.ndarray, threshold: float = 0.2, least: int = 8) -> list[tuple[int, int, int, int]]:
    """Boxes (y, x, height, width) of connected regions brighter than `threshold`, of at least `least` pixels."""
    from scipy.ndimage import find_objects, label

    regions, _ = label(frame > threshold, np.ones((3, 3)))
    out = []
    for i, (rows, columns) in enumerate(find_objects(regions)):
        if (regions[rows, columns] == i + 1).sum() >= least:
            out.append((rows.start, columns.start, rows.stop - rows.start, columns.stop - columns.start))
    return out
