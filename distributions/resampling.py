"""Choosing among weighted items without adding more noise than necessary.

- `systematic`: indices with expected counts proportional to the weights, one uniform for all of them;
- `compact`: which items were drawn at all;
- `resample_distinct`: thin a weighted list to at most N *different* items, heavy ones kept exactly (Fearnhead and
  Clifford, "On-line inference for hidden Markov models via particle filters", JRSS B 65, 2003, section 3.2);
- `replace_dead`: fill rows of zero weight with copies of living ones, leaving every weighted average unchanged;
- `effective_size`, `log_mean`: summaries of log-weights;
- `group_sizes`, `grouped_error`: how well a log mean weight is known, from groups that were drawn independently;
- `pareto_tail`, `tail_error`: what the largest of independent weights tell about those that were not drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor


def log_mean(log_weights: Tensor, dim: int = 0) -> Tensor:
    """Log of the mean of exp(log_weights) along `dim`; `-inf` when all are."""
    return torch.logsumexp(log_weights, dim) - math.log(log_weights.shape[dim])


def effective_size(log_weights: Tensor, dim: int = 0) -> Tensor:
    """Kish's effective sample size (sum w)^2 / sum w^2 along `dim`; 0 when every weight is zero."""
    top = log_weights.amax(dim, keepdim=True)
    weights = torch.exp(log_weights - torch.where(torch.isfinite(top), top, 0.0))
    return weights.sum(dim).square() / weights.square().sum(dim).clamp_min(torch.finfo(weights.dtype).tiny)


GROUPS = 16  # independent groups that an error bar rests on, where there are draws enough
_PER_GROUP = 8  # draws that a group needs at least
_FEWEST = 4  # fewer groups than this give no error


