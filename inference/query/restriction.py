"""What a question says about one site of a program, and drawing that site in accordance with it.

Known entries are fixed and the others drawn given them, Gaussian sites are drawn within boxes and half-spaces exactly,
categorical ones from what is allowed, and any other site from its own distribution with a weight of zero where it
breaks a constraint. Every way leaves the weight that makes up for it.
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
from phlogiston.distributions.normal_interval import log_normal_density
from phlogiston.errors import EvidenceError


@dataclass(frozen=True, eq=False)
class SiteEvidence:
    """What is said about one site.

    Attributes:
        linear: evidence about the flattened entries of one particle; for sites with a table, half-spaces alone.
        log_constant: log factors that hold whatever the entries are.
        table: for sites with few possible values, log factors (D, V) of each value of each entry, `-inf` if excluded.
        one_hot: the values of such a site are one-hot vectors, not numbers.
    """

    linear: LinearEvidence | None
    log_constant: Tensor
    table: Tensor | None = None
    one_hot: bool = False

    @property
    def complete(self) -> bool:
        """True when every entry is known."""
        if self.table is not None:
            return bool((torch.isfinite(self.table).sum(1) == 1).all())
        return self.linear is not None and bool(self.linear.known.all())

    @property
    def fixes(self) -> bool:
        """True when some entry is known, or values of a table are excluded."""
        if self.table is not None:
            return bool(torch.isneginf(self.table).any())
        return self.linear is not None and bool(self.linear.known.any())

    def known_value(self) -> Tensor:
        """The flattened entries of a complete site, float64 (D,)."""
        if self.table is not None:
            index = torch.isfinite(self.table).double().argmax(1)
            if self.one_hot:
                return torch.eye(self.table.shape[1], dtype=torch.float64)[index].reshape(-1)
            return index.double()
        assert self.linear is not None
        return self.linear.values

    def _factors(self, flat: Tensor) -> Tensor:
        """The table's log factors at entries (n, ...): (n, D)."""
        assert self.table is not None
        entries, values = self.table.shape
        index = flat.reshape(len(flat), entries, values).argmax(-1) if self.one_hot else flat.long()
        inside = (index >= 0) & (index < values)
        log_factors = self.table[torch.arange(entries), index.clamp(0, values - 1)]
        return log_factors.masked_fill(~inside, -math.inf)

    def soft(self, flat: Tensor) -> Tensor:
        """Log soft factors of entries (n, D): (n,)."""
        total = self.log_constant.expand(len(flat)).double()
        if self.table is not None:
            factors = self._factors(flat)
            return total + torch.where(torch.isneginf(factors), 0.0, factors).sum(1)
        e = self.linear
        if e is not None and len(e.soft):
            z = (e.soft_mean - flat[:, e.soft].double()) / e.soft_sd
            total = total + (log_normal_density(z) - e.soft_sd.log()).sum(1)
        return total

    def violations(self, flat: Tensor) -> Tensor:
        """How far entries (n, D) lie outside each hard constraint: (n, C), zeros inside."""
        parts = [torch.zeros(len(flat), 0, dtype=torch.float64)]
        if self.table is not None:
            parts.append(torch.isneginf(self._factors(flat)).any(1, keepdim=True).double())
        e = self.linear
        if e is not None:
            x = flat.double()
            if self.table is None:
                parts.append(torch.maximum(e.lower - x, x - e.upper).clamp_min(0.0)[:, ~e.known])
            parts.append(e.rows.violation(x))
        return torch.cat(parts, 1)


def _flatten(value: Tensor, n: int) -> Tensor:
    return value.reshape(n, -1)


def entry_distribution(fn: Any) -> Any:
    """Return the distribution of single entries, if entries are independent given the parameters."""
    while isinstance(fn, torch.distributions.Independent):
        fn = fn.base_dist
    return fn


_MOST_VALUES = 10_000


def few_values(fn: Any) -> Tensor | None:
    """The values of a site's entries, (V, E), if they are few: numbers from 0 (E = 1) or one-hot vectors (E = V)."""
    base = entry_distribution(fn)
    if not getattr(base, "has_enumerate_support", False) or isinstance(base, dist.Delta):
        return None
    try:
        support = base.enumerate_support(expand=False).reshape(-1, *base.event_shape).double()
    except NotImplementedError:
        return None
    if len(support) > _MOST_VALUES:
        return None
    if support.dim() == 1 and torch.equal(support, torch.arange(len(support)).double()):
        return support.unsqueeze(1)
    if support.dim() == 2 and torch.equal(support, torch.eye(len(support), dtype=torch.float64)):
        return support
    return None


