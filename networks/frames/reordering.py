"""Rows in the order of their components, so that each component's matrix meets all its rows at once; squared norms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor


def by_component(u: Tensor, code: Tensor, count: int, apply: Callable[[Tensor, int], Tensor]) -> Tensor:
    """`apply(rows, k)` to the rows (..., D) of every component k by itself: a copy of A per row would be too much."""
    u, code = torch.broadcast_tensors(u, code.unsqueeze(-1))
    flat, order = u.reshape(-1, u.shape[-1]), code[..., 0].reshape(-1).argsort(stable=True)
    back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
    sizes = code[..., 0].reshape(-1).bincount(minlength=count).tolist()
    groups = cast(Tensor, Reordered.apply(flat, order, back)).split(sizes)
    done = torch.cat([apply(rows, k) for k, rows in enumerate(groups) if len(rows)] or [apply(flat, 0)])
    return cast(Tensor, Reordered.apply(done, back, order)).view(*u.shape[:-1], done.shape[-1])


class Reordered(torch.autograd.Function):
    """`rows[order]` for an order that names every row once, and `back`, the order that undoes it.

    Gradients are put in order the same way, where indexing would add up rows one by one.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, order: Tensor, back: Tensor) -> Tensor:
        """The rows (N, ...) in the order given; `order` and `back` are int64 (N,)."""
        ctx.save_for_backward(order, back)
        return rows.index_select(0, order)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """The gradient (N, ...) in the order the rows came in."""
        order, back = ctx.saved_tensors
        return Reordered.apply(grad, back, order), None, None


class _SquaredNorm(torch.autograd.Function):
    """`rows.square().sum(-1)`, whose backward pass reads the rows once instead of three times."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        return rows.square().sum(-1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (rows,) = ctx.saved_tensors
        return rows * (2 * grad).unsqueeze(-1)


def squared_norm(rows: Tensor) -> Tensor:
    """Squared Euclidean norm along the last axis: (..., D) -> (...)."""
    return cast(Tensor, _SquaredNorm.apply(rows))
