"""From a vector to a frame: about the mirror of `networks.frame_encoder.FrameEncoder`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from phlogiston.errors import ConfigError


class FrameDecoder(nn.Module):
    """Two dense layers to 4 x 4 features, then transposed convolutions that double them until the frame is there.

    Where a small thing is, is one number; that it is at one of many positions takes more than one layer to say.

    Args:
        inputs: size of the vector.
        channels: of the frame.
        size: of the frame, 4 times a power of two, at least 8.
        widths: channels before each doubling.
        features: of the first layer.

    Raises:
        ConfigError: widths that do not fit the size.
    """

    def __init__(self, inputs: int, channels: int, size: int, widths: Sequence[int], features: int = 256) -> None:
        super().__init__()
        doublings = int(math.log2(size / 4)) if size >= 8 else 0
        if 4 * 2**doublings != size or doublings < 1:
            raise ConfigError(
                f"frames have {size} pixels; the decoder makes 8, 16, 32, 64, 128, ...: resize them, or pad them"
            )
        if len(widths) != doublings or min(widths) < 1:
            raise ConfigError(f"widths has {len(widths)} entries; frames of {size} pixels need {doublings}")
        self.channels, self.size, self.width = channels, size, widths[0]
        self.first = nn.Sequential(nn.Linear(inputs, features), nn.SiLU(), nn.Linear(features, widths[0] * 16))
        steps: list[nn.Module] = []
        for i, o in zip(widths, [*widths[1:], channels], strict=True):
            steps += [nn.SiLU(), nn.ConvTranspose2d(i, o, 4, stride=2, padding=1)]
        self.trunk = nn.Sequential(*steps)

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) to logits of pixels, (..., channels, size, size)."""
        flat = self.first(x.reshape(-1, x.shape[-1])).reshape(-1, self.width, 4, 4)
        result: Tensor = self.trunk(flat)
        return result.reshape(*x.shape[:-1], self.channels, self.size, self.size)

    @torch.no_grad()
    def start_at(self, mean: Tensor) -> None:
        """Begin with frames of a mean brightness: (channels,), in [0, 1]."""
        last = self.trunk[-1]
        assert isinstance(last, nn.ConvTranspose2d)
        assert last.bias is not None
        last.bias.copy_(mean.clamp(0.01, 0.99).logit())
