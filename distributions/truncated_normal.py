"""The normal restricted to an interval as a distribution, safe from the centre to the farthest tail, in any precision.

`normal_interval` holds the arithmetic and names its hazards.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all

from phlogiston.distributions.normal_interval import (
    HALF_LOG_2PI,
    log_scaled_mass,
    nodes,
    quantile_offset,
    sides,
    squared,
)


class _Reference(NamedTuple):
    """A standardised interval measured from the point nearest to zero: x = anchor + scale t, low <= t <= high.

    Attributes:
        c: standardised position of the anchor, 0 if the interval contains zero.
        low: lower limit of `t`, 0 if the anchor is the lower limit.
        high: upper limit of `t`, 0 if the anchor is the upper limit.
        anchor: in the data's units.
    """

    c: Tensor
    low: Tensor
    high: Tensor
    anchor: Tensor

    def log_scaled_mass(self) -> Tensor:
        """Log of the integral of exp(-c t - t^2 / 2) over t, over the root of 2 pi; differentiable."""
        return _LogScaledMass.apply(*self[:3])  # type: ignore[no-any-return]

    def gain(self, t: Tensor) -> Tensor:
        """Log of the density at `t` over that at the anchor."""
        return -t * (self.c + 0.5 * t)


class _LogScaledMass(torch.autograd.Function):
    """`_Reference.log_scaled_mass`; its derivative by c is minus the mean of t."""

    @staticmethod
    def forward(ctx: Any, c: Tensor, low: Tensor, high: Tensor) -> Tensor:
        scaled = log_scaled_mass(sides(c + low, c + high, high - low))
        ctx.save_for_backward(c, low, high, scaled)
        return scaled

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        c, low, high, scaled = ctx.saved_tensors
        t, weight = nodes(c, low, high)
        at_low, at_high = (
            torch.where(torch.isinf(t), 0.0, torch.exp(-t * (c + 0.5 * t) - HALF_LOG_2PI - scaled)) for t in (low, high)
        )
        return -grads[0] * (weight * t).sum(-1), -grads[0] * at_low, grads[0] * at_high


class _Draw(torch.autograd.Function):
    """The quantile in the data's units, with the gradients that its cdf implies."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, scale: Tensor, c: Tensor, low: Tensor, high: Tensor, anchor: Tensor) -> Tensor:
        interval = sides(c + low, c + high, high - low)
        x, inward = quantile_offset(u, interval)
        t = torch.where(interval.mirrored, -x, x) - c
        if inward is not None:
            near = torch.where(interval.mirrored, low + inward, high - inward)
            t = torch.where(torch.isnan(inward), t, near)
        t = torch.where(u <= 0, low, torch.where(u >= 1, high, t.clamp(low, high)))
        ctx.save_for_backward(u, scale, c, low, high, t, log_scaled_mass(interval))
        return anchor + scale * t

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        u, scale, c, low, high, t, scaled = ctx.saved_tensors
        here = -t * (c + 0.5 * t)  # log density at t, c, low and high all measured from that at the anchor
        by_u = torch.exp(scaled + HALF_LOG_2PI - here)
        by_low, by_high = (
            p * torch.where(torch.isinf(e), 0.0, torch.exp(-e * (c + 0.5 * e) - here))
            for p, e in ((1 - u, low), (u, high))
        )
        # raising c at fixed low and high: what lies below t gains less than the whole
        nodes_t, weight = nodes(c, low, torch.minimum(t, high))
        below = (weight * nodes_t).sum(-1)
        nodes_t, weight = nodes(c, low, high)
        by_c = u * by_u * (below - (weight * nodes_t).sum(-1))
        by_scale = torch.where(torch.isfinite(t), t, 0.0)
        return (
            grads[0] * scale * by_u, grads[0] * by_scale, grads[0] * scale * by_c,
            grads[0] * scale * by_low, grads[0] * scale * by_high, grads[0],
        )  # fmt: skip


