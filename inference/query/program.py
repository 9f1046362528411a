"""A model/guide pair with a question attached: what the query methods need, for any Pyro programs.

`Program` runs the pair under one extra plate of particles (everything in this package is vectorised over leading axes)
and offers two things. `propose` draws particles by the guide, or by the prior, restricted to the evidence site by site
where that can be done exactly, with their log importance weights. `score` evaluates given particles: log joint density,
log density under the unrestricted proposal, log soft factors, and how far hard constraints are violated.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Collection, Mapping
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
from phlogiston.distributions.pyro_programs import RandomLayers, count_rows_once, is_delta
from phlogiston.distributions.shapes import joint_shape
from phlogiston.errors import ConfigError, EvidenceError
from phlogiston.inference.query.compilation import compile_discrete, compile_vector
from phlogiston.inference.query.evidence import Evidence, unknown_message
from phlogiston.inference.query.numerical_faults import retried
from phlogiston.inference.query.proposals import GlobalLatents, Proposal, choose_proposal
from phlogiston.inference.query.restriction import (
    KnownMass,
    Restrict,
    SiteEvidence,
    entry_distribution,
    few_values,
    outside_support,
    sum_per_particle,
    switched_off,
)
from phlogiston.inference.svi.handlers import in_data_plate

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


class _Reached(Exception):
    """The run has come to a site that it need not go beyond."""


class _Until(Messenger):
    """Ends a run at the first of some sites."""

    def __init__(self, names: Collection[str]) -> None:
        super().__init__()
        self.names = frozenset(names)

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.names:
            raise _Reached


class Program:
    """A pair and a question.

    Args:
        model: a Pyro program; its data arguments may be None.
        guide: proposes latent sites given data, or None for the prior.
        evidence: normalised, one row; sites of the model.
        batch: further arguments both programs take.
        row: which row of the evidence to use.
        global_latents: see `inference.query.proposals`.

    Attributes:
        proposes: who proposes, in words.
        sites: the model's latent sites in order.
        state: sites that particles consist of: latent sites that are free given the question, and the guide's
            auxiliary sites in place of those driven by them.
        trailing: sites that come after everything the question knows, once `set_trailing_aside` was called.
        deterministic: the model's deterministic sites, as the model alone computed them.
        mixed: those of them that are not vectorised over particles.

    Raises:
        EvidenceError: unknown sites, or evidence that does not fit them.
        ConfigError: a program that fails, is not vectorised, or a guide that cannot propose.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any] | None,
        evidence: Mapping[str, tuple[Evidence, ...]],
        batch: Mapping[str, Any] | None = None,
        row: int = 0,
        *,
        global_latents: GlobalLatents = "posterior",
    ) -> None:
        self.model, self.batch = model, dict(batch or {})
        with torch.no_grad():
            trace = retried(lambda: poutine.trace(model).get_trace(**self.batch))
        _refuse_subsampling(trace)
        nodes: dict[str, Any] = {
            name: site for name, site in trace.nodes.items() if site["type"] == "sample" and not _hide(site)
        }
        self.deterministic = {name: s["value"] for name, s in nodes.items() if s["infer"].get("_deterministic")}
        nodes = {name: site for name, site in nodes.items() if name not in self.deterministic}
        self.observed = [name for name, site in nodes.items() if site["is_observed"]]
        self.observed_values: dict[str, Tensor] = {name: nodes[name]["value"] for name in self.observed}
        self.sites = [name for name in nodes if name not in self.observed]
        self._check_names(evidence)
        self.shapes = {name: nodes[name]["value"].shape for name in self.sites}
        self.dtypes = {name: nodes[name]["value"].dtype for name in self.sites}
        self.supports = {name: nodes[name]["fn"].support for name in self.sites}
        self.event_dims = {name: nodes[name]["fn"].event_dim for name in self.sites}
        self.evidence = {
            name: self._compile(name, nodes[name]["fn"], pieces, row) for name, pieces in evidence.items() if pieces
        }
        self.proposal = self._choose(guide, nodes, global_latents)
        self.nesting = _nesting([*nodes.values(), *self.proposal.nodes.values()])
        self.computed = [  # point masses of the model: functions of other sites
            name
            for name in self.sites
            if is_delta(nodes[name]["fn"]) and not (name in self.evidence and self.evidence[name].fixes)
        ]
        skip = {*self.proposal.driven, *self.computed}
        self.state = [name for name in self.sites if name not in skip] + list(self.proposal.auxiliary)
        for name in self.proposal.auxiliary:
            site = self.proposal.nodes[name]
            self.shapes[name], self.supports[name] = site["value"].shape, site["fn"].support
            self.event_dims[name], self.dtypes[name] = site["fn"].event_dim, site["value"].dtype
        self._order = list(nodes)
        self.trailing: list[str] = []
        self.emptying = [
            name for name in self.sites if getattr(entry_distribution(nodes[name]["fn"]), "has_empty_entries", False)
        ]
        self.mixed: set[str] = set()
        self._moving: frozenset[str] | None = None

    def _check_names(self, evidence: Mapping[str, Any]) -> None:
        for name in evidence:
            if name in self.deterministic:
                raise EvidenceError(
                    f"site {name!r} is deterministic: give evidence about the sites it is computed from"
                )
            if name in self.observed:
                raise EvidenceError(f"site {name!r} is observed in the batch already; leave it out of one of them")
            if name not in self.sites:
                raise EvidenceError(unknown_message("site", name, self.sites))

    def set_trailing_aside(self) -> None:
        """Take the sites that come after everything known out of `state`; `complete` draws them from the model.

        Given the sites before them they follow the prior, so that moves need not care for them (pixels of an image
        that is not known, say). Does nothing where nothing is known.
        """
        proposed = set(self.proposal.sites)
        known = [i for i, n in enumerate(self._order) if n in self.observed or n in self.evidence or n in proposed]
        if not known:
            return
        after = set(self._order[known[-1] + 1 :])
        self.trailing = [name for name in self.state if name in after]
        self.state = [name for name in self.state if name not in after]

    @property
    def proposes(self) -> str:
        """Who proposes, in words."""
        return self.proposal.why

    @property
    def fitted(self) -> frozenset[str]:
        """Global latents drawn from the guide's distribution."""
        return self.proposal.fitted

    def _compile(self, name: str, fn: Any, pieces: tuple[Evidence, ...], row: int) -> SiteEvidence:
        support = few_values(fn)
        if support is not None:
            one_hot = support.shape[1] > 1
            entries = self.shapes[name].numel() // support.shape[1]
            table, coupled, constant = compile_discrete(name, pieces, support, entries, row)
            return SiteEvidence(coupled, constant, table, one_hot)
        linear, constant = compile_vector(name, pieces, self.shapes[name].numel(), row)
        if bool((linear.soft_fraction > 0).any()):
            raise EvidenceError(f"site {name!r}: masks between 0 and 1 need a system with an exact path")
        simplify(linear)  # contradictions are refused here, before anything runs
        return SiteEvidence(linear, constant)

    def _choose(self, guide: Any, nodes: Mapping[str, Any], global_latents: GlobalLatents) -> Proposal:
        known, partly = {}, {}
        for name, evidence in self.evidence.items():
            dtype = torch.get_default_dtype() if evidence.table is None else nodes[name]["value"].dtype
            shape = self.shapes[name]
            if evidence.complete:
                known[name] = evidence.known_value().to(dtype).reshape(shape)
            elif evidence.table is None and evidence.fixes and evidence.linear is not None:
                values = torch.where(evidence.linear.known, evidence.linear.values, 0.0)
                partly[name] = values.to(dtype).reshape(shape), evidence.linear.known.reshape(shape)
        fixed = [name for name, evidence in self.evidence.items() if evidence.fixes]
        latent = {name: nodes[name] for name in self.sites}
        over_data = any(in_data_plate(site) for site in nodes.values())
        return choose_proposal(guide, self.model, latent, self.batch, known, partly, fixed, over_data, global_latents)

    def _plate(self, n: int) -> Any:
        return pyro.plate(_PARTICLES, n, dim=-1 - self.nesting)

    def run(self, program: Any, batch: Mapping[str, Any], n: int, *handlers: Messenger) -> Any:
        """Trace a program for n particles at once, the last handler outermost."""

        def run() -> None:
            with self._plate(n), RandomLayers(self.nesting):
                program(**batch)

        for handler in handlers:
            run = handler(run)
        with pyro.validation_enabled(False):
            tracer = poutine.trace(run)
            with contextlib.suppress(_Reached):
                tracer()
            trace = tracer.msngr.get_trace()
            count_rows_once(trace)
            trace.compute_log_prob()
        return trace

    @torch.no_grad()
    def traces(self, n: int, only_known: bool = False) -> tuple[Any, Any, Restrict, Restrict]:
        """Run guide (None where the prior proposes) and model once, restricted to the evidence."""
        guide_restrict, model_restrict = (Restrict(self.evidence, n, only_known) for _ in range(2))
        proposal, given, guide_trace = self.proposal, {}, None
        if proposal.guide is not None:
            guide_trace = self.run(proposal.guide, proposal.batch, n, guide_restrict)
            given = {name: guide_trace.nodes[name]["value"] for name in proposal.sites}
        model_trace = self.run(self.model, self.batch, n, ConditionMessenger(given), model_restrict)
        return guide_trace, model_trace, guide_restrict, model_restrict

    @torch.no_grad()
    def propose(self, n: int, only_known: bool = False) -> Particles:
        """Draw particles with their importance weights.

        Args:
            n: how many.
            only_known: restrict proposals to known values and nothing more; other evidence then is not in the weights.

        Returns:
            Particles; weights may be `-inf`.
        """
        proposal = self.proposal
        guide_trace, trace, guide_restrict, restrict_model = self.traces(n, only_known)
        log_weights = torch.zeros(n, dtype=torch.float64)
        values: dict[str, Tensor] = {}
        if guide_trace is not None:
            for name in (*proposal.sites, *proposal.auxiliary):
                site = guide_trace.nodes[name]
                values[name] = site["value"]
                if name not in proposal.fitted and name not in proposal.fitted_auxiliary:
                    log_weights = log_weights - sum_per_particle(site["log_prob"], n)
                log_weights = log_weights + guide_restrict.log_weight.get(name, 0.0)
        for name, site in self.sample_sites(trace):
            if name in values or name in self.observed:
                if name not in proposal.fitted:
                    log_weights = log_weights + sum_per_particle(site["log_prob"], n)
            else:
                values[name] = site["value"]
                log_weights = log_weights + restrict_model.log_weight.get(name, 0.0)
        full = {name: self._expand(values[name], name, n) for name in (*self.sites, *proposal.auxiliary)}
        return Particles(full, torch.where(torch.isnan(log_weights), -math.inf, log_weights))

    def sample_sites(self, trace: Any) -> list[tuple[str, Any]]:
        """The model's sample sites of a trace, deterministic ones left out."""
        return [
            (name, site)
            for name, site in trace.nodes.items()
            if site["type"] == "sample" and not _hide(site) and name not in self.deterministic
        ]

    def _expand(self, value: Tensor, name: str, n: int) -> Tensor:
        """Bring a site's values to (n, *its own shape)."""
        return value.reshape(n, -1).reshape(n, *self.shapes[name]) if value.numel() >= n else value.expand(n)

    def score(self, values: Mapping[str, Tensor]) -> Scores:
        """Evaluate particles (n, ...); differentiable in continuous values.

        Only sites of `state` are read: the others follow from them.
        """
        n = len(next(iter(values.values())))
        proposal = self.proposal
        placed = {name: self.place(values[name], name, n) for name in self.state}
        joint = torch.zeros(n, dtype=torch.float64)
        proposed = torch.zeros(n, dtype=torch.float64)
        if proposal.guide is not None:
            note = KnownMass(self.evidence, n)
            given = {k: placed[k] for k in (*proposal.drawn, *proposal.auxiliary)}
            trace = self.run(proposal.guide, proposal.batch, n, ConditionMessenger(given), note)
            for name in (*proposal.drawn, *proposal.auxiliary):
                log_prob = sum_per_particle(trace.nodes[name]["log_prob"], n)
                off = switched_off(trace.nodes[name], n)
                proposed = proposed + log_prob - note.mass.get(name, 0.0) + off
                joint = joint + off
                if name in proposal.fitted or name in proposal.fitted_auxiliary:
                    joint = joint + log_prob
            for name in proposal.driven:
                site = trace.nodes[name]
                placed[name] = site["value"]
                if name not in proposal.fitted:  # the density of the change of variables
                    joint = joint - sum_per_particle(site["log_prob"], n)
        note = KnownMass(self.evidence, n)
        placed = {name: value for name, value in placed.items() if name in self.sites}
        trace = self.run(self.model, self.batch, n, ConditionMessenger(placed), note, _Until(self.trailing))
        for name, site in self.sample_sites(trace):
            if name in proposal.fitted:
                continue
            log_prob = sum_per_particle(site["log_prob"], n)
            if name in self.evidence and self.evidence[name].fixes:
                log_prob = log_prob.masked_fill(outside_support(site["fn"], site["value"], n), -math.inf)
            joint = joint + log_prob
            if name not in self.observed and name not in proposal.sites:
                off = switched_off(site, n)
                proposed = proposed + log_prob - note.mass.get(name, 0.0) + off
                joint = joint + off
        return Scores(joint, proposed, *self._agreement(trace, n))

    def _agreement(self, trace: Any, n: int) -> tuple[Tensor, Tensor]:
        """Log soft factors (n,) and violations (n, C) of the values in a model's trace."""
        soft = torch.zeros(n, dtype=torch.float64)
        violations = [torch.zeros(n, 0, dtype=torch.float64)]
        for name, evidence in self.evidence.items():
            flat = self._expand(trace.nodes[name]["value"], name, n).reshape(n, -1)
            soft = soft + evidence.soft(flat)
            violations.append(evidence.violations(flat))
        return soft, torch.cat(violations, 1)

    @torch.no_grad()
    def complete(self, values: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor | None]]:
        """Bring all sites of particles into agreement with those of `state`; draw trailing ones.

        Returns:
            Latent sites of the model, and its deterministic ones, None where they are not vectorised over particles.
        """
        n = len(next(iter(values.values())))
        follow = [*self.proposal.driven, *self.computed, *self.trailing]
        result = {name: values[name] for name in self.sites if name not in follow}
        if not self.deterministic and not follow:
            return result, {}
        nodes = self.walk(values, n, Messenger()).nodes
        result = {
            name: self._expand(nodes[name]["value"], name, n) if name in follow else values[name] for name in self.sites
        }
        computed = {
            name: None if name in self.mixed or name not in nodes else self.spread(nodes[name]["value"], name, n)
            for name in self.deterministic
        }
        return {name: result[name] for name in self.sites}, computed

    def spread(self, value: Tensor, name: str, n: int) -> Tensor | None:
        """A deterministic site's values as (n, *its own shape); None where they do not come particle by particle."""
        shape = self.deterministic[name].shape
        if value.dim() and len(value) == n and value.numel() == n * shape.numel():
            return value.reshape(n, *shape)
        return value.expand(n, *shape) if value.shape == shape else None

    def place(self, value: Tensor, name: str, n: int) -> Tensor:
        """Put particle values (n, *shape) where the particle plate expects them, in the program's own type."""
        shape = self.shapes[name]
        batch = len(shape) - self.event_dims[name]
        return value.to(self.dtypes[name]).reshape(n, *(1,) * (self.nesting - batch), *shape)

    def align(self, value: Tensor, name: str, n: int) -> Tensor:
        """Bring what broadcasts with a site's values under the particle plate to what does with (n, *its own shape)."""
        shape = self.shapes[name]
        between = self.nesting - (len(shape) - self.event_dims[name])
        full = value.expand(joint_shape(value.shape, (n, *(1,) * between, *shape)))
        return full.reshape(n, *shape)

    def walk(self, values: Mapping[str, Tensor], n: int, handler: Messenger, skip: Collection[str] = ()) -> Any:
        """Run the model at given values (n, ...), but for the sites in `skip`, under a handler; returns the trace."""
        placed = {name: self.place(values[name], name, n) for name in self.state if name not in skip}
        proposal = self.proposal
        if proposal.driven:
            given = {k: placed[k] for k in (*proposal.drawn, *proposal.auxiliary) if k in placed}
            trace = self.run(proposal.guide, proposal.batch, n, ConditionMessenger(given))
            placed |= {name: trace.nodes[name]["value"] for name in proposal.driven}
        placed = {name: value for name, value in placed.items() if name in self.sites}
        return self.run(self.model, self.batch, n, ConditionMessenger(placed), handler)

    @torch.no_grad()
    def supports_at(self, values: Mapping[str, Tensor]) -> dict[str, Any]:
        """The supports that latent sites have at given values (n, ...), batched over particles."""
        trace = self.walk(values, len(next(iter(values.values()))), Messenger())
        return {name: trace.nodes[name]["fn"].support for name in self.sites}

    @property
    def moving_supports(self) -> frozenset[str]:
        """Latent sites whose limits depend on other sites."""
        if self._moving is None:
            with torch.random.fork_rng():
                _, trace, _, _ = retried(lambda: self.traces(5, only_known=True))
            self._moving = frozenset(
                name for name in self.sites if name in trace.nodes and _varies(trace.nodes[name]["fn"].support)
            )
        return self._moving


def _varies(support: Any) -> bool:
    ends = limits(support)
    return ends is not None and any(e.dim() > 0 and len(e) > 1 and bool((e != e[:1]).any()) for e in ends)


def _nesting(sites: list[Any]) -> int:
    """How many batch axes plates and distributions take."""
    plates = [-f.dim for s in sites for f in s["cond_indep_stack"] if f.dim]
    return max([0, *plates, *(len(s["fn"].batch_shape) for s in sites)])


def _refuse_subsampling(trace: Any) -> None:
    """Refuse plates that draw some of their rows: a question is about all of them.

    Raises:
        ConfigError: naming the plate.
    """
    for name, site in trace.nodes.items():
        if site["type"] == "sample" and site_is_subsample(site):
            size, drawn = site["fn"].size, site["fn"].subsample_size
            if drawn is not None and drawn < size:
                raise ConfigError(
                    f"the plate {name!r} draws {drawn} of {size} rows by itself; a question needs all of them. Give "
                    f"the model an argument for subsample_size, and ask with it at {size}."
                )


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
