"""Normals restricted to an interval, safe from the centre to the farthest tail.

Three building blocks on standardised limits `a < b` (either may be infinite), all in float64 when given float64:

- `log_interval_mass(a, b)`  = log(Phi(b) - Phi(a)), differentiable, relative accuracy near rounding everywhere;
- `standard_truncated(u, a, b)`: the value whose truncated cdf is `u`, differentiable in all three
  (`truncated_with_mass` gives both at once);
- `confine(z, a, b)`: turns draws of the standard normal into draws of the restricted one, leaving those inside alone;
- `TruncatedNormal(loc, scale, low, high)`: the torch/Pyro distribution made of them.

Hazards met here once, so that nobody else meets them: `torch.special.ndtr` has no correct digit left below -8 standard
deviations (we use `erfc`), a difference of cdfs cancels in the upper tail (we always work on the lower-tail side) and
in narrow intervals (there we integrate the density), and below -30 the cdf itself runs out of numbers (there we
invert its logarithm, starting from `x^2 = b^2 + 2 Exp(1)`).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
_TAIL = -30.0  # below this the cdf is inverted in log space
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(10)


def log_normal_density(x: Tensor) -> Tensor:
    """Return the log density of the standard normal at `x` (any shape), `-inf` at infinite `x`."""
    return -0.5 * x * x - HALF_LOG_2PI


def normal_cdf(x: Tensor) -> Tensor:
    """Return the standard normal cdf by `erfc`, with full relative accuracy in the lower tail."""
    return 0.5 * torch.erfc(x * -math.sqrt(0.5))


def _cdf(x: Tensor) -> Tensor:
    """The same without gradients and without copies."""
    return (x * -math.sqrt(0.5)).erfc_().mul_(0.5)


def _to_lower_side(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mirror intervals that lie mostly above zero; returns (a, b, mirrored)."""
    mirrored = a + b > 0  # nan for (-inf, inf), which stays as it is
    return torch.where(mirrored, -b, a), torch.where(mirrored, -a, b), mirrored


class _Sides(NamedTuple):
    """An interval mirrored to the lower side, with the cdf at its ends: what masses and draws have in common."""

    low: Tensor
    high: Tensor
    mirrored: Tensor
    p_low: Tensor
    mass: Tensor


def _sides(a: Tensor, b: Tensor) -> _Sides:
    low, high, mirrored = _to_lower_side(a, b)
    p_low = _cdf(low)
    return _Sides(low, high, mirrored, p_low, _cdf(high).sub_(p_low))


def _log_mass(a: Tensor, b: Tensor, sides: _Sides | None = None) -> Tensor:
    """Compute log(Phi(b) - Phi(a)) without gradients; -inf where a >= b."""
    low, high, _, _, mass = sides or _sides(a, b)
    width = b - a
    # Central intervals: the difference of two erfc loses nothing; the delicate ones are redone below.
    result = mass.log()
    # |width * slope| small: the difference cancels. high < -30: the logarithm keeps digits the mass does not have.
    narrow = width * (1.0 - high).clamp_min(1.0) < 1.0
    tail = (high < _TAIL) & ~narrow
    if bool(narrow.any()):
        middle, half = 0.5 * (low + high)[narrow], 0.5 * width[narrow]
        nodes = torch.as_tensor(_NODES, dtype=a.dtype, device=a.device) * half.unsqueeze(-1)
        log_weights = torch.as_tensor(np.log(_WEIGHTS), dtype=a.dtype, device=a.device)
        inner = torch.logsumexp(log_weights - nodes * middle.unsqueeze(-1) - 0.5 * nodes * nodes, -1)
        result[narrow] = log_normal_density(middle) + half.log() + inner
    if bool(tail.any()):
        log_high = torch.special.log_ndtr(high[tail])
        result[tail] = log_high + torch.log(-torch.expm1(torch.special.log_ndtr(low[tail]) - log_high))
    return torch.where(a < b, result, -math.inf)


