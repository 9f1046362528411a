"""What an MDN-RNN takes from the data before training: units, the size of what must be told apart, first components."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from phlogiston.distributions.warped import TINY
from phlogiston.models.stepwise import valid_steps

if TYPE_CHECKING:
    from phlogiston.models.sequence import MDNRNN


@torch.no_grad()
def standardise(model: MDNRNN, x: Tensor, length: Tensor) -> None:
    """Set the buffers and the head of a model.

    Args:
        model: the model.
        x: (rows, steps, width).
        length: (rows,).
    """
    valid = valid_steps(length, x.shape[1])
    inside = valid.clone()
    inside[:, 0] = False  # the first step follows nothing
    if not bool(inside.any()):
        inside = valid
    numbers = x[..., : model.targets].double()
    warped = torch.where(model.is_positive, numbers.clamp_min(model.floor).log(), numbers)
    before = torch.cat([warped[:, :1], warped[:, :-1]], 1)
    steps = torch.where(model.is_level, warped - before, warped)[inside]
    levels = warped[valid]
    model.centre.copy_(torch.where(model.is_level, 0.0, steps.mean(0)))
    model.unit.copy_(_scale(steps))
    model.level_centre.copy_(levels.mean(0))
    model.level_unit.copy_(_scale(levels))
    size = steps.abs()
    typical = torch.stack([c[c > 0].median() if bool((c > 0).any()) else c.new_ones(()) for c in size.unbind(-1)])
    # differences of the size of a cell must be seen, or of the steps most often taken
    model.fine.copy_(typical if model.grid is None else torch.full_like(typical, 2.0 * model.grid))
    model.usual.copy_(numbers[inside].median(0).values)
    start_head(model, (steps[:: max(1, len(steps) // 20_000)] - model.centre) / model.unit)


def start_head(model: MDNRNN, steps: Tensor) -> None:
    """Components of many widths around standardised steps (steps, targets), narrow ones where most of the data are."""
    k, d = model.mixture_size, model.targets
    model.head.weight.mul_(0.3)
    bias = model.head.bias
    bias.zero_()
    widths = torch.logspace(math.log10(0.02 if model.grid is not None else 0.1), 0.0, k)
    levels = (torch.arange(k) + 0.5) / k
    loc = torch.zeros(k, d)
    for column in range(d):
        if not bool(model.is_level[column]):
            # narrow components where most of the data are, wide ones outside
            order = (levels - 0.5).abs().argsort()
            loc[:, column] = steps[:, column].quantile(levels[order].double()).float()
    bias[k : k + k * d] = loc.flatten()
    bias[k + k * d : k + 2 * k * d] = widths.log().unsqueeze(-1).expand(k, d).flatten()


def _scale(values: Tensor) -> Tensor:
    """Standard deviation by column, 1 where a column never varies."""
    scale = (values - values.mean(0)).square().mean(0).sqrt()
    return torch.where(scale <= 1e-6 * values.abs().amax(0).clamp_min(TINY), 1.0, scale)
