"""The standard normal between two limits, in double precision: masses, quantiles and moments at any distance from zero.

For standardised limits `a < b`, either of which may be infinite, in single or double precision:

- `log_interval_mass(a, b)`: log(Phi(b) - Phi(a)), differentiable, relative accuracy near rounding everywhere;
- `standard_truncated(u, a, b)`: the value whose truncated cdf is `u`, differentiable in all three
  (`truncated_with_mass` gives both at once);
- `truncated_mean(a, b, log_mass)`: the mean between limits;
- `confine(z, a, b)`: turns draws of the standard normal into draws of the restricted one, leaving those inside alone.

Everything is computed relative to `c`, the point of the interval nearest to zero: with x = c + t the density is
exp(-c^2 / 2) times exp(-c t - t^2 / 2), and only the second factor enters, so nothing cancels 1,000 or 1e9 standard
deviations out. What callers in single precision hand in is brought to double precision before anything else: below
-14 standard deviations single precision holds no probability at all.

Hazards met here once, so that nobody else meets them: `torch.special.ndtr` has no correct digit left below -8 standard
deviations (we use `erfc`), a difference of cdfs cancels in the upper tail (we always work on the lower-tail side) and
in narrow intervals (there we integrate the density), and below -30 the cdf itself runs out of numbers (there we use
`erfcx`, and invert starting from `t = 2 Exp(1) / (c + sqrt(c^2 + 2 Exp(1)))`).
"""

from __future__ import annotations

import math
import warnings
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from phlogiston.errors import DataWarning

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
_ROOT_HALF = math.sqrt(0.5)
_TAIL = -30.0  # limits below this are treated by erfcx
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(10)
_MANY_NODES, _MANY_WEIGHTS = np.polynomial.legendre.leggauss(64)
_REACH = 82.0  # twice the exponent at which a density counts as zero: exp(-41) is 1.6e-18


def log_normal_density(x: Tensor) -> Tensor:
    """Return the log density of the standard normal at `x` (any shape), `-inf` at infinite `x`."""
    return -0.5 * x * x - HALF_LOG_2PI


def normal_cdf(x: Tensor) -> Tensor:
    """Return the standard normal cdf by `erfc`, with full relative accuracy in the lower tail."""
    return 0.5 * torch.erfc(x * -_ROOT_HALF)


def squared(stddev: Tensor) -> Tensor:
    """Return variances, and warn where the dtype holds a standard deviation but not its square.

    Args:
        stddev: standard deviations, any shape.

    Returns:
        Their squares: 0 or infinite where the warning applies.
    """
    variance = stddev.square()
    if not torch.compiler.is_compiling():
        lost = (stddev > 0) & torch.isfinite(stddev) & ((variance == 0) | torch.isinf(variance))
        if bool(lost.any()):
            dtype = str(stddev.dtype).removeprefix("torch.")
            warnings.warn(f"a variance leaves the range of {dtype}; use stddev instead", DataWarning, stacklevel=3)
    return variance


def _cdf(x: Tensor) -> Tensor:
    """The same without gradients and without copies."""
    return (x * -_ROOT_HALF).erfc_().mul_(0.5)


class Sides(NamedTuple):
    """Intervals mirrored so that they lie mostly below zero, with what masses and draws have in common.

    Attributes:
        low: lower limits.
        high: upper limits, the ones nearer to zero.
        width: `high - low`, with digits that the difference may not have.
        mirrored: bool, whether signs were changed.
        p_low: cdf at `low`.
        mass: cdf at `high` less `p_low`; meant for limits that are neither close together nor far out.
    """

    low: Tensor
    high: Tensor
    width: Tensor
    mirrored: Tensor
    p_low: Tensor
    mass: Tensor

    def distance(self) -> Tensor:
        """How far the interval is from zero; 0 if it contains it."""
        return (-self.high).clamp_min(0.0)


