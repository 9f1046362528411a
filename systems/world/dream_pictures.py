"""Frames of models as pictures for people and programs: bytes, colours last."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from phlogiston.datasets.base import Array


def bytes_of(frames: Tensor) -> Array:
    """Frames in [0, 1] as bytes."""
    found: Array = (255.0 * frames.clamp(0.0, 1.0)).round().to(torch.uint8).numpy()
    return found


def as_picture(frame: Tensor) -> Array:
    """A frame (C, H, W) in [0, 1] as bytes (H, W, 3); a vector as grey stripes."""
    if frame.shape[:2] == (1, 1):
        frame = frame.expand(1, frame.shape[-1], -1)
    return np.repeat(np.moveaxis(bytes_of(frame), 0, -1), 3 // len(frame), axis=-1)
