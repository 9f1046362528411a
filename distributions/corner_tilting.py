"""Tilting: proposals that know how later inequalities depend on earlier coordinates, for the far corners."""

from __future__ import annotations

import torch
from torch import Tensor

from phlogiston.distributions.gaussian_conditioning import Conditioned, orthogonalise
from phlogiston.distributions.linear_constraints import RowPlan, Rows
from phlogiston.distributions.sequential_draws import truncated_mean
from phlogiston.distributions.truncated_normal import log_interval_mass


def tilt_first(conditioned: Conditioned, rows: Rows, row_plan: RowPlan) -> tuple[Tensor, Tensor]:
    """Tilt the first of two coordinates towards where the second row has mass.

    In a far corner of correlated components the second row's mass varies by many orders of magnitude over what the
    first one allows. Its logarithm is concave in the first coordinate, so a tangent bounds it, and drawing from the
    normal times that tangent (a normal with another mean) leaves weights no larger than the bound. The tangent at the
    mode serves best. This is the two-dimensional case of the tilting of Botev, "The normal law under linear
    restrictions", J. R. Statist. Soc. B 79, 2017.

    Returns:
        Means of the first coordinate (P,), and logs (P,) of upper bounds of the mass of both rows.
    """
    centre, row_factor = conditioned.row_factors(rows)
    lower, _ = orthogonalise(row_factor.index_select(1, row_plan.independent))
    first, second = row_plan.independent.tolist()
    low = (rows.lower[first] - centre[:, first]) / lower[:, 0, 0]
    high = (rows.upper[first] - centre[:, first]) / lower[:, 0, 0]
    start = (rows.lower[second] - centre[:, second]) / lower[:, 1, 1]
    end = (rows.upper[second] - centre[:, second]) / lower[:, 1, 1]
    slope = lower[:, 1, 0] / lower[:, 1, 1]

    def tangent(x: Tensor) -> tuple[Tensor, Tensor]:
        a, b = start - slope * x, end - slope * x
        mass = log_interval_mass(a, b)
        return mass, slope * truncated_mean(a, b, mass)

    nearest = torch.zeros_like(low).clamp(low, high)
    left, right = torch.maximum(low, nearest - 64), torch.minimum(high, nearest + 64)
    for _ in range(16):
        middle = 0.5 * (left + right)
        rising = tangent(middle)[1] > middle
        left, right = torch.where(rising, middle, left), torch.where(rising, right, middle)
    mode = 0.5 * (left + right)
    mass, tilt = tangent(mode)
    # half-way out of numbers: no tilt, and no claim
    sound = torch.isfinite(mass) & torch.isfinite(tilt)
    tilt = torch.where(sound, tilt, 0.0)
    bound = mass + tilt * (0.5 * tilt - mode) + log_interval_mass(low - tilt, high - tilt)
    return tilt, torch.where(sound, bound, log_interval_mass(low, high))
