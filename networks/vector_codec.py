"""Observations that are vectors, to features and back: what `frame_encoder` and `frame_decoder` are for pictures."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class VectorEncoder(nn.Module):
    """A vector to features: two dense layers.

    Args:
        entries: of the vector.
        features: of the output.
    """

    def __init__(self, entries: int, features: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(entries, features), nn.SiLU(), nn.Linear(features, features), nn.SiLU())

    def forward(self, frames: Tensor) -> Tensor:
        """(..., 1, 1, entries) in [0, 1] to (..., features)."""
        features: Tensor = self.trunk(2.0 * frames.squeeze(-2).squeeze(-2) - 1.0)
        return features


class VectorDecoder(nn.Module):
    """From a code to the logits of a vector's entries, each in [0, 1].

    Args:
        inputs: size of the code.
        entries: of the vector.
        features: of the layers between.
    """

    def __init__(self, inputs: int, entries: int, features: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Linear(inputs, features), nn.SiLU(), nn.Linear(features, features), nn.SiLU(),
            nn.Linear(features, entries),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) to (..., 1, 1, entries)."""
        logits: Tensor = self.trunk(x)
        return logits.unsqueeze(-2).unsqueeze(-2)

    @torch.no_grad()
    def start_at(self, mean: Tensor) -> None:
        """Begin with a mean, (1,), in [0, 1], of all entries."""
        last = self.trunk[-1]
        assert isinstance(last, nn.Linear)
        last.bias.copy_(mean.clamp(0.01, 0.99).logit().expand_as(last.bias))
