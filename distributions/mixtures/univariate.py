"""Mixtures of normals on the line: cdf, quantile, CRPS; `highest_density` has a file of its own.

Every function takes `logits`, `loc` and `scale` with the components on the last axis, and answers for all leading axes
at once. The mixture family in `mixture.py` asks these for its one-dimensional marginals.

    p(y) = sum_k softmax(logits)_k N(y; loc_k, scale_k^2)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from phlogiston.distributions.mixtures.highest_density import Intervals, highest_density
from phlogiston.distributions.truncated_normal import log_interval_mass, normal_cdf

__all__ = ["Intervals", "cdf", "crps", "highest_density", "log_cell_mass", "log_density", "log_mass", "quantile"]

_NEWTON = 60


def log_density(value: Tensor, logits: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """Return log p(value): value (...) against parameters (..., K)."""
    z = (value.unsqueeze(-1) - loc) / scale
    return torch.logsumexp(logits.log_softmax(-1) - 0.5 * z * z - scale.log() - 0.5 * math.log(2 * math.pi), -1)


def cdf(value: Tensor, logits: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """Return P(Y <= value): value (...) against parameters (..., K)."""
    return (logits.softmax(-1) * normal_cdf((value.unsqueeze(-1) - loc) / scale)).sum(-1)


def log_mass(lower: Tensor, upper: Tensor, logits: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """Return log P(lower < Y <= upper), accurate in both tails and for narrow intervals."""
    inside = log_interval_mass((lower.unsqueeze(-1) - loc) / scale, (upper.unsqueeze(-1) - loc) / scale)
    return torch.logsumexp(logits.log_softmax(-1) + inside, -1)


def log_cell_mass(z: Tensor, half: Tensor) -> Tensor:
    """Return log(Phi(z + half) - Phi(z - half)), with gradients, even where z + half rounds to z.

    Args:
        z: centres, in standard deviations, any shape.
        half: half widths, positive, broadcastable.

    Returns:
        In nats, in the dtype of `z`; finite wherever z is.
    """
    dtype = z.dtype
    z, half = torch.broadcast_tensors(z.double(), half.double())
    narrow = half * z.abs().clamp_min(1.0) < 1e-3
    # integrate the density to second order; the next term is below 1e-12 here
    flat = -0.5 * z * z - 0.5 * math.log(2 * math.pi) + (2 * half).log() + (z * z - 1) * half * half / 6
    safe = torch.where(narrow, 1.0, half), torch.where(narrow, 0.0, z)
    wide = log_interval_mass(safe[1] - safe[0], safe[1] + safe[0])
    return torch.where(narrow, flat, wide).to(dtype)


def quantile(q: Tensor, logits: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """Return the value whose cdf is `q`, by Newton steps kept inside a shrinking bracket, in double precision.

    Args:
        q: probabilities in [0, 1], broadcastable with the parameters without their last axis.
        logits: (..., K).
        loc: (..., K).
        scale: (..., K).

    Returns:
        The quantiles in the dtype of `loc`, accurate to 1e-9 of the mixture's scale; infinite at 0 and 1, NaN
        outside [0, 1].
    """
    dtype = loc.dtype
    q, logits, loc, scale = (t.detach().double() for t in (q, logits, loc, scale))
    inner = q.clamp(1e-300, 1 - 1e-16)
    each = loc + scale * torch.special.ndtri(inner).unsqueeze(-1)
    low, high = each.amin(-1), each.amax(-1)
    x = (logits.softmax(-1) * each).sum(-1).clamp(low, high)
    target = inner.expand_as(x)
    for _ in range(_NEWTON):
        error = cdf(x, logits, loc, scale) - target
        low, high = torch.where(error < 0, x, low), torch.where(error < 0, high, x)
        step = x - error / log_density(x, logits, loc, scale).exp()
        middle = 0.5 * (low + high)
        moved = torch.where((step > low) & (step < high), step, middle)
        still = bool(((moved - x).abs() <= 4e-16 * x.abs() + 1e-14 * scale.amax(-1)).all())
        x = moved
        if still:
            break
    x = torch.where(q <= 0, -math.inf, torch.where(q >= 1, math.inf, x))
    x = torch.where((q >= 0) & (q <= 1), x, math.nan)
    return x.to(dtype)


def _absolute_moment(mean: Tensor, sd: Tensor) -> Tensor:
    """E|Z| for Z ~ N(mean, sd^2), without squaring either: units may be anything the dtype holds."""
    z = mean / sd
    density = torch.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
    return 2 * sd * density + mean * torch.erf(z * math.sqrt(0.5))


def crps(value: Tensor, logits: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """Return the continuous ranked probability score E|Y - value| - E|Y - Y'| / 2, in closed form; lower is better.

    Reference: Grimit, Gneiting, Berrocal and Johnson, "The continuous ranked probability score for circular variables
    and its application to mesoscale forecast ensemble verification", Quarterly Journal of the Royal Meteorological
    Society 132, 2006.
    """
    weight = logits.softmax(-1)
    first = (weight * _absolute_moment(value.unsqueeze(-1) - loc, scale)).sum(-1)
    gap = loc.unsqueeze(-1) - loc.unsqueeze(-2)
    spread = torch.hypot(scale.unsqueeze(-1), scale.unsqueeze(-2))
    pairs = weight.unsqueeze(-1) * weight.unsqueeze(-2) * _absolute_moment(gap, spread)
    return first - 0.5 * pairs.sum((-1, -2))
