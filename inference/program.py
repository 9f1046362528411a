"""A model/guide pair with a question attached: what the query methods need, for any Pyro programs.

`Program` runs the pair under one extra plate of particles (everything in this house is vectorised over leading axes)
and offers two things. `propose` draws particles by the guide, or by the prior, restricted to the evidence site by site
where that can be done exactly, with their log importance weights. `score` evaluates given particles: log joint density,
log density under the unrestricted proposal, log soft factors, and how far hard constraints are violated.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.condition_messenger import ConditionMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import constraints

from phlogiston.distributions.linear_constraints import simplify
from phlogiston.errors import EvidenceError
from phlogiston.inference.evidence import Piece, unknown_message
from phlogiston.inference.lowering import lower_category, lower_vector
from phlogiston.inference.restriction import KnownMass, Restrict, SiteEvidence, entry_law, sum_per_particle

_PARTICLES = "query_particles"


@dataclass
class Particles:
    """Particles and how they came about.

    Attributes:
        values: site -> (n, ...), every sample site of the model but fully known ones included.
        log_weights: (n,), log importance weights.
    """

    values: dict[str, Tensor]
    log_weights: Tensor


@dataclass
class Scores:
    """Log densities of particles, each (n,); `violations` (n, C)."""

    joint: Tensor
    proposal: Tensor
    soft: Tensor
    violations: Tensor


class Program:
    """A pair and a question.

    Args:
        model: a Pyro program; its data arguments may be None.
        guide: proposes latent sites given data, or None for the prior.
        evidence: normalised, one row; sites of the model.
        batch: further arguments both programs take.
        row: which row of the pieces to use.

    Attributes:
        proposes: `"guide"` or `"prior"`: who proposes.
        sites: the model's sample sites in order.

    Raises:
        EvidenceError: unknown sites, or evidence that does not fit them.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any] | None,
        evidence: Mapping[str, tuple[Piece, ...]],
        batch: Mapping[str, Any] | None = None,
        row: int = 0,
    ) -> None:
        self.model, self.batch = model, dict(batch or {})
        with torch.no_grad():
            trace = poutine.trace(model).get_trace(**self.batch)
        nodes: dict[str, Any] = {
            name: site for name, site in trace.nodes.items() if site["type"] == "sample" and not _hide(site)
        }
        self.observed = [name for name, site in nodes.items() if site["is_observed"]]
        self.sites = [name for name in nodes if name not in self.observed]
        for name in evidence:
            if name in self.observed:
                raise EvidenceError(f"site {name!r} is observed in the batch already; leave it out of one of them")
            if name not in self.sites:
                raise EvidenceError(unknown_message("site", name, self.sites))
        self.shapes = {name: nodes[name]["value"].shape for name in self.sites}
        self.supports = {name: nodes[name]["fn"].support for name in self.sites}
        self.nesting = max((-f.dim for s in nodes.values() for f in s["cond_indep_stack"] if f.dim), default=0)
        self.nesting = max([self.nesting, *(len(s["fn"].batch_shape) for s in nodes.values())])
        self.evidence = {
            name: self._lower(name, nodes[name]["fn"], pieces, row) for name, pieces in evidence.items() if pieces
        }
        self.guide, self.guide_batch, self.guide_sites = self._choose(guide)

    @property
    def proposes(self) -> str:
        """Who proposes: `"guide"` or `"prior"`."""
        return "guide" if self.guide is not None else "prior"

    def _lower(self, name: str, fn: Any, pieces: tuple[Piece, ...], row: int) -> SiteEvidence:
        base = entry_law(fn)
        zero = torch.zeros((), dtype=torch.float64)
        if getattr(base, "has_enumerate_support", False) and not base.event_shape:
            size = len(base.enumerate_support(expand=False).reshape(-1))
            entries = self.shapes[name].numel()
            if entries == 1:
                allowed = lower_category(name, pieces, [str(v) for v in range(size)], row)
                return SiteEvidence(None, zero, allowed if allowed is not None else torch.ones(size, dtype=torch.bool))
        linear, constant = lower_vector(name, pieces, self.shapes[name].numel(), row)
        if bool((linear.soft_fraction > 0).any()):
            raise EvidenceError(f"site {name!r}: masks between 0 and 1 need a system with an exact path")
        simplify(linear)  # contradictions are found here, before anything runs
        return SiteEvidence(linear, constant)

    def _choose(self, guide: Any) -> tuple[Any, dict[str, Any], list[str]]:
        """Find out whether the guide can use what is known, by trying it once."""
        if guide is None:
            return None, {}, []
        target = getattr(guide, "forward", guide)
        try:
            accepted = set(inspect.signature(target).parameters)
        except (TypeError, ValueError):
            accepted = set()
        given = dict(self.batch)
        for name, found in self.evidence.items():
            if name not in accepted:
                continue
            if found.complete and found.linear is not None:
                given[name] = found.linear.values.to(torch.get_default_dtype()).reshape(self.shapes[name])
            elif found.linear is not None and bool(found.linear.known.any()) and "mask" in accepted:
                values = torch.where(found.linear.known, found.linear.values, 0.0)
                given[name] = values.to(torch.get_default_dtype()).reshape(self.shapes[name])
                given["mask"] = found.linear.known.reshape(self.shapes[name])
            elif found.allowed is not None and int(found.allowed.sum()) == 1:
                given[name] = found.allowed.nonzero()[0].reshape(self.shapes[name])
        try:
            with torch.no_grad():
                trace = poutine.trace(guide).get_trace(**given)
        except (TypeError, AttributeError, RuntimeError, ValueError):
            return None, {}, []  # it needs data that the question does not give: the prior proposes
        sites = [
            n for n, s in trace.nodes.items() if s["type"] == "sample" and n in self.sites and not s["is_observed"]
        ]
        return (guide, given, sites) if sites else (None, {}, [])

    def _plate(self, n: int) -> Any:
        return pyro.plate(_PARTICLES, n, dim=-1 - self.nesting)

    def _run(self, program: Any, batch: Mapping[str, Any], n: int, *handlers: Messenger) -> Any:
        def run() -> None:
            with self._plate(n):
                program(**batch)

        for handler in handlers:
            run = handler(run)
        return poutine.trace(run).get_trace()

    @torch.no_grad()
    def propose(self, n: int, only_known: bool = False) -> Particles:
        """Draw particles with their importance weights.

        Args:
            n: how many.
            only_known: restrict proposals to known values and nothing more; other evidence then is not in the weights.

        Returns:
            Particles; weights may be `-inf`.
        """
        log_weights = torch.zeros(n, dtype=torch.float64)
        chosen: dict[str, Tensor] = {}
        with pyro.validation_enabled(False):
            if self.guide is not None:
                restrict_guide = Restrict(self.evidence, n, only_known)
                trace = self._run(self.guide, self.guide_batch, n, restrict_guide)
                trace.compute_log_prob()
                for name, site in trace.nodes.items():
                    if site["type"] == "sample" and not site["is_observed"] and not site_is_subsample(site):
                        chosen[name] = site["value"]
                        log_weights = log_weights - sum_per_particle(site["log_prob"], n)
                        log_weights = log_weights + restrict_guide.log_weight.get(name, 0.0)
            restrict_model = Restrict(self.evidence, n, only_known)
            given = {k: v for k, v in chosen.items() if k in self.sites}
            trace = self._run(self.model, self.batch, n, ConditionMessenger(given), restrict_model)
            trace.compute_log_prob()
        values = dict(given)
        for name, site in trace.nodes.items():
            if site["type"] != "sample" or _hide(site):
                continue
            if name in given or name in self.observed:
                log_weights = log_weights + sum_per_particle(site["log_prob"], n)
            else:
                values[name] = site["value"]
                log_weights = log_weights + restrict_model.log_weight.get(name, 0.0)
        full = {name: self._expand(values[name], name, n) for name in self.sites}
        return Particles(full, torch.where(torch.isnan(log_weights), -math.inf, log_weights))

    def _expand(self, value: Tensor, name: str, n: int) -> Tensor:
        """Bring a site's values to (n, *its own shape)."""
        return value.reshape(n, -1).reshape(n, *self.shapes[name]) if value.numel() >= n else value.expand(n)

    def score(self, values: Mapping[str, Tensor]) -> Scores:
        """Evaluate particles (n, ...); differentiable in continuous values."""
        n = len(next(iter(values.values())))
        placed = {name: self._place(value, name, n) for name, value in values.items()}
        with pyro.validation_enabled(False):
            note = KnownMass(self.evidence, n)
            trace = self._run(self.model, self.batch, n, ConditionMessenger(placed), note)
            trace.compute_log_prob()
            joint = torch.zeros(n, dtype=torch.float64)
            proposal = torch.zeros(n, dtype=torch.float64)
            guided = set(self.guide_sites)
            for name, site in trace.nodes.items():
                if site["type"] != "sample" or _hide(site):
                    continue
                log_prob = sum_per_particle(site["log_prob"], n)
                joint = joint + log_prob
                if name not in self.observed and name not in guided:
                    proposal = proposal + log_prob - note.mass.get(name, 0.0)
            if self.guide is not None:
                note = KnownMass(self.evidence, n)
                given = {k: placed[k] for k in self.guide_sites}
                trace = self._run(self.guide, self.guide_batch, n, ConditionMessenger(given), note)
                trace.compute_log_prob()
                for name in self.guide_sites:
                    proposal = proposal + sum_per_particle(trace.nodes[name]["log_prob"], n) - note.mass.get(name, 0.0)
        soft = torch.zeros(n, dtype=torch.float64)
        violations = []
        for name, found in self.evidence.items():
            flat = values[name].reshape(n, -1)
            soft = soft + found.soft(flat)
            violations.append(found.violations(flat))
        outside = torch.cat(violations, 1) if violations else torch.zeros(n, 0, dtype=torch.float64)
        return Scores(joint, proposal, soft, outside)

    def _place(self, value: Tensor, name: str, n: int) -> Tensor:
        """Put particle values (n, *shape) where the particle plate expects them."""
        shape = self.shapes[name]
        event = len(self._event(name))
        batch = shape[: len(shape) - event]
        return value.reshape(n, *(1,) * (self.nesting - len(batch)), *shape)

    def _event(self, name: str) -> tuple[int, ...]:
        return tuple(self.shapes[name])[len(self.shapes[name]) - _event_dim(self.supports[name]) :]


def _event_dim(support: Any) -> int:
    return int(getattr(support, "event_dim", 0))


def _hide(site: Any) -> bool:
    return bool(site_is_subsample(site)) if site["type"] == "sample" else True


def limits(support: Any) -> tuple[Tensor, Tensor] | None:
    """The interval a support of single entries stands for; None for supports that are no intervals."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    infinite = torch.tensor(math.inf, dtype=torch.float64)
    if isinstance(support, type(constraints.real)):
        return -infinite, infinite
    low = getattr(support, "lower_bound", None)
    high = getattr(support, "upper_bound", None)
    if getattr(support, "is_discrete", False) or (low is None and high is None):
        return None
    return (
        -infinite if low is None else torch.as_tensor(low, dtype=torch.float64),
        infinite if high is None else torch.as_tensor(high, dtype=torch.float64),
    )
