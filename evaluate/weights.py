"""What importance weights tell: the bound and its error, the effective number of draws, the shape of the tail."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


def mean_and_error(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return log mean weight and its standard error by the delta method, (rows,) each."""
    particles = len(weights)
    value = weights.logsumexp(0) - math.log(particles)
    if particles == 1:
        return value, torch.zeros_like(value)  # nothing to tell an error from
    relative = (weights - value).exp()
    error = relative.var(0, unbiased=True).div(particles).sqrt()
    return value, torch.where(torch.isfinite(error), error, torch.zeros_like(error))


def group_bound(weights: Tensor, k: int) -> Tensor:
    """Return the K-particle bound of each row for K = k, averaged over disjoint groups of the draws, (rows,)."""
    groups = len(weights) // k
    return (weights[: groups * k].unflatten(0, (groups, k)).logsumexp(1) - math.log(k)).mean(0)


def effective_size(weights: Tensor) -> Tensor:
    """Return (sum w)^2 / sum w^2 per row of log weights (particles, rows)."""
    return (2.0 * weights.logsumexp(0) - (2.0 * weights).logsumexp(0)).exp()


def pareto_shape(weights: Tensor) -> Tensor:
    """Fit a generalised Pareto law to the largest weights of each row and return its shape, (rows,).

    Vehtari, Simpson, Gelman, Yao and Gabry, *Pareto smoothed importance sampling*, 2024: the min(K / 5, 3 sqrt K)
    largest of K weights; shape by Zhang and Stephens, 2009, shrunk towards 1/2 by ten observations. NaN for K < 25.

    Args:
        weights: log weights (particles, rows).
    """
    particles, rows = weights.shape
    tail = min(particles // 5, math.ceil(3.0 * math.sqrt(particles)))
    if tail < 5:
        return torch.full((rows,), math.nan, dtype=torch.float64)
    ordered = weights.double().sort(0).values
    threshold = ordered[-tail - 1]
    top = (ordered[-tail:] - ordered[-1]).exp() - (threshold - ordered[-1]).exp()
    out = [_zhang_stephens(column) for column in top.T.cpu().numpy()]
    return torch.tensor(out, dtype=torch.float64)


def _zhang_stephens(excess: np.ndarray) -> float:
    """Return the shape of a generalised Pareto law fitted to sorted excesses over its threshold."""
    n = len(excess)
    if excess[-1] <= 1e-4:
        return -1.0  # all weights alike, but for rounding: no tail at all
    excess = np.maximum(excess, 1e-300)
    quarter = excess[max(int(n / 4 + 0.5) - 1, 0)]
    grid = 30 + int(math.sqrt(n))
    place = 1.0 - np.sqrt(grid / (np.arange(1, grid + 1) - 0.5))
    theta = 1.0 / excess[-1] + place / (3.0 * quarter)
    shape = np.log1p(-theta[:, None] * excess).mean(1)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        profile = n * (np.log(-theta / shape) - shape - 1.0)
        weight = 1.0 / np.exp(profile - profile[:, None]).sum(1)
    weight = np.where(np.isfinite(weight), weight, 0.0)
    best = float((theta * weight).sum() / max(weight.sum(), 1e-300))
    fitted = float(np.log1p(-best * excess).mean())
    return (n * fitted + 10.0 * 0.5) / (n + 10.0)
