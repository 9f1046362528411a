"""The base of feature extractors: what `features` makes and `judge` is."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Extractor:
    """Base of extractors.

    Attributes:
        clips: whether it takes clips (batch, time, channels, height, width) instead of images.
        any_size: whether images of different sizes may be mixed, because it resizes each.
    """

    clips = False
    any_size = False

    def __call__(self, images: Tensor) -> Tensor:
        """Return features (batch, d) of uint8 images."""
        raise NotImplementedError

    def logits(self, features: Tensor) -> Tensor | None:
        """Return class logits of features, where the extractor has classes."""
        return None

    def describe(self) -> dict[str, Any]:
        """Return what a reader must know to reproduce the features; JSON-able."""
        return {"features": type(self).__name__.lower()}

    def to(self, device: torch.device) -> Extractor:
        """Move to a device."""
        return self
