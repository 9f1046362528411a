"""Mixtures whose components have independent coordinates: `DiagMixture` and `IsotropicMixture`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints

from phlogiston.distributions.mixtures.base import HALF_LOG_2PI, positions, take
from phlogiston.distributions.mixtures.given import Given
from phlogiston.distributions.mixtures.joint import JointMixture
from phlogiston.distributions.mixtures.univariate import log_cell_mass
from phlogiston.distributions.truncated_normal import log_interval_mass


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

    def _place(self, index: Tensor, noise: Tensor) -> Tensor:
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
        """The law of every row given the entries `mask` marks.

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
