"""Half-spaces that hold what several inequalities leave of a component, for corners far from where it expects anything.

In coordinates in which a component is the standard normal, inequalities leave a polytope. Let z be its point nearest to
the origin, at distance t. The polytope lies beyond the plane through z across the direction of z, so its mass is at
most Phi(-t): a bound that knows how the inequalities work together, where the masses of single rows, or draws of one
row after the other, may be wrong by hundreds of nats. Drawing the coordinate along z first, beyond t, takes the
exponential part out of the weights: what remains varies by powers.

The nearest point is found as the least-squares problem of Lawson and Hanson, "Solving Least Squares Problems", 1974,
chapter 23 (least distance programming). Any non-negative multipliers give a valid bound, however rounded they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from phlogiston.distributions.gaussian_conditioning import Conditioned, orthogonalise
from phlogiston.distributions.linear_constraints import RowPlan, Rows
from phlogiston.distributions.normal_interval import log_interval_mass

_NEAR = 1.5  # standard deviations within which plain draws of one row after the other do well
_APART = 0.1  # correlations of rows below which plain draws do well at any distance
TINY = 1e-9
"""Slopes and multipliers below this are zero, for rows of unit length."""


@dataclass(frozen=True, eq=False)
class Corners:
    """Half-spaces of components.

    Attributes:
        direction: (P, W), unit vectors in the space of the components' noise.
        low: (P,), where along it the polytope begins, in standard deviations.
        high: (P,), where it surely ends, or `inf`.
        dropped: int64 (P,), the independent row whose coordinate gives way to the direction; -1 for components that
            are drawn plainly.
    """

    direction: Tensor
    low: Tensor
    high: Tensor
    dropped: Tensor

    @staticmethod
    def none(count: int, width: int) -> Corners:
        """No component is far away."""
        zero = torch.zeros(count, dtype=torch.float64)
        return Corners(zero.new_zeros(count, width), zero, zero + torch.inf, torch.full((count,), -1))

    def subset(self, index: Tensor) -> Corners:
        """The components at `index`."""
        return Corners(self.direction[index], self.low[index], self.high[index], self.dropped[index])

    def with_rows(self, index: Tensor, other: Corners) -> Corners:
        """These corners with those of components `index` replaced by `other`."""
        return Corners(
            self.direction.index_copy(0, index, other.direction),
            self.low.index_copy(0, index, other.low),
            self.high.index_copy(0, index, other.high),
            self.dropped.index_copy(0, index, other.dropped),
        )

    @property
    def log_bound(self) -> Tensor:
        """Upper bounds (P,) of the log mass of all rows together; zero where nothing is known."""
        return torch.where(self.dropped < 0, 0.0, log_interval_mass(self.low, self.high))


def find_corners(conditioned: Conditioned, rows: Rows, row_plan: RowPlan) -> Corners:
    """Find the half-space of every component whose centre lies far outside rows that depend on each other.

    Args:
        conditioned: P components.
        rows: R inequalities that some point satisfies.
        row_plan: of these rows.

    Returns:
        Corners of the P components.
    """
    centre, factor = conditioned.row_factors(rows)
    size = factor.norm(dim=-1)
    low, high = (rows.lower - centre) / size, (rows.upper - centre) / size
    lower, _ = orthogonalise(factor.index_select(1, row_plan.independent))
    every = (row_plan.combination @ lower) / size.unsqueeze(-1)  # (P, R, k), rows of unit length
    found = Corners.none(len(centre), factor.shape[-1])
    together = (every @ every.mT - torch.eye(every.shape[1], dtype=every.dtype)).abs().amax((1, 2)) > _APART
    outside = torch.nonzero(together & (torch.maximum(low, -high).amax(-1) > _NEAR)).squeeze(-1)
    if len(outside) == 0:
        return found
    signed = np.stack([
        _nearest(e, a, b)
        for e, a, b in zip(every[outside].numpy(), low[outside].numpy(), high[outside].numpy(), strict=True)
    ])  # fmt: skip
    signed[np.abs(signed) < TINY * np.abs(signed).max(-1, keepdims=True)] = 0.0
    multiplier = torch.as_tensor(signed)  # (C, R): positive where the lower limit is met, negative for the upper
    unit = factor[outside] / size[outside].unsqueeze(-1)
    across = (multiplier.unsqueeze(1) @ unit).squeeze(1)
    length = across.norm(dim=-1)
    begin = torch.where(multiplier > 0, multiplier * low[outside], multiplier * high[outside])
    end = torch.where(multiplier > 0, multiplier * high[outside], multiplier * low[outside])
    begin, end = (torch.where(multiplier == 0, 0.0, v).sum(-1) / length for v in (begin, end))
    # in terms of the independent rows: the one that matters most gives way
    parts = (multiplier / size[outside]) @ row_plan.combination * size[outside][:, row_plan.independent]
    dropped = row_plan.independent[parts.abs().argmax(-1)]
    sound = (length > TINY) & (begin > _NEAR) & (end > begin)
    chosen = Corners(across / length.unsqueeze(-1), begin, end, torch.where(sound, dropped, -1))
    return found.with_rows(outside, chosen)


def _nearest(rows: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Multipliers (R,) of the point nearest to the origin with `low <= rows @ z <= high`; zeros where unknown."""
    above, below = np.isfinite(low), np.isfinite(high)
    table = np.vstack([rows[above], -rows[below]])
    limits = np.concatenate([low[above], -high[below]])
    scale = np.abs(limits).max()
    try:
        from scipy.optimize import nnls  # takes as long to load as Pyro

        solution, _ = nnls(np.vstack([table.T, limits / scale]), np.append(np.zeros(table.shape[1]), 1.0))
    except RuntimeError:  # too many iterations: no claim
        return np.zeros(len(rows))
    multiplier = np.zeros(len(rows))
    multiplier[above] += solution[: above.sum()]
    multiplier[below] -= solution[above.sum() :]
    return multiplier


def turned(
    corners: Corners, dropped: int, conditioned: Conditioned, rows: Rows, row_plan: RowPlan
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows with the direction of the corner in front, for components that drop the same row.

    Returns:
        Lower and upper limits less the centres (S, R + 1), factors (S, R + 1, W), all in standard deviations of their
        rows, and which rows are independent (k,).
    """
    centre, factor = conditioned.row_factors(rows)
    size = factor.norm(dim=-1)
    low = torch.cat([corners.low.unsqueeze(1), (rows.lower - centre) / size], 1)
    high = torch.cat([corners.high.unsqueeze(1), (rows.upper - centre) / size], 1)
    factor = torch.cat([corners.direction.unsqueeze(1), factor / size.unsqueeze(-1)], 1)
    left = row_plan.independent[row_plan.independent != dropped] + 1
    return low, high, factor, torch.cat([left.new_zeros(1), left])
