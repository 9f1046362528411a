"""Mixtures of what is measured on unlike scales: levels, steps from the last level, positive times.

    u = (g(y) - shift) / unit,   g(y) = y, or log y for columns that are positive;   u ~ a mixture of normals

With a `grid` the value is scored by the probability of the cell of that width around it: data that lie on a grid, or
repeat themselves exactly, have no bounded density.
"""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from phlogiston.distributions.cells import log_cell
from phlogiston.distributions.mixture import normal
from phlogiston.distributions.mixture_diagonal import DiagMixture
from phlogiston.distributions.mixture_joint import JointMixture
from phlogiston.errors import ConfigError

TINY = 1e-7  # where the logarithm of a positive column starts


class Warped(TorchDistribution):
    """A mixture in other coordinates.

    Args:
        base: the mixture of `u`, batch (...), event (D,).
        shift: (..., D) or (D,).
        unit: (D,), positive.
        positive: bool (D,), columns whose logarithm is meant.
        grid: width of the cells, or None for a density. Needs independent coordinates.

    Raises:
        ConfigError: a grid, and components with correlated coordinates.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 - torch reads it as a class attribute
    support = constraints.real_vector
    has_rsample = False

    def __init__(
        self,
        base: JointMixture,
        shift: Tensor,
        unit: Tensor,
        positive: Tensor,
        grid: float | None = None,
        validate_args: bool | None = None,
    ) -> None:
        if grid is not None and not isinstance(base, DiagMixture):
            raise ConfigError(f"cells need components with independent coordinates; got a {type(base).__name__}")
        self.base, self.shift, self.unit, self.positive, self.grid = base, shift, unit, positive, grid
        batch = torch.broadcast_shapes(base.batch_shape, shift.shape[:-1])
        super().__init__(batch, base.event_shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Warped:
        """Return the same distribution over a larger batch."""
        shape = torch.Size(batch_shape)
        shift = self.shift.expand(shape + self.event_shape)
        return Warped(self.base.expand(shape), shift, self.unit, self.positive, self.grid, validate_args=False)

    def __getitem__(self, index: Any) -> Warped:
        """Index the batch."""
        full = self.expand(self.batch_shape)
        return Warped(full.base[index], full.shift[index], self.unit, self.positive, self.grid, validate_args=False)

    def forward(self, value: Tensor) -> Tensor:
        """Values in the coordinates of the mixture: (..., D)."""
        return (self._warp(value) - self.shift) / self.unit

    def inverse(self, u: Tensor) -> Tensor:
        """Coordinates of the mixture as values: (..., D)."""
        y = self.shift + self.unit * u
        return torch.where(self.positive, y.clamp_max(60.0).exp(), y)

    def _warp(self, value: Tensor) -> Tensor:
        return torch.where(self.positive, value.clamp_min(TINY).log(), value)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability of the cell, or log density: (...), in nats and in the units of the value."""
        if self.grid is None:
            inside = self.base.log_prob(self.forward(value))
            jacobian = self.unit.log().sum() + torch.where(self.positive, value.clamp_min(TINY).log(), 0.0).sum(-1)
            return inside - jacobian
        return torch.logsumexp(self.base.logits.log_softmax(-1) + self._cells(value).sum(-1), -1)

    def _cells(self, value: Tensor) -> Tensor:
        """Log probability of every coordinate's cell under every component: (..., K, D)."""
        assert isinstance(self.base, DiagMixture)
        assert self.grid is not None
        low, high = self.forward(value - 0.5 * self.grid), self.forward(value + 0.5 * self.grid)
        centre, half = 0.5 * (low + high).unsqueeze(-2), 0.5 * (high - low).unsqueeze(-2)
        return log_cell((centre - self.base.loc) / self.base.scale, half / self.base.scale)

    def log_parts(self, value: Tensor) -> Tensor:
        """Log probability (or density) of each column by itself, the others integrated out: (..., D)."""
        weight = self.base.logits.log_softmax(-1).unsqueeze(-1)
        if self.grid is not None:
            return torch.logsumexp(weight + self._cells(value), -2)
        scale = self.base.component_scales()
        z = (self.forward(value).unsqueeze(-2) - self.base.loc) / scale
        inside = torch.logsumexp(weight - 0.5 * z * z - scale.log() - 0.918938533204673, -2)
        return inside - self.unit.log() - torch.where(self.positive, value.clamp_min(TINY).log(), 0.0)

    def place(
        self,
        uniform: Tensor,
        noise: Tensor,
        pi_temperature: float = 1.0,
        sigma_temperature: float = 1.0,
        bias: float = 0.0,
    ) -> Tensor:
        """The value that given noise leads to; see `mixture_noise.transport`."""
        from phlogiston.distributions.mixture_noise import transport

        return self.inverse(transport(self.base, uniform, noise, pi_temperature, sigma_temperature, bias))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw values, (*sample_shape, *batch, D); not rounded to the grid."""
        shape = torch.Size(sample_shape)
        with torch.no_grad():
            uniform = torch.rand(shape + self.batch_shape + (self.base.num_components,), dtype=self.base.loc.dtype)
            noise = normal(shape + self.batch_shape + self.event_shape, self.base.loc, None)
            return self.place(uniform.to(self.base.loc.device), noise)
