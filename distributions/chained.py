"""Boxes drawn one after the other, each Normal around what the one before it and a context suggest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from pyro.distributions import constraints
from torch import Tensor

from phlogiston.distributions.masked import MaskedNormal, MaskedReals
from phlogiston.distributions.shapes import joint_shape

Link = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class ChainedNormal(MaskedReals):
    """A first-order autoregressive Normal over the first event axis.

    Args:
        start: (features,), what stands before the first.
        context: (*batch, width), handed to the link with every step.
        link: (previous (*batch, steps, features), context (*batch, steps, width)) -> loc and scale.
        mask: bool (*batch, steps, 1), True for the steps that count; the first ones of each chain.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "start": constraints.real_vector,
        "context": constraints.real_vector,
    }

    def __init__(
        self, start: Tensor, context: Tensor, link: Link, mask: Tensor, validate_args: bool | None = None
    ) -> None:
        self.start, self.context, self.link, self.mask_of_entries = start, context, link, mask
        shape = joint_shape(context.shape[:-1], mask.shape[:-2])
        super().__init__(shape, torch.Size([mask.shape[-2], len(start)]), validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> ChainedNormal:
        """Repeat over new batch axes."""
        shape = torch.Size(batch_shape)
        context = self.context.expand(*shape, self.context.shape[-1])
        mask = self.mask_of_entries.expand(*shape, *self.mask_of_entries.shape[-2:])
        new = ChainedNormal(self.start, context, self.link, mask, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draw the chain step by step, zero where masked out."""
        shape = torch.Size(sample_shape) + self.batch_shape
        previous = self.start.expand(*shape, 1, -1)
        context = self.context.expand(*shape, -1).unsqueeze(-2)
        drawn = []
        for _ in range(self.event_shape[0]):
            loc, scale = self.link(previous, context)
            previous = loc + scale * torch.randn_like(loc)
            drawn.append(previous)
        return torch.where(self.mask_of_entries, torch.cat(drawn, -2), 0.0)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density of the steps that count; every step given the one before, all at once."""
        value = torch.where(self.mask_of_entries, value, 0.0)
        if self._validate_args:
            self._validate_sample(value)
        value = value.expand(joint_shape(value.shape, self.batch_shape + self.event_shape))
        first = self.start.expand(*value.shape[:-2], 1, -1)
        previous = torch.cat([first, value[..., :-1, :]], -2)
        context = self.context.unsqueeze(-2).expand(*value.shape[:-1], -1)
        loc, scale = self.link(previous, context)
        return MaskedNormal(loc, scale, self.mask_of_entries, 2, self._validate_args).log_prob(value)
