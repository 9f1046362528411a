"""Compute where something is: the entries of a mask that are on, gathered into rows, and scattered back.

Most slots of a scene are empty most of the time. Networks that run on the gathered rows cost what the objects cost,
not what the slots do; and an empty slot can have no value and no gradient, because it is never computed.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Occupied:
    """The entries of a mask that are on.

    Args:
        mask: bool, any shape.

    Attributes:
        shape: of the mask.
        index: int64 (rows,), flat positions of the entries.

    Example:
        >>> slots = Occupied(torch.tensor([[True, False], [False, True]]))
        >>> slots.put(10 * slots.take(torch.tensor([[1.0, 2.0], [3.0, 4.0]])))
        tensor([[10.,  0.],
                [ 0., 40.]])
    """

    def __init__(self, mask: Tensor) -> None:
        self.shape = mask.shape
        self.index = mask.reshape(-1).nonzero().squeeze(-1)
        self.full = len(self.index) == mask.numel()

    def __len__(self) -> int:
        return len(self.index)

    @property
    def parent(self) -> Tensor:
        """Flat positions of the rows in a tensor that lacks the mask's last axis, int64 (rows,)."""
        return torch.div(self.index, self.shape[-1], rounding_mode="floor")

    def take(self, values: Tensor) -> Tensor:
        """Gather (*shape, ...) into (rows, ...)."""
        flat = values.reshape(-1, *values.shape[len(self.shape) :])
        return flat if self.full else flat.index_select(0, self.index)

    def put(self, rows: Tensor) -> Tensor:
        """Scatter (rows, ...) into (*shape, ...), zero elsewhere."""
        rest = rows.shape[1:]
        if self.full:
            return rows.reshape(*self.shape, *rest)
        flat = rows.new_zeros(self.shape.numel(), *rest)
        return flat.index_copy(0, self.index, rows).reshape(*self.shape, *rest)
