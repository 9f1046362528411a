"""Which of many paths uniform numbers fall on, by a table of cumulative probabilities."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def even_grid(ends: Tensor) -> Tensor:
    """Where the beginnings of equal intervals of [0, 1), at least four per probability, fall among cumulative ones."""
    size = 2 ** math.ceil(math.log2(4 * len(ends)))  # products with a power of two are exact
    return torch.searchsorted(ends, torch.arange(size, dtype=ends.dtype, device=ends.device) / size)


def pick(ends: Tensor, grid: Tensor | None, uniform: Tensor) -> Tensor:
    """Where numbers in [0, 1) fall among cumulative probabilities (P,), of which the last is 1: int64, like `uniform`.

    The first probability that is no less, as `searchsorted` finds it. With an even grid each number begins at the first
    one of its interval, where nearly all are within two steps of their own.
    """
    if grid is None:
        return torch.searchsorted(ends, uniform)
    slot = grid.index_select(0, (uniform * len(grid)).long())
    for _ in range(2):
        slot += ends.index_select(0, slot) < uniform
    far = torch.nonzero(ends.index_select(0, slot) < uniform).squeeze(-1)
    if len(far):
        slot[far] = torch.searchsorted(ends, uniform[far])
    return slot
