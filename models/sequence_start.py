"""What an MDN-RNN takes from the data before training: units, the smallest differences, first components."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from phlogiston.distributions.warped import TINY
from phlogiston.models.stepwise import valid_steps


def measure(
    x: Tensor, length: Tensor, is_level: Tensor, is_positive: Tensor, floor: float, grid: float | None
) -> tuple[dict[str, Tensor], Tensor]:
    """Measure training sequences.

    Args:
        x: (rows, steps, targets).
        length: (rows,).
        is_level: bool (targets,), columns modelled by the step from their last value.
        is_positive: bool (targets,), columns modelled by their logarithm.
        floor: smallest positive value.
        grid: width of the cells steps are scored by, or None.

    Returns:
        Buffers of `models.sequence.MDNRNN` by name, (targets,) each, and at most some 20,000 steps (steps, targets) in
        the coordinates that are modelled. The buffers: `centre` and `unit`, location and scale of a column (of its
        logarithm; 0 and the scale of the steps for levels); `level_centre` and `level_unit`, those of what the network
        sees of it; `fine`, the size of the differences that must be distinguished; `usual`, the median.
    """
    valid = valid_steps(length, x.shape[1])
    inside = valid.clone()
    inside[:, 0] = False  # the first step follows nothing
    if not bool(inside.any()):
        inside = valid
    numbers = x.double()
    warped = torch.where(is_positive, numbers.clamp_min(floor).log(), numbers)
    before = torch.cat([warped[:, :1], warped[:, :-1]], 1)
    steps = torch.where(is_level, warped - before, warped)[inside]
    levels = warped[valid]
    size = steps.abs()
    typical = torch.stack([c[c > 0].median() if bool((c > 0).any()) else c.new_ones(()) for c in size.unbind(-1)])
    units = {
        "centre": torch.where(is_level, 0.0, steps.mean(0)),
        "unit": _scale(steps),
        "level_centre": levels.mean(0),
        "level_unit": _scale(levels),
        # differences of the size of a cell must be seen, or of the steps most often taken
        "fine": typical if grid is None else torch.full_like(typical, 2.0 * grid),
        "usual": numbers[inside].median(0).values,
    }
    return units, steps[:: max(1, len(steps) // 20_000)]


def first_components(steps: Tensor, num_components: int, is_level: Tensor, narrowest: float) -> tuple[Tensor, Tensor]:
    """Components of many widths around standardised steps (steps, targets), narrow ones where most of the data are.

    Returns:
        Means (components, targets) and standard deviations (components,).
    """
    k, d = num_components, steps.shape[1]
    widths = torch.logspace(math.log10(narrowest), 0.0, k)
    levels = (torch.arange(k) + 0.5) / k
    loc = torch.zeros(k, d)
    for column in range(d):
        if not bool(is_level[column]):
            # narrow components where most of the data are, wide ones outside
            order = (levels - 0.5).abs().argsort()
            loc[:, column] = steps[:, column].quantile(levels[order].double()).float()
    return loc, widths


def _scale(values: Tensor) -> Tensor:
    """Standard deviation by column, 1 where a column never varies."""
    scale = (values - values.mean(0)).square().mean(0).sqrt()
    return torch.where(scale <= 1e-6 * values.abs().amax(0).clamp_min(TINY), 1.0, scale)
