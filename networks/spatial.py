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
    """Entries of an axis, the first at -1 and the last at 1."""
    half = (size - 1) / 2.0
    return (torch.arange(size, dtype=dtype, device=device) - half) / max(half, 1.0)


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
        span: of centres.
        cut: points of the glimpse, -1 .. 1, and entries of the picture; None if nothing is cropped.
        put: points of the picture and entries of the glimpse; None if nothing is pasted.

    Returns:
        For each that is asked for (rows, axes, points, size).
    """

    @staticmethod
    def forward(
        ctx: Any, where: Tensor, span: float, cut: tuple[Tensor, int] | None, put: tuple[Tensor, int] | None
    ) -> tuple[Tensor, ...]:
        axes = where.shape[1] // 2
        raw, moves = where.unsqueeze(2).split(axes, 1)
        share = torch.sigmoid(raw)
        bend = torch.tanh(moves if span == 1.0 else moves / span)
        shift = bend if span == 1.0 else span * bend
        scale = (share * (1.0 - 2.0 * _LEAST)).add_(_LEAST)
        weights, slopes, halves = [], [], []
        points = at = None
        if cut is not None:
            points = cut[0]
            parts = [(torch.addcmul(shift, scale, points), cut[1])]
        else:
            parts = []
        if put is not None:
            at = (put[0] - shift).div_(scale)
            parts.append((at, put[1]))
        for place, size in parts:
            apart = place.unsqueeze(3) - _ticks(size, place.dtype, place.device)
            half = (size - 1) / 2.0
            weights.append(torch.rsub(apart.abs(), 1.0, alpha=half).clamp_(min=0.0))
            halves.append(half)
            if ctx.needs_input_grad[0]:  # minus the derivative by `place`, over `half`
                slopes.append(torch.ops.aten.threshold_backward(torch.sign(apart), weights[-1], 0.0))
        ctx.halves = halves
        ctx.save_for_backward(share, bend, scale, points, at, *slopes)
        return tuple(weights)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        share, bend, scale, points, at, *slopes = ctx.saved_tensors
        sums = [(gradient * slope).sum(3) for gradient, slope in zip(gradients, slopes, strict=True)]
        of_scale: Any = None
        of_shift: Any = None
        if points is not None:
            of_scale = (sums[0] * points).sum(2, keepdim=True).mul_(-ctx.halves[0])
            of_shift = sums[0].sum(2, keepdim=True).mul_(-ctx.halves[0])
        if at is not None:
            stretch = sums[-1].sum(2, keepdim=True), (sums[-1] * at).sum(2, keepdim=True)
            far, wide = (part.mul_(ctx.halves[-1]).div_(scale) for part in stretch)
            of_scale, of_shift = (wide, far) if of_scale is None else (of_scale.add_(wide), of_shift.add_(far))
        of_raw = torch.ops.aten.sigmoid_backward(of_scale.mul_(1.0 - 2.0 * _LEAST), share)
        of_moves = torch.ops.aten.tanh_backward(of_shift, bend)
        return torch.cat([of_raw, of_moves], 1).squeeze(2), None, None, None


Pair = tuple[Tensor, Tensor]
"""Weights of rows and of columns."""


def _weights(
    where: Tensor,
    size: tuple[int, int],
    glimpse: tuple[int, int],
    span: float,
    *,
    cut: bool = False,
    put: bool = False,
    margin: int = 0,
) -> list[Pair]:
    """Weights for cropping, of rows (n, gh, height) and of columns, and for pasting, (n, height, gh) and alike."""

    def of(boxes: Tensor, i: int) -> tuple[Tensor, ...]:
        short, long = (_points(n, where.dtype, where.device, more) for n, more in ((glimpse[i], 0), (size[i], margin)))
        result: tuple[Tensor, ...] = _Weights.apply(  # type: ignore[no-untyped-call]
            boxes, span, (short, size[i]) if cut else None, (long, glimpse[i]) if put else None
        )
        return result

    if size[0] == size[1] and glimpse[0] == glimpse[1]:
        pairs = [both.unbind(1) for both in of(where, 0)]
        return [(rows, columns) for columns, rows in pairs]
    kinds = [[part.squeeze(1) for part in of(where[:, 1 - i :: 2], i)] for i in (0, 1)]
    return list(zip(*kinds, strict=True))


class _Product(torch.autograd.Function):
    """rows @ picture @ columns^T of single planes: (n, a, h), (n, h, w), (n, b, w) -> (n, a, b)."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, picture: Tensor, columns: Tensor) -> Tensor:
        half = torch.bmm(rows, picture)
        ctx.save_for_backward(rows, picture, columns, half)
        return torch.bmm(half, columns.mT)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        rows, picture, columns, half = ctx.saved_tensors
        needs = ctx.needs_input_grad
        of_half = torch.bmm(gradient, columns)
        return (
            torch.bmm(of_half, picture.mT) if needs[0] else None,
            torch.bmm(rows.mT, of_half) if needs[1] else None,
            torch.bmm(gradient.mT, half) if needs[2] else None,
        )