def sides(a: Tensor, b: Tensor, width: Tensor | None = None) -> Sides:
    """Mirror intervals [a, b] (float64, one shape) that lie mostly above zero."""
    mirrored = a + b > 0  # nan for (-inf, inf), which stays as it is
    low, high = torch.where(mirrored, -b, a), torch.where(mirrored, -a, b)
    p_low = _cdf(low)
    return Sides(low, high, b - a if width is None else width, mirrored, p_low, _cdf(high).sub_(p_low))


def log_scaled_mass(interval: Sides) -> Tensor:
    """Return log of (Phi(b) - Phi(a)) exp(c^2 / 2), c the distance from zero; -inf if empty. No gradients."""
    high, width = interval.high, interval.width
    c = interval.distance()
    # Central intervals: the difference of two erfc loses nothing; the delicate ones are redone below.
    result = torch.addcmul(interval.mass.log(), c, c, value=0.5)
    # |width * slope| small: the difference cancels. high < -30: erfcx keeps digits the mass does not have.
    narrow = width * (1.0 - high).clamp_min(1.0) < 1.0
    tail = (high < _TAIL) & ~narrow
    if bool(narrow.any()):
        result[narrow] = _narrow_mass(high[narrow], width[narrow]).log() - HALF_LOG_2PI
    if bool(tail.any()):
        near, w = c[tail], width[tail]
        beyond = torch.exp(-w * (near + 0.5 * w)) * torch.special.erfcx((near + w) * _ROOT_HALF)
        result[tail] = torch.log(0.5 * (torch.special.erfcx(near * _ROOT_HALF) - beyond))
    return torch.where(width > 0, result, -math.inf)


def _narrow_mass(high: Tensor, width: Tensor) -> Tensor:
    """Integrate exp(-(x^2 - c^2) / 2) over the `width` below `high`, where the exponent varies by about 1 at most."""
    half = 0.5 * width.unsqueeze(-1)
    nodes = torch.as_tensor(_NODES + 1.0, dtype=high.dtype, device=high.device) * half
    weights = torch.as_tensor(_WEIGHTS, dtype=high.dtype, device=high.device)
    # about c = 0 where the interval contains zero, whose upper limit is then within its width
    shift = 0.5 * high.clamp_min(0.0).square().unsqueeze(-1)
    return (torch.exp(nodes * (high.unsqueeze(-1) - 0.5 * nodes) - shift) * weights * half).sum(-1)


def log_mass(interval: Sides) -> Tensor:
    """Return log(Phi(b) - Phi(a)) in nats; -inf for empty intervals. No gradients."""
    c = interval.distance()
    return torch.addcmul(log_scaled_mass(interval), c, c, value=-0.5)


def quantile_offset(u: Tensor, interval: Sides) -> tuple[Tensor, Tensor | None]:
    """Invert the cdf of the normal restricted to an interval, without gradients.

    Args:
        u: probabilities, float64, of the shape of the limits. 0 and 1 are taken for numbers next to them.
        interval: the limits.

    Returns:
        Both to be read on the mirrored side: the values, and how far they lie below `high` with digits that the values
        do not have, NaN where the values have them all; None if they do everywhere.
    """
    tiny = torch.finfo(u.dtype).tiny
    v = torch.where(interval.mirrored, 1.0 - u, u).clamp_min(tiny)  # probability counted from the far limit
    x = torch.special.ndtri(torch.addcmul(interval.p_low, v, interval.mass))
    high, width = interval.high, interval.width
    narrow = width * (1.0 - high).clamp_min(1.0) < 1e-6  # the cdf would leave fewer than 9 digits
    tail = (high < _TAIL) & ~narrow
    if not bool((narrow | tail).any()):
        return x, None
    inward = torch.full_like(x, math.nan)
    n = torch.where(interval.mirrored, u, 1.0 - u).clamp_min(tiny)  # counted from the near limit
    for chosen, invert in ((narrow, _narrow_offset), (tail, _tail_offset)):
        if bool(chosen.any()):
            inward[chosen] = invert(n[chosen], v[chosen], high[chosen], width[chosen]).minimum(width[chosen])
    return torch.where(torch.isnan(inward), x, high - inward), inward


