"""Mixtures of normals on the line: cdf, quantile, CRPS, and the shortest region that holds a given probability.

Every function takes `logits`, `loc` and `scale` with the components on the last axis, and answers for all leading axes
at once. The mixture family in `mixture.py` asks these for its one-dimensional marginals.

    p(y) = sum_k softmax(logits)_k N(y; loc_k, scale_k^2)
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from phlogiston.distributions.truncated_normal import log_interval_mass, normal_cdf

_NEWTON = 60
_NODES = 2048  # nodes per mixture when a region is searched, spread over its components, 8 to 48 for each
_BLOCK = 4_000_000  # numbers in the largest array a search makes


class Intervals(NamedTuple):
    """Disjoint intervals, in rising order; places beyond the last one are marked False in `mask` and hold NaN.

    Attributes:
        lower: (..., M).
        upper: (..., M).
        mask: bool (..., M).
    """

    lower: Tensor
    upper: Tensor
    mask: Tensor

    def contains(self, value: Tensor) -> Tensor:
        """Say which values lie in one of the intervals: (...) -> bool (...)."""
        value = value.unsqueeze(-1)
        return ((value >= self.lower) & (value <= self.upper) & self.mask).any(-1)

    def length(self) -> Tensor:
        """Return the total length, (...)."""
        return torch.where(self.mask, self.upper - self.lower, 0.0).sum(-1)


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
        The quantiles in the dtype of `loc`, accurate to 1e-9 of the mixture's scale; infinite at 0 and 1.
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
        still = bool(((moved - x).abs() <= 1e-14 * (x.abs() + scale.amax(-1))).all())
        x = moved
        if still:
            break
    x = torch.where(q <= 0, -math.inf, torch.where(q >= 1, math.inf, x))
    return x.to(dtype)


def _absolute_moment(mean: Tensor, variance: Tensor) -> Tensor:
    """E|Z| for Z ~ N(mean, variance)."""
    sd = variance.sqrt()
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
    variance = scale * scale
    first = (weight * _absolute_moment(value.unsqueeze(-1) - loc, variance)).sum(-1)
    gap = loc.unsqueeze(-1) - loc.unsqueeze(-2)
    spread = variance.unsqueeze(-1) + variance.unsqueeze(-2)
    pairs = weight.unsqueeze(-1) * weight.unsqueeze(-2) * _absolute_moment(gap, spread)
    return first - 0.5 * pairs.sum((-1, -2))


def highest_density(p: float, logits: Tensor, loc: Tensor, scale: Tensor) -> Intervals:
    """Return the shortest set of intervals that holds probability `p`: one interval per separate branch.

    The density is evaluated at nodes around every component; the level is found by bisection on the mass above it,
    with the ends of each interval refined on the density itself. A mixture of K normals has at most K modes on the
    line, so there are at most K intervals.

    Args:
        p: probability inside, in (0, 1).
        logits: (..., K).
        loc: (..., K).
        scale: (..., K).

    Returns:
        Intervals (..., K), whose total probability is `p` within 1e-4.
    """
    dtype, k = loc.dtype, loc.shape[-1]
    logits, loc, scale = (t.detach().double() for t in torch.broadcast_tensors(logits, loc, scale))
    rows = max(1, _BLOCK // (_per_component(k) * k * k))  # mixtures at a time
    blocks = zip(*(t.reshape(-1, k).split(rows) for t in (logits, loc, scale)), strict=True)
    parts = list(zip(*(_search(p, *block) for block in blocks), strict=True))
    lower, upper, mask = (torch.cat(part).reshape(loc.shape) for part in parts)
    return Intervals(lower.to(dtype), upper.to(dtype), mask)


def _per_component(k: int) -> int:
    return min(48, max(8, _NODES // k))


def _search(p: float, logits: Tensor, loc: Tensor, scale: Tensor) -> Intervals:
    """`highest_density` for parameters (rows, K)."""
    k = loc.shape[-1]
    spread = torch.linspace(-1, 1, _per_component(k), dtype=torch.double, device=loc.device)
    offsets = 9 * spread * (0.25 + 0.75 * spread.abs())  # denser near the component's centre
    nodes = (loc.unsqueeze(-1) + scale.unsqueeze(-1) * offsets).flatten(-2).sort(-1).values  # (rows, K * nodes)
    parameters = [t.unsqueeze(-2) for t in (logits, loc, scale)]
    height = log_density(nodes, *parameters)
    below = cdf(nodes, *parameters)

    low, high = height.amin(-1), height.amax(-1)
    for _ in range(50):  # of the log level, on the mass that linear interpolation between nodes gives
        level = 0.5 * (low + high)
        enough = _mass_above(level, nodes, height, below) >= p
        low, high = torch.where(enough, level, low), torch.where(enough, high, level)
    level = low
    for _ in range(3):  # correct the level by what the refined ends actually hold
        found = _intervals(level, nodes, height, parameters, k)
        held = torch.where(found.mask, cdf(found.upper, *parameters) - cdf(found.lower, *parameters), 0.0).sum(-1)
        # dM/d(level) = -sum over ends of 1 / |d log p / dy| * p; p = exp(level)
        slope = _slope(found, parameters)
        level = level + ((held - p) / (slope * level.exp())).clamp(-0.3, 0.3)
    found = _intervals(level, nodes, height, parameters, k)
    short = (0, k - found.mask.shape[-1])
    lower, upper = (functional.pad(t, short, value=math.nan) for t in (found.lower, found.upper))
    return Intervals(lower, upper, functional.pad(found.mask, short, value=False))


def _mass_above(level: Tensor, nodes: Tensor, height: Tensor, below: Tensor) -> Tensor:
    left, right = height[..., :-1] - level.unsqueeze(-1), height[..., 1:] - level.unsqueeze(-1)
    share = torch.where(
        (left > 0) == (right > 0),
        (left > 0).to(left.dtype),
        torch.maximum(left, right).clamp_min(0) / (left - right).abs().clamp_min(1e-300),
    )
    return (share * (below[..., 1:] - below[..., :-1])).sum(-1)


def _intervals(level: Tensor, nodes: Tensor, height: Tensor, parameters: list[Tensor], k: int) -> Intervals:
    """Find where the density is above the level: crossings between nodes, refined by bisection, in order."""
    above = height > level.unsqueeze(-1)
    inside = functional.pad(above, (1, 1), value=False)
    left = torch.cat([nodes[..., :1], nodes], -1)  # the segment before node i
    right = torch.cat([nodes, nodes[..., -1:]], -1)
    rises = ~inside[..., :-1] & inside[..., 1:]
    falls = inside[..., :-1] & ~inside[..., 1:]
    most = min(k, int(rises.sum(-1).max()))  # usually far fewer than components
    ends = []
    for crossing, rising in ((rises, True), (falls, False)):
        # the first crossings, in order; where there are fewer, anything
        rank = torch.where(crossing, torch.arange(crossing.shape[-1], device=nodes.device), crossing.shape[-1])
        place = rank.sort(-1).values[..., :most]
        mask = place < crossing.shape[-1]
        place = place.clamp_max(crossing.shape[-1] - 1)
        a, b = left.gather(-1, place), right.gather(-1, place)
        for _ in range(40):
            middle = 0.5 * (a + b)
            up = log_density(middle, *parameters) > level.unsqueeze(-1)
            first = up if rising else ~up
            a, b = torch.where(first, a, middle), torch.where(first, middle, b)
        ends.append((0.5 * (a + b), mask))
    (lower, mask), (upper, _) = ends
    nan = torch.full_like(lower, math.nan)
    return Intervals(torch.where(mask, lower, nan), torch.where(mask, upper, nan), mask)


def _slope(found: Intervals, parameters: list[Tensor]) -> Tensor:
    """Sum over interval ends of 1 / |d log p / dy|: how fast the mass falls as the log level rises, over p."""
    total: Tensor | float = 0.0
    logits, loc, scale = parameters
    for end in (found.lower, found.upper):
        y = torch.where(found.mask, end, 0.0).unsqueeze(-1)
        z = (y - loc) / scale
        share = (logits.log_softmax(-1) - 0.5 * z * z - scale.log()).softmax(-1)
        gradient = (share * z / scale).sum(-1).abs().clamp_min(1e-12)
        total = total + torch.where(found.mask, 1 / gradient, 0.0).sum(-1)
    return torch.as_tensor(total).clamp_min(1e-300)
