"""Crop and paste: a differentiable window on a picture, and its inverse.

A box is `where = (sx, sy, tx, ty)`, four logits: it is `scale = sigma(sx, sy)` of the picture wide and high, and its
centre stands at `shift = span tanh((tx, ty) / span)`: on the picture, -1 .. 1, for a span of 1 (as published), and also
beside it for a larger one. A point g of the glimpse, in -1 .. 1, is the point `u = scale g + shift` of the picture;
corner-aligned, so that pixel `(u + 1) / 2 (size - 1)` (Jaderberg et al., *Spatial
transformer networks*, 2015, without rotation).

Without rotation bilinear sampling is separable: both directions are two small matrix products with hat functions as
weights, which is several times faster than gathering four neighbours of every pixel.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

_LEAST = 0.01


def _constant(make: Callable[..., Any]) -> Callable[..., Any]:
    """Make a constant once; one that is made under `torch.inference_mode` can be used outside it."""

    @cache
    @functools.wraps(make)
    def made(*arguments: Any) -> Any:
        with torch.inference_mode(False):
            return make(*arguments)

    return made


def scale_of(where: Tensor) -> Tensor:
    """Width and height as shares of the picture, (..., 2) as (x, y); between 0.01 and 0.99."""
    return _LEAST + (1.0 - 2.0 * _LEAST) * torch.sigmoid(where[..., :2])


def shift_of(where: Tensor, span: float = 1.0) -> Tensor:
    """Centres in -span .. span, (..., 2) as (x, y); the picture is -1 .. 1."""
    return torch.tanh(where[..., 2:]) if span == 1.0 else span * torch.tanh(where[..., 2:] / span)


def logits_of(shift: Tensor, span: float = 1.0) -> Tensor:
    """The last two numbers of a box whose centre is given: `shift_of` turned round, short of the very ends."""
    return span * torch.atanh((shift / span).clamp(-0.999, 0.999))


def pixel_boxes(where: Tensor, height: int, width: int, span: float = 1.0) -> Tensor:
    """Boxes in pixels, (..., 4) as x, y (of the upper left corner), width, height."""
    size = _extent(height, width, where.dtype, where.device)
    extent = scale_of(where) * size
    centre = (shift_of(where, span) + 1.0) / 2.0 * size
    return torch.cat([centre - extent / 2.0, extent], -1)


def enlarged(where: Tensor, factor: float) -> Tensor:
    """The same centre, the scale `factor` times as large (at most 0.98 of the picture)."""
    if factor == 1.0:
        return where
    share = (factor * torch.sigmoid(where[..., :2])).clamp(max=1.0 - 1e-3)
    return torch.cat([torch.logit(share), where[..., 2:]], -1)


def moved(where: Tensor, pixels: Tensor, height: int, width: int, span: float = 1.0) -> Tensor:
    """The box moved by pixels (..., 2) as (x, y)."""
    step = 2.0 * pixels / _extent(height, width, where.dtype, where.device)
    return torch.cat([where[..., :2], logits_of(shift_of(where, span) + step, span)], -1)


def pixel_spread(where: Tensor, scale: Tensor, height: int, width: int, span: float = 1.0) -> Tensor:
    """Standard deviations of a centre in pixels, (..., 2) as (x, y), from those `scale` (..., 4) of a box's logits."""
    slope = 1.0 - (shift_of(where, span) / span).square()
    return scale[..., 2:] * slope * (0.5 * _extent(height, width, where.dtype, where.device))