def _narrow_offset(n: Tensor, _: Tensor, high: Tensor, width: Tensor) -> Tensor:
    """Invert where the log density varies by 1e-6 at most: uniform to first order, and one Newton step."""
    tilt = width * (0.5 * width - high)
    t = width * n * (1.0 - 0.5 * tilt * (1.0 - n))
    density = torch.exp(t * (high - 0.5 * t) - 0.5 * high.clamp_min(0.0).square())
    return t - (_narrow_mass(high, t) - n * _narrow_mass(high, width)) / density


def _tail_offset(n: Tensor, v: Tensor, high: Tensor, width: Tensor) -> Tensor:
    """Invert below -30: nearly an exponential in x^2 / 2, then two Newton steps on the log of what lies beyond."""
    c = -high
    start = torch.special.erfcx(c * _ROOT_HALF)

    def log_beyond(t: Tensor) -> tuple[Tensor, Tensor]:
        there = torch.special.erfcx((c + t) * _ROOT_HALF)
        return torch.log(there / start) - t * (c + 0.5 * t), there

    rest = log_beyond(width)[0].exp().nan_to_num(0.0)  # share of the open tail that the interval leaves out
    energy = -torch.where(n < 0.5, torch.log1p(-n * (1.0 - rest)), torch.log(v + n * rest))
    t = 2.0 * energy / (c + torch.hypot(c, (2.0 * energy).sqrt()))
    for _ in range(2):
        log_share, there = log_beyond(t)
        t = t + (log_share + energy) * there * math.sqrt(0.5 * math.pi)
    return t.clamp_min(0.0)


