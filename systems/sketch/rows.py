"""Changes to drawings before training or scoring: noise, stretching, thinning.

Drawings in whole pixels lie on a grid, where no density is bounded: uniform noise as wide as a cell makes them numbers
that have one. Drawings that are stretched and thinned a little are still the
same drawings.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from phlogiston.inference.svi.row_noise import row_keys, uniform
from phlogiston.models.stepwise import valid_steps

Batch = dict[str, Tensor]
_NOISE = 16  # first of the streams of a drawing's noise; those below are its latent's


def noisy(x: Tensor, length: Tensor, width: float, seed: int = 0, draw: int = 0) -> Tensor:
    """Drawings to be scored, (rows, points, 3), with noise of this width that is the drawing's own; none where it is 0.

    Args:
        x: drawings.
        length: points of each.
        width: of the noise, in data units.
        seed: of all noise.
        draw: which of a drawing's independent draws.
    """
    if not width:
        return x
    inside = valid_steps(length, x.shape[1])
    noise = width * (uniform(keys_of(x, length, seed), x.shape[1], 2, stream=_NOISE + draw).to(x) - 0.5)
    return torch.cat([x[..., :2] + torch.where(inside.unsqueeze(-1), noise, 0.0), x[..., 2:]], -1)


def keys_of(x: Tensor, length: Tensor, seed: int) -> Tensor:
    """A seed for each drawing, from its points alone: int64 (rows,)."""
    return row_keys(x, valid=valid_steps(length, x.shape[1]), seed=seed)


def varied(dequantise: float, stretch: float, drop: float) -> Callable[[Batch], Batch] | None:
    """The change of every training batch; None where there is none.

    Args:
        dequantise: width of the noise added to offsets, in data units.
        stretch: each axis of a drawing is scaled by a random factor within 1 +- this.
        drop: a point inside a stroke is left out with this probability.
    """
    if not (dequantise or stretch or drop):
        return None

    def change(batch: Batch) -> Batch:
        x, length = batch["x"], batch["length"]
        if drop:
            x, length = thin(x, length, drop)
        offsets = x[..., :2]
        if dequantise:
            offsets = offsets + dequantise * (torch.rand_like(offsets) - 0.5)
        if stretch:
            offsets = offsets * (1.0 + stretch * (2.0 * torch.rand(len(x), 1, 2) - 1.0))
        inside = valid_steps(length, x.shape[1]).unsqueeze(-1)
        return {**batch, "x": torch.cat([torch.where(inside, offsets, 0.0), x[..., 2:]], -1), "length": length}

    return change


def thin(x: Tensor, length: Tensor, probability: float) -> tuple[Tensor, Tensor]:
    """Leave out points inside strokes of more than two; their offsets go to the next point, so that nothing moves.

    Args:
        x: (rows, points, 3).
        length: (rows,).
        probability: of leaving out a point that may be left out.

    Returns:
        The same with fewer points, and lengths.
    """
    lifted = x[..., 2] > 0.5
    before = torch.cat([torch.ones_like(lifted[:, :1]), lifted[:, :-1]], 1)  # first point of a stroke
    inner = ~lifted & ~before & valid_steps(length - 1, x.shape[1])  # nor is the last point left out
    dropped = inner & (torch.rand(inner.shape) < probability)
    position = x[..., :2].cumsum(1)
    order = torch.argsort(dropped.to(torch.uint8), dim=1, stable=True)
    position = position.gather(1, order.unsqueeze(-1).expand_as(position))
    pen = x[..., 2].gather(1, order)
    size = length - dropped.sum(1)
    offsets = torch.cat([position[:, :1], position[:, 1:] - position[:, :-1]], 1)
    inside = valid_steps(size, x.shape[1])
    out = torch.cat([offsets, pen.unsqueeze(-1)], -1)
    return torch.where(inside.unsqueeze(-1), out, 0.0), size