class _LogIntervalMass(torch.autograd.Function):
    """The log mass with its analytic gradient: the densities at the limits over the mass."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        result = _log_mass(a, b)
        ctx.save_for_backward(a, b, result)
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        a, b, result = ctx.saved_tensors
        empty = torch.isneginf(result)
        base = torch.where(empty, math.inf, result)  # an empty interval has no gradient rather than a NaN
        return -grads[0] * torch.exp(log_normal_density(a) - base), grads[0] * torch.exp(log_normal_density(b) - base)


def log_interval_mass(a: Tensor, b: Tensor) -> Tensor:
    """Return log(Phi(b) - Phi(a)), the log probability that a standard normal falls between `a` and `b`.

    Args:
        a: lower limits, any shape, `-inf` allowed.
        b: upper limits, broadcastable with `a`, `inf` allowed.

    Returns:
        Tensor of the broadcast shape in nats; `-inf` where `a >= b`. Differentiable in both limits.
    """
    a, b = torch.broadcast_tensors(a, b)
    if torch.is_grad_enabled() and (a.requires_grad or b.requires_grad):
        return _LogIntervalMass.apply(a, b)  # type: ignore[no-any-return]
    return _log_mass(a, b)


def _quantile(u: Tensor, a: Tensor, b: Tensor, sides: _Sides | None = None) -> Tensor:
    """Invert the truncated cdf without gradients; results lie in [a, b]."""
    low, high, mirrored, p_low, mass = sides or _sides(a, b)
    v = torch.where(mirrored, 1 - u, u).clamp_min(torch.finfo(u.dtype).tiny)
    x = torch.special.ndtri(torch.addcmul(p_low, v, mass))
    far = high < _TAIL
    if bool(far.any()):
        x[far] = _tail_quantile(v[far], low[far], high[far])
    flat = (high - low) * high.abs().clamp_min(1.0) < 1e-8  # narrower than the cdf can resolve, and uniform
    x = torch.where(flat, low + v * torch.where(flat, high - low, 0.0), x)
    return torch.where(mirrored, -x, x).clamp(a, b)


def _tail_quantile(v: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Invert below -30: an exponential in x^2 / 2, then two Newton steps on the log cdf."""
    # P(X <= x | X <= high) = v' with v' = ratio + v (1 - ratio), ratio = Phi(low) / Phi(high)
    log_high = torch.special.log_ndtr(high)
    log_ratio = torch.special.log_ndtr(low) - log_high
    log_v = torch.logaddexp(log_ratio, v.log() + torch.log(-torch.expm1(log_ratio)))
    x = -(high * high - 2 * log_v).sqrt()
    # Beyond 1e5 sd the start is exact to 1e-10 and log cdfs of order 1e10 would only add rounding.
    steps = (high > -1e5).to(x.dtype)
    for _ in range(2):
        log_cdf = torch.special.log_ndtr(x)
        error = (log_cdf - log_high) - log_v
        slope = torch.exp(log_normal_density(x) - log_cdf)
        x = x - steps * torch.where(slope > 0, error / slope, 0.0)
    return x


class _StandardTruncated(torch.autograd.Function):
    """The quantile; gradients (1-u) phi(a)/phi(z), u phi(b)/phi(z), mass/phi(z) for a, b, u."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, a: Tensor, b: Tensor) -> Tensor:
        z = _quantile(u, a, b)
        ctx.save_for_backward(u, a, b, z)
        return z

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        u, a, b, z = ctx.saved_tensors
        log_density = log_normal_density(z)
        grad_u = torch.exp(_log_mass(a, b) - log_density)
        grad_a = (1 - u) * torch.exp(log_normal_density(a) - log_density)
        grad_b = u * torch.exp(log_normal_density(b) - log_density)
        return grads[0] * grad_u, grads[0] * grad_a, grads[0] * grad_b


def standard_truncated(u: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Map uniforms to draws of a standard normal truncated to [a, b].

    Args:
        u: uniforms in [0, 1), any shape.
        a: lower limits, broadcastable with `u`, `-inf` allowed.
        b: upper limits, broadcastable with `u`, `inf` allowed; `a <= b`.

    Returns:
        Draws in [a, b] (never outside, not even by rounding), increasing in `u`; differentiable in all arguments.
    """
    u, a, b = torch.broadcast_tensors(u, a, b)
    if torch.is_grad_enabled() and (u.requires_grad or a.requires_grad or b.requires_grad):
        return _StandardTruncated.apply(u, a, b)  # type: ignore[no-any-return]
    return _quantile(u, a, b)


