"""How far evidence lies from every component of a Gaussian mixture, in standard deviations of its nearest component."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from phlogiston.distributions.gaussian_evidence import ConditionedMixture
from phlogiston.distributions.mixtures.conditioned_rows import NEGLIGIBLE, Entries, RowDraws


class Remoteness(NamedTuple):
    """Distances from the nearest component, in its standard deviations; zero where nothing is said.

    Attributes:
        entries: (D,), of known and soft values, and of the nearer side of boxes.
        rows: (R,), of the inequalities.
        together: (), root mean square over all known and soft values, each given the ones before it.
    """

    entries: Tensor
    rows: Tensor
    together: Tensor


@torch.no_grad()
def remoteness(mixture: ConditionedMixture) -> Remoteness:
    """Measure evidence against a mixture, whatever its units."""
    e = mixture.evidence
    live = torch.nonzero(mixture.log_prior > mixture.log_prior.max() + NEGLIGIBLE).squeeze(-1)
    means, factors = mixture.means[live], mixture.factors[live]
    spread = factors if factors.dim() == 2 else factors.norm(dim=-1)
    low, high = (torch.where(e.known, e.values, side) for side in (e.lower, e.upper))
    entries = _nearest((low - means) / spread, (means - high) / spread)
    if len(e.soft):
        wide = torch.hypot(spread[:, e.soft], torch.where(e.soft_fraction > 0, 0.0, e.soft_sd))
        gap = ((e.soft_mean - means[:, e.soft]) / wide).abs().amin(0)
        entries = entries.index_copy(0, e.soft, torch.maximum(entries[e.soft], gap))
    rows = means.new_zeros(len(e.rows))
    if len(e.rows):
        table = e.rows.coefficients
        centre = means @ table.T
        if factors.dim() == 2:
            scale = (factors.square() @ table.square().T).sqrt()
        else:
            scale = torch.stack([(table @ factor).norm(dim=-1) for factor in factors])
        rows = _nearest((e.rows.lower - centre) / scale, (centre - e.rows.upper) / scale)
    equalities = mixture.conditioned.log_terms.shape[1]
    nearest = mixture.conditioned.square[live].min()
    together = (nearest / equalities).sqrt() if equalities else means.new_zeros(())
    return Remoteness(entries, rows, together)


@torch.no_grad()
def remoteness_of_rows(
    log_prior: Tensor, means: Tensor, spread: Tensor, e: Entries, draws: RowDraws, far: float
) -> tuple[Tensor, Tensor]:
    """Measure the known and soft entries of many vectors against their mixtures.

    Args:
        log_prior: (R, P).
        means: (P, D), or (R, P, D).
        spread: standard deviations, like `means`.
        e: what is known of R vectors.
        draws: from the mixtures given it.
        far: entries nearer than this may come out farther than they are, though not farther than `far`.

    Returns:
        As in `Remoteness`: entries (R, D), and together (R,).
    """
    said = e.sd < math.inf
    together = (draws.square / said.to(draws.square.dtype).sum(1).clamp_min(1)).sqrt()
    noise = torch.where(said, e.sd, 0.0)
    every, index = torch.arange(len(e)), draws.nearest
    m, s = (means[index], spread[index]) if means.dim() == 2 else (means[every, index], spread[every, index])
    # no entry is farther from the nearest component than from the one that is nearest to all of them together
    entries = torch.where(said, ((e.value - m) / torch.hypot(s, noise)).abs(), 0.0)
    for row in torch.nonzero(entries.amax(1) > far).flatten().tolist():
        live = torch.nonzero(log_prior[row] > log_prior[row].max() + NEGLIGIBLE).squeeze(-1)
        m, s = (means, spread) if means.dim() == 2 else (means[row], spread[row])
        gap = ((e.value[row] - m[live]) / torch.hypot(s[live], noise[row])).abs().amin(0)
        entries[row] = torch.where(said[row], gap, 0.0)
    return entries, together


def _nearest(below: Tensor, above: Tensor) -> Tensor:
    """How far outside the nearest of the components is, (P, ...) -> (...)."""
    return torch.nan_to_num(torch.maximum(below, above).clamp_min(0.0), posinf=math.inf).amin(0)
