"""Choosing among weighted items without adding more noise than necessary.

- `systematic`: indices with expected counts proportional to the weights, one uniform for all of them;
- `compact`: which items were drawn at all;
- `resample_distinct`: thin a weighted list to at most N *different* items, heavy ones kept exactly (Fearnhead and
  Clifford, "On-line inference for hidden Markov models via particle filters", JRSS B 65, 2003, section 3.2);
- `replace_dead`: fill rows of zero weight with copies of living ones, leaving every weighted average unchanged;
- `effective_size`, `log_mean`: summaries of log-weights;
- `group_sizes`, `grouped_error`: how well a log mean weight is known, from groups that were drawn independently.
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
_FEWEST = 4  # fewer groups than this tell no error


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
        `used` int64 (M,), ascending, the items that occur, and `place` int64 (n,) in [0, M).
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
            weights are guesses, items that are worth more than their weight tells then weigh less when they are met.
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
    # In random order, so that the chances tell how much the thinning may have changed.
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
