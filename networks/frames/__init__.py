"""Frames: how one layer of a deep residual mixture moves, scales and turns what the layers below it describe.

A layer with `K` components maps the next layer's coordinates `u'` to its own by `u = mu_k + T_k u'`; scoring goes
the other way, `u' = W_k (u - mu_k)` with `W_k = T_k^-1`. The frames differ in what `T_k` may be:

    shift   T = I, the residual of the paper; one noise scale per layer for the density truncated there
    iso     T = positive scalar per component
    diag    T = positive diagonal per component
    tril    T lower triangular with positive diagonal, parametrised by W (the precision's Cholesky factor)
    lowrank T T^T = S (I + A A^T) S with S a positive diagonal and A of a few columns: a factor analyser per component

Shapes below: `...` is any batch, `K` components, `D` features. Log-scales are floored at `MIN_LOG_SCALE` because real
tables hold columns that are almost constant, and a density that grows without bound helps nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from phlogiston.networks.frames.diagonal import MIN_LOG_SCALE, DiagonalFrame, Frame, IsotropicFrame, ShiftFrame
from phlogiston.networks.frames.low_rank import LowRankFrame
from phlogiston.networks.frames.reordering import squared_norm
from phlogiston.networks.frames.triangular import TriangularFrame

__all__ = [
    "FRAMES",
    "MIN_LOG_SCALE",
    "DiagonalFrame",
    "Frame",
    "FrameName",
    "IsotropicFrame",
    "LowRankFrame",
    "ShiftFrame",
    "TriangularFrame",
    "compose",
    "factor_analysers",
    "frames_of",
    "path_gaussian",
    "squared_norm",
]

FrameName = Literal["shift", "iso", "diag", "tril", "lowrank"]

FRAMES: dict[str, Callable[[int, int], Frame]] = {
    "shift": ShiftFrame,
    "iso": IsotropicFrame,
    "diag": DiagonalFrame,
    "tril": TriangularFrame,
    "lowrank": LowRankFrame,
}


def frames_of(name: FrameName, sizes: Sequence[int], features: int, rank: int) -> list[Frame]:
    """The layers of a model, of these sizes; `rank` is that of `"lowrank"`."""
    if name == "lowrank":  # what diagonals above stretch of a diagonal and a few directions is one again
        last = LowRankFrame(sizes[-1], features, min(rank, features))
        return [*(DiagonalFrame(k, features) for k in sizes[:-1]), last]
    return [FRAMES[name](k, features) for k in sizes]


def compose(layers: Sequence[Frame], codes: Tensor, noise: Tensor) -> Tensor:
    """Push standard-normal noise (..., D) up through a path's frames (..., l): standardised coordinates (..., D)."""
    depth = codes.shape[-1]
    last = layers[depth - 1]
    u = noise * last.noise_log_scale().exp() if isinstance(last, ShiftFrame) else noise
    for l in reversed(range(depth)):
        u = layers[l].push(u, codes[..., l])
    return u


def path_gaussian(layers: Sequence[Frame], codes: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance factor of paths, in standardised coordinates.

    Args:
        layers: the frames.
        codes: int64 (..., l).

    Returns:
        Mean (..., D), and `F` with covariance `F F^T`: lower triangular (..., D, D), or its diagonal (..., D) for
        the diagonal frames.
    """
    depth = codes.shape[-1]
    if isinstance(layers[depth - 1], LowRankFrame):
        mean, scale, loadings = factor_analysers(layers, codes)
        loadings = (scale.unsqueeze(-1) * loadings).double()
        covariance = loadings @ loadings.mT + torch.diag_embed(scale.double().square())
        return mean, torch.linalg.cholesky(covariance).to(mean.dtype)
    full = layers[0].full
    mean = layers[0].mean.new_zeros(*codes.shape[:-1], layers[0].features)
    factor: Tensor | None = None
    for l in range(depth):
        mu = functional.embedding(codes[..., l], layers[l].mean)
        t = layers[l].factors()[codes[..., l]]
        if factor is None:
            mean, factor = mu, t
        elif full:
            mean, factor = mean + (factor @ mu.unsqueeze(-1)).squeeze(-1), factor @ t
        else:
            mean, factor = mean + factor * mu, factor * t
    last = layers[depth - 1]
    assert factor is not None
    return mean, factor * last.noise_log_scale().exp() if isinstance(last, ShiftFrame) else factor


def factor_analysers(layers: Sequence[Frame], codes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, scale and loadings of paths that end in a `LowRankFrame`, in standardised coordinates.

    Args:
        layers: the frames.
        codes: int64 (..., L), full paths.

    Returns:
        m (..., D), s (..., D) and A (..., D, rank): the covariance is `S (I + A A^T) S`.
    """
    last = layers[codes.shape[-1] - 1]
    assert isinstance(last, LowRankFrame)
    mean, scale = layers[0].mean.new_zeros(()), layers[0].mean.new_ones(())
    for frame, code in zip(layers, codes.unbind(-1), strict=False):
        diagonal = (1 / frame.inverse_scale()).expand(frame.num_components, frame.features)
        mean = mean + scale * functional.embedding(code, frame.mean)
        scale = scale * functional.embedding(code, diagonal)
    return mean, scale, last.loadings[codes[..., -1]]
