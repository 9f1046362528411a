"""Draws of SQAIR's guide as one operation forth and one back: they are made for every object of every frame."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import softplus

from phlogiston.models.sqair import LEAST
from phlogiston.networks.spatial import logits_of


class _MeanPoint(torch.autograd.Function):
    """`logits_of(mean)` of points under a softmax of scores, within -0.98 .. 0.98.

    Args:
        scores: (rows, points).
        far: bool of the same shape, True where a point has no chance.
        points: (points, 2).
        span: of centres.
    """

    @staticmethod
    def forward(ctx: Any, scores: Tensor, far: Tensor, points: Tensor, span: float) -> Tensor:
        chance = torch.softmax(scores.masked_fill(far, -torch.inf), -1)
        mean = chance @ points
        ctx.span = span
        ctx.save_for_backward(chance, mean, points)
        return logits_of(mean.clamp(-0.98, 0.98), span)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        chance, mean, points = ctx.saved_tensors
        slope = torch.rsub((mean / ctx.span).square(), 1.0)
        of_mean = torch.where(mean.abs() <= 0.98, gradient / slope, 0.0)
        of_scores = torch.ops.aten._softmax_backward_data(of_mean @ points.T, chance, -1, chance.dtype)
        return of_scores, None, None, None


class _Draw(torch.autograd.Function):
    """A Normal draw: loc = base + first half of `told`, scale = softplus(second half) + LEAST; loc + scale noise.

    Args:
        told: (rows, 2 n).
        base: (rows, n), or None.
        noise: (rows, n), standard normal.

    Returns:
        loc, scale and draw, (rows, n) each.
    """

    @staticmethod
    def forward(ctx: Any, told: Tensor, base: Tensor | None, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        loc, raw = told.chunk(2, -1)
        loc = loc.clone() if base is None else loc + base
        scale = softplus(raw).add_(LEAST)
        ctx.save_for_backward(raw, noise)
        return loc, scale, torch.addcmul(loc, scale, noise)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, of_loc: Tensor, of_scale: Tensor, of_draw: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        raw, noise = ctx.saved_tensors
        of_raw = torch.ops.aten.softplus_backward(torch.addcmul(of_scale, of_draw, noise), raw, 1.0, 20.0)
        of_loc = of_loc + of_draw
        return torch.cat([of_loc, of_raw], -1), of_loc if ctx.needs_input_grad[1] else None, None


def draw(told: Tensor, base: Tensor | None, noise: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Location and scale, and the draw, see `_Draw`."""
    loc, scale, drawn = _Draw.apply(told, base, noise)  # type: ignore[no-untyped-call]
    return (loc, scale), drawn


def mean_point(scores: Tensor, far: Tensor, points: Tensor, span: float) -> Tensor:
    """Logits of the mean of points, see `_MeanPoint`: (rows, 2)."""
    mean: Tensor = _MeanPoint.apply(scores, far, points, span)  # type: ignore[no-untyped-call]
    return mean
