"""Which guides an objective is valid for: a table, and the check that is made before the first step.

| objective | guide sites that are not reparameterised | what else |
|---|---|---|
| `elbo`, Pyro's `Trace_ELBO`, `TraceGraph_ELBO` | yes: score-function terms | |
| `mean_field`, `free_bits`, `TraceMeanField_ELBO` | no | sites in the model's order |
| `enum`, `TraceEnum_ELBO`, `TraceTMC_ELBO` | yes: summed out if marked, else score-function terms | |
| `iwae` | no | every latent site inside the plate "data" |
| `vimco` | yes: the other particles are the baseline | no site marked for enumeration |
| `RenyiELBO`, `Trace_MMD` | no | |

For all of them every latent site of the model needs a counterpart in the guide (with `enum`, sites marked for parallel
enumeration in the model do not), and every other site of the guide has to be marked as auxiliary. An objective outside
the table, such as a callable, is taken as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pyro.infer import (
    RenyiELBO,
    Trace_ELBO,
    Trace_MMD,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
    TraceTMC_ELBO,
)

from phlogiston.errors import ConfigError
from phlogiston.inference.svi.handlers import DATA_PLATE
from phlogiston.inference.svi.objectives import IWAE, make
from phlogiston.inference.svi.pair.sites import Site
from phlogiston.inference.svi.vimco import VIMCO


@dataclass(frozen=True)
class Rule:
    """What an objective requires of a pair.

    Attributes:
        sampled: whether guide sites may be without reparameterisation.
        sums_out: whether it sums out the model's sites that are marked for enumeration.
        marked: whether guide sites may be marked for enumeration at all.
        local: whether every latent site has to lie inside the plate over data points.
        ordered: whether model and guide have to draw their sites in the same order.
    """

    sampled: bool
    sums_out: bool = False
    marked: bool = True
    local: bool = False
    ordered: bool = False


RULES: dict[type, Rule] = {
    IWAE: Rule(sampled=False, local=True),
    VIMCO: Rule(sampled=True, marked=False),
    TraceEnum_ELBO: Rule(sampled=True, sums_out=True),
    TraceTMC_ELBO: Rule(sampled=True, sums_out=True),
    TraceMeanField_ELBO: Rule(sampled=False, ordered=True),  # `mean_field` and `free_bits` are subclasses
    Trace_ELBO: Rule(sampled=True),
    TraceGraph_ELBO: Rule(sampled=True),
    RenyiELBO: Rule(sampled=False),
    Trace_MMD: Rule(sampled=False),
}


def rule_of(objective: Any) -> Rule | None:
    """Return what an objective (a name or an object) requires of a pair, or None where that is unknown."""
    thing = make(objective) if isinstance(objective, str) else objective
    return next((RULES[base] for base in type(thing).__mro__ if base in RULES), None)


def check(objective: Any, sites: Sequence[Site], where: str) -> None:
    """Refuse a pair for which an objective gives a wrong loss or a wrong gradient.

    Args:
        objective: a name, an ELBO, or a callable (which is not checked).
        sites: the sites of the pair, in the order they are drawn.
        where: the stage, for the message.

    Raises:
        ConfigError: naming the first site at fault.
    """
    rule = rule_of(objective)
    if rule is None:
        return
    name = objective if isinstance(objective, str) else type(objective).__name__
    for problem in _problems(rule, name, sites):
        raise ConfigError(f"{where}: {problem}")


def _problems(rule: Rule, name: str, sites: Sequence[Site]) -> Iterator[str]:
    latent = {site.name: site for site in sites if site.program == "model" and not site.observed}
    observed = {site.name for site in sites if site.program == "model" and site.observed}
    guide = {site.name: site for site in sites if site.program == "guide" and not site.observed}
    yield from _unmatched(rule, name, latent, observed, guide)
    for site in guide.values():
        if not rule.sampled and not site.reparameterised:
            yield (
                f"objective {name!r} needs reparameterised guide sites; {site.name!r} is a {site.kind}, whose "
                "parameters would get a wrong gradient. Use objective 'elbo', 'vimco' or, where it is marked for "
                "enumeration, 'enum'."
            )
        if not rule.marked and site.enumerated:
            yield f"{name} draws every site; {site.name!r} is marked for enumeration. Use objective 'enum'."
    for site in (*latent.values(), *guide.values()):
        if rule.local and not site.local:
            yield (
                f"{name} weights each data point by itself; the latent site {site.name!r} lies outside the plate "
                f"{DATA_PLATE!r}. Use objective 'elbo', or move the site inside the plate."
            )
    if rule.ordered:
        ours, theirs = [n for n in latent if n in guide], [n for n in guide if n in latent]
        for expected, came in zip(ours, theirs, strict=True):
            if expected != came:
                yield (
                    f"objective {name!r} takes divergences site by site, which is only right if model and guide draw "
                    f"their sites in the same order; the guide draws {came!r} where the model draws {expected!r}. "
                    "Reorder the guide, or use objective 'elbo'."
                )


def _unmatched(
    rule: Rule, name: str, latent: dict[str, Site], observed: set[str], guide: dict[str, Site]
) -> Iterator[str]:
    """Report sites that only one of the two programs has."""
    for site in latent.values():
        if site.name in guide or (rule.sums_out and site.enumerated == "parallel"):
            continue
        if site.enumerated == "sequential":
            yield (
                f"the model's site {site.name!r} is marked for sequential enumeration, which Pyro can do in a guide "
                'only: mark it infer={"enumerate": "parallel"} and use objective \'enum\'.'
            )
        elif site.enumerated:
            yield (
                f"objective {name!r} does not sum sites out; the model's site {site.name!r} is marked for enumeration "
                "and the guide has none of that name. Use objective 'enum'."
            )
        else:
            yield (
                f"the guide has no site {site.name!r}, which the model draws: objective {name!r} would take it from "
                f"the prior and leave its density in the loss. Draw {site.name!r} in the guide, or, if it is discrete, "
                'mark it infer={"enumerate": "parallel"} and use objective \'enum\'.'
            )
    for site in guide.values():
        if site.name in latent or site.auxiliary:
            continue
        if site.name in observed:
            yield f"the guide draws {site.name!r}, which the model observes: leave it out where there are data for it."
        else:
            yield (
                f"the model has no site {site.name!r}, which the guide draws. Name it as in the model, or mark it "
                'infer={"is_auxiliary": True}.'
            )
