"""Is a question about something that the model has never heard of? A warning for answers that extrapolate.

Two signs, neither of which depends on units. The *joint* sign compares log p(everything) of the answer's particles with
that of draws from the model itself: a gap of many times the spread among those draws means that no explanation of the
evidence looks like anything the model generates. The *marginal* sign compares the evidence with the model's own draws
of the same entries: far beyond their range. Where the particles are good (ESS), the joint sign decides; where they are
poor, they explain nothing, and both signs must agree.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.condition_messenger import ConditionMessenger
from torch import Tensor

from phlogiston.errors import QueryWarning
from phlogiston.inference.query.answer import Answer
from phlogiston.inference.query.program import Program
from phlogiston.inference.query.restriction import SiteEvidence, sum_per_particle

_DRAWS = 200
_GAP = 10.0  # ranges of the model's own log densities
_REACH = 3.0  # ranges of the model's own draws


@dataclass(frozen=True)
class _Entry:
    """How far evidence about some entries lies beyond the model's own draws, in ranges of those."""

    site: str
    index: int
    text: str
    reach: float


@torch.no_grad()
def warn_if_outlying(program: Program, answer: Answer) -> None:
    """Warn when evidence lies far outside of everything the model generates.

    Args:
        program: the pair with its question.
        answer: all latent sites of the model, one row.
    """
    if not program.evidence and not program.observed:
        return
    n = min(_DRAWS, max(50, answer.num_samples))
    with torch.random.fork_rng():
        index = torch.multinomial(answer.weights, n, replacement=True)
        own = _own_draws(program, n)
    if own is None:
        return
    values = {name: program.place(answer.samples[name][index], name, n) for name in program.sites}
    here = _densities(program, program.run(program.model, program.batch, n, ConditionMessenger(values)), n)
    there = _densities(program, own, n)
    soft = sum((_softness(f, answer.samples[name][index], n) for name, f in program.evidence.items()), torch.zeros(n))
    log_joint = float((sum(here.values()) + soft).median())
    usual = sum(there.values(), torch.zeros(n).double())
    usual = usual[torch.isfinite(usual)]
    if len(usual) < 10 or not here:
        return
    low, high = float(usual.min()), float(usual.max())
    if not log_joint < low - _GAP * max(high - low, 3.0):
        return
    entry = max(_entries(program, own, n), key=lambda e: e.reach, default=None)
    if entry is not None and entry.reach > _REACH:
        what = f"site {entry.site!r}, entry {entry.index}: {entry.text}"
    elif float(answer.ess) >= 0.1 * answer.num_samples:
        worst = max(here, key=lambda name: float(there[name].min() - here[name].median()))
        what = (
            f"the log density of everything is {log_joint:.4g} nats, and {low:.4g} to {high:.4g} where the model "
            f"draws by itself; most of the gap is at site {worst!r}"
        )
    else:
        return
    warnings.warn(
        f"query: the evidence lies far outside of what the model generates ({what}). The answer extrapolates",
        QueryWarning,
        stacklevel=3,
    )


def _own_draws(program: Program, n: int) -> Any:
    """A trace of the model with nothing observed, global latents from their posterior; None if it cannot run so."""
    proposal = program.proposal
    given = {}
    try:
        if proposal.fitted:
            trace = program.run(proposal.guide, proposal.batch, n)
            given = {name: trace.nodes[name]["value"] for name in proposal.fitted}
        return program.run(poutine.uncondition(program.model), program.batch, n, ConditionMessenger(given))
    except (RuntimeError, ValueError, TypeError):  # a program that needs its observed values to run
        return None


def _densities(program: Program, trace: Any, n: int) -> dict[str, Tensor]:
    """Log density per site and particle, (n,); factors are no draws and left out."""
    return {
        name: sum_per_particle(site["log_prob"], n)
        for name, site in program.sample_sites(trace)
        if type(site["fn"]).__name__ != "Unit"
    }


def _softness(evidence: SiteEvidence, value: Tensor, n: int) -> Tensor:
    """Log soft factors of values relative to the best there are, (n,)."""
    e = evidence.linear
    if evidence.table is not None or e is None or not len(e.soft):
        return torch.zeros(n, dtype=torch.float64)
    z = (e.soft_mean - value.reshape(n, -1)[:, e.soft].double()) / e.soft_sd
    return -0.5 * z.square().sum(1)


def _entries(program: Program, own: Any, n: int) -> Iterator[_Entry]:
    """All evidence beside the model's own draws of the same entries."""
    nodes: Mapping[str, Any] = own.nodes
    for name, evidence in program.evidence.items():
        if evidence.table is None and evidence.linear is not None and name in nodes:
            flat = nodes[name]["value"].reshape(n, -1).double()
            e = evidence.linear
            soft = torch.zeros(e.dim, dtype=torch.bool)
            soft[e.soft] = True
            mean = torch.zeros(e.dim, dtype=torch.float64)
            mean[e.soft] = e.soft_mean
            low = torch.where(e.known, e.values, torch.where(soft, torch.maximum(mean, e.lower), e.lower))
            high = torch.where(e.known, e.values, torch.where(soft, torch.minimum(mean, e.upper), e.upper))
            yield from _beyond(name, flat, low, high, "the evidence")
            along = flat @ e.rows.coefficients.T
            yield from _beyond(name, along, e.rows.lower, e.rows.upper, "the half-space")
    for name in program.observed:
        if name in nodes and type(nodes[name]["fn"]).__name__ != "Unit" and name in program.observed_values:
            value = program.observed_values[name]
            if nodes[name]["value"].numel() == n * value.numel():
                flat, fixed = nodes[name]["value"].reshape(n, -1).double(), value.reshape(-1).double()
                yield from _beyond(name, flat, fixed, fixed, "the batch")


def _beyond(name: str, draws: Tensor, low: Tensor, high: Tensor, what: str) -> Iterator[_Entry]:
    """The entry that lies farthest beyond the range of draws (n, D), given limits (D,)."""
    if draws.shape[1] == 0 or not bool(torch.isfinite(draws).all()):
        return
    least, most = draws.amin(0), draws.amax(0)
    width = (most - least).clamp_min(1e-12 * most.abs().clamp_min(1e-300))
    reach = torch.maximum(low - most, least - high) / width
    i = int(reach.nan_to_num(-1.0).argmax())
    if float(reach[i]) > 0:
        value = low[i] if bool(low[i] > most[i]) else high[i]
        text = f"{what} has {float(value):.4g}, and the model's own draws lie between {float(least[i]):.4g} and "
        yield _Entry(name, i, text + f"{float(most[i]):.4g}", float(reach[i]))
