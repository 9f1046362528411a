"""How far evidence lies from everything a Gaussian mixture knows, in standard deviations of its nearest component."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from phlogiston.distributions.gaussian_evidence import ConditionedMixture

_NEGLIGIBLE = -30.0  # log of the share of the prior below which a component is none that the model knows


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
    live = torch.nonzero(mixture.log_prior > mixture.log_prior.max() + _NEGLIGIBLE).squeeze(-1)
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


def _nearest(below: Tensor, above: Tensor) -> Tensor:
    """How far outside the nearest of the components is, (P, ...) -> (...)."""
    return torch.nan_to_num(torch.maximum(below, above).clamp_min(0.0), posinf=math.inf).amin(0)
