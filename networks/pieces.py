"""Piecewise-linear embedding of numbers: a network of few layers follows steps and bends of each column by itself.

    piece_t(u) = clamp((u - e_t) / (e_{t+1} - e_t), 0, 1),    t = 1 ... T

The edges e are quantiles of the training rows, so that every piece has its share of them. Beyond the outermost edges
all pieces are constant. Pieces of no width (a column with few values) are zero.

Reference: Gorishniy, Rubachev and Babenko, "On embeddings for numerical features in tabular deep learning",
NeurIPS 2022.
"""

from __future__ import annotations

import torch
from torch import Tensor

NARROWEST = 1e-6
"""Edges nearer to each other than this, in standard deviations, are one."""


def quantile_edges(u: Tensor, bins: int) -> Tensor:
    """Edges of the pieces of every column: quantiles, all of them values that occur.

    Args:
        u: float64 (rows, columns), standardised.
        bins: T.

    Returns:
        float64 (columns, T + 1), rising; a column with fewer values than edges has all of its values as edges, and the
        last one again and again.
    """
    found = []
    for column in u.T:
        values = column.unique()
        if len(values) > bins + 1:
            levels = torch.linspace(0, 1, bins + 1, dtype=u.dtype)
            values = column.quantile(levels, interpolation="nearest").unique()
        kept = values[:1]
        for value in values[1:]:
            if value - kept[-1] > NARROWEST:
                kept = torch.cat([kept, value.reshape(1)])
        found.append(torch.cat([kept, kept[-1:].expand(bins + 1 - len(kept))]))
    return torch.stack(found)


def pieces(u: Tensor, edges: Tensor) -> Tensor:
    """The embedding: (rows, columns) and edges (columns, T + 1) -> (rows, columns * T)."""
    low, width = edges[:, :-1], edges.diff(dim=1)
    share = (u.unsqueeze(-1) - low) / torch.where(width > 0, width, 1.0)
    return torch.where(width > 0, share.clamp(0.0, 1.0), 0.0).flatten(1)
