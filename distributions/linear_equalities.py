"""Equalities of several entries, `a.x = c`, turned into known entries by a change of coordinates.

Each equality takes the place of one entry, its pivot: `y = T x` is x with every pivot replaced by the combination that
is known, and evidence about x becomes evidence about y of the kinds that the rest of the package conditions on. The
density of y at the known values is that of the combinations `a.x`: equalities count as known entries do.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from phlogiston.distributions.linear_constraints import LinearEvidence, Rows
from phlogiston.errors import EvidenceError

_ROUNDING = 1e-12
_SMALL = 1e-9  # coefficients this much below the largest one are rounding


class Coordinates(NamedTuple):
    """A change of coordinates.

    Attributes:
        forward: (D, D), `y = forward @ x`.
        back: (D, D), its inverse.
        evidence: about y, without equalities.
    """

    forward: Tensor
    back: Tensor
    evidence: LinearEvidence

    def of_components(self, means: Tensor, factors: Tensor) -> tuple[Tensor, Tensor]:
        """Means (P, D) and factors (P, D, D), or standard deviations (P, D), of x as those of y, always (P, D, D)."""
        full = self.forward * factors.unsqueeze(1) if factors.dim() == 2 else self.forward @ factors
        return means @ self.forward.T, full


def eliminate(evidence: LinearEvidence) -> Coordinates | None:
    """Find coordinates in which all equalities are known entries; None where there is no equality.

    Args:
        evidence: its rows with `lower == upper` are the equalities.

    Raises:
        EvidenceError: equalities that contradict each other or known values, or soft evidence about every entry of one.
    """
    rows = evidence.rows
    equal = rows.lower == rows.upper
    if not bool(equal.any()):
        return None
    eye = torch.eye(evidence.dim, dtype=torch.float64)
    forward, back = eye, eye
    known, values = evidence.known, torch.where(evidence.known, evidence.values, 0.0)
    soft = torch.zeros_like(known)
    soft[evidence.soft] = True
    pivots: list[int] = []
    for a, target in zip(rows.coefficients[equal], rows.lower[equal], strict=True):
        current = a @ back
        rest = target - current[known] @ values[known]
        current = torch.where(known, 0.0, current)
        if float(current.norm()) <= _ROUNDING * float(a.norm()):
            slack = _SMALL * (1.0 + float(target.detach().abs()) + float(a.abs() @ values.detach().abs()))
            if abs(float(rest.detach())) > slack:
                raise EvidenceError("the evidence is impossible: equalities contradict each other or the known values")
            continue
        current = torch.where(current.abs() > _SMALL * current.abs().max(), current, 0.0)
        pivot = int(torch.where(soft, 0.0, current.abs()).argmax())
        if soft[pivot] or current[pivot] == 0:
            raise EvidenceError(
                "soft evidence about every entry of a sum (Sum and Near) cannot be answered: leave one entry of the "
                "sum without"
            )
        pivots.append(pivot)
        step, undo = eye.clone(), eye.clone()
        step[pivot] = current
        undo[pivot] = -current / current[pivot]
        undo[pivot, pivot] = 1.0 / current[pivot]
        forward, back = step @ forward, back @ undo
        known, values = known | (eye[pivot] > 0), torch.where(eye[pivot] > 0, rest, values)
    return Coordinates(forward, back, _transformed(evidence, ~equal, back, known, values, pivots))


def _transformed(
    e: LinearEvidence, keep: Tensor, back: Tensor, known: Tensor, values: Tensor, pivots: list[int]
) -> LinearEvidence:
    """The evidence about y: inequalities of x as rows over y, the boxes of pivots among them."""
    at = torch.tensor(pivots, dtype=torch.long)
    boxed = at[torch.isfinite(e.lower[at]) | torch.isfinite(e.upper[at])]
    eye = torch.eye(e.dim, dtype=torch.float64)
    rows = Rows(
        torch.cat([e.rows.coefficients[keep], eye[boxed]]) @ back,
        torch.cat([e.rows.lower[keep], e.lower[boxed]]),
        torch.cat([e.rows.upper[keep], e.upper[boxed]]),
        torch.cat([e.rows.weight[keep], e.box_weight[boxed]]),
    )
    lower, upper = e.lower.index_fill(0, at, -math.inf), e.upper.index_fill(0, at, math.inf)
    return replace(e, known=known, values=values, lower=lower, upper=upper, rows=rows)
