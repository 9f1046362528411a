"""Weighted k-means, for starting values: scikit-learn's takes two seconds of imports that the first fit would wait for.

Arthur and Vassilvitskii, *k-means++: the advantages of careful seeding*, 2007, its greedy form (the best of several
candidates at each turn, as scikit-learn has it), then Lloyd's iteration.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def clusters(points: Tensor, count: int, weight: Tensor, seed: int, iterations: int = 50) -> Tensor:
    """Return the cluster of every point, int64 (N,).

    Args:
        points: (N, D).
        count: clusters, at most N.
        weight: (N,), positive, how much each point counts.
        seed: of the first centres.
        iterations: Lloyd's, at most.
    """
    points = points - points.mean(0)  # squares of distances are multiplied out: large numbers would cost digits
    squares = points.square().sum(1)
    centres = _first_centres(points, squares, count, weight, torch.Generator().manual_seed(seed))
    spread = float(points.var(0, correction=0).mean())
    nearest = torch.zeros(len(points), dtype=torch.long)
    for _ in range(iterations):
        gaps, nearest = _gaps(points, squares, centres).min(1)
        mass = torch.zeros(count, dtype=points.dtype).index_add_(0, nearest, weight)
        sums = torch.zeros_like(centres).index_add_(0, nearest, points * weight.unsqueeze(1))
        moved = sums / mass.clamp(min=1e-300).unsqueeze(1)
        empty = (mass == 0).nonzero()[:, 0]
        if len(empty):  # they go on from the points that are explained worst
            moved[empty] = points[gaps.topk(len(empty)).indices]
        shift = float((moved - centres).square().sum())
        centres = moved
        if shift <= 1e-4 * spread and not len(empty):
            break
    return _gaps(points, squares, centres).argmin(1)


def _first_centres(points: Tensor, squares: Tensor, count: int, weight: Tensor, generator: torch.Generator) -> Tensor:
    """Centres (count, D): each the best of a few points drawn by their weight times squared distance to the others."""
    trials = 2 + int(math.log(count))
    chosen = torch.multinomial(weight, 1, generator=generator)
    gap = _gaps(points, squares, points[chosen])[:, 0]
    for _ in range(1, count):
        share = weight * gap
        if float(share.sum()) <= 0.0:  # no more distinct points than centres
            share = weight
        drawn = torch.multinomial(share, trials, replacement=True, generator=generator)
        left = torch.minimum(gap.unsqueeze(1), _gaps(points, squares, points[drawn]))
        best = int((weight @ left).argmin())
        gap = left[:, best]
        chosen = torch.cat([chosen, drawn[best : best + 1]])
    return points[chosen].clone()


def _gaps(points: Tensor, squares: Tensor, centres: Tensor) -> Tensor:
    """Squared distances (N, K)."""
    offsets = torch.addmm(squares.unsqueeze(1), points, centres.T, alpha=-2.0)
    return offsets.add_(centres.square().sum(1)).clamp_(min=0.0)
