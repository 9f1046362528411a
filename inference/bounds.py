"""Pyro's sampled and mean-field bounds with less work per step.

The mathematics, random numbers and gradients are those of `Trace_ELBO` and `TraceMeanField_ELBO`, which these classes
extend. What they leave out: densities nobody uses (the mean-field bound needs none where the divergence is known in
closed form), a wait for the device at every site, and a gradient hook that looks for NaN, which the engine does once
per step. While Pyro's validation is on, Pyro's own code runs with all its checks.
"""

from __future__ import annotations

from typing import Any

import torch
from pyro import poutine
from pyro.distributions.util import is_identically_zero, scale_and_mask
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.trace_elbo import _compute_log_r
from pyro.infer.util import is_validation_enabled
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor
from torch.distributions import kl_divergence


class Elbo(Trace_ELBO):
    """`pyro.infer.Trace_ELBO`, leaner. Arguments are those of `pyro.infer.ELBO`."""

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Return minus the bound, summed over the batch (nats), with the gradient of the surrogate."""
        if is_validation_enabled():
            return super().differentiable_loss(model, guide, *args, **kwargs)
        total: Any = 0.0
        for model_trace, guide_trace in self._get_traces(model, guide, args, kwargs):
            total = total + self._particle(model_trace, guide_trace)
        return torch.as_tensor(total / self.num_particles)

    def _particle(self, model_trace: Any, guide_trace: Any) -> Any:
        value: Any = 0.0  # minus the bound
        surrogate: Any = 0.0  # what to differentiate
        same = True
        for site in model_trace.nodes.values():
            if site["type"] == "sample":
                value = value - site["log_prob_sum"]
        for site in guide_trace.nodes.values():
            if site["type"] != "sample":
                continue
            _, score_function, entropy = site["score_parts"]
            if same and is_identically_zero(score_function) and entropy is site["log_prob"]:
                value = value + site["log_prob_sum"]
                continue
            if same:
                same, surrogate = False, value
            value = value + site["log_prob_sum"]
            if not is_identically_zero(entropy):
                surrogate = surrogate + entropy.sum()
            if not is_identically_zero(score_function):
                weights = _compute_log_r(model_trace, guide_trace).sum_to(site["cond_indep_stack"])
                surrogate = surrogate - (weights * score_function).sum()
        if same:
            return value
        return value.detach() + (surrogate - surrogate.detach())


class MeanField(TraceMeanField_ELBO):
    """`pyro.infer.TraceMeanField_ELBO`, leaner. Arguments are those of `pyro.infer.ELBO`."""

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Return minus the bound, summed over the batch (nats)."""
        if is_validation_enabled() or isinstance(poutine.unwrap(guide), Messenger):
            return super().differentiable_loss(model, guide, *args, **kwargs)
        total: Any = 0.0
        for model_trace, guide_trace in self._get_traces(model, guide, args, kwargs):
            total = total + self._particle(model_trace, guide_trace)
        return torch.as_tensor(total / self.num_particles)

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
        if is_validation_enabled() or isinstance(poutine.unwrap(guide), Messenger):
            return super()._get_trace(model, guide, args, kwargs)
        guide_trace = poutine.trace(guide, graph_type="flat").get_trace(*args, **kwargs)
        replayed = poutine.replay(model, trace=guide_trace)
        model_trace = poutine.trace(replayed, graph_type="flat").get_trace(*args, **kwargs)
        model_trace, guide_trace = prune_subsample_sites(model_trace), prune_subsample_sites(guide_trace)
        model_trace.compute_log_prob(lambda name, site: site["is_observed"])
        return model_trace, guide_trace

    def _particle(self, model_trace: Any, guide_trace: Any) -> Any:
        total: Any = 0.0
        for name, site in model_trace.nodes.items():
            if site["type"] != "sample":
                continue
            if site["is_observed"]:
                total = total - site["log_prob_sum"]
                continue
            total = total + divergence(name, model_trace, guide_trace)
        for name, site in guide_trace.nodes.items():
            if site["type"] == "sample" and name not in model_trace.nodes:  # auxiliary: only its entropy counts
                guide_trace.compute_score_parts()
                total = total + site["score_parts"].entropy_term.sum()
        return total


def divergence(name: str, model_trace: Any, guide_trace: Any) -> Tensor:
    """Return the Kullback-Leibler term of one latent site, summed: analytic where torch knows it, else one sample.

    Args:
        name: the site.
        model_trace: trace of the model.
        guide_trace: trace of the guide; its scale and mask apply, as in Pyro.
    """
    model_site, guide_site = model_trace.nodes[name], guide_trace.nodes[name]
    try:
        terms = kl_divergence(guide_site["fn"], model_site["fn"])
    except NotImplementedError:
        model_trace.compute_log_prob()
        guide_trace.compute_score_parts()
        return guide_site["score_parts"].entropy_term.sum() - model_site["log_prob_sum"]
    terms = scale_and_mask(terms, scale=guide_site["scale"], mask=guide_site["mask"])
    if isinstance(terms, Tensor):
        return terms.sum()
    return torch.tensor(float(terms) * guide_site["fn"].batch_shape.numel())
