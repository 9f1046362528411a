"""Who proposes the latent sites of a question: what a guide draws, in which ways, and what it was fitted to be.

A guide's sites come in three kinds. *Drawn* sites are the model's and have a density of their own. *Auxiliary* sites
are the guide's own randomness, and *driven* sites are deterministic functions of it (Pyro's `AutoContinuous` guides
draw one auxiliary vector and hand its parts out through `Delta` sites that carry the Jacobian). A `Delta` that follows
no auxiliary site is a point estimate, and no proposal.

Sites outside the plate over data points whose distribution in the guide does not depend on the data (weights of a
regression under an AutoGuide) are global latents that training fitted: the guide's distribution is their posterior
given the training data, and a query uses it instead of the prior.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn
from torch.distributions import biject_to

from phlogiston.distributions.pyro_programs import draw_sites, is_delta, sites_that_follow_data
from phlogiston.errors import ConfigError, EvidenceError, PhlogistonError, QueryWarning
from phlogiston.inference.svi.handlers import in_data_plate

GlobalLatents = Literal["posterior", "prior"]


@dataclass(frozen=True, eq=False)
class Proposal:
    """What proposes.

    Attributes:
        guide: the guide, or None for the prior.
        batch: the arguments it is called with.
        drawn: sites of the model that it draws with a density of their own.
        driven: sites of the model that are functions of its auxiliary sites.
        auxiliary: its auxiliary sites.
        fitted: those of `drawn` and `driven` whose distribution in the guide replaces the prior.
        fitted_auxiliary: the auxiliary sites behind those.
        nodes: its trace's sites, to learn shapes from.
        why: who proposes, in words.
    """

    guide: Any = None
    batch: Mapping[str, Any] = field(default_factory=dict)
    drawn: tuple[str, ...] = ()
    driven: tuple[str, ...] = ()
    auxiliary: tuple[str, ...] = ()
    fitted: frozenset[str] = frozenset()
    fitted_auxiliary: frozenset[str] = frozenset()
    nodes: Mapping[str, Any] = field(default_factory=dict)
    why: str = "prior"

    @property
    def sites(self) -> tuple[str, ...]:
        """Sites of the model that the guide proposes."""
        return self.drawn + self.driven


def _is_masked(site: Any) -> bool:
    """Say whether a site's density is switched off: its author counts it elsewhere, as with a seed of other sites."""
    return site["mask"] is False or getattr(site["fn"], "_mask", None) is False


def choose_proposal(
    guide: Callable[..., Any] | None,
    model: Callable[..., Any],
    nodes: Mapping[str, Any],
    batch: Mapping[str, Any],
    known: Mapping[str, Tensor],
    partly: Mapping[str, tuple[Tensor, Tensor]],
    fixed: Collection[str],
    over_data: bool,
    global_latents: GlobalLatents = "posterior",
) -> Proposal:
    """Find out what a guide proposes, by its signature and one run.

    Args:
        guide: the guide, or None.
        model: the model it belongs to.
        nodes: latent sites of the model's trace.
        batch: arguments given by the user.
        known: sites whose value the evidence fixes altogether, shaped as the model has them.
        partly: sites it fixes in part: values and mask, for guides that take `mask`.
        fixed: sites of which the evidence fixes anything.
        over_data: the model has a plate over data points.
        global_latents: `"posterior"` to use the guide's distribution of global latents that training fitted,
            `"prior"` to weigh them against the prior like any other site.

    Raises:
        ConfigError: the guide fails, samples what the model does not have, or holds point estimates of global latents.
        EvidenceError: evidence fixes a global latent that the guide draws through auxiliary sites.
    """
    if guide is None:
        return Proposal()
    given, missing, absent = _arguments(guide, model, batch, known, partly, nodes)
    if missing:
        names = ", ".join(missing)
        return Proposal(why=f"prior (the guide needs {names}, which the question does not give)")
    own = _own_sites(_try(guide, given, absent), nodes)
    auxiliary = [name for name in own if name not in nodes]
    fits = _fitting(own, nodes, over_data)
    fitted: set[str] = set()
    if over_data and global_latents == "posterior":
        fitted = _fitted_globals(guide, given, own, nodes, fits)
    deltas = [name for name in fits if is_delta(own[name]["fn"])]
    points = _points(guide, given, deltas)
    if points:
        _refuse_points(guide, points, fitted)
    deltas = [name for name in deltas if name not in points]
    random_auxiliary = [name for name in auxiliary if not is_delta(own[name]["fn"]) and not _is_masked(own[name])]
    _check_dimensions(own, nodes, random_auxiliary, points)
    drawn = [name for name in fits if name not in deltas and name not in points]
    private = {name: f"{name}_unconstrained" for name in deltas if f"{name}_unconstrained" in random_auxiliary}
    shared = set(random_auxiliary) - set(private.values())
    if any(name in fitted and name not in private for name in deltas):
        # auxiliary draws behind global and local sites at once: the local ones' own density is not to be had
        deltas = [name for name in deltas if name in fitted or name in private]
    used = {private[name] for name in deltas if name in private}
    if any(name not in private for name in deltas):
        used |= shared
    stuck = [name for name in deltas if name in fixed]
    if stuck:
        return _cannot_fix(guide, stuck, fitted)
    if not drawn and not deltas:
        return Proposal(why=f"prior (the guide is a point estimate of {', '.join(points)})" if points else "prior")
    fitted_auxiliary = {private[name] for name in deltas if name in fitted and name in private}
    if any(name in fitted and name not in private for name in deltas):
        fitted_auxiliary |= shared
    fitted &= {*drawn, *deltas}
    why = f"guide, global latents ({', '.join(sorted(fitted))}) under their trained posterior" if fitted else "guide"
    if len(drawn) + len(deltas) < len([name for name in own if name in nodes]):
        why += " and, for what it does not offer, the prior"
    return Proposal(
        guide,
        given,
        tuple(drawn),
        tuple(deltas),
        tuple(name for name in random_auxiliary if name in used),
        frozenset(fitted),
        frozenset(fitted_auxiliary),
        own,
        why,
    )


