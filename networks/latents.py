"""Latents of a painted picture: what their priors are made of, and how one of the whole picture reaches its cells."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from phlogiston.networks.query_context import apply_over

LOW, HIGH = -8.0, 4.0  # log-variances are bent softly into this range


def bent(logvar: Tensor) -> Tensor:
    """Bend log-variances softly into [LOW, HIGH]."""
    return LOW + functional.softplus(logvar - LOW) - functional.softplus(logvar - HIGH)


class Spread(nn.Module):
    """A latent of the whole picture, laid out over the grid: its part of the generator's gates.

    An object that is there or is not has to be the doing of few numbers: latents of the cells are independent before
    the picture is known, and to agree on an object they would all have to be far from what their prior expects.

    Args:
        length: of the latent.
        hidden: channels of the generator's state.
        size: s.
        width: of the layer between.
    """

    def __init__(self, length: int, hidden: int, size: int, width: int = 64) -> None:
        super().__init__()
        self.shape = (4 * hidden, size, size)
        self.layers = nn.Sequential(
            nn.Linear(length, width), nn.ReLU(), nn.Linear(width, 4 * hidden * size**2, bias=False)
        )

    def forward(self, z: Tensor) -> Tensor:
        """Lay out (..., length, 1, 1): (..., 4 hidden, s, s)."""
        out: Tensor = self.layers(z.flatten(-3))
        return out.unflatten(-1, self.shape)


class Foresight(nn.Module):
    """The prior of a latent of the whole picture: a mixture of normals, all of it the context's choice.

    What may be there or not makes codes that lie apart: one normal would have to reach for the rare ones.

    Args:
        length: of the latent, at least 2.
        parts: of the mixture.
        width: channels of the context.
        size: s.
    """

    def __init__(self, length: int, parts: int, width: int, size: int) -> None:
        super().__init__()
        self.length, self.parts = length, parts
        self.pool = nn.AdaptiveAvgPool2d(min(4, size))
        self.head = nn.Linear(width * min(4, size) ** 2, parts * (1 + 2 * length))
        with torch.no_grad():
            self.head.weight.mul_(0.1)
            self.head.bias.zero_()
            self.head.bias[parts : parts * (1 + length)].normal_()

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (..., parts), means and deviations (..., parts, length) given the context (..., width, s, s)."""
        raw = self.head(apply_over(self.pool, values).flatten(-3))
        logits, means, logvars = raw.split([self.parts, *[self.parts * self.length] * 2], -1)
        means, logvars = (part.unflatten(-1, (self.parts, self.length)) for part in (means, bent(logvars)))
        return logits, means, (0.5 * logvars).exp()