def group_sizes(n: int) -> list[int]:
    """Sizes of the independent groups that `n` draws are made in: 16 of at least 8, fewer for fewer draws, or one."""
    groups = min(GROUPS, n // _PER_GROUP)
    if groups < _FEWEST:
        return [n]
    return [n // groups + (i < n % groups) for i in range(groups)]


def grouped_error(log_weights: Tensor, sizes: Sequence[int]) -> Tensor | None:
    """Standard error of the log mean weight, (n,) -> (), from the spread of the groups' mean weights.

    Draws within a group may depend on each other in whatever way (systematic selection, resampling); groups must not.
    The error is Student's, stretched such that 1.96 of it cover 95 % although it is itself estimated.

    Args:
        log_weights: (n,), groups one after the other.
        sizes: draws of each group.

    Returns:
        The error in nats; None with fewer than 4 groups.
    """
    return spread_error(torch.stack([log_mean(part) for part in log_weights.split(list(sizes))]))


def spread_error(log_means: Tensor) -> Tensor | None:
    """Standard error of the log of the mean of independent estimates, from their logs (groups,)."""
    groups = len(log_means)
    if groups < _FEWEST:
        return None
    relative = (log_means - log_mean(log_means)).exp()
    return relative.std() / math.sqrt(groups) * (student_quantile(groups - 1) / 1.959964)


class ParetoTail(NamedTuple):
    """A generalised Pareto distribution fitted to the excesses of the largest weights over a threshold.

    Attributes:
        shape: k; moments up to 1 / k exist. Below zero the tail ends somewhere.
        scale: sigma, in units of the weights; the mean excess is sigma / (1 - k).
        threshold: of the weights.
        excess: mean excess of the weights above it, as drawn.
        number: how many lie above it.
    """

    shape: float
    scale: float
    threshold: float
    excess: float
    number: int


_FEWEST_IN_TAIL = 5
_ENOUGH = 25  # weights that tell an endless tail from one that is not


def pareto_tail(weights: Tensor) -> ParetoTail | None:
    """Fit the tail of weights (n,), none negative; None where fewer than five weights make it.

    Vehtari, Simpson, Gelman, Yao and Gabry, *Pareto smoothed importance sampling*, JMLR 25, 2024: the min(n / 5,
    3 sqrt n) largest of n weights; the fit is that of Zhang and Stephens, Technometrics 51, 2009, its shape shrunk
    towards 1/2 by ten observations.
    """
    n = len(weights)
    count = min(n // 5, math.ceil(3.0 * math.sqrt(n)))
    ordered = weights.double().sort().values
    tail = _fit_tail(ordered, count)
    if tail is not None and tail.shape >= 1.0 and count >= 2 * _ENOUGH:
        # a threshold inside a crowd of almost equal weights makes any tail look endless: a true one stays when halved
        half = _fit_tail(ordered, count // 2)
        return half if half is not None and half.shape < 1.0 else tail
    return tail


def _fit_tail(ordered: Tensor, count: int) -> ParetoTail | None:
    """Fit the tail of the `count` largest of ascending weights."""
    if count < _FEWEST_IN_TAIL:
        return None
    threshold = float(ordered[-count - 1])
    excess = ordered[-count:] - threshold
    excess = excess[excess > 0]  # some may be as large as the threshold: where a constraint lets few draws live
    if len(excess) == 0 or float(excess[-1]) <= 1e-4 * float(ordered[-1]):
        return ParetoTail(-1.0, 0.0, threshold, 0.0, len(excess))  # all alike, but for rounding: no tail at all
    if len(excess) < _FEWEST_IN_TAIL:
        return None
    return ParetoTail(
        *_zhang_stephens(excess / excess[-1], float(excess[-1])), threshold, float(excess.mean()), len(excess)
    )


def _zhang_stephens(excess: Tensor, unit: float) -> tuple[float, float]:
    """Shape and scale fitted to ascending excesses, given in units of the largest."""
    n = len(excess)
    quarter = excess[max(int(n / 4 + 0.5) - 1, 0)]
    grid = 30 + int(math.sqrt(n))
    offset = 1.0 - (grid / (torch.arange(1, grid + 1, dtype=torch.float64) - 0.5)).sqrt()
    theta = 1.0 + offset / (3.0 * quarter)
    shape = torch.log1p(-theta.unsqueeze(1) * excess).mean(1)
    profile = (n * ((-theta / shape).log() - shape - 1.0)).nan_to_num(-math.inf, posinf=-math.inf)
    best = float(theta @ profile.softmax(0))
    fitted = float(torch.log1p(-best * excess).mean())
    return (n * fitted + 10.0 * 0.5) / (n + 10.0), unit * -fitted / best


_FINITE = 0.49  # shapes from 1/2 on have no variance; the largest that still gives one stands for them


def tail_error(log_weights: Tensor) -> tuple[float, float]:
    """Standard error of the log mean of independent weights (n,), as their fitted tail tells it, and the tail's shape.

    The spread of the weights drawn understates the error where a few large ones carry the mean, most of all when none
    of the largest has been drawn. The fitted tail stands in for it: its variance instead of the sample's, and what its
    mean exceeds that of the weights drawn by as a further error. Infinite where the tail has no mean.

    Returns:
        The error in nats and the Pareto shape; NaN both where the weights are too few for a fit.
    """
    n = len(log_weights)
    weights = (log_weights - log_mean(log_weights)).exp().double()
    tail = pareto_tail(weights)
    if tail is None:
        return math.nan, math.nan
    if tail.shape >= 1.0:
        return math.inf, tail.shape
    share = tail.number / n
    missing = max(0.0, share * (tail.scale / (1.0 - tail.shape) - tail.excess))
    k = min(tail.shape, _FINITE)
    scale = tail.excess * (1.0 - k)
    square = tail.threshold**2 + 2.0 * tail.threshold * tail.excess + 2.0 * scale**2 / ((1.0 - k) * (1.0 - 2.0 * k))
    body = weights.sort().values[: n - tail.number].square().sum()
    variance = float(body) / n + share * square - 1.0
    return math.hypot(math.sqrt(max(0.0, variance) / n), missing), tail.shape


@cache
def student_quantile(freedom: int) -> float:
    """The 97.5 % quantile of Student's distribution."""
    from scipy.stats import t

    return float(t.ppf(0.975, freedom))


def systematic(weights: Tensor, n: int, generator: torch.Generator | None = None) -> Tensor:
    """Draw `n` indices whose expected counts are `n * weights / sum(weights)`.

    Each count is within one of its expectation. The result is sorted: shuffle it before showing.

    Args:
        weights: (P,), not negative, not all zero; need not be normalised.
        n: how many indices.
        generator: source of the one uniform used.

    Returns:
        int64 (n,), ascending; an item of weight zero never appears.
    """
    ends = weights.double().cumsum(0)
    offset = torch.rand((), dtype=torch.float64, generator=generator, device=weights.device)
    # how many of the points 0 + offset, 1 + offset, ... lie before each end: a point on an end belongs to the next item
    before = torch.ceil(ends * (n / ends[-1]) - offset).clamp_(0, n)
    before = torch.where(ends == ends[-1], n, before).long()  # however the last end was rounded
    counts = torch.diff(before, prepend=before.new_zeros(1))
    return torch.arange(len(counts), device=weights.device).repeat_interleave(counts, output_size=n)


def compact(index: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Number the items that occur: `used[place] == index`, like `unique` but without sorting.

    Args:
        index: int64 (n,), in [0, count).
        count: how many items there are.

    Returns:
        `used` int64 (M,), ascending, the items that occur, and `position` int64 (n,) in [0, M).
    """
    seen = torch.zeros(count, dtype=torch.bool, device=index.device)
    seen[index] = True
    return torch.nonzero(seen).squeeze(-1), (seen.cumsum(0) - 1).index_select(0, index)


class Thinned(NamedTuple):
    """What is left of a weighted list.

    Attributes:
        items: int64 (M,), ascending, the items kept.
        log_weights: (M,), their new log-weights.
        chance: (M,), the probability each had to be kept; 1 for items kept for certain.
    """

    items: Tensor
    log_weights: Tensor
    chance: Tensor


def resample_distinct(
    log_weights: Tensor, n: int, generator: torch.Generator | None = None, even: float = 0.0
) -> Thinned:
    """Thin a weighted list to at most `n` different items so that expected weights stay what they were.

    With the threshold `c` solving `sum_i min(1, w_i / c) = n`, items of weight at least `c` stay as they are; among the
    others a systematic draw with inclusion probabilities `w_i / c`, in random order, keeps some, each at weight `c`. Of
    all unbiased thinnings to `n` items this one loses least in squared error, provided that the weights are right.

    Args:
        log_weights: (P,), `-inf` for items that must go.
        n: at most how many items stay.
        generator: source of randomness.
        even: in [0, 1), the share of the inclusion probabilities that goes by the square root of the weights: where
            weights are guesses, items that are worth more than their weight says then weigh less when they are met.
    """
    alive = torch.nonzero(log_weights > -math.inf).squeeze(-1)
    if len(alive) <= n:
        return Thinned(alive, log_weights[alive], torch.ones(len(alive), dtype=torch.float64))
    top = log_weights[alive].max()
    weights = torch.exp(log_weights[alive] - top).double()
    size = weights
    if even > 0:
        size = (1 - even) * weights / weights.sum() + even * weights.sqrt() / weights.sqrt().sum()
    threshold = _threshold(size, n)
    heavy = size >= threshold
    chance = torch.where(heavy, 0.0, size / threshold)
    # One uniform grid over the light items: each is hit with exactly its chance, never twice, as chances are below 1.
    # In random order, so that the chances show how much the thinning may have changed.
    order = torch.randperm(len(alive), generator=generator, device=weights.device)
    offset = torch.rand((), dtype=torch.float64, generator=generator, device=weights.device)
    ends = chance[order].cumsum(0) + offset
    hit = torch.zeros_like(heavy)
    hit[order] = ends.floor() > (ends - chance[order]).floor()
    kept = heavy | (hit & ~heavy)
    if int(kept.sum()) > n:  # a rounding error of the cumulative sum at an integer: drop the lightest hit
        extra = torch.nonzero(hit & ~heavy).squeeze(-1)
        kept[extra[size[extra].argmin()]] = False
    chance = torch.where(heavy, 1.0, chance)[kept]
    return Thinned(alive[kept], log_weights[alive[kept]] - chance.log().to(log_weights.dtype), chance)


def _threshold(weights: Tensor, n: int) -> Tensor:
    """Solve sum_i min(1, w_i / c) = n for c; weights (P,) positive with P > n."""
    ordered = weights.sort().values
    # Sums from the small end: subtracting a cumulative sum from the total would cancel and keep more than n items.
    light_sum = ordered.cumsum(0)
    size = len(ordered)
    heavy_count = size - 1 - torch.arange(size, device=weights.device)  # items above position i
    candidates = light_sum / (n - heavy_count).clamp_min(1)
    # position i is the last light one: its weight is below the threshold, the next one is not
    valid = (heavy_count < n) & (ordered < candidates)
    first_valid = torch.nonzero(valid)
    if len(first_valid) == 0:  # all equal: sum / n exceeds every weight up to rounding
        return light_sum[-1] / n
    above = torch.cat([ordered[1:], ordered.new_full((1,), math.inf)]) >= candidates
    exact = torch.nonzero(valid & above)
    return candidates[exact[-1, 0] if len(exact) else first_valid[-1, 0]]


def replace_dead(log_weights: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Fill rows of zero weight with copies of living rows; a row and its copies share its weight.

    Args:
        log_weights: (n,), `-inf` for dead rows, at least one alive.
        generator: source of randomness.

    Returns:
        Source index int64 (n,) for every row, and the new log-weights (n,), all finite; sums of weights per source
        row are unchanged.
    """
    dead = torch.isneginf(log_weights)
    index = torch.arange(len(log_weights), device=log_weights.device)
    count = int(dead.sum())
    if count == 0:
        return index, log_weights
    weights = torch.exp(log_weights - log_weights.max())
    chosen = systematic(weights, count, generator)
    index[dead] = chosen[torch.randperm(count, generator=generator, device=chosen.device)]
    shares = torch.bincount(index, minlength=len(index)).to(log_weights.dtype)
    return index, log_weights[index] - shares[index].log()
