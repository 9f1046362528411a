"""Values recorded on a grid: a continuous mixture scored by the probability of the grid's cells."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from phlogiston.distributions.mixtures.diagonal import DiagMixture, FactorisedMixture, IsotropicMixture
from phlogiston.errors import ConfigError


class Gridded(TorchDistribution):
    """A mixture rounded to a grid; `log_prob` is the log probability of the cell around a value, never above 0.

    A density fitted to rounded data grows without bound as its components shrink onto the grid's values. This one does
    not, needs no floor under its scales, and can be compared with any other model of the rounded data.

    Args:
        base: the mixture before rounding; one with independent coordinates.
        width: the grid's step, one number or (D,), positive.

    Raises:
        ConfigError: a base whose cells have no closed form.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"width": constraints.positive}
    support = constraints.real_vector
    has_rsample = False

    def __init__(self, base: Any, width: Tensor | float, validate_args: bool | None = None) -> None:
        if not isinstance(base, DiagMixture | IsotropicMixture | FactorisedMixture):
            raise ConfigError(f"a {type(base).__name__} has no closed form for cells; use kind 'diag' or 'factorised'")
        self.base = base
        self.width = torch.as_tensor(width, dtype=base.loc.dtype, device=base.loc.device)
        super().__init__(base.batch_shape, base.event_shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Gridded:
        """Return the same distribution over a larger batch."""
        new = Gridded(self.base.expand(batch_shape), self.width, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability of the cell around `value`, (...), in nats."""
        if self._validate_args:
            self._validate_sample(value)
        return self.base.interval_log_prob(value, self.width)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw values of the grid that has 0 on it: (*sample_shape, *batch, D)."""
        with torch.no_grad():
            return torch.round(self.base.sample(sample_shape) / self.width) * self.width
