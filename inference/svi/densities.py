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

NOISE = "noise"
"""Key of a traced site that was drawn as `loc + noise * scale` from a Normal: what was drawn."""
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
            whole = rule(base, value, site.get(NOISE))
            return whole if scale == 1.0 else whole * scale
    terms = scale_and_mask(fn.log_prob(value, *site["args"], **site["kwargs"]), site["scale"], site["mask"])
    return terms.sum()


def stacked_log_probs(sites: Sequence[Any]) -> list[tuple[list[Any], Tensor]]:
    """Log-densities of sites that have the same shapes, computed together.

    A program that goes through time has sites that differ in nothing but their numbers, and each costs a dozen small
    operations. Distributions that can be computed at once have a method `stack_log_prob`. Sites with a mask or a
    scale, and all sites while they validate their arguments, are left to Pyro.

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
        if _stacking(fn) is not None and not (site["args"] or site["kwargs"]):
            base = getattr(fn, "base", fn)
            # counts of other ranges are not alike
            most = base.logits.shape[-1] if type(base) is dist.Categorical else getattr(base, "steps", 0)
            key = (type(fn), type(base), most, fn.batch_shape, fn.event_shape, site["value"].shape)
            groups.setdefault((*key, is_reparameterised(site)), []).append(site)
    results = []
    for group in groups.values():
        stacking = _stacking(group[0]["fn"])
        if stacking is not None and len(group) > 1:
            whole = stacking([site["fn"] for site in group], [site["value"] for site in group])
            if whole is not None:
                results.append((group, whole))
    return results


def _stacking(fn: Any) -> Callable[[Sequence[Any], Sequence[Tensor]], Tensor | None] | None:
    """What computes the densities of several such distributions at once, None where nothing does."""
    return _categoricals if type(fn) is dist.Categorical else getattr(type(fn), "stack_log_prob", None)


def _categoricals(fns: Sequence[dist.Categorical], values: Sequence[Tensor]) -> Tensor | None:
    """Log probabilities (fns, *batch) of one value each; None where the numbers of categories differ."""
    if any(fn.logits.shape != values[0].shape + fns[0].logits.shape[-1:] for fn in fns):
        return None
    chosen = torch.stack(list(values)).long().unsqueeze(-1)
    return torch.stack([fn.logits for fn in fns]).gather(-1, chosen).squeeze(-1)


def is_reparameterised(site: Any) -> bool:
    """Say whether a latent site's draw carries the whole gradient, so that its score function is zero."""
    fn = site["fn"]
    return bool(fn.has_rsample) and getattr(type(fn), "score_parts", None) is TorchDistributionMixin.score_parts


def kl_sum(p: Any, q: Any) -> Tensor | None:
    """Return the summed Kullback-Leibler divergence of `p` from `q` in nats for pairs with a rule of their own.

    Args:
        p: distribution of a guide's site.
        q: distribution of the model's site, of the same shape or one that can be expanded to it.

    Returns:
        A scalar, or None where `torch.distributions.kl_divergence` has to do it.
    """
    if type(p) is dist.Independent and type(q) is dist.Independent:
        p, q = p.base_dist, q.base_dist
    if type(p) is not dist.Normal or type(q) is not dist.Normal or p.loc.numel() == 0:
        return None
    if p.batch_shape != q.batch_shape and not broadcasts(q.batch_shape, p.batch_shape):
        return None
    if q.loc.requires_grad or q.scale.requires_grad:
        ratio, shift = p.scale / q.scale, (p.loc - q.loc) / q.scale
        return _kl_terms(ratio, shift)
    whole: Tensor = _Divergence.apply(p.loc, p.scale, q.loc, q.scale)
    return whole


def broadcasts(shape: torch.Size, whole: torch.Size) -> bool:
    """Say whether a tensor of one shape can be expanded to the other."""
    if len(shape) > len(whole):
        return False
    return all(a in (b, 1) for a, b in zip(reversed(shape), reversed(whole), strict=False))


def _kl_terms(ratio: Tensor, shift: Tensor) -> Tensor:
    """Sum divergences of Normals, given the ratio of their deviations and the distance in those of the second."""
    terms = torch.addcmul(shift.square(), ratio, ratio).sub(ratio.log(), alpha=2.0)
    return terms.sum().sub(ratio.numel()).mul(0.5)


class _Divergence(torch.autograd.Function):
    """The summed divergence of a Normal from one that is not trained, differentiated in one go.

    The gradients are those of the formula; where they are to be differentiated again, they are made of the inputs.
    """

    @staticmethod
    def forward(ctx: Any, loc: Tensor, scale: Tensor, prior_loc: Tensor, prior_scale: Tensor) -> Tensor:
        ratio, shift = scale / prior_scale, (loc - prior_loc) / prior_scale
        ctx.save_for_backward(loc, scale, prior_loc, prior_scale)
        ctx.terms = ratio, shift
        return _kl_terms(ratio, shift)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (grad,) = grads
        loc, scale, prior_loc, prior_scale = ctx.saved_tensors
        ratio, shift = ctx.terms
        if torch.is_grad_enabled():
            ratio, shift = scale / prior_scale, (loc - prior_loc) / prior_scale
        unit = grad / prior_scale
        return shift * unit, (ratio - ratio.reciprocal()) * unit, None, None


def _normal_terms(z: Tensor, scale: Tensor) -> Tensor:
    """Sum log-densities of a Normal at `z` (n,), in deviations from its mean, where those broadcast to n entries."""
    logs = scale.log().sum()
    if scale.numel() != z.numel():
        logs = logs * (z.numel() / scale.numel())
    # the fewest operations: each costs microseconds, forth and back, however small the tensor
    return torch.sub(-z.numel() * _HALF_LOG_TAU - logs, torch.dot(z, z), alpha=0.5)


def _bernoulli(fn: Any, value: Tensor, noise: Tensor | None) -> Tensor:
    logits = fn.logits
    if logits.shape != value.shape:
        logits, value = torch.broadcast_tensors(logits, value)
    return -functional.binary_cross_entropy_with_logits(logits, value, reduction="sum")


def _normal(fn: Any, value: Tensor, noise: Tensor | None) -> Tensor:
    loc, scale = fn.loc, fn.scale
    if noise is not None:  # along the path of the draw, its distance from the mean is the same number of deviations
        return _normal_terms(noise.reshape(-1), scale)
    if not broadcasts(loc.shape, value.shape):
        value = value.expand(torch.broadcast_shapes(loc.shape, value.shape))
    if all(stride == 0 or size == 1 for stride, size in zip(scale.stride(), scale.shape, strict=True)):
        one = scale[(0,) * scale.dim()]  # one standard deviation for all: the usual density of pixels
        squares = functional.mse_loss(value, loc.expand(value.shape), reduction="sum")
        return -0.5 * squares / one.square() - value.numel() * (one.log() + _HALF_LOG_TAU)
    return _normal_terms(((value - loc) / scale).reshape(-1), scale)


_RULES: dict[type, Callable[[Any, Tensor, Tensor | None], Tensor]] = {dist.Bernoulli: _bernoulli, dist.Normal: _normal}
