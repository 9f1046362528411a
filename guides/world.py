"""The guide of the world model: every frame is encoded by itself, as by V of the paper.

    z_t | x_t ~ Normal(location(x_t), scale(x_t))

Reference: Ha and Schmidhuber, "World models", 2018, section 2.1 and appendix A.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phlogiston.models.stage_program import StageProgram
from phlogiston.models.world import World, valid_steps
from phlogiston.networks.frame_encoder import FrameEncoder, pixels
from phlogiston.networks.vector_codec import VectorEncoder

FLOOR = 1e-4  # smallest scale


class WorldGuide(nn.Module):
    """The inference program of `World`.

    Args:
        model: the generative program.
        widths, features: options of `systems.world.config.Config`, described there.
    """

    def __init__(self, model: World, widths: Sequence[int] = (16, 32), features: int = 256) -> None:
        super().__init__()
        self.encoder: FrameEncoder | VectorEncoder
        if model.vector:
            self.encoder = VectorEncoder(model.vector, features)
        else:
            self.encoder = FrameEncoder(model.channels, model.size, widths, features, "strided")
        self.read = nn.Linear(features, 2 * model.code)
        with torch.no_grad():
            self.read.bias[model.code :].fill_(-2.0)

    def encode(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Location and scale of the codes of frames (..., C, H, W): (..., Z) each."""
        inputs = pixels(frames)
        assert inputs is not None
        loc, raw = self.read(self.encoder(inputs)).chunk(2, -1)
        return loc, F.softplus(raw) + FLOOR

    def forward(
        self,
        frames: Tensor | None = None,
        *,
        length: Tensor | None = None,
        **_: Any,
    ) -> None:
        """Propose codes where there are frames; arguments as `World.forward`."""
        if frames is None:
            return
        rows, steps = frames.shape[:2]
        loc, scale = self.encode(frames)
        valid = valid_steps(length, rows, steps, loc.device)
        with pyro.plate("data", rows, dim=-1):
            pyro.sample("code", dist.Normal(loc, scale).to_event(1).mask(valid).to_event(1))


class FrameGuide(StageProgram[WorldGuide]):
    """The guide of `FrameModel`."""

    def forward(self, frames: Tensor) -> None:
        """Take frames (rows, n, C, H, W)."""
        rows, count = frames.shape[:2]
        loc, scale = self.whole.encode(frames)
        with pyro.plate("data", rows, dim=-2), pyro.plate("time", count, dim=-1):
            pyro.sample("code", dist.Normal(loc, scale).to_event(1))


class NoGuide(nn.Module):
    """The guide of a stage in which everything is observed."""

    def forward(self, **batch: Tensor) -> None:
        """Propose nothing."""
