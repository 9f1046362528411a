"""Mixtures of normals on the line: cdf, quantile, CRPS, and the shortest region that holds a given probability.

Every function takes `logits`, `loc` and `scale` with the components on the last axis, and answers for all leading axes
at once. The mixture family in `base` calls them for its one-dimensional marginals.

    p(y) = sum_k softmax(logits)_k N(y; loc_k, scale_k^2)

The shortest region is where the density exceeds a level. Nodes around every component, and every maximum and minimum of
the density between them, cut the line into stretches on which the density rises or falls throughout: so the region's
ends at a level are found on the stretches that cross it, and its probability falls steadily as the level rises.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from phlogiston.distributions.normal_interval import log_interval_mass, normal_cdf

_NEWTON = 60
_NODES = 2048  # nodes per mixture when a region is searched, spread over its components, 8 to 48 for each
_BLOCK = 4_000_000  # numbers in the largest array a search makes
_TOLERANCE = 1e-8  # of the probability inside
_STEPS = 60


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


# ---- the shortest region


class Intervals(NamedTuple):
    """Disjoint intervals, in rising order; entries beyond the last one are False in `mask` and hold NaN.

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


def highest_density(p: float, logits: Tensor, loc: Tensor, scale: Tensor) -> Intervals:
    """Return the shortest set of intervals that holds probability `p`: one interval per separate branch.

    A mixture of K normals has at most K modes on the line, so there are at most K intervals.

    Args:
        p: probability inside, in (0, 1).
        logits: (..., K).
        loc: (..., K).
        scale: (..., K), in any unit.

    Returns:
        Intervals (..., K), whose total probability is `p` within 1e-6, or as near as rounding of their ends allows.
    """
    dtype, k = loc.dtype, loc.shape[-1]
    logits, loc, scale = (t.detach().double() for t in torch.broadcast_tensors(logits, loc, scale))
    # a power of two is divided out, which is exact: the search does not depend on units
    unit = torch.exp2(torch.frexp(scale.amax(-1, keepdim=True)).exponent.double())
    rows = max(1, _BLOCK // (_per_component(k) * k * k))  # mixtures at a time
    parameters = (logits.log_softmax(-1), loc / unit, scale / unit)
    blocks = zip(*(t.reshape(-1, k).split(rows) for t in parameters), strict=True)
    parts = list(zip(*(_search(p, _Curve(*block)) for block in blocks), strict=True))
    lower, upper, mask = (torch.cat(part).reshape(loc.shape) for part in parts)
    return Intervals((lower * unit).to(dtype), (upper * unit).to(dtype), mask)


def _per_component(k: int) -> int:
    return min(48, max(8, _NODES // k))


class _Curve:
    """The density of mixtures (rows, K) at points (rows, n)."""

    def __init__(self, log_weight: Tensor, loc: Tensor, scale: Tensor) -> None:
        self.loc, self.scale = loc.unsqueeze(-2), scale.unsqueeze(-2)
        self.weight = log_weight.exp().unsqueeze(-2)
        self.height = log_weight.unsqueeze(-2) - self.scale.log() - 0.5 * math.log(2 * math.pi)

    def log_density(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Log density and its slope."""
        z = (x.unsqueeze(-1) - self.loc) / self.scale
        terms = self.height - 0.5 * z * z
        return torch.logsumexp(terms, -1), -(terms.softmax(-1) * z / self.scale).sum(-1)

    def mass(self, lower: Tensor, upper: Tensor) -> Tensor:
        """Probability of intervals."""
        a, b = ((x.unsqueeze(-1) - self.loc) / self.scale for x in (lower, upper))
        flip = a + b > 0  # on the lower side, where cdfs keep their digits
        a, b = torch.where(flip, -b, a), torch.where(flip, -a, b)
        return (self.weight * (normal_cdf(b) - normal_cdf(a))).sum(-1)


def _search(p: float, curve: _Curve) -> Intervals:
    """`highest_density` for parameters (rows, K)."""
    loc, scale = curve.loc.squeeze(-2), curve.scale.squeeze(-2)
    k = loc.shape[-1]
    spread = torch.linspace(-1, 1, _per_component(k) | 1, dtype=torch.double, device=loc.device)
    offsets = 9 * spread * (0.25 + 0.75 * spread.abs())  # denser near the component's centre
    nodes = (loc.unsqueeze(-1) + scale.unsqueeze(-1) * offsets).flatten(-2).sort(-1).values  # (rows, K * nodes)
    nodes = torch.cat([nodes, _extrema(nodes, curve)], -1).sort(-1).values
    height, _ = curve.log_density(nodes)
    low, high = height.amin(-1), height.amax(-1)
    level = _first_level(p, nodes, height, curve)
    last = high - low
    for _ in range(_STEPS):
        region = _region(level, nodes, height, curve)
        held = torch.where(region.mask, curve.mass(region.lower, region.upper), 0.0).sum(-1)
        low, high = torch.where(held >= p, level, low), torch.where(held >= p, high, level)
        done = ((held - p).abs() <= _TOLERANCE) | (high - low <= 1e-15 * level.abs())
        if bool(done.all()):
            break
        step = (p - held) / _fall(level, region, curve)
        step = torch.where(step == 0, math.nan, step)  # the level touches a minimum, where the slope means nothing
        moved = _next(level, step, last, low, high)
        last = (moved - level).abs()
        level = torch.where(done, level, moved)
    short = (0, k - region.mask.shape[-1])
    lower, upper = (functional.pad(t, short, value=math.nan) for t in (region.lower, region.upper))
    return Intervals(lower, upper, functional.pad(region.mask, short, value=False))


def _first_level(p: float, nodes: Tensor, height: Tensor, curve: _Curve) -> Tensor:
    """The level at which the stretches between nodes, by the mean of their heights, hold `p`."""
    mass = curve.mass(nodes[..., :-1], nodes[..., 1:])
    middle = 0.5 * (height[..., :-1] + height[..., 1:])
    order = middle.argsort(-1, descending=True)
    held = mass.gather(-1, order).cumsum(-1)
    rank = (held < p).sum(-1, keepdim=True).clamp_max(held.shape[-1] - 1)
    return middle.gather(-1, order).gather(-1, rank).squeeze(-1)


def _pick(marked: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Positions of the first `most` marked entries of each row, in order, and which of them exist."""
    count = marked.shape[-1]
    rank = torch.where(marked, torch.arange(count, device=marked.device), count).sort(-1).values[..., :most]
    return rank.clamp_max(count - 1), rank < count


def _extrema(nodes: Tensor, curve: _Curve) -> Tensor:
    """Maxima and minima of the density between nodes, by bisection on its slope; padded with nodes."""
    _, slope = curve.log_density(nodes)
    turns = (slope[..., :-1] > 0) != (slope[..., 1:] > 0)
    index, _ = _pick(turns, int(turns.sum(-1).max()))
    a, b = nodes.gather(-1, index), nodes.gather(-1, index + 1)
    rising = slope.gather(-1, index) > 0
    for _ in range(45):
        middle = 0.5 * (a + b)
        same = (curve.log_density(middle)[1] > 0) == rising
        a, b = torch.where(same, middle, a), torch.where(same, b, middle)
    return 0.5 * (a + b)


def _region(level: Tensor, nodes: Tensor, height: Tensor, curve: _Curve) -> Intervals:
    """Where the density is above a level (rows,): one crossing on every stretch between nodes whose ends differ."""
    inside = functional.pad(height > level.unsqueeze(-1), (1, 1), value=False)
    left = torch.cat([nodes[..., :1], nodes], -1)  # of the stretch before node i
    right = torch.cat([nodes, nodes[..., -1:]], -1)
    rises = ~inside[..., :-1] & inside[..., 1:]
    falls = inside[..., :-1] & ~inside[..., 1:]
    most = max(1, min(curve.loc.shape[-1], int(rises.sum(-1).max())))  # usually far fewer than components
    ends = []
    for crossing, rising in ((rises, True), (falls, False)):
        index, mask = _pick(crossing, most)
        x = _crossing(level.unsqueeze(-1), left.gather(-1, index), right.gather(-1, index), rising, curve, mask)
        ends.append(torch.where(mask, x, math.nan))
    return Intervals(ends[0], ends[1], mask)


def _crossing(level: Tensor, a: Tensor, b: Tensor, rising: bool, curve: _Curve, mask: Tensor) -> Tensor:
    """Solve log p(x) = level on the stretches [a, b] that `mask` marks: Newton steps inside a shrinking bracket."""
    x, last = 0.5 * (a + b), b - a
    for _ in range(_STEPS):
        height, slope = curve.log_density(x)
        before = (height > level) == rising  # the crossing lies before x
        a, b = torch.where(before, a, x), torch.where(before, x, b)
        error = height - level
        moved = _next(x, error / slope, last, a, b)
        done = (error.abs() <= 1e-13 * (1.0 + level.abs())) | ~mask
        if bool(done.all()):
            break
        last = (moved - x).abs()
        x = torch.where(done, x, moved)  # where it has converged rounding would throw it back to the middle
    return x


def _next(x: Tensor, step: Tensor, last: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Newton's step x - step where it stays in the bracket [a, b] and halves the step before it; else the middle."""
    sound = (x - step >= a) & (x - step <= b) & (2.0 * step.abs() <= last)
    return torch.where(sound, x - step, 0.5 * (a + b))


def _fall(level: Tensor, region: Intervals, curve: _Curve) -> Tensor:
    """How fast the probability inside falls as the log level rises: the level over the slopes at the ends, summed."""
    total = torch.zeros_like(level)
    for end in (region.lower, region.upper):
        _, slope = curve.log_density(torch.where(region.mask, end, 0.0))
        total = total + torch.where(region.mask, 1.0 / slope.abs(), 0.0).sum(-1)
    return total * level.exp()
