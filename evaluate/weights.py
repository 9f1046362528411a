"""What importance weights show: the bound and its error, the effective number of draws, the shape of the tail."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from phlogiston.distributions.resampling import pareto_tail


def mean_and_error(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return log mean weight and its standard error by the delta method, (rows,) each."""
    particles = len(weights)
    value = weights.logsumexp(0) - math.log(particles)
    if particles == 1:
        return value, torch.zeros_like(value)  # nothing to estimate an error from
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
    """Return the shape of the tail of each row's weights, (rows,); see `distributions.resampling.pareto_tail`.

    Args:
        weights: log weights (particles, rows). NaN for fewer than 25 particles.
    """
    relative = (weights.double() - weights.double().amax(0)).exp()
    tails = [pareto_tail(column) for column in relative.T.cpu()]
    return torch.tensor([math.nan if tail is None else tail.shape for tail in tails], dtype=torch.float64)
