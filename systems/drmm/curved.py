"""Inequalities over several columns that are mapped by their cells: half-spaces of the data, curved for the model.

They have no closed form there. Rows are drawn given all other evidence, and those that break such an inequality weigh
nothing: plain importance sampling, with as many candidates for each row as a trial says it takes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from phlogiston.distributions.gaussian_evidence import ConditionedMixture, Draws
from phlogiston.distributions.linear_constraints import Rows
from phlogiston.distributions.resampling import group_sizes, grouped_error, log_mean

NAMED = "inequalities over columns on a grid by importance"
_TRIAL = 256
_MOST = 64  # candidates for each row that is asked for


def sample(
    mixture: ConditionedMixture,
    curved: Rows,
    values: Callable[[Tensor], Tensor],
    n: int,
    *,
    pilot: int | None = None,
    generator: torch.Generator | None = None,
) -> Draws:
    """Draw rows given all evidence.

    Args:
        mixture: given all evidence but the curved inequalities.
        curved: these, over the varying columns in the data's units.
        values: the model's coordinates (n, D) as values.
        n: how many.
        pilot: see `ConditionedMixture.sample`.
        generator: source of randomness.

    Returns:
        n draws; the log mean of their weights estimates the log evidence, and `error` is its standard error. Rows of
        weight zero are left where fewer than n candidates obey.
    """

    def draw(size: int) -> tuple[Draws, Tensor]:
        drawn = mixture.sample(size, pilot=pilot, generator=generator)
        obeys = (curved.violation(values(drawn.x)) <= 0).all(1)
        return drawn, torch.where(obeys, drawn.log_weights, -math.inf)

    alive = int(torch.isfinite(draw(_TRIAL)[1]).sum())
    sizes = group_sizes(n * min(_MOST, math.ceil(1.2 * _TRIAL / max(alive, 1))))
    parts = [draw(size) for size in sizes]
    log_weights = torch.cat([weights for _, weights in parts])
    together = parts[0][0]
    x = torch.cat([drawn.x for drawn, _ in parts])
    component = torch.cat([drawn.component for drawn, _ in parts])
    error = grouped_error(log_weights, sizes) if bool(torch.isfinite(log_weights).any()) else None
    order = torch.isneginf(log_weights).to(torch.uint8).argsort(stable=True)  # the living first
    living = int(torch.isfinite(log_weights).sum())
    if living > n:
        order = order[torch.arange(n) * living // n]
        kept = log_weights[order] + log_mean(log_weights) - log_mean(log_weights[order])
    else:
        order = order[:n]
        kept = log_weights[order] - math.log(len(log_weights) / n)
    return replace(together, component=component[order], x=x[order], log_weights=kept, exact=False, error=error)
