"""Where the factor analysers of a deep residual mixture start: principal factors of each cluster."""

from __future__ import annotations

import torch
from torch import Tensor

from phlogiston.networks.frames import MIN_LOG_SCALE, LowRankFrame

_LEAST_OWN = 0.05  # share of a column's variance that the directions leave to the column itself


@torch.no_grad()
def place_loadings(frame: LowRankFrame, gap: Tensor, labels: Tensor, share: Tensor, shrink: float) -> None:
    """Set scales and loadings from each cluster's principal directions, shrunk to those of all clusters together.

    Args:
        frame: its means are set already, and its scales to the clusters' standard deviations.
        gap: (N, D) rows minus the means of their clusters.
        labels: int64 (N,), the clusters.
        share: (N,), what each row weighs.
        shrink: how many rows the directions of all clusters together count in each.
    """
    rank = frame.loadings.shape[-1]
    weighted = gap * share.sqrt().unsqueeze(-1)
    total = share.sum()
    _, size, axes = torch.svd_lowrank(weighted / total.sqrt(), min(rank, *weighted.shape), niter=3)
    pooled = (axes * size).T  # (rank, D): the rows whose scatter is that of the main directions
    for k in range(frame.num_components):
        rows = torch.cat([weighted[labels == k], shrink**0.5 * pooled])
        rows = rows / (share[labels == k].sum() + shrink).sqrt()
        sd = torch.exp(frame.log_scale[k].double())
        _, size, axes = torch.svd_lowrank(rows / sd, min(rank, *rows.shape), niter=3)
        rest = (1 - ((size * axes).square()).sum(1)).clamp(min=0).mean()
        directions = axes * (size.square() - rest).clamp(min=1e-3).sqrt()
        own = (1 - directions.square().sum(1)).clamp(min=_LEAST_OWN).sqrt()
        frame.log_scale[k] = (sd * own).log().clamp(min=MIN_LOG_SCALE)
        frame.loadings[k].zero_()
        frame.loadings[k, :, : directions.shape[1]] = directions / own.unsqueeze(-1)
    frame.initial_log_scale.copy_(frame.log_scale)