def _product(rows: Tensor, picture: Tensor, columns: Tensor) -> Tensor:
    """rows @ picture @ columns^T per channel; (n, a, h), (n, channels, h, w), (n, b, w) -> (n, channels, a, b)."""
    if picture.shape[1] == 1:
        return _Product.apply(rows, picture.squeeze(1), columns).unsqueeze(1)  # type: ignore[no-untyped-call, no-any-return]
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


def crop(
    picture: Tensor,
    where: Tensor,
    glimpse: tuple[int, int],
    smooth: bool = False,
    span: float = 1.0,
    weights: Pair | None = None,
) -> Tensor:
    """Cut a box out.

    Args:
        picture: (rows, channels, height, width); outside it is zero.
        where: (rows, 4).
        glimpse: height and width of the result.
        smooth: average over neighbours where the result is coarser than the picture.
        span: of centres, see above.
        weights: the first of what `framing` gives for these boxes, where that is known already.

    Returns:
        (rows, channels, *glimpse).
    """
    height, width = picture.shape[-2:]
    if smooth:
        scale, shift = scale_of(where), shift_of(where, span)
        rows = _smooth_weights(scale[:, 1], shift[:, 1], glimpse[0], height)
        columns = _smooth_weights(scale[:, 0], shift[:, 0], glimpse[1], width)
    elif weights is not None:
        rows, columns = weights
    else:
        ((rows, columns),) = _weights(where, (height, width), glimpse, span, cut=True)
    return _product(rows, picture, columns)


def placing(
    where: Tensor, height: int, width: int, glimpse: tuple[int, int], span: float = 1.0, margin: int = 0
) -> Pair:
    """What `paste` and `cover` compute from boxes alone: rows (n, height, gh) and columns (n, width, gw) of weights.

    A margin makes the picture larger by so many pixels at each side.
    """
    (pair,) = _weights(where, (height, width), glimpse, span, put=True, margin=margin)
    return pair


def framing(where: Tensor, height: int, width: int, glimpse: tuple[int, int], span: float = 1.0) -> tuple[Pair, Pair]:
    """What `crop` and `paste` compute from boxes alone, for both at once."""
    cut, put = _weights(where, (height, width), glimpse, span, cut=True, put=True)
    return cut, put


def boxed(weights: Pair) -> Tensor:
    """How much of each pixel lies in a box, (rows, height, width), from the weights a glimpse is pasted with."""
    rows, columns = weights
    return rows.sum(-1).unsqueeze(-1) * columns.sum(-1).unsqueeze(-2)


def paste(
    glimpse: Tensor,
    where: Tensor,
    height: int,
    width: int,
    weights: Pair | None = None,
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
    return boxed(placing(where, height, width, glimpse, span))


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