def nodes(c: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Return points and probabilities that integrate against the restricted normal, x = c + t with low <= t <= high.

    Args:
        c: point of the interval nearest to zero, any shape.
        low: lower limits of `t`, at most 0, `-inf` allowed.
        high: upper limits of `t`, at least 0, `inf` allowed.

    Returns:
        `t` and weights that sum to 1, (..., 64) each: moments to 14 digits, with gradients.
    """
    reach = _REACH / (c.abs() + torch.hypot(c, torch.full_like(c, math.sqrt(_REACH))))
    first, last = torch.maximum(low, -reach), torch.minimum(high, reach)
    half = 0.5 * (last - first).unsqueeze(-1)
    t = first.unsqueeze(-1) + half * torch.as_tensor(_MANY_NODES + 1.0, dtype=c.dtype, device=c.device)
    weights = torch.as_tensor(_MANY_WEIGHTS, dtype=c.dtype, device=c.device)
    density = torch.exp(-t * (c.unsqueeze(-1) + 0.5 * t)) * weights
    return t, density / density.sum(-1, keepdim=True)


class _LogIntervalMass(torch.autograd.Function):
    """The log mass with its analytic gradient: the densities at the limits over the mass."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        interval = sides(a, b)
        scaled, c = log_scaled_mass(interval), interval.distance()
        ctx.save_for_backward(a, b, c, scaled)
        return torch.addcmul(scaled, c, c, value=-0.5)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        a, b, c, scaled = ctx.saved_tensors
        base = torch.where(torch.isneginf(scaled), math.inf, scaled)  # empty: no gradient rather than a NaN
        at_a, at_b = (torch.exp(_gain(t, c) - HALF_LOG_2PI - base) for t in (a, b))
        return -grads[0] * at_a, grads[0] * at_b


def _gain(x: Tensor, c: Tensor) -> Tensor:
    """(c^2 - x^2) / 2 without squaring what may be large; -inf at infinite x."""
    return torch.where(torch.isinf(x), -math.inf, 0.5 * (c - x.abs()) * (c + x.abs()))


def log_interval_mass(a: Tensor, b: Tensor) -> Tensor:
    """Return log(Phi(b) - Phi(a)), the log probability that a standard normal falls between `a` and `b`.

    Args:
        a: lower limits, any shape, `-inf` allowed.
        b: upper limits, broadcastable with `a`, `inf` allowed.

    Returns:
        Tensor of the broadcast shape in nats, in the dtype of the limits; `-inf` where `a >= b`. Differentiable in
        both limits.
    """
    dtype = torch.promote_types(a.dtype, b.dtype)
    a, b = torch.broadcast_tensors(a.double(), b.double())
    if torch.is_grad_enabled() and (a.requires_grad or b.requires_grad):
        return _LogIntervalMass.apply(a, b).to(dtype)  # type: ignore[no-any-return]
    return log_mass(sides(a, b)).to(dtype)


def _quantile(u: Tensor, a: Tensor, b: Tensor, interval: Sides | None = None) -> Tensor:
    """Invert the truncated cdf without gradients; results lie in [a, b]. All float64."""
    interval = interval or sides(a, b)
    x, _ = quantile_offset(u, interval)
    return torch.where(interval.mirrored, -x, x).clamp(a, b)


class _StandardTruncated(torch.autograd.Function):
    """The quantile; gradients (1-u) phi(a)/phi(z), u phi(b)/phi(z), mass/phi(z) for a, b, u."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, a: Tensor, b: Tensor) -> Tensor:
        interval = sides(a, b)
        z = _quantile(u, a, b, interval)
        ctx.save_for_backward(u, a, b, z, log_scaled_mass(interval), interval.distance())
        return z

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        u, a, b, z, scaled, c = ctx.saved_tensors
        grad_u = torch.exp(scaled + HALF_LOG_2PI - _gain(z, c))
        grad_a, grad_b = (1 - u) * torch.exp(_gain(a, z.abs())), u * torch.exp(_gain(b, z.abs()))
        return grads[0] * grad_u, grads[0] * grad_a, grads[0] * grad_b


def standard_truncated(u: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Map uniforms to draws of a standard normal truncated to [a, b].

    Args:
        u: uniforms in [0, 1), any shape.
        a: lower limits, broadcastable with `u`, `-inf` allowed.
        b: upper limits, broadcastable with `u`, `inf` allowed; `a <= b`.

    Returns:
        Draws in [a, b] (never outside, not even by rounding), increasing in `u`, in the dtype of the arguments;
        differentiable in all of them.
    """
    dtype = torch.promote_types(u.dtype, torch.promote_types(a.dtype, b.dtype))
    u, a, b = torch.broadcast_tensors(u.double(), a.double(), b.double())
    if torch.is_grad_enabled() and (u.requires_grad or a.requires_grad or b.requires_grad):
        return _StandardTruncated.apply(u, a, b).to(dtype)  # type: ignore[no-any-return]
    return _quantile(u, a, b).to(dtype)


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
    dtype = torch.promote_types(u.dtype, torch.promote_types(a.dtype, b.dtype))
    u, a, b = u.double(), a.double(), b.double()
    interval = sides(a, b)
    return _quantile(u, a, b, interval).to(dtype), log_mass(interval).to(dtype)


def truncated_mean(a: Tensor, b: Tensor, log_mass: Tensor) -> Tensor:
    """Mean of the standard normal between limits, given the log mass between them."""
    mean = torch.exp(log_normal_density(a) - log_mass) - torch.exp(log_normal_density(b) - log_mass)
    return torch.nan_to_num(mean).clamp(a, b)


@torch.no_grad()
def confine(z: Tensor, a: Tensor, b: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Turn standard normals into draws of the normal restricted to [a, b].

    A draw that lies inside is one already; only the others are drawn again, which costs little where intervals are
    wide.

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
    low, high = (t.reshape(-1).index_select(0, outside).double() for t in (a, b))
    u = torch.rand(len(outside), dtype=torch.double, device=z.device, generator=generator)
    return z.reshape(-1).index_copy(0, outside, _quantile(u, low, high).to(z.dtype)).reshape(z.shape)