def _own_sites(trace: Any, nodes: Mapping[str, Any]) -> dict[str, Any]:
    """The latent sites of a guide's trace, those that the model lacks being auxiliary."""
    own = {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and not site["is_observed"] and not site_is_subsample(site)
    }
    for name, site in own.items():
        if name not in nodes and not site["infer"].get("is_auxiliary"):
            raise ConfigError(
                f"the guide samples {name!r}, which the model does not have; its latent sites are {', '.join(nodes)}. "
                f'A site of the guide\'s own is marked by infer={{"is_auxiliary": True}}.'
            )
    return own


def _arguments(
    guide: Callable[..., Any],
    model: Callable[..., Any],
    batch: Mapping[str, Any],
    known: Mapping[str, Tensor],
    partly: Mapping[str, tuple[Tensor, Tensor]],
    nodes: Collection[str],
) -> tuple[dict[str, Any], list[str], list[str]]:
    """What to call the guide with, which required arguments are missing, and which optional sites are not given."""
    accepted, required, anything = _signature(guide)
    if anything:
        accepted = accepted | _signature(model)[0]
    given = {name: value for name, value in batch.items() if name in accepted or anything}
    for name, value in known.items():
        if name in accepted:
            given[name] = value
    for name, (value, mask) in partly.items():
        if name in accepted and "mask" in accepted:
            given[name], given["mask"] = value, mask
    missing = [name for name in required if name not in given]
    return given, missing, [name for name in accepted if name not in given and name in nodes]


def _signature(program: Callable[..., Any]) -> tuple[set[str], list[str], bool]:
    """Names of a program's arguments, those without default, and whether it takes any."""
    target = program  # messenger guides have no forward, and are called as they are
    if isinstance(program, nn.Module) and type(program).forward is not nn.Module.forward:
        target = program.forward
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):
        return set(), [], True
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    named = [p for p in parameters if p.kind in kinds]
    required = [p.name for p in named if p.default is inspect.Parameter.empty]
    return {p.name for p in named}, required, any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)


class LastSite(Messenger):
    """Remembers the site a program came to last, for messages."""

    name: str | None = None

    def _pyro_sample(self, msg: Any) -> None:
        if not site_is_subsample(msg):
            self.name = msg["name"]

    def where(self) -> str:
        """In words."""
        return "before its first site" if self.name is None else f"at or after site {self.name!r}"


