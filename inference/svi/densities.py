"""Summed log-densities of traced sites, in as few passes over memory as they take.

A bound needs the sum of a site's log-density, not its entries. For the densities that observed images and latent codes
have in practice torch can sum while it computes; every other site is computed as Pyro does it. Values and gradients
are those of Pyro up to the order of additions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.distributions.util import scale_and_mask
from torch import Tensor
from torch.nn import functional

_HALF_LOG_TAU = 0.5 * math.log(2.0 * math.pi)


def log_prob_sum(site: Any) -> Tensor:
    """Return the sum of a traced site's log-density in nats, with the site's scale and mask; a scalar.

    Args:
        site: a node of a Pyro trace with type "sample".
    """
    fn, value, scale = site["fn"], site["value"], site["scale"]
    if site["mask"] is None and not isinstance(scale, Tensor) and not (site["args"] or site["kwargs"]):
        base = fn.base_dist if type(fn) is dist.Independent else fn
        rule = _RULES.get(type(base))
        if rule is not None and not base._validate_args and isinstance(value, Tensor) and value.numel() > 0:
            whole = rule(base, value)
            return whole if scale == 1.0 else whole * scale
    terms = scale_and_mask(fn.log_prob(value, *site["args"], **site["kwargs"]), site["scale"], site["mask"])
    return terms.sum()


def stacked_log_probs(sites: Sequence[Any]) -> list[tuple[list[Any], Tensor]]:
    """Log-densities of sites that have the same shapes, computed together.

    A program that goes through time has sites that differ in nothing but their numbers, and each costs a dozen small
    operations. Distributions that can be computed at once have a method `stack`. Sites with a mask or a scale, and
    all sites while they validate their arguments, are left to Pyro.

    Args:
        sites: nodes of a trace with type "sample".

    Returns:
        Groups of two sites or more, with their log-densities (sites, *batch), in nats.
    """
    groups: dict[Any, list[Any]] = {}
    for site in sites:
        fn = site["fn"]
        if site["mask"] is not None or isinstance(site["scale"], Tensor) or site["scale"] != 1.0 or fn._validate_args:
            continue
        if hasattr(type(fn), "stack") and not (site["args"] or site["kwargs"]):
            key = (type(fn), type(getattr(fn, "base", None)), fn.batch_shape, fn.event_shape, site["value"].shape)
            groups.setdefault((*key, is_reparameterised(site)), []).append(site)
    results = []
    for group in groups.values():
        whole = type(group[0]["fn"]).stack([site["fn"] for site in group]) if len(group) > 1 else None
        if whole is not None:
            results.append((group, whole.log_prob(torch.stack([site["value"] for site in group]))))
    return results


def is_reparameterised(site: Any) -> bool:
    """Say whether a latent site's draw carries the whole gradient, so that its score function is zero."""
    fn = site["fn"]
    return bool(fn.has_rsample) and getattr(type(fn), "score_parts", None) is TorchDistributionMixin.score_parts


def kl_sum(p: Any, q: Any) -> Tensor | None:
    """Return the summed Kullback-Leibler divergence of `p` from `q` in nats for pairs with a rule of their own.

    Args:
        p: distribution of a guide's site.
        q: distribution of the model's site, of the same shape.

    Returns:
        A scalar, or None where `torch.distributions.kl_divergence` has to do it.
    """
    if type(p) is dist.Independent and type(q) is dist.Independent:
        p, q = p.base_dist, q.base_dist
    if type(p) is not dist.Normal or type(q) is not dist.Normal or p.batch_shape != q.batch_shape:
        return None
    if p.loc.numel() == 0:
        return None
    ratio = (p.scale / q.scale).reshape(-1)
    shift = ((p.loc - q.loc) / q.scale).reshape(-1)
    squares = torch.dot(ratio, ratio) + torch.dot(shift, shift)
    return torch.sub(0.5 * (squares - ratio.numel()), ratio.log().sum())


def _bernoulli(fn: Any, value: Tensor) -> Tensor:
    logits = fn.logits
    if logits.shape != value.shape:
        logits, value = torch.broadcast_tensors(logits, value)
    return -functional.binary_cross_entropy_with_logits(logits, value, reduction="sum")


def _normal(fn: Any, value: Tensor) -> Tensor:
    loc, scale = fn.loc, fn.scale
    if loc.shape != value.shape:
        loc, value = torch.broadcast_tensors(loc, value)
        scale = scale.expand(value.shape)
    if all(stride == 0 or size == 1 for stride, size in zip(scale.stride(), scale.shape, strict=True)):
        one = scale[(0,) * scale.dim()]  # one standard deviation for all: the usual density of pixels
        squares = functional.mse_loss(value, loc, reduction="sum")
        return -0.5 * squares / one.square() - value.numel() * (one.log() + _HALF_LOG_TAU)
    z = ((value - loc) / scale).reshape(-1)
    # the fewest operations: each costs microseconds, forth and back, however small the tensor
    return -value.numel() * _HALF_LOG_TAU - scale.log().sum().add(torch.dot(z, z), alpha=0.5)


_RULES: dict[type, Callable[[Any, Tensor], Tensor]] = {dist.Bernoulli: _bernoulli, dist.Normal: _normal}
