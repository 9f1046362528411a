"""Correlated Normals in slots of which only some count."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from pyro.distributions import constraints
from torch import Tensor

from phlogiston.distributions.masked import MaskedReals
from phlogiston.distributions.shapes import joint_shape


class MaskedTriangular(MaskedReals):
    """In each slot a Normal with a triangular factor of its covariance; masked slots are no part of it.

    Args:
        loc: (*batch, slots, features).
        scale_tril: (*batch, slots, features, features), lower triangular with a positive diagonal.
        mask: bool (*batch, slots, 1), True where a slot counts.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "loc": constraints.independent(constraints.real, 2),
        "scale_tril": constraints.independent(constraints.lower_cholesky, 1),
    }

    def __init__(self, loc: Tensor, scale_tril: Tensor, mask: Tensor, validate_args: bool | None = None) -> None:
        identity = torch.eye(loc.shape[-1], dtype=loc.dtype, device=loc.device)
        self.mask_of_entries = mask
        self.loc = torch.where(mask, loc, 0.0)
        self.scale_tril = torch.where(mask.unsqueeze(-1), scale_tril, identity)
        batch = joint_shape(self.loc.shape[:-2], self.scale_tril.shape[:-3])
        super().__init__(batch, self.loc.shape[-2:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> MaskedTriangular:
        """Repeat over new batch axes."""
        shape = torch.Size(batch_shape)
        new = MaskedTriangular(
            self.loc.expand(shape + self.event_shape),
            self.scale_tril.expand(*shape, *self.scale_tril.shape[-3:]),
            self.mask_of_entries.expand(*shape, *self.mask_of_entries.shape[-2:]),
            validate_args=False,
        )
        new._validate_args = self._validate_args
        return new

    @property
    def mean(self) -> Tensor:
        """The location, zero where masked out."""
        return self.loc.expand(self.batch_shape + self.event_shape)

    @property
    def stddev(self) -> Tensor:
        """Of every entry, zero where masked out."""
        scale = torch.linalg.vector_norm(self.scale_tril, dim=-1)
        return torch.where(self.mask_of_entries, scale, 0.0).expand(self.batch_shape + self.event_shape)

    @property
    def variance(self) -> Tensor:
        """Of every entry, zero where masked out."""
        return self.stddev.square()

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draw, zero where masked out."""
        shape = self._extended_shape(torch.Size(sample_shape))
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        drawn = self.loc + (self.scale_tril @ noise.unsqueeze(-1)).squeeze(-1)
        return torch.where(self.mask_of_entries, drawn, 0.0)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density of the slots that count."""
        value = torch.where(self.mask_of_entries, value, 0.0)
        if self._validate_args:
            self._validate_sample(value)
        apart = value - self.loc
        white = torch.linalg.solve_triangular(self.scale_tril, apart.unsqueeze(-1), upper=False).squeeze(-1)
        spread = self.scale_tril.diagonal(dim1=-2, dim2=-1).log()
        terms = -0.5 * white.square() - spread - 0.5 * math.log(2.0 * math.pi)
        return torch.where(self.mask_of_entries, terms, 0.0).sum((-2, -1))
