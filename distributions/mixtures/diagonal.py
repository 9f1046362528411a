"""Mixtures with independent coordinates.

Within each component: `DiagMixture` and `IsotropicMixture`. Altogether: `FactorisedMixture`, with a mixture of its own
for every coordinate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.distributions import constraints

from phlogiston.distributions.mixtures import univariate as line
from phlogiston.distributions.mixtures.base import (
    HALF_LOG_2PI,
    Mixture,
    Modes,
    choose,
    normal,
    positions,
    take,
)
from phlogiston.distributions.mixtures.joint import Given, JointMixture
from phlogiston.distributions.mixtures.univariate import log_cell_mass
from phlogiston.distributions.normal_interval import log_interval_mass
from phlogiston.errors import ConfigError, ShapeError


class _Independent(JointMixture):
    """What `DiagMixture` and `IsotropicMixture` share: everything, given the scales as (..., K, D)."""

    def component_scales(self) -> Tensor:
        """See `JointMixture.component_scales`."""
        raise NotImplementedError

    def _standard(self, value: Tensor) -> Tensor:
        return (value.unsqueeze(-2) - self.loc) / self.component_scales()

    def component_covariance(self) -> Tensor:
        """See `JointMixture.component_covariance`."""
        return torch.diag_embed(self.component_scales().square().expand(self.loc.shape))

    def from_noise(self, index: Tensor, noise: Tensor) -> Tensor:
        """See `JointMixture.from_noise`."""
        return take(self.loc, index, 2) + take(self.component_scales(), index, 2) * noise

    def _precise(self, vectors: Tensor) -> Tensor:
        return vectors / self.component_scales().square()

    def _balance(self, share: Tensor) -> Tensor:
        weight = share.unsqueeze(-1) / self.component_scales().square()
        return (weight * self.loc).sum(-2) / weight.sum(-2)

    def _pairs(self) -> tuple[Tensor, Tensor]:
        scale = self.component_scales().expand(self.loc.shape)
        a, b = scale.unsqueeze(-2), scale.unsqueeze(-3)  # i, j
        gap = (self.loc.unsqueeze(-2) - self.loc.unsqueeze(-3)).square()
        divergence = ((b / a).log() + 0.5 * ((a.square() + gap) / b.square() - 1)).sum(-1)
        mixed = 0.5 * (a.square() + b.square())
        distance = (gap / (8 * mixed) + 0.5 * (mixed / (a * b)).log()).sum(-1)
        return divergence, distance

    def given(self, values: Any, mask: Any) -> Given:
        """Return the distribution of every row given the entries `mask` marks.

        Args:
            values: (..., D); entries that are not known may hold anything finite.
            mask: bool (..., D), True where known; may differ from row to row, all and none included.
        """
        values, mask = self._check_known(values, mask)
        scale = self.component_scales()
        terms = -0.5 * self._standard(values).square() - scale.log() - HALF_LOG_2PI
        known = mask.unsqueeze(-2)
        log_joint = self.logits.log_softmax(-1) + torch.where(known, terms, 0.0).sum(-1)
        loc = torch.where(known, values.unsqueeze(-2), self.loc)
        return Given(values, mask, log_joint, loc, torch.where(known, 0.0, scale))

    # ----- boxes --------------------------------------------------------------------------------------------------

    def log_prob_in_box(self, lower: Any, upper: Any) -> Tensor:
        """Log P(lower < Y <= upper in every coordinate), exact; limits (..., D), infinite ones allowed."""
        lower, upper = self._value(lower).unsqueeze(-2), self._value(upper).unsqueeze(-2)
        scale = self.component_scales()
        inside = log_interval_mass((lower - self.loc) / scale, (upper - self.loc) / scale).sum(-1)
        return torch.logsumexp(self.logits.log_softmax(-1) + inside, -1)

    def interval_log_prob(self, value: Any, width: Any) -> Tensor:
        """Log probability of the cell of side `width` around a value: never above 0, so no spike can win.

        Args:
            value: (..., D), on the grid data were recorded on.
            width: the grid's step, one number or (D,).

        Returns:
            (...), in nats. Divide the mass by the cell's volume to compare it with a density.
        """
        value = self._value(value)
        half = 0.5 * torch.as_tensor(width, dtype=value.dtype, device=value.device)
        scale = self.component_scales()
        z, h = (value.unsqueeze(-2) - self.loc) / scale, half / scale
        return torch.logsumexp(self.logits.log_softmax(-1) + log_cell_mass(z, h).sum(-1), -1)


class DiagMixture(_Independent):
    """A mixture of normals with independent coordinates, the default of mixture density networks.

    Args:
        logits: (..., K), unnormalised log weights.
        loc: (..., K, D).
        scale: (..., K, D), positive.

    Example:
        >>> mixture = DiagMixture(torch.zeros(2), torch.tensor([[-5.0], [5.0]]), torch.tensor([[2.0], [3.0]]))
        >>> float(mixture.mean), float(mixture.variance)
        (0.0, 31.5)
    """

    kind = "diag"
    trailing: ClassVar[Mapping[str, int]] = {"logits": 1, "loc": 2, "scale": 2}
    arg_constraints: ClassVar[dict[str, Any]] = {
        "logits": constraints.real_vector,
        "loc": constraints.independent(constraints.real, 2),
        "scale": constraints.independent(constraints.positive, 2),
    }

    def __init__(self, logits: Tensor, loc: Tensor, scale: Tensor, validate_args: bool | None = None) -> None:
        self.logits, self.loc, self.scale = logits, loc, scale
        self._finish(loc.shape[-1], validate_args)

    def component_log_prob(self, value: Tensor) -> Tensor:
        """See `JointMixture.component_log_prob`."""
        z = (value.unsqueeze(-2) - self.loc) / self.scale
        return -(0.5 * z * z + self.scale.log()).sum(-1) - self.loc.shape[-1] * HALF_LOG_2PI

    def component_scales(self) -> Tensor:
        """See `JointMixture.component_scales`."""
        return self.scale

    def marginal(self, dims: Sequence[int] | int) -> DiagMixture:
        """See `JointMixture.marginal`."""
        kept = positions(dims, self.features)
        return DiagMixture(self.logits, self.loc[..., kept], self.scale[..., kept], validate_args=False)

    def _conditional(self, known: list[int], rest: list[int], values: Tensor) -> DiagMixture:
        return self.marginal(rest)

    def affine(self, shift: Tensor, factor: Tensor) -> DiagMixture:
        """See `JointMixture.affine`."""
        shift, factor = shift.unsqueeze(-2), factor.unsqueeze(-2)
        return DiagMixture(self.logits, shift + factor * self.loc, factor * self.scale, validate_args=False)

    def sharpen(self, factor: Tensor | float) -> DiagMixture:
        """See `JointMixture.sharpen`."""
        return DiagMixture(self.logits, self.loc, factor * self.scale, validate_args=False)


class IsotropicMixture(_Independent):
    """A mixture of balls: one scale per component (Bishop, 1994).

    Args:
        logits: (..., K), unnormalised log weights.
        loc: (..., K, D).
        scale: (..., K), positive.
    """

    kind = "isotropic"
    trailing: ClassVar[Mapping[str, int]] = {"logits": 1, "loc": 2, "scale": 1}
    arg_constraints: ClassVar[dict[str, Any]] = {
        "logits": constraints.real_vector,
        "loc": constraints.independent(constraints.real, 2),
        "scale": constraints.independent(constraints.positive, 1),
    }

    def __init__(self, logits: Tensor, loc: Tensor, scale: Tensor, validate_args: bool | None = None) -> None:
        self.logits, self.loc, self.scale = logits, loc, scale
        self._finish(loc.shape[-1], validate_args)

    def component_log_prob(self, value: Tensor) -> Tensor:
        """See `JointMixture.component_log_prob`."""
        z = (value.unsqueeze(-2) - self.loc) / self.scale.unsqueeze(-1)
        return -0.5 * (z * z).sum(-1) - self.loc.shape[-1] * (self.scale.log() + HALF_LOG_2PI)

    def component_scales(self) -> Tensor:
        """See `JointMixture.component_scales`."""
        scale = self.scale.unsqueeze(-1)
        return scale.expand(*scale.shape[:-1], self.loc.shape[-1])

    def marginal(self, dims: Sequence[int] | int) -> IsotropicMixture:
        """See `JointMixture.marginal`."""
        kept = positions(dims, self.features)
        return IsotropicMixture(self.logits, self.loc[..., kept], self.scale, validate_args=False)

    def _conditional(self, known: list[int], rest: list[int], values: Tensor) -> IsotropicMixture:
        return self.marginal(rest)

    def affine(self, shift: Tensor, factor: Tensor) -> DiagMixture:
        """See `JointMixture.affine`; a `DiagMixture`, since factors may differ between coordinates."""
        return DiagMixture(self.logits, self.loc, self.component_scales(), validate_args=False).affine(shift, factor)

    def sharpen(self, factor: Tensor | float) -> IsotropicMixture:
        """See `JointMixture.sharpen`."""
        return IsotropicMixture(self.logits, self.loc, factor * self.scale, validate_args=False)


class FactorisedMixture(Mixture):
    """A product of one-dimensional mixtures: K^D components with K D parameters each, but no dependence.

    Args:
        logits: (..., D, K), unnormalised log weights.
        loc: (..., D, K).
        scale: (..., D, K), positive.

    Reference: Ha and Schmidhuber, "World Models", 2018, whose dynamics predict each latent this way.
    """

    kind = "factorised"
    trailing: ClassVar[Mapping[str, int]] = {"logits": 2, "loc": 2, "scale": 2}
    arg_constraints: ClassVar[dict[str, Any]] = {
        "logits": constraints.independent(constraints.real, 2),
        "loc": constraints.independent(constraints.real, 2),
        "scale": constraints.independent(constraints.positive, 2),
    }

    def __init__(self, logits: Tensor, loc: Tensor, scale: Tensor, validate_args: bool | None = None) -> None:
        self.logits, self.loc, self.scale = logits, loc, scale
        self._finish(loc.shape[-2], validate_args)

    def marginal_parameters(self) -> tuple[Tensor, Tensor, Tensor]:
        """See `Mixture.marginal_parameters`."""
        return self.logits, self.loc, self.scale

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density, (...), in nats."""
        if self._validate_args:
            self._validate_sample(value)
        return line.log_density(value, self.logits, self.loc, self.scale).sum(-1)

    def _draw(self, logits: Tensor, shape: torch.Size, spread: float, generator: torch.Generator | None) -> Tensor:
        index = choose(logits, shape, generator)
        noise = spread * normal(index.shape, self.loc, generator)
        return take(self.loc, index, 1) + take(self.scale, index, 1) * noise

    def sharpen(self, factor: Tensor | float) -> Self:
        """See `Mixture.sharpen`."""
        return type(self)(self.logits, self.loc, factor * self.scale, validate_args=False)

    @property
    def covariance(self) -> Tensor:
        """Diagonal, (..., D, D)."""
        return torch.diag_embed(self.variance)

    def component_posterior(self, value: Any) -> Tensor:
        """Log probability of each component of each coordinate given a value: (..., D) -> (..., D, K)."""
        z = (self._value(value).unsqueeze(-1) - self.loc) / self.scale
        return (self.logits - 0.5 * z * z - self.scale.log()).log_softmax(-1)

    def _columns(self) -> DiagMixture:
        """The coordinates as a batch of one-dimensional mixtures, batch (..., D)."""
        return DiagMixture(self.logits, self.loc.unsqueeze(-1), self.scale.unsqueeze(-1), validate_args=False)

    def entropy_bounds(self) -> tuple[Tensor, Tensor]:
        """Lower and upper bound of the differential entropy in nats, (...) each: the coordinates' bounds add up."""
        lower, upper = self._columns().entropy_bounds()
        return lower.sum(-1), upper.sum(-1)

    def modes(self, n: int | None = None) -> Modes:
        """Local maxima of the density, highest first: products of the coordinates' modes.

        Args:
            n: at most this many, K by default (there can be K^D).
        """
        most = n or self.num_components
        each = self._columns().expand(self.batch_shape + self.event_shape).modes()
        points, heights, mask = (t.expand(self.batch_shape + t.shape[len(self.batch_shape) :]) for t in each)
        best = heights.new_zeros(*self.batch_shape, 1)
        chosen = points.new_zeros(*self.batch_shape, 1, 0)
        for d in range(self.features):  # the best n products have the best n products of fewer factors inside
            total = (best.unsqueeze(-1) + heights[..., d, None, :]).flatten(-2)
            values, order = total.topk(min(most, total.shape[-1]), -1)
            k = heights.shape[-1]
            prefix = chosen.gather(-2, (order // k).unsqueeze(-1).expand(*order.shape, d))
            last = points[..., d, :, 0].gather(-1, order % k)
            best, chosen = values, torch.cat([prefix, last.unsqueeze(-1)], -1)
        mask = best > -math.inf
        return Modes(torch.where(mask.unsqueeze(-1), chosen, math.nan), best, mask)

    def marginal(self, dims: Sequence[int] | int) -> FactorisedMixture:
        """The mixtures that some coordinates follow."""
        kept = positions(dims, self.features)
        return FactorisedMixture(
            self.logits[..., kept, :], self.loc[..., kept, :], self.scale[..., kept, :], validate_args=False
        )

    def condition(self, known: Mapping[int, Any]) -> FactorisedMixture:
        """The distribution of the other coordinates given some: since all are independent, their marginal.

        Raises:
            ConfigError: unknown coordinates, or none left.
        """
        dims = positions(list(known), self.features) if known else []
        rest = [d for d in range(self.features) if d not in dims]
        if not rest:
            raise ConfigError("every coordinate is known, so there is nothing left to have a distribution")
        return self.marginal(rest)

    def log_prob_known(self, value: Any, mask: Any) -> Tensor:
        """Log density of the entries a mask marks, (...); 0 where nothing is known."""
        value = self._value(value)
        mask = torch.as_tensor(mask, dtype=torch.bool, device=value.device)
        if mask.shape[-1:] != self.event_shape:
            raise ShapeError(f"mask has shape {tuple(mask.shape)}; expected the last axis to be {self.features}")
        return torch.where(mask, line.log_density(value, self.logits, self.loc, self.scale), 0.0).sum(-1)

    def log_prob_in_box(self, lower: Any, upper: Any) -> Tensor:
        """Log P(lower < Y <= upper in every coordinate), exact; limits (..., D), infinite ones allowed."""
        return line.log_mass(self._value(lower), self._value(upper), self.logits, self.loc, self.scale).sum(-1)

    def interval_log_prob(self, value: Any, width: Any) -> Tensor:
        """Log probability of the cell of side `width` around a value; see `DiagMixture.interval_log_prob`."""
        value = self._value(value)
        half = 0.5 * torch.as_tensor(width, dtype=value.dtype, device=value.device)
        z = (value.unsqueeze(-1) - self.loc) / self.scale
        h = half.unsqueeze(-1) / self.scale
        inside = line.log_cell_mass(z, h)
        return torch.logsumexp(self.logits.log_softmax(-1) + inside, -1).sum(-1)

    def affine(self, shift: Tensor, factor: Tensor) -> FactorisedMixture:
        """The distribution of `shift + factor * y`, both (..., D), factor positive."""
        shift, factor = shift.unsqueeze(-1), factor.unsqueeze(-1)
        return FactorisedMixture(self.logits, shift + factor * self.loc, factor * self.scale, validate_args=False)

    def joint(self) -> Self | DiagMixture:
        """The same density as a `DiagMixture` of K^D components, where they are few enough to be written out.

        Raises:
            ConfigError: more than 4,096 of them.
        """
        k, d = self.num_components, self.features
        if k**d > 4096:
            raise ConfigError(f"{k} ** {d} components are too many to write out; the limit is 4096")
        codes = torch.cartesian_prod(*[torch.arange(k)] * d).reshape(-1, d)  # (K^D, D)
        dims = torch.arange(d)
        full = self.expand(self.batch_shape)
        logits = full.logits.log_softmax(-1)[..., dims, codes].sum(-1)
        return DiagMixture(logits, full.loc[..., dims, codes], full.scale[..., dims, codes], validate_args=False)
