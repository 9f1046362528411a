"""Pixels on 256 levels: a logistic distribution summed over the cell of each level.

    p(x) = F((x + 1/510 - loc) / scale) - F((x - 1/510 - loc) / scale),   F the logistic function,

the lowest level taking everything below it and the highest everything above: honest probabilities of bytes, from which
bits per dimension follow. Reference: Salimans et al., *PixelCNN++*, ICLR 2017, section 2.1.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all
from torch.nn import functional

LEVELS = 256


class DiscretizedLogistic(TorchDistribution):
    """Levels k / 255, k = 0 .. 255, under a logistic density.

    Args:
        loc: centre, in [0, 1] units.
        scale: positive.

    Values between levels count as the nearest one; values outside [0, 1] have no probability.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"loc": constraints.real, "scale": constraints.positive}
    support = constraints.unit_interval
    has_rsample = False

    def __init__(self, loc: Tensor | float, scale: Tensor | float, validate_args: bool | None = None) -> None:
        self.loc, self.scale = broadcast_all(loc, scale)
        super().__init__(self.loc.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> DiscretizedLogistic:
        """Return the distribution with a larger batch shape."""
        shape = torch.Size(batch_shape)
        new = DiscretizedLogistic(self.loc.expand(shape), self.scale.expand(shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def _reach(self, level: int) -> Tensor:
        """Probability of a level or a higher one."""
        return torch.sigmoid((self.loc - (level - 0.5) / (LEVELS - 1)) / self.scale)

    @property
    def mean(self) -> Tensor:
        """Of the levels; `loc` is their centre before the ends are clipped."""
        return sum((self._reach(k) for k in range(1, LEVELS)), torch.zeros_like(self.loc)) / (LEVELS - 1)

    @property
    def variance(self) -> Tensor:
        """Of the levels."""
        centre = self.mean
        lowest = centre.square()  # of (x - mean)^2 at level 0, and its increments from level to level
        steps = ((2 * k - 1) / (LEVELS - 1) - 2.0 * centre for k in range(1, LEVELS))
        total = sum((self._reach(k) * step for k, step in enumerate(steps, 1)), torch.zeros_like(self.loc))
        return (lowest + total / (LEVELS - 1)).clamp_min(0.0)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draw levels."""
        shape = self._extended_shape(sample_shape)
        with torch.no_grad():
            tiny = torch.finfo(self.loc.dtype).eps
            u = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device).clamp(tiny, 1.0 - tiny)
            x = self.loc + self.scale * torch.logit(u)
            return (x * (LEVELS - 1)).round().clamp(0, LEVELS - 1) / (LEVELS - 1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability of levels, in nats."""
        if self._validate_args:
            self._validate_sample(value)
        level = (value * (LEVELS - 1)).round()
        centre = (level / (LEVELS - 1) - self.loc) / self.scale
        half = 0.5 / ((LEVELS - 1) * self.scale)
        upper, lower = centre + half, centre - half
        # log(F(b) - F(a)) = log F(b) + log(1 - F(a)) + log(1 - exp(a - b))
        inside = functional.logsigmoid(upper) + functional.logsigmoid(-lower) + torch.log(-torch.expm1(-2.0 * half))
        low, high = functional.logsigmoid(upper), functional.logsigmoid(-lower)
        result = torch.where(level <= 0, low, torch.where(level >= LEVELS - 1, high, inside))
        return torch.where((level >= 0) & (level < LEVELS), result, -math.inf)