@_constant
def _extent(height: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor([width - 1.0, height - 1.0], dtype=dtype, device=device)


@_constant
def _ticks(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Entries of an axis, counted from its middle."""
    return torch.arange(size, dtype=dtype, device=device) - (size - 1) / 2.0


@_constant
def _points(size: int, dtype: torch.dtype, device: torch.device, margin: int = 0) -> Tensor:
    """Pixels of an axis, the picture's own at -1 .. 1, and so many more at both ends."""
    end = 1.0 + 2.0 * margin / max(size - 1, 1)
    return torch.linspace(-end, end, size + 2 * margin, dtype=dtype, device=device)


class _Weights(torch.autograd.Function):
    """Hat functions relu(1 - |at - p|), p = 0 .. size - 1, at points that boxes put on an axis or two.

    Forward and backward are written out: autograd would make three times as many operations of it.

    Args:
        where: (rows, 2 axes), logits of scales, then of shifts.
        points: of the window, -1 .. 1.
        size: entries of what the points fall on.
        inverse: whether the window is the picture (pasting) or the glimpse (cropping).
        span: of centres.

    Returns:
        (rows, axes, points, size).
    """

    @staticmethod
    def forward(ctx: Any, where: Tensor, points: Tensor, size: int, inverse: bool, span: float) -> Tensor:
        half = (size - 1) / 2.0
        raw, moves = where.chunk(2, 1)
        share = torch.sigmoid(raw)
        bend = torch.tanh(moves if span == 1.0 else moves / span)
        shift = bend if span == 1.0 else span * bend
        scale = (share * (1.0 - 2.0 * _LEAST)).add_(_LEAST)
        if inverse:
            at = (points - shift.unsqueeze(2)).mul_(half).div_(scale.unsqueeze(2))
        else:
            at = torch.addcmul(shift.unsqueeze(2), scale.unsqueeze(2), points).mul_(half)
        apart = at.unsqueeze(3) - _ticks(size, at.dtype, at.device)
        weights = torch.rsub(apart.abs(), 1.0).clamp_(min=0.0)
        ctx.half, ctx.inverse = half, inverse
        ctx.save_for_backward(share, bend, scale, points, at, apart, weights)
        return weights

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:  # type: ignore[override]
        share, bend, scale, points, at, apart, weights = ctx.saved_tensors
        slope = torch.sign(apart).mul_(weights > 0).mul_(gradient).sum(3)  # minus the derivative by `at`
        if ctx.inverse:
            of_scale = (slope * at).sum(2).div_(scale)
            of_shift = slope.sum(2).mul_(ctx.half).div_(scale)
        else:
            of_scale = (slope @ points).mul_(-ctx.half)
            of_shift = slope.sum(2).mul_(-ctx.half)
        of_raw = of_scale.mul_(1.0 - 2.0 * _LEAST).mul_(share).mul_(1.0 - share)
        return torch.cat([of_raw, of_shift.mul_(1.0 - bend.square())], 1), None, None, None, None


def _weights(
    where: Tensor, points: tuple[int, int], sizes: tuple[int, int], inverse: bool, span: float, margin: int = 0
) -> tuple[Tensor, Tensor]:
    """Weights of rows (n, points, sizes) and of columns, see `_Weights`; points and sizes as (height, width)."""

    def of(boxes: Tensor, count: int, size: int) -> Tensor:
        at = _points(count, where.dtype, where.device, margin)
        result: Tensor = _Weights.apply(boxes, at, size, inverse, span)  # type: ignore[no-untyped-call]
        return result

    if points[0] == points[1] and sizes[0] == sizes[1]:
        columns, rows = of(where, points[0], sizes[0]).unbind(1)
        return rows, columns
    rows, columns = (of(where[:, 1 - i :: 2], points[i], sizes[i]).squeeze(1) for i in (0, 1))
    return rows, columns


def _product(rows: Tensor, picture: Tensor, columns: Tensor) -> Tensor:
    """rows @ picture @ columns^T per channel; (n, a, h), (n, channels, h, w), (n, b, w) -> (n, channels, a, b)."""
    if picture.shape[1] == 1:
        return torch.bmm(torch.bmm(rows, picture.squeeze(1)), columns.mT).unsqueeze(1)
    return rows.unsqueeze(1) @ picture @ columns.unsqueeze(1).mT


def _smooth_weights(scale: Tensor, shift: Tensor, glimpse: int, size: int) -> Tensor:
    """(rows, glimpse, size): hats as wide as the distance of the glimpse's points, where that is above a pixel.

    Where the glimpse is coarser than the picture its pixels see all between them, not just the nearest two.
    """
    g = _points(glimpse, scale.dtype, scale.device)
    at = (scale.unsqueeze(-1) * g + shift.unsqueeze(-1) + 1.0) * ((size - 1) / 2.0)
    apart = (at.unsqueeze(-1) - torch.arange(size, dtype=scale.dtype, device=scale.device)).abs()
    reach = (scale * ((size - 1) / max(glimpse - 1, 1))).clamp(min=1.0)[..., None, None]
    return torch.relu(1.0 - apart / reach) / reach


def crop(picture: Tensor, where: Tensor, glimpse: tuple[int, int], smooth: bool = False, span: float = 1.0) -> Tensor:
    """Cut a box out.

    Args:
        picture: (rows, channels, height, width); outside it is zero.
        where: (rows, 4).
        glimpse: height and width of the result.
        smooth: average over neighbours where the result is coarser than the picture.
        span: of centres, see above.

    Returns:
        (rows, channels, *glimpse).
    """
    height, width = picture.shape[-2:]
    if smooth:
        scale, shift = scale_of(where), shift_of(where, span)
        rows = _smooth_weights(scale[:, 1], shift[:, 1], glimpse[0], height)
        columns = _smooth_weights(scale[:, 0], shift[:, 0], glimpse[1], width)
    else:
        rows, columns = _weights(where, glimpse, (height, width), False, span)
    return _product(rows, picture, columns)


def placing(
    where: Tensor, height: int, width: int, glimpse: tuple[int, int], span: float = 1.0, margin: int = 0
) -> tuple[Tensor, Tensor]:
    """What `paste` and `cover` compute from boxes alone: rows (n, height, gh) and columns (n, width, gw) of weights.

    A margin makes the picture larger by so many pixels at each side.
    """
    return _weights(where, (height, width), glimpse, True, span, margin)


def paste(
    glimpse: Tensor,
    where: Tensor,
    height: int,
    width: int,
    weights: tuple[Tensor, Tensor] | None = None,
    span: float = 1.0,
) -> Tensor:
    """Put a glimpse into an empty picture.

    Args:
        glimpse: (rows, channels, gh, gw).
        where: (rows, 4).
        height: of the picture.
        width: of the picture.
        weights: what `placing` gives for these boxes, where that is known already.
        span: of centres, see above.

    Returns:
        (rows, channels, height, width), zero outside the box.
    """
    if weights is None:
        weights = placing(where, height, width, (glimpse.shape[-2], glimpse.shape[-1]), span)
    rows, columns = weights
    return _product(rows, glimpse, columns)


def cover(where: Tensor, height: int, width: int, glimpse: tuple[int, int], span: float = 1.0) -> Tensor:
    """What pasting a glimpse full of ones would give: (rows, height, width), one in the box and zero outside."""
    rows, columns = placing(where, height, width, glimpse, span)
    return rows.sum(-1).unsqueeze(-1) * columns.sum(-1).unsqueeze(-2)


def displacement(template: Tensor, picture: Tensor, reach: int, temperature: float | Tensor) -> Tensor:
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
    rows, columns, steps = _shifts(reach, size, product.dtype, product.device)
    near = product[:, rows, columns]
    return _mean_shift(near / temperature, steps)


def partly_seen(
    template: Tensor,
    picture: Tensor,
    seen: Tensor,
    reach: int,
    nats: Tensor | float,
    expected: Tensor,
    spread: Tensor,
) -> Tensor:
    """By how much to move a template that may be hidden in part, or altogether, given where it is likely to go.

    The gain of a shift s is `<template_s, picture> - |template_s|^2 / 2` over the pixels that are seen: what lies
    beside the picture, or behind something, costs nothing and explains nothing. The result is the mean shift under
    `softmax(gain / nats - 2 log(1 + |(s - expected) / spread|^2 / 2))`: things that turn round go elsewhere than
    expected, hence the heavy tail.

    Args:
        template: (rows, channels, height + 2 reach, width + 2 reach), with what lies beside the picture.
        picture: (rows, channels, height, width), zero where `seen` is.
        seen: (height, width) or (rows, height, width) in 0 .. 1.
        reach: largest shift searched, in pixels.
        nats: in units of the gain.
        expected: (rows, 2) as (x, y), pixels.
        spread: the same shape.

    Returns:
        (rows, 2) as (x, y), pixels.
    """
    if not len(template):
        return template.new_zeros(0, 2)
    height, width = template.shape[-2:]
    size = (_smooth_size(height), _smooth_size(width))  # what goes round meets the margins, which are zero
    margin = (reach, reach, reach, reach)
    wide = torch.nn.functional.pad(picture, margin)
    window = torch.nn.functional.pad(seen.to(template.dtype), margin)
    spectrum = (torch.fft.rfft2(template, size).conj() * torch.fft.rfft2(wide, size)).sum(1)
    energy = torch.fft.rfft2(template.square().sum(1), size).conj() * torch.fft.rfft2(window, size)
    rows, columns, steps = _shifts(reach, size, template.dtype, template.device)
    gain = torch.fft.irfft2(spectrum - 0.5 * energy, size)[:, rows, columns]
    far = ((steps - expected.unsqueeze(-1)) / spread.unsqueeze(-1)).square()  # (rows, 2, shifts)
    score = gain / nats - 2.0 * torch.log1p(0.5 * (far[:, 1].unsqueeze(2) + far[:, 0].unsqueeze(1)))
    return _mean_shift(score, steps)


def _mean_shift(score: Tensor, steps: Tensor) -> Tensor:
    """Mean shift (rows, 2) as (x, y) under the softmax of scores (rows, shifts down, shifts across)."""
    chance = torch.softmax(score.flatten(1), -1).reshape(score.shape)
    return torch.stack([chance.sum(1) @ steps, chance.sum(2) @ steps], -1)


@_constant
def _shifts(
    reach: int, size: tuple[int, int], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Where the shifts -reach .. reach stand along both axes of a circular correlation, and the shifts as numbers."""
    shifts = torch.arange(-reach, reach + 1, device=device)
    return shifts.unsqueeze(1) % size[0], shifts % size[1], shifts.to(dtype)


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