class Restrict(Messenger):
    """Draws sites that have evidence in accordance with it, and notes their weights."""

    def __init__(self, evidence: Mapping[str, SiteEvidence], n: int, only_known: bool) -> None:
        super().__init__()
        self.evidence, self.n, self.only_known = evidence, n, only_known
        self.log_weight: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: Any) -> None:
        evidence = self.evidence.get(msg["name"])
        if evidence is None or msg["is_observed"] or msg["value"] is not None:
            return
        value, log_weight = restrict(msg["name"], msg["fn"], evidence, self.n, self.only_known)
        msg["value"], msg["done"] = value, True
        self.log_weight[msg["name"]] = log_weight


class KnownMass(Messenger):
    """Notes, at given values, the mass that partially known sites were normalised by."""

    def __init__(self, evidence: Mapping[str, SiteEvidence], n: int) -> None:
        super().__init__()
        self.evidence, self.n = evidence, n
        self.mass: dict[str, Tensor] = {}

    def _pyro_post_sample(self, msg: Any) -> None:
        evidence = self.evidence.get(msg["name"])
        if evidence is not None and evidence.fixes:
            self.mass[msg["name"]] = known_mass(msg["name"], msg["fn"], evidence, msg["value"], self.n)


def _gaussian(fn: Any, n: int) -> tuple[Tensor, Tensor] | None:
    """Means (n, D) and factors of a site that is Gaussian given its parents, in float64; None for any other."""
    base = entry_distribution(fn)
    if type(base) in (torch.distributions.Normal, dist.Normal):
        return _flatten(base.loc.double(), n), _flatten(base.scale.double(), n)
    if isinstance(fn, torch.distributions.MultivariateNormal) and fn.batch_shape.numel() == n:
        d = fn.event_shape[0]
        return _flatten(fn.loc.double(), n), fn.scale_tril.double().expand(*fn.batch_shape, d, d).reshape(n, d, d)
    return None


def _only_known(e: LinearEvidence) -> LinearEvidence:
    nothing = LinearEvidence.nothing(e.dim)
    return LinearEvidence(e.known, e.values, nothing.lower, nothing.upper, nothing.box_weight, nothing.rows)


def restrict(name: str, fn: Any, evidence: SiteEvidence, n: int, only_known: bool) -> tuple[Tensor, Tensor]:
    """Draw a site so that it agrees with its evidence as far as its distribution allows.

    Args:
        name: the site, for messages.
        fn: its distribution, batch shape starting with the n particles.
        evidence: what is said about it.
        n: particles.
        only_known: fix known entries and nothing more.

    Returns:
        Value, and log weights (n,): what the site contributes to importance weights instead of zero.
    """
    shape = fn.batch_shape + fn.event_shape
    if evidence.complete:
        value = evidence.known_value().to(_dtype(fn)).reshape(shape[1:]).expand(shape)
        return value, supported_sum(fn, value, n) + (0.0 if only_known else evidence.soft(_flatten(value, n)))
    if evidence.table is not None:
        return _restrict_table(fn, evidence, n, only_known)
    e = evidence.linear
    assert e is not None
    used = _only_known(e) if only_known else e
    constant = 0.0 if only_known else evidence.log_constant
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
        log_weight = known_mass(name, fn, evidence, value, n).masked_fill(outside_support(fn, value, n), -math.inf)
    if not only_known:
        log_weight = log_weight + evidence.soft(flat)
        log_weight = log_weight.masked_fill((evidence.violations(flat) > 0).any(1), -math.inf)
    return value, log_weight


def _dtype(fn: Any) -> torch.dtype:
    if isinstance(entry_distribution(fn), torch.distributions.Categorical):
        return torch.long
    for name in ("loc", "logits", "probs", "concentration", "rate"):
        value = getattr(entry_distribution(fn), name, None)
        if isinstance(value, Tensor):
            return value.dtype
    return torch.get_default_dtype()


def _restrict_gaussian(means: Tensor, factors: Tensor, e: LinearEvidence) -> tuple[Tensor, Tensor]:
    """One constrained draw from each of n Gaussians: the mixture kernel with every particle a component."""
    n = len(means)
    mixture = ConditionedMixture(torch.zeros(n, dtype=torch.float64), means, factors, e)
    x, log_weight = mixture.draw_each()
    return x, log_weight


