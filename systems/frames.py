"""Frames as systems take them: of the form they know, bytes or floats in [0, 1]."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from phlogiston.errors import DataError, ShapeError
from phlogiston.networks.frame_encoder import pixels


def fit_frames(frames: Tensor, schema: Mapping[str, Any] | None = None) -> Tensor:
    """Refuse frames (..., C, H, W) of another form, or of values that are no pixels.

    Raises:
        ShapeError: other channels or another size than the schema says.
        DataError: values outside [0, 1].
    """
    if schema is not None:
        want = tuple(schema.get("shape") or (schema["channels"], schema["size"], schema["size"]))
        if tuple(frames.shape[-3:]) != want:
            raise ShapeError(f"frames are {tuple(frames.shape[-3:])} (C, H, W); this model was trained on {want}")
    if frames.dtype == torch.uint8:
        return frames
    if not frames.is_floating_point():
        raise DataError(f"frames hold {frames.dtype} values; give bytes (uint8), or floats in [0, 1]")
    if not bool(torch.isfinite(frames).all()) or bool((frames < 0).any()) or bool((frames > 1).any()):
        low, high = float(frames.min()), float(frames.max())
        raise DataError(f"frames hold values from {low:.4g} to {high:.4g}; expected [0, 1], or bytes (uint8)")
    return frames.float()


def refuse_zeros_and_ones(frames: Tensor, name: str) -> None:
    """Refuse training bytes that are 0 and 1 throughout: as bytes they are black and the darkest of 255 greys.

    Raises:
        DataError: they are.
    """
    if frames.dtype == torch.uint8 and frames.numel() and int(frames.max()) == 1:
        raise DataError(
            f"{name} holds bytes of 0 and 1 only, which would all but be black. For black and white give floats "
            f"({name} / 1.0) or {name} * 255; phlogiston.datasets.load tells what the numbers mean by itself."
        )


def mean_colour(frames: Tensor) -> list[float]:
    """Return the mean of each channel over some of the clips (rows, T, C, H, W)."""
    chosen = frames[:: max(1, len(frames) // 256)]
    total = torch.zeros(chosen.shape[2], dtype=torch.float64)
    for block in chosen.split(16):  # as floats, all of them would take four times their bytes
        found = pixels(block)
        assert found is not None
        total += found.sum((0, 1, 3, 4), dtype=torch.float64)
    return [float(v) for v in total / (chosen.numel() / chosen.shape[2])]
