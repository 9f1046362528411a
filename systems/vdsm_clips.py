"""What VDSM asks of clips before it looks at them, and the state it looks in: checks, evaluation mode, own seeds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from phlogiston.errors import ConfigError, DataError, ShapeError
from phlogiston.models.vdsm import pixels


def check_frames(frames: Tensor, schema: Mapping[str, Any] | None = None) -> Tensor:
    """Refuse what is no batch of clips, or clips of another form.

    Raises:
        ShapeError: wrong axes, channels or size.
        DataError: no clips, or values outside [0, 1].
    """
    if frames.ndim != 5:
        raise ShapeError(f"frames have shape {tuple(frames.shape)}; expected five axes, (rows, T, C, H, W)")
    if frames.shape[2] not in (1, 3) and frames.shape[-1] in (1, 3):
        raise ShapeError(
            f"frames have shape {tuple(frames.shape)}: channels seem to be last. Move them: frames.movedim(-1, 2)"
        )
    if min(frames.shape) < 1:
        raise DataError(f"frames have shape {tuple(frames.shape)}; at least one clip of one frame is needed")
    if schema is not None:
        want = (schema["channels"], schema["size"], schema["size"])
        if tuple(frames.shape[2:]) != want:
            raise ShapeError(f"frames are {tuple(frames.shape[2:])} (C, H, W); this model was trained on {want}")
    if frames.dtype == torch.uint8:
        return frames
    if not frames.is_floating_point():
        raise DataError(f"frames hold {frames.dtype} values; give bytes (uint8), or floats in [0, 1]")
    if not bool(torch.isfinite(frames).all()) or bool((frames < 0).any()) or bool((frames > 1).any()):
        low, high = float(frames.min()), float(frames.max())
        raise DataError(f"frames hold values from {low:.4g} to {high:.4g}; expected [0, 1], or bytes (uint8)")
    return frames.float()


def check_mask(mask: Any, frames: Tensor) -> Tensor | None:
    """Refuse a mask that does not fit.

    Raises:
        ShapeError: another shape.
        DataError: not bool, or a clip without a known frame.
    """
    if mask is None:
        return None
    mask = torch.as_tensor(mask)
    if mask.dtype != torch.bool:
        raise DataError(f"mask holds {mask.dtype} values; expected bool, True where a frame is known")
    if mask.shape != frames.shape[:2]:
        raise ShapeError(f"mask has shape {tuple(mask.shape)}; expected (rows, T) = {tuple(frames.shape[:2])}")
    if not bool(mask.any(1).all()):
        row = int((~mask.any(1)).nonzero()[0])
        raise DataError(f"mask: clip {row} has no known frame")
    return None if bool(mask.all()) else mask


def mean_colour(frames: Tensor) -> list[float]:
    """Return the mean of each channel over some of the clips (rows, T, C, H, W)."""
    found = pixels(frames[:: max(1, len(frames) // 256)])
    assert found is not None
    return [float(v) for v in found.mean((0, 1, 3, 4))]


def positive(name: str, value: int) -> None:
    """Refuse what is no whole number from 1 on.

    Raises:
        ConfigError: it is none.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{name} is {value!r}; it must be a whole number from 1 on")


@contextlib.contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Evaluation mode, then the mode as found."""
    before = [[m for m in module.modules() if m.training] for module in modules]
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        for found in before:
            for m in found:
                m.training = True


@contextlib.contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Random numbers of one's own, where a seed is given."""
    with torch.random.fork_rng(enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        yield