def _table_log_probs(fn: Any, evidence: SiteEvidence, n: int, hard: bool) -> tuple[Tensor, Tensor]:
    """Support of a site with a table, and log probability plus log factor of each value, (n, D, V)."""
    assert evidence.table is not None
    base = entry_distribution(fn)
    support = base.enumerate_support(expand=False).reshape(-1, *base.event_shape)
    if len(support) != evidence.table.shape[1]:
        raise EvidenceError(
            f"a site with {evidence.table.shape[1]} values has {len(support)} in another draw; evidence about it "
            f"can only be a known value or a box"
        )
    shape = base.batch_shape + base.event_shape
    log_probs = torch.stack([base.log_prob(v.expand(shape)) for v in support], -1).double()
    factors = torch.where(torch.isneginf(evidence.table), evidence.table, 0.0) if hard else evidence.table
    return support, log_probs.reshape(n, -1, len(support)) + factors


def _restrict_table(fn: Any, evidence: SiteEvidence, n: int, only_known: bool) -> tuple[Tensor, Tensor]:
    support, log_probs = _table_log_probs(fn, evidence, n, only_known)
    log_mass = log_probs.logsumexp(-1)
    index = torch.multinomial(log_probs.softmax(-1).nan_to_num(1.0).reshape(-1, len(support)), 1)
    base = entry_distribution(fn)
    value = support[index].reshape(base.batch_shape + base.event_shape)
    log_weight = log_mass.sum(1)
    if not only_known:
        log_weight = log_weight + evidence.log_constant
        outside = evidence.violations(_flatten(value, n))
        log_weight = log_weight.masked_fill((outside > 0).any(1), -math.inf)
    return value, log_weight


def known_mass(name: str, fn: Any, evidence: SiteEvidence, value: Tensor, n: int) -> Tensor:
    """Log density of a site's known entries alone, or log mass of the values not excluded, (n,)."""
    if evidence.complete:
        return sum_per_particle(fn.log_prob(value), n)
    if evidence.table is not None:
        return _table_log_probs(fn, evidence, n, hard=True)[1].logsumexp(-1).sum(1)
    e = evidence.linear
    assert e is not None
    gaussian = _gaussian(fn, n)
    if gaussian is not None:
        return condition(*gaussian, _only_known(e)).log_terms.sum(-1)
    base = entry_distribution(fn)
    entries = getattr(base, "entry_log_prob", None)  # entries that are independent although they are one event
    if entries is not None:
        return _flatten(entries(value), n)[:, e.known].double().sum(1)
    if base.event_shape:
        raise EvidenceError(
            f"site {name!r} is partially known, but the entries of its {type(base).__name__} depend on each other in "
            f"ways the generic path cannot condition on; make all of it known, or none"
        )
    return _flatten(base.log_prob(value), n)[:, e.known].double().sum(1)


def outside_support(fn: Any, value: Tensor, n: int) -> Tensor:
    """Whether a particle's value lies outside the support, bool (n,): densities themselves do not check it."""
    nowhere = torch.zeros(n, dtype=torch.bool)
    if isinstance(fn, dist.MaskedDistribution):
        return nowhere  # what is masked may hold anything
    try:
        inside = fn.support.check(value)
    except NotImplementedError:
        return nowhere
    return ~inside.reshape(n, -1).all(1) if inside.dim() and len(inside) == n else ~inside.all().expand(n)


def supported_sum(fn: Any, value: Tensor, n: int) -> Tensor:
    """Log density of a site per particle, (n,); `-inf` outside its support."""
    return sum_per_particle(fn.log_prob(value), n).masked_fill(outside_support(fn, value, n), -math.inf)


def switched_off(site: Any, n: int) -> Tensor | float:
    """Log density, per particle (n,), of a latent site's entries that a mask switches off.

    They are no part of the model (the latents of steps after a sequence's end), but moves need a distribution for them,
    or they drift without limit. Their own, as they are proposed from it, changes nothing about anything else.
    A site that is switched off altogether, by `mask=False`, has its density counted elsewhere by its author.
    """
    fn, mask, parts = site["fn"], site["mask"], []
    own = getattr(fn, "_mask", None) if isinstance(fn, dist.MaskedDistribution) else None
    if isinstance(own, Tensor):
        log_prob = fn.base_dist.log_prob(site["value"])
        parts.append(torch.where(own, torch.zeros_like(log_prob), log_prob))
    if isinstance(mask, Tensor):
        log_prob = site["unscaled_log_prob"]
        parts.append(torch.where(mask, torch.zeros_like(log_prob), log_prob))
    return sum((sum_per_particle(torch.where(torch.isfinite(p), p, 0.0), n) for p in parts), 0.0)


def sum_per_particle(log_prob: Any, n: int) -> Tensor:
    """Sum a site's log density over everything but particles; a site without that axis counts for each."""
    if not isinstance(log_prob, Tensor):
        log_prob = torch.as_tensor(float(log_prob))
    log_prob = log_prob.double()
    if log_prob.dim() and log_prob.shape[0] == n:
        return log_prob.reshape(n, -1).sum(1)
    return log_prob.sum().expand(n)