class TruncatedNormal(TorchDistribution):
    """A normal restricted to `low <= x <= high` and renormalised, elementwise.

    Use it for interval priors and for draws under box constraints. Sampling inverts the cdf, so it costs the same in
    the centre and 1,000 standard deviations out, and `rsample` is differentiable in all four parameters. Whatever the
    dtype of the parameters, arithmetic is done in float64 relative to the limit nearest to `loc`: densities, moments
    and quantiles hold at any distance, in any unit.

    Args:
        loc: mean of the untruncated normal, any shape.
        scale: its standard deviation, positive, broadcastable.
        low: lower limits, broadcastable, `-inf` allowed.
        high: upper limits, broadcastable, `inf` allowed; `low < high`.

    Raises:
        ValueError: parameters outside their constraints, or `low >= high`, when validation is on.

    Example:
        >>> TruncatedNormal(0.0, 1.0, 0.0, float("inf")).mean
        tensor(0.7979)
    """

    arg_constraints = {  # noqa: RUF012 - the base class declares it this way
        "loc": constraints.real,
        "scale": constraints.positive,
        "low": constraints.dependent(is_discrete=False, event_dim=0),
        "high": constraints.dependent(is_discrete=False, event_dim=0),
    }
    has_rsample = True

    def __init__(
        self,
        loc: Tensor | float,
        scale: Tensor | float,
        low: Tensor | float,
        high: Tensor | float,
        validate_args: bool | None = None,
    ) -> None:
        self.loc, self.scale, self.low, self.high = broadcast_all(loc, scale, low, high)
        super().__init__(self.loc.shape, validate_args=validate_args)
        if self._validate_args and not bool((self.low < self.high).all()):
            raise ValueError("TruncatedNormal needs low < high everywhere")

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> constraints.Constraint:
        """The closed interval [low, high]."""
        return constraints.interval(self.low, self.high)

    def _reference(self) -> _Reference:
        loc, scale, low, high = (t.double() for t in (self.loc, self.scale, self.low, self.high))
        # infinite limits are replaced before arithmetic, which would make their gradients NaN
        low_open, high_open = torch.isinf(low), torch.isinf(high)
        low, high = torch.where(low_open, loc, low), torch.where(high_open, loc, high)
        a = torch.where(low_open, -math.inf, (low - loc) / scale)
        b = torch.where(high_open, math.inf, (high - loc) / scale)
        width = torch.where(low_open | high_open, math.inf, (high - low) / scale)
        above, below = a > 0, b < 0
        return _Reference(
            torch.where(above, a, torch.where(below, b, 0.0)),
            torch.where(above, 0.0, torch.where(below, -width, a)),
            torch.where(above, width, torch.where(below, 0.0, b)),
            torch.where(above, low, torch.where(below, high, loc)),
        )

    def _confine(self, value: Tensor) -> Tensor:
        """Values in the parameters' dtype, inside the limits."""
        return torch.clamp(value.to(self.loc.dtype), self.low, self.high)

    @property
    def limits(self) -> tuple[Tensor, Tensor]:
        """Standardised limits `((low - loc) / scale, (high - loc) / scale)`."""
        return (self.low - self.loc) / self.scale, (self.high - self.loc) / self.scale

    @property
    def log_mass(self) -> Tensor:
        """Log probability of [low, high] under the untruncated normal, in nats."""
        reference = self._reference()
        return (reference.log_scaled_mass() - 0.5 * reference.c.square()).to(self.loc.dtype)

    @property
    def mean(self) -> Tensor:
        """Mean of the truncated normal; inside [low, high]."""
        reference = self._reference()
        t, weight = nodes(*reference[:3])
        return self._confine(reference.anchor + self.scale.double() * (weight * t).sum(-1))

    @property
    def stddev(self) -> Tensor:
        """Standard deviation, also in units whose squares leave the range of the dtype."""
        t, weight = nodes(*self._reference()[:3])
        gap = t - (weight * t).sum(-1, keepdim=True)
        return (self.scale.double() * (weight * gap * gap).sum(-1).sqrt()).to(self.loc.dtype)

    @property
    def variance(self) -> Tensor:
        """Variance of the truncated normal; a warning where the dtype does not hold it."""
        return squared(self.stddev)

    def entropy(self) -> Tensor:
        """Differential entropy, in nats."""
        reference = self._reference()
        t, weight = nodes(*reference[:3])
        gain = (weight * -t * (reference.c.unsqueeze(-1) + 0.5 * t)).sum(-1)
        return (self.scale.double().log() + HALF_LOG_2PI + reference.log_scaled_mass() - gain).to(self.loc.dtype)

    def expand(self, batch_shape: Any, _instance: Any = None) -> TruncatedNormal:
        """Return the same distribution over a larger batch."""
        new = self._get_checked_instance(TruncatedNormal, _instance)
        shape = torch.Size(batch_shape)
        new.loc, new.scale, new.low, new.high = (t.expand(shape) for t in (self.loc, self.scale, self.low, self.high))
        super(TruncatedNormal, new).__init__(shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draw with gradients to all parameters; every draw lies in [low, high]."""
        shape = self._extended_shape(torch.Size(sample_shape))
        u = torch.rand(shape, dtype=torch.double, device=self.loc.device)
        return self.icdf(u.clamp_min(torch.finfo(torch.double).tiny))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density at `value`; `-inf` outside the interval (an error there when validation is on)."""
        if self._validate_args:
            self._validate_sample(value)
        dtype = torch.promote_types(value.dtype, self.loc.dtype)
        inside = (value >= self.low) & (value <= self.high)
        reference, scale = self._reference(), self.scale.double()
        t = (torch.where(inside, value.double(), reference.anchor) - reference.anchor) / scale
        result = reference.gain(t) - HALF_LOG_2PI - scale.log() - reference.log_scaled_mass()
        return torch.where(inside, result, -math.inf).to(dtype)

    def cdf(self, value: Tensor) -> Tensor:
        """Probability of [low, value]."""
        dtype = torch.promote_types(value.dtype, self.loc.dtype)
        c, low, high, anchor = reference = self._reference()
        inside = (value > self.low) & (value < self.high)
        middle = 0.5 * (low.clamp_min(-1.0) + high.clamp_max(1.0))  # for values whose answer is known, and no gradient
        t = torch.where(inside, (torch.where(inside, value.double(), anchor) - anchor) / self.scale.double(), middle)
        # the point of [low, t] nearest to the mode: the anchor, or t itself
        near = torch.where(c > 0, 0.0, t.clamp_max(0.0))
        part = _LogScaledMass.apply(c + near, low - near, t - near) + reference.gain(near)
        share = torch.exp(part - reference.log_scaled_mass()).clamp(0.0, 1.0)
        return torch.where(inside, share, (value >= self.high).double()).to(dtype)

    def icdf(self, value: Tensor) -> Tensor:
        """Quantile at probability `value`; NaN outside [0, 1]."""
        c, low, high, anchor = self._reference()
        u, scale, *rest = torch.broadcast_tensors(value.double(), self.scale.double(), c, low, high, anchor)
        known = (u >= 0) & (u <= 1)
        result = self._confine(_Draw.apply(torch.where(known, u, 0.5), scale, *rest))
        return torch.where(known, result, math.nan)
