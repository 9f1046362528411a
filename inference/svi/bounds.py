"""Pyro's sampled and mean-field bounds with less work per step.

The mathematics, random numbers and gradients are those of `Trace_ELBO` and `TraceMeanField_ELBO`, which these classes
extend. What they leave out: densities nobody uses (the mean-field bound needs none where the divergence is known in
closed form), a wait for the device at every site, and a gradient hook that looks for NaN, which the engine does once
per step. While Pyro's validation is on, Pyro's own code runs with all its checks.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import Any

import torch
from pyro import poutine
from pyro.distributions.util import is_identically_zero, scale_and_mask
from pyro.infer import ELBO, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.enum import get_importance_trace
from pyro.infer.trace_elbo import _compute_log_r
from pyro.infer.util import is_validation_enabled
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import kl_divergence

from phlogiston.inference.svi.densities import is_reparameterised, kl_sum, log_prob_sum
from phlogiston.inference.svi.pair.record import run_pair


def runs_the_model(guide: Any) -> bool:
    """Say whether a guide is one of Pyro's messengers, which run the model themselves."""
    return isinstance(poutine.unwrap(guide), Messenger)


class ParticleBound(ELBO):
    """What bounds over several weighted particles share; a subclass defines `differentiable_loss`."""

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
        return get_importance_trace("flat", self.max_plate_nesting, model, guide, args, kwargs)

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Return minus the bound, summed over rows and scaled, with the gradient of the estimate."""
        raise NotImplementedError

    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Return minus the bound, summed over rows and scaled (nats)."""
        with torch.no_grad():
            return float(self.differentiable_loss(model, guide, *args, **kwargs))

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Return the loss and add its gradient to the parameters."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        loss.backward()
        return float(loss.detach())


def total(costs: Sequence[Tensor], gains: Sequence[Tensor]) -> Any:
    """Return the sum of `costs` minus the sum of `gains`, in as few operations as that takes."""
    if not gains:
        return reduce(add, costs) if costs else 0.0
    return reduce(add, costs) - reduce(add, gains) if costs else -reduce(add, gains)


def mean(particles: Sequence[Any], elbo: Any) -> Tensor:
    """Return the mean loss over the particles of an objective; vectorised ones arrive as one sum."""
    whole = reduce(add, particles)
    return torch.as_tensor(whole if elbo.num_particles == 1 else whole / elbo.num_particles)


class _Lean:
    """Runs the pair in one pass where nothing needs Pyro's own; a subclass fills in the densities it needs."""

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
        if is_validation_enabled() or runs_the_model(guide):
            return super()._get_trace(model, guide, args, kwargs)  # type: ignore[misc,no-any-return]
        traces = run_pair(model, guide, args, kwargs)
        self._score(*traces)
        return traces

    def _mean(self: Any, model: Any, guide: Any, args: Any, kwargs: Any) -> Tensor:
        if self.num_particles == 1 and not self.vectorize_particles:
            return torch.as_tensor(self._particle(*self._get_trace(model, guide, args, kwargs)))
        return mean([self._particle(*traces) for traces in self._get_traces(model, guide, args, kwargs)], self)

    def _score(self, model_trace: Any, guide_trace: Any) -> None:
        raise NotImplementedError


class Elbo(_Lean, Trace_ELBO):
    """`pyro.infer.Trace_ELBO`, leaner. Arguments are those of `pyro.infer.ELBO`."""

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Return minus the bound, summed over the batch (nats), with the gradient of the surrogate."""
        if is_validation_enabled():
            return super().differentiable_loss(model, guide, *args, **kwargs)
        return self._mean(model, guide, args, kwargs)

    def _score(self, model_trace: Any, guide_trace: Any) -> None:
        latent = [site for site in guide_trace.nodes.values() if site["type"] == "sample"]
        if all(is_reparameterised(site) for site in latent):  # only the sums count
            for site in (*model_trace.nodes.values(), *latent):
                if site["type"] == "sample":
                    site["log_prob_sum"] = log_prob_sum(site)
        else:
            model_trace.compute_log_prob()
            guide_trace.compute_score_parts()

    def _particle(self, model_trace: Any, guide_trace: Any) -> Any:
        gains = [site["log_prob_sum"] for site in model_trace.nodes.values() if site["type"] == "sample"]
        costs: list[Tensor] = []  # the guide's terms of the bound
        slopes: list[Tensor] = []  # the terms to differentiate in their place
        same = True
        for site in guide_trace.nodes.values():
            if site["type"] != "sample":
                continue
            costs.append(site["log_prob_sum"])
            if "score_parts" not in site:
                slopes.append(site["log_prob_sum"])
                continue
            _, score_function, entropy = site["score_parts"]
            if entropy is site["log_prob"] and is_identically_zero(score_function):
                slopes.append(site["log_prob_sum"])
                continue
            same = False
            if not is_identically_zero(entropy):
                slopes.append(entropy.sum())
            if not is_identically_zero(score_function):
                weights = _compute_log_r(model_trace, guide_trace).sum_to(site["cond_indep_stack"])
                slopes.append(-(weights * score_function).sum())
        if same:
            return total(costs, gains)
        surrogate = total(slopes, gains)
        return total(costs, gains).detach() + (surrogate - surrogate.detach())


class MeanField(_Lean, TraceMeanField_ELBO):
    """`pyro.infer.TraceMeanField_ELBO`, leaner. Arguments are those of `pyro.infer.ELBO`."""

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Return minus the bound, summed over the batch (nats)."""
        if is_validation_enabled() or runs_the_model(guide):
            return super().differentiable_loss(model, guide, *args, **kwargs)
        return self._mean(model, guide, args, kwargs)

    def _score(self, model_trace: Any, guide_trace: Any) -> None:
        for site in model_trace.nodes.values():
            if site["type"] == "sample" and site["is_observed"]:
                site["log_prob_sum"] = log_prob_sum(site)

    def _particle(self, model_trace: Any, guide_trace: Any) -> Any:
        costs: list[Tensor] = []
        gains: list[Tensor] = []
        for name, site in model_trace.nodes.items():
            if site["type"] == "sample":
                if site["is_observed"]:
                    gains.append(site["log_prob_sum"])
                else:
                    costs.append(self._cost(name, model_trace, guide_trace))
        for name, site in guide_trace.nodes.items():
            if site["type"] == "sample" and name not in model_trace.nodes:  # auxiliary: only its entropy counts
                guide_trace.compute_score_parts()
                costs.append(site["score_parts"].entropy_term.sum())
        return total(costs, gains)

    def _cost(self, name: str, model_trace: Any, guide_trace: Any) -> Tensor:
        return divergence(name, model_trace, guide_trace)


def divergence(name: str, model_trace: Any, guide_trace: Any) -> Tensor:
    """Return the Kullback-Leibler term of one latent site, summed: analytic where torch has it, else one sample.

    Args:
        name: the site.
        model_trace: trace of the model.
        guide_trace: trace of the guide; its scale and mask apply, as in Pyro.
    """
    model_site, guide_site = model_trace.nodes[name], guide_trace.nodes[name]
    if guide_site["mask"] is None and not isinstance(guide_site["scale"], Tensor):
        whole = kl_sum(guide_site["fn"], model_site["fn"])
        if whole is not None:
            return whole if guide_site["scale"] == 1.0 else whole * guide_site["scale"]
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
