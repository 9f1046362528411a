"""Crop and paste: a differentiable window on a picture, and its inverse.

A box is `where = (sx, sy, tx, ty)`, four logits: it is `scale = sigma(sx, sy)` of the picture wide and high, and its
centre stands at `shift = tanh(tx, ty)` in -1 .. 1. A point g of the glimpse, in -1 .. 1, is the point
`u = scale g + shift` of the picture; corner-aligned, so that pixel `(u + 1) / 2 (size - 1)` (Jaderberg et al., *Spatial
transformer networks*, 2015, without rotation).

Without rotation bilinear sampling is separable: both directions are two small matrix products with hat functions as
weights, which is several times faster than gathering four neighbours of every pixel.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

_LEAST = 0.01


def scale_of(where: Tensor) -> Tensor:
    """Width and height as shares of the picture, (..., 2) as (x, y); between 0.01 and 0.99."""
    return _LEAST + (1.0 - 2.0 * _LEAST) * torch.sigmoid(where[..., :2])


def shift_of(where: Tensor) -> Tensor:
    """Centres in -1 .. 1, (..., 2) as (x, y)."""
    return torch.tanh(where[..., 2:])


def pixel_boxes(where: Tensor, height: int, width: int) -> Tensor:
    """Boxes in pixels, (..., 4) as x, y (of the upper left corner), width, height."""
    size = torch.tensor([width - 1.0, height - 1.0], dtype=where.dtype, device=where.device)
    extent = scale_of(where) * size
    centre = (shift_of(where) + 1.0) / 2.0 * size
    return torch.cat([centre - extent / 2.0, extent], -1)


def enlarged(where: Tensor, factor: float) -> Tensor:
    """The same centre, the scale `factor` times as large (at most 0.98 of the picture)."""
    if factor == 1.0:
        return where
    share = (factor * torch.sigmoid(where[..., :2])).clamp(max=1.0 - 1e-3)
    return torch.cat([torch.logit(share), where[..., 2:]], -1)


def moved(where: Tensor, pixels: Tensor, height: int, width: int) -> Tensor:
    """The box moved by pixels (..., 2) as (x, y)."""
    step = 2.0 * pixels / torch.tensor([width - 1.0, height - 1.0], dtype=where.dtype, device=where.device)
    shift = (shift_of(where) + step).clamp(-0.999, 0.999)
    return torch.cat([where[..., :2], torch.atanh(shift)], -1)


@cache
def _ticks(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.arange(size, dtype=dtype, device=device)


@cache
def _points(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.linspace(-1.0, 1.0, size, dtype=dtype, device=device)


class _Hats(torch.autograd.Function):
    """relu(1 - |at - p|) for p = 0 .. size - 1: in fewer passes over memory than its parts would take."""

    @staticmethod
    def forward(ctx: Any, at: Tensor, size: int) -> Tensor:
        apart = at.unsqueeze(-1) - _ticks(size, at.dtype, at.device)
        weights = apart.abs().neg_().add_(1.0).clamp_(min=0.0)
        ctx.save_for_backward(apart, weights)
        return weights

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        apart, weights = ctx.saved_tensors
        slope = torch.sign(apart).mul_(weights > 0).mul_(gradient)
        return slope.sum(-1).neg_(), None


def _hats(at: Tensor, size: int) -> Tensor:
    result: Tensor = _Hats.apply(at, size)  # type: ignore[no-untyped-call]
    return result


def _product(rows: Tensor, picture: Tensor, columns: Tensor) -> Tensor:
    """rows @ picture @ columns^T per channel; (n, a, h), (n, channels, h, w), (n, b, w) -> (n, channels, a, b)."""
    if picture.shape[1] == 1:
        return torch.bmm(torch.bmm(rows, picture.squeeze(1)), columns.mT).unsqueeze(1)
    return rows.unsqueeze(1) @ picture @ columns.unsqueeze(1).mT


def _crop_weights(scale: Tensor, shift: Tensor, glimpse: int, size: int, smooth: bool) -> Tensor:
    """(rows, glimpse, size): how much pixel p of the picture gives to pixel g of the glimpse along one axis."""
    g = _points(glimpse, scale.dtype, scale.device)
    at = (scale.unsqueeze(-1) * g + shift.unsqueeze(-1) + 1.0) * ((size - 1) / 2.0)
    if not smooth:
        return _hats(at, size)
    apart = (at.unsqueeze(-1) - torch.arange(size, dtype=scale.dtype, device=scale.device)).abs()
    # where the glimpse is coarser than the picture its pixels see all between them, not just the nearest two
    reach = (scale * ((size - 1) / max(glimpse - 1, 1))).clamp(min=1.0)[..., None, None]
    return torch.relu(1.0 - apart / reach) / reach


def _paste_weights(scale: Tensor, shift: Tensor, glimpse: int, size: int) -> Tensor:
    """(rows, size, glimpse): how much pixel g of the glimpse gives to pixel p of the picture along one axis."""
    u = _points(size, scale.dtype, scale.device)
    at = ((u - shift.unsqueeze(-1)) / scale.unsqueeze(-1) + 1.0) * ((glimpse - 1) / 2.0)
    return _hats(at, glimpse)


def crop(picture: Tensor, where: Tensor, glimpse: tuple[int, int], smooth: bool = False) -> Tensor:
    """Cut a box out.

    Args:
        picture: (rows, channels, height, width); outside it is zero.
        where: (rows, 4).
        glimpse: height and width of the result.
        smooth: average over neighbours where the result is coarser than the picture.

    Returns:
        (rows, channels, *glimpse).
    """
    scale, shift = scale_of(where), shift_of(where)
    height, width = picture.shape[-2:]
    rows = _crop_weights(scale[:, 1], shift[:, 1], glimpse[0], height, smooth)
    columns = _crop_weights(scale[:, 0], shift[:, 0], glimpse[1], width, smooth)
    return _product(rows, picture, columns)


def paste(glimpse: Tensor, where: Tensor, height: int, width: int) -> Tensor:
    """Put a glimpse into an empty picture.

    Args:
        glimpse: (rows, channels, gh, gw).
        where: (rows, 4).
        height: of the picture.
        width: of the picture.

    Returns:
        (rows, channels, height, width), zero outside the box.
    """
    scale, shift = scale_of(where), shift_of(where)
    rows = _paste_weights(scale[:, 1], shift[:, 1], glimpse.shape[-2], height)
    columns = _paste_weights(scale[:, 0], shift[:, 0], glimpse.shape[-1], width)
    return _product(rows, glimpse, columns)


def cover(where: Tensor, height: int, width: int, glimpse: tuple[int, int]) -> Tensor:
    """What pasting a glimpse full of ones would give: (rows, height, width), one in the box and zero outside."""
    scale, shift = scale_of(where), shift_of(where)
    rows = _paste_weights(scale[:, 1], shift[:, 1], glimpse[0], height).sum(-1)
    columns = _paste_weights(scale[:, 0], shift[:, 0], glimpse[1], width).sum(-1)
    return rows.unsqueeze(-1) * columns.unsqueeze(-2)


def displacement(template: Tensor, picture: Tensor, reach: int, temperature: float) -> Tensor:
    """By how much to move a template so that it explains a picture best.

    For every shift within `reach` pixels the inner product of the moved template and the picture; the result is the
    mean shift under softmax(product / temperature).

    Args:
        template: (rows, channels, height, width).
        picture: the same shape.
        reach: largest shift searched, in pixels.
        temperature: in units of the inner product.

    Returns:
        (rows, 2) as (x, y), pixels.
    """
    if not len(template):
        return template.new_zeros(0, 2)
    height, width = template.shape[-2:]
    size = (_smooth_size(height + reach), _smooth_size(width + reach))
    spectrum = torch.fft.rfft2(template, size).conj() * torch.fft.rfft2(picture, size)
    product = torch.fft.irfft2(spectrum.sum(1), size)
    shifts = torch.arange(-reach, reach + 1, device=template.device)
    near = product[:, shifts[:, None] % size[0], shifts % size[1]]
    chance = torch.softmax(near.flatten(1) / temperature, -1).reshape(near.shape)
    steps = shifts.to(template.dtype)
    return torch.stack([chance.sum(1) @ steps, chance.sum(2) @ steps], -1)


def _smooth_size(size: int) -> int:
    """The least number of at least `size` whose prime factors are 2, 3 and 5: fast to transform."""
    while True:
        rest = size
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return size
        size += 1