def first_line(error: BaseException) -> str:
    """An error's class and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def _try(guide: Callable[..., Any], given: Mapping[str, Any], absent: list[str]) -> Any:
    last = LastSite()
    try:
        with torch.no_grad(), last:
            return poutine.trace(guide).get_trace(**given)
    except PhlogistonError:
        raise
    except Exception as error:
        with_what = f"called with {', '.join(given) or 'nothing'}"
        hint = ""
        if absent:
            names = ", ".join(absent)
            hint = (
                f". The question does not give {names} in a form that the guide takes: make the argument required, or "
                f"pass guide=None, and the prior proposes"
            )
        raise ConfigError(f"the guide failed {last.where()} ({with_what}): {first_line(error)}{hint}.") from error


def _fitted_globals(
    guide: Callable[..., Any],
    given: Mapping[str, Any],
    own: Mapping[str, Any],
    nodes: Mapping[str, Any],
    fits: list[str],
) -> set[str]:
    """Sites outside the plate over data points whose distribution in the guide does not depend on the data."""
    outside = {name for name in fits if not in_data_plate(nodes[name]) and not in_data_plate(own[name])}
    return outside - sites_that_follow_data(guide, given, outside) if outside else set()


def _kind(guide: Any) -> str:
    return type(guide).__name__ if isinstance(guide, nn.Module) else "the guide"


def _fitting(own: Mapping[str, Any], nodes: Mapping[str, Any], over_data: bool) -> list[str]:
    """Sites of the guide that are the model's in the shape of the question.

    A guide with a parameter per row, fitted to other rows, has nothing to say about local sites.

    Raises:
        ConfigError: a global site has another shape.
    """
    fits = []
    for name, site in own.items():
        if name not in nodes or is_delta(nodes[name]["fn"]):
            continue  # what the model itself computes needs no proposal
        here, there = nodes[name]["value"].shape, site["value"].shape
        if here == there:
            fits.append(name)
        elif over_data and not in_data_plate(nodes[name]):
            raise ConfigError(f"site {name!r} has shape {tuple(there)} in the guide and {tuple(here)} in the model.")
    return fits


def _points(guide: Any, given: Mapping[str, Any], deltas: list[str]) -> list[str]:
    """Delta sites that stay where they are whatever the random numbers."""
    if not deltas:
        return []
    one, two = (draw_sites(guide, given, deltas, seed) for seed in (0, 1))
    return [name for name in deltas if torch.equal(one[name], two[name])]


def _refuse_points(guide: Any, points: list[str], fitted: set[str]) -> None:
    """Refuse point estimates of global latents; say that the prior proposes instead of those of local ones."""
    hint = ""
    if "Laplace" in type(guide).__name__:
        hint = " Call guide.laplace_approximation(...) and pass what it returns."
    names = ", ".join(points)
    if fitted & set(points):
        raise ConfigError(
            f"{_kind(guide)} holds a point estimate of {names} (a Delta): that is no posterior to use.{hint} "
            f"Fix the value in the model (pyro.condition), or pass guide=None to use the prior."
        )
    warnings.warn(
        f"query: {_kind(guide)} holds a point estimate of {names} (a Delta), which is no posterior; the prior proposes "
        f"instead.{hint}",
        QueryWarning,
        stacklevel=2,
    )


def _check_dimensions(
    own: Mapping[str, Any], nodes: Mapping[str, Any], auxiliary: list[str], points: list[str]
) -> None:
    """Refuse auxiliary sites that are not a change of variables: their marginal density is not to be had.

    Raises:
        ConfigError: naming them.
    """
    driven = [name for name, site in own.items() if name in nodes and name not in points and is_delta(site["fn"])]
    spread = sum(_unconstrained_size(nodes[name]["fn"], own[name]["value"]) for name in driven)
    size = sum(own[name]["value"].numel() for name in auxiliary)
    if spread != size:
        raise ConfigError(
            f"the guide's auxiliary sites ({', '.join(auxiliary) or 'none'}) hold {size} numbers, but the Delta sites "
            f"that follow them ({', '.join(driven) or 'none'}) {spread}: the density of what they propose is an "
            f"integral that importance weights cannot have. Pass guide=None to propose from the prior."
        )


def _unconstrained_size(fn: Any, value: Tensor) -> int:
    """Degrees of freedom of a site's value; a simplex has one less than entries."""
    try:
        return int(torch.Size(biject_to(fn.support).inverse_shape(value.shape)).numel())
    except NotImplementedError:
        return value.numel()


def _cannot_fix(guide: Any, stuck: list[str], fitted: set[str]) -> Proposal:
    names = ", ".join(stuck)
    if fitted & set(stuck):
        raise EvidenceError(
            f"{names}: {_kind(guide)} draws this global latent through auxiliary sites, so that it cannot be fixed at "
            f"a known value under its trained posterior. Use Within or Near, or fix it in the model (pyro.condition)."
        )
    return Proposal(why=f"prior (the guide draws {names} through auxiliary sites, which cannot be fixed)")