@torch.no_grad()
def truncated_with_mass(u: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return `standard_truncated(u, a, b)` and `log_interval_mass(a, b)` at little more than the cost of the first.

    Args:
        u: uniforms in [0, 1), any shape.
        a: lower limits of that shape.
        b: upper limits of that shape, `a <= b`.

    Returns:
        Draws and log masses in nats, without gradients.
    """
    sides = _sides(a, b)
    return _quantile(u, a, b, sides), _log_mass(a, b, sides)


@torch.no_grad()
def confine(z: Tensor, a: Tensor, b: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Turn standard normals into draws of the normal restricted to [a, b].

    A draw that lies inside is one already; only the others are drawn anew, which costs little where intervals are wide.

    Args:
        z: independent standard normals, any shape.
        a: lower limits of that shape.
        b: upper limits of that shape, `a <= b`.
        generator: source of randomness for the replacements.

    Returns:
        Draws in [a, b], of the shape of `z`; without gradients.
    """
    outside = torch.nonzero(((z < a) | (z > b)).reshape(-1)).squeeze(-1)
    if len(outside) == 0:
        return z
    low, high = a.reshape(-1).index_select(0, outside), b.reshape(-1).index_select(0, outside)
    u = torch.rand(len(outside), dtype=z.dtype, device=z.device, generator=generator)
    return z.reshape(-1).index_copy(0, outside, _quantile(u, low, high)).reshape(z.shape)


class TruncatedNormal(TorchDistribution):
    """A normal restricted to `low <= x <= high` and renormalised, elementwise.

    Use it for interval priors and for draws under box constraints. Sampling inverts the cdf, so it costs the same in
    the centre and 1,000 standard deviations out, and `rsample` is differentiable in all four parameters.

    Args:
        loc: mean of the untruncated normal, any shape.
        scale: its standard deviation, positive, broadcastable.
        low: lower limits, broadcastable, `-inf` allowed.
        high: upper limits, broadcastable, `inf` allowed; `low < high`.

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

    @property
    def limits(self) -> tuple[Tensor, Tensor]:
        """Standardised limits `((low - loc) / scale, (high - loc) / scale)`."""
        return (self.low - self.loc) / self.scale, (self.high - self.loc) / self.scale

    @property
    def log_mass(self) -> Tensor:
        """Log probability of [low, high] under the untruncated normal, in nats."""
        return log_interval_mass(*self.limits)

    @property
    def mean(self) -> Tensor:
        """Mean of the truncated normal; inside [low, high]."""
        a, b = self.limits
        log_mass = log_interval_mass(a, b)
        shift = torch.exp(log_normal_density(a) - log_mass) - torch.exp(log_normal_density(b) - log_mass)
        return torch.clamp(self.loc + self.scale * shift, self.low, self.high)

    @property
    def variance(self) -> Tensor:
        """Variance of the truncated normal, never negative."""
        a, b = self.limits
        log_mass = log_interval_mass(a, b)
        ratio_a, ratio_b = (torch.exp(log_normal_density(t) - log_mass) for t in (a, b))
        # an infinite limit contributes nothing: 0 * inf
        edge = torch.where(ratio_a > 0, a, 0.0) * ratio_a - torch.where(ratio_b > 0, b, 0.0) * ratio_b
        return self.scale**2 * (1 + edge - (ratio_a - ratio_b) ** 2).clamp_min(0.0)

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
        u = torch.rand(self._extended_shape(torch.Size(sample_shape)), dtype=self.loc.dtype, device=self.loc.device)
        a, b = self.limits
        return torch.clamp(self.loc + self.scale * standard_truncated(u, a, b), self.low, self.high)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density at `value`; `-inf` outside the interval (an error there when validation is on)."""
        if self._validate_args:
            self._validate_sample(value)
        z = (value - self.loc) / self.scale
        inside = (value >= self.low) & (value <= self.high)
        return torch.where(inside, log_normal_density(z) - self.scale.log() - self.log_mass, -math.inf)

    def cdf(self, value: Tensor) -> Tensor:
        """Probability of [low, value]."""
        a, b = self.limits
        z = torch.clamp((value - self.loc) / self.scale, a, b)
        return torch.exp(log_interval_mass(a, z) - log_interval_mass(a, b)).clamp(0.0, 1.0)

    def icdf(self, value: Tensor) -> Tensor:
        """Quantile at probability `value` in [0, 1]."""
        return torch.clamp(self.loc + self.scale * standard_truncated(value, *self.limits), self.low, self.high)
