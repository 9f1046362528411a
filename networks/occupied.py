"""Compute where something is: the entries of a mask that are on, gathered into rows, and scattered back.

Most slots of a scene are empty most of the time. On a CPU networks run on the gathered rows and cost what the objects
cost, not what the slots do. On an accelerator, which would have to be waited for to know how many there are, they run
on all slots, empty ones as zeros. Either way an empty slot has no value and no gradient.
"""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor


class Occupied:
    """The entries of a mask that are on.

    Args:
        mask: bool, any shape.
        gather: compute only these entries; by default on a CPU.

    Attributes:
        shape: of the mask.
        empty: bool (rows,), rows that do not count; None where those that do are gathered.
        index: int64 (rows,), flat positions of the rows.

    Example:
        >>> slots = Occupied(torch.tensor([[True, False], [False, True]]))
        >>> slots.put(10 * slots.take(torch.tensor([[1.0, 2.0], [3.0, 4.0]])))
        tensor([[10.,  0.],
                [ 0., 40.]])
    """

    gathers: ClassVar[bool | None] = None
    """Decides for all where it is True or False; a test of what accelerators do sets it."""

    def __init__(self, mask: Tensor, gather: bool | None = None) -> None:
        self.shape = mask.shape
        flat = mask.reshape(-1)
        if gather is None:
            gather = mask.device.type == "cpu" if self.gathers is None else self.gathers
        self.empty = None if gather else ~flat
        self.index = flat.nonzero().squeeze(-1) if gather else torch.arange(len(flat), device=mask.device)
        self.full = len(self.index) == mask.numel()

    def __len__(self) -> int:
        return len(self.index)

    @cached_property
    def parent(self) -> Tensor:
        """Flat positions of the rows in a tensor that lacks the mask's last axis, int64 (rows,)."""
        return torch.div(self.index, self.shape[-1], rounding_mode="floor")

    def take(self, values: Tensor) -> Tensor:
        """Gather (*shape, ...) into (rows, ...)."""
        flat = values.reshape(-1, *values.shape[len(self.shape) :])
        return self.counting(flat) if self.full else flat.index_select(0, self.index)

    def counting(self, rows: Tensor) -> Tensor:
        """Rows (rows, ...) with zeros for those that do not count."""
        if self.empty is None:
            return rows
        return rows.masked_fill(self.empty.reshape(-1, *[1] * (rows.dim() - 1)), 0)

    def put(self, rows: Tensor) -> Tensor:
        """Scatter (rows, ...) into (*shape, ...), zero elsewhere."""
        rest = rows.shape[1:]
        if self.full:
            return self.counting(rows).reshape(*self.shape, *rest)
        flat = rows.new_zeros(self.shape.numel(), *rest)
        return flat.index_copy(0, self.index, rows).reshape(*self.shape, *rest)
