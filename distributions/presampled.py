"""A distribution whose draw is already made: its sample is a given value, its density that of a base.

A guide may have to compute with a draw before it knows whether the draw counts. SQAIR decides on the presence of an
object after it has examined the box it drew for it; yet the box is to be registered under a mask that says whether
the object is there. So the box is drawn first, by plain torch, and registered later:

    box = base.rsample()
    there = pyro.sample("presence", Bernoulli(logits=net(box)))
    pyro.sample("where", PreSampled(base, box).mask(there.bool()))

The joint density is the one it would have been in the usual order; gradients pass through the value where the base is
reparameterised.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor

from phlogiston.errors import ConfigError, ShapeError


class PreSampled(TorchDistribution):
    """A base distribution with its draw.

    Args:
        base: the distribution the value was drawn from.
        value: the draw, of shape `base.batch_shape + base.event_shape` or one that broadcasts to it.

    Raises:
        ShapeError: the value does not have the base's shape.
        ValueError: with validation on, the base cannot have drawn the value.

    Example:
        >>> import pyro.distributions as dist
        >>> base = dist.Normal(torch.zeros(3), 1.0)
        >>> drawn = base.rsample()
        >>> again = PreSampled(base, drawn)
        >>> again.sample() is drawn, torch.equal(again.log_prob(drawn), base.log_prob(drawn))
        (True, True)
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, base: Any, value: Tensor, validate_args: bool | None = None) -> None:
        shape = base.batch_shape + base.event_shape
        if value.shape != shape:
            try:
                value = value.expand(shape)
            except RuntimeError:
                raise ShapeError(
                    f"value has shape {tuple(value.shape)}; the base draws {tuple(base.batch_shape)} + "
                    f"{tuple(base.event_shape)}."
                ) from None
        self.base = base
        self.value = value
        self.has_rsample = bool(base.has_rsample)
        super().__init__(base.batch_shape, base.event_shape, validate_args=validate_args)
        if self._validate_args:
            self._validate_sample(value)

    @classmethod
    def stack_log_prob(cls, parts: Sequence[PreSampled], values: Sequence[Tensor]) -> Any:
        """What the bases make of themselves: densities are theirs."""
        bases = [part.base for part in parts]
        stack = getattr(type(bases[0]), "stack_log_prob", None)
        return None if stack is None else stack(bases, values)

    @property
    def support(self) -> Any:
        """The base's support."""
        return self.base.support

    def expand(self, batch_shape: Any, _instance: Any = None) -> PreSampled:
        """Repeat distribution and draw: the copies share one value."""
        shape = torch.Size(batch_shape)
        if shape == self.batch_shape:
            return self
        new = PreSampled(self.base.expand(shape), self.value.expand(shape + self.event_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def mean(self) -> Tensor:
        """The base's mean."""
        return self.base.mean  # type: ignore[no-any-return]

    @property
    def variance(self) -> Tensor:
        """The base's variance."""
        return self.base.variance  # type: ignore[no-any-return]

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Return the value.

        Raises:
            ConfigError: if more than one draw is requested; there is only one.
        """
        if torch.Size(sample_shape).numel() != 1:
            raise ConfigError(f"sample_shape={tuple(sample_shape)}: a PreSampled holds one draw per batch entry.")
        return self.value if not sample_shape else self.value.expand(*sample_shape, *self.value.shape)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Return the value; detached where the base is reparameterised, as `sample` of any distribution."""
        drawn = self.rsample(sample_shape)
        return drawn.detach() if drawn.requires_grad else drawn

    def log_prob(self, value: Tensor) -> Tensor:
        """The base's log density at any value."""
        return self.base.log_prob(value)  # type: ignore[no-any-return]
