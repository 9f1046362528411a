"""What a question says about one site of a program, and drawing that site in accordance with it.

Known entries are fixed and the others drawn given them, Gaussian sites are drawn within boxes and half-spaces exactly,
categorical ones from what is allowed, and any other site from its own law with a weight of zero where it breaks a
constraint. Every way leaves the weight that makes up for it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from phlogiston.distributions.gaussian_conditioning import condition
from phlogiston.distributions.gaussian_evidence import ConditionedMixture
from phlogiston.distributions.linear_constraints import LinearEvidence
from phlogiston.distributions.truncated_normal import log_normal_density
from phlogiston.errors import EvidenceError


@dataclass(frozen=True, eq=False)
class SiteEvidence:
    """What is said about one site.

    Attributes:
        linear: for continuous sites, evidence about the flattened entries of one particle.
        log_constant: log factors that hold whatever the entries are.
        allowed: for categorical sites, bool (V,).
    """

    linear: LinearEvidence | None
    log_constant: Tensor
    allowed: Tensor | None = None

    @property
    def complete(self) -> bool:
        """True when every entry is known."""
        return self.linear is not None and bool(self.linear.known.all())

    def soft(self, flat: Tensor) -> Tensor:
        """Log soft factors of entries (n, D): (n,)."""
        total = self.log_constant.expand(len(flat)).double()
        e = self.linear
        if e is not None and len(e.soft):
            z = (e.soft_mean - flat[:, e.soft].double()) / e.soft_sd
            total = total + (log_normal_density(z) - e.soft_sd.log()).sum(1)
        return total

    def violations(self, flat: Tensor) -> Tensor:
        """How far entries (n, D) lie outside each hard constraint: (n, C), zeros inside."""
        if self.allowed is not None:
            return (~self.allowed[flat.long()]).double()
        e = self.linear
        assert e is not None
        x = flat.double()
        box = torch.maximum(e.lower - x, x - e.upper).clamp_min(0.0)[:, ~e.known]
        return torch.cat([box, e.rows.violation(x)], 1)


def _flatten(value: Tensor, n: int) -> Tensor:
    return value.reshape(n, -1)


def entry_law(fn: Any) -> Any:
    """Return the distribution of single entries, if entries are independent given the parameters."""
    while isinstance(fn, torch.distributions.Independent):
        fn = fn.base_dist
    return fn


class Restrict(Messenger):
    """Draws sites that have evidence in accordance with it, and notes their weights."""

    def __init__(self, evidence: Mapping[str, SiteEvidence], n: int, only_known: bool) -> None:
        super().__init__()
        self.evidence, self.n, self.only_known = evidence, n, only_known
        self.log_weight: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: Any) -> None:
        found = self.evidence.get(msg["name"])
        if found is None or msg["is_observed"] or msg["value"] is not None:
            return
        value, log_weight = restrict(msg["name"], msg["fn"], found, self.n, self.only_known)
        msg["value"], msg["done"] = value, True
        self.log_weight[msg["name"]] = log_weight


class KnownMass(Messenger):
    """Notes, at given values, the mass that partially known sites were normalised by."""

    def __init__(self, evidence: Mapping[str, SiteEvidence], n: int) -> None:
        super().__init__()
        self.evidence, self.n = evidence, n
        self.mass: dict[str, Tensor] = {}

    def _pyro_post_sample(self, msg: Any) -> None:
        found = self.evidence.get(msg["name"])
        if found is not None and found.linear is not None and bool(found.linear.known.any()):
            self.mass[msg["name"]] = known_mass(msg["name"], msg["fn"], found, msg["value"], self.n)


def _gaussian(fn: Any, n: int) -> tuple[Tensor, Tensor] | None:
    """Means (n, D) and factors of a site that is Gaussian given its parents, in float64; None for any other."""
    base = entry_law(fn)
    if type(base) in (torch.distributions.Normal, dist.Normal):
        return _flatten(base.loc.double(), n), _flatten(base.scale.double(), n)
    if isinstance(fn, torch.distributions.MultivariateNormal) and fn.batch_shape.numel() == n:
        d = fn.event_shape[0]
        return _flatten(fn.loc.double(), n), fn.scale_tril.double().expand(*fn.batch_shape, d, d).reshape(n, d, d)
    return None


def _only_known(e: LinearEvidence) -> LinearEvidence:
    nothing = LinearEvidence.nothing(e.dim)
    return LinearEvidence(e.known, e.values, nothing.lower, nothing.upper, nothing.box_weight, nothing.rows)


def restrict(name: str, fn: Any, found: SiteEvidence, n: int, only_known: bool) -> tuple[Tensor, Tensor]:
    """Draw a site so that it agrees with its evidence as far as its distribution allows.

    Args:
        name: the site, for messages.
        fn: its distribution, batch shape starting with the n particles.
        found: what is said about it.
        n: particles.
        only_known: fix known entries and nothing more.

    Returns:
        Value, and log weights (n,): what the site contributes to importance weights instead of zero.
    """
    if found.allowed is not None:
        return _restrict_category(fn, found.allowed, n)
    e = found.linear
    assert e is not None
    shape = fn.batch_shape + fn.event_shape
    if found.complete:
        value = e.values.to(_dtype(fn)).reshape(shape[1:] if len(shape) else shape).expand(shape)
        return value, sum_per_particle(fn.log_prob(value), n) + found.soft(_flatten(value, n))
    used = _only_known(e) if only_known else e
    constant = 0.0 if only_known else found.log_constant
    gaussian = _gaussian(fn, n)
    if gaussian is not None:
        flat, log_weight = _restrict_gaussian(*gaussian, used)
        return flat.to(_dtype(fn)).reshape(shape), log_weight + constant
    value = fn.sample()
    flat = _flatten(value, n).clone()
    log_weight = torch.zeros(n, dtype=torch.float64)
    if bool(e.known.any()):
        flat[:, e.known] = e.values[e.known].to(flat.dtype)
        value = flat.reshape(shape)
        log_weight = known_mass(name, fn, found, value, n)
    if not only_known:
        log_weight = log_weight + found.soft(flat)
        log_weight = log_weight.masked_fill((found.violations(flat) > 0).any(1), -math.inf)
    return value, log_weight


def _dtype(fn: Any) -> torch.dtype:
    for name in ("loc", "logits", "probs", "concentration", "rate"):
        value = getattr(entry_law(fn), name, None)
        if isinstance(value, Tensor):
            return value.dtype
    return torch.get_default_dtype()


def _restrict_gaussian(means: Tensor, factors: Tensor, e: LinearEvidence) -> tuple[Tensor, Tensor]:
    """One constrained draw from each of n Gaussians: the mixture kernel with every particle a component."""
    n = len(means)
    mixture = ConditionedMixture(torch.zeros(n, dtype=torch.float64), means, factors, e)
    x, log_weight = mixture.draw_each()
    return x, log_weight


def _restrict_category(fn: Any, allowed: Tensor, n: int) -> tuple[Tensor, Tensor]:
    base = entry_law(fn)
    support = base.enumerate_support(expand=False).reshape(-1)
    log_probs = torch.stack([base.log_prob(v.expand(base.batch_shape)) for v in support], -1)
    log_probs = log_probs.masked_fill(~allowed, -math.inf)
    log_mass = log_probs.logsumexp(-1)
    index = torch.multinomial(log_probs.softmax(-1).nan_to_num(1.0).reshape(-1, len(support)), 1)
    value = support[index].reshape(base.batch_shape).to(support.dtype)
    return value, _flatten(log_mass.double(), n).sum(1)


def known_mass(name: str, fn: Any, found: SiteEvidence, value: Tensor, n: int) -> Tensor:
    """Log density of a site's known entries alone, (n,)."""
    e = found.linear
    assert e is not None
    if found.complete:
        return sum_per_particle(fn.log_prob(value), n)
    gaussian = _gaussian(fn, n)
    if gaussian is not None:
        return condition(*gaussian, _only_known(e)).log_terms.sum(-1)
    base = entry_law(fn)
    entries = getattr(base, "entry_log_prob", None)  # entries that are independent although they are one event
    if entries is not None:
        return _flatten(entries(value), n)[:, e.known].double().sum(1)
    if base.event_shape:
        raise EvidenceError(
            f"site {name!r} is partially known, but the entries of its {type(base).__name__} depend on each other in "
            f"ways the generic path cannot condition on; make all of it known, or none"
        )
    return _flatten(base.log_prob(value), n)[:, e.known].double().sum(1)


def sum_per_particle(log_prob: Any, n: int) -> Tensor:
    """Sum a site's log density over everything but particles; a site without that axis counts for each."""
    if not isinstance(log_prob, Tensor):
        log_prob = torch.as_tensor(float(log_prob))
    log_prob = log_prob.double()
    if log_prob.dim() and log_prob.shape[0] == n:
        return log_prob.reshape(n, -1).sum(1)
    return log_prob.sum().expand(n)
