"""Linear evidence about a vector: entries known exactly or softly, and rows `lower <= a.x <= upper`.

`LinearEvidence` collects the statements; `simplify` removes what is certain before any probability enters: known values
are substituted into the rows, empty rows are dropped or refused as impossible, rows in one variable become box sides,
parallel rows become one two-sided row. `plan` finds which rows are independent, `project` repairs rounding after a
draw.

`eliminate` turns equalities of several entries, `a.x = c`, into known entries by a change of coordinates. Each equality
takes the place of one entry, its pivot: `y = T x` is x with every pivot replaced by the combination that is known, and
evidence about x becomes evidence about y of the other kinds. The density of y at the known values is that of the
combinations `a.x`: equalities count as known entries do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from phlogiston.errors import EvidenceError

_ROUNDING = 1e-12
_SMALL = 1e-9  # coefficients this much below the largest one are rounding


@dataclass(frozen=True, eq=False)
class Rows:
    """Inequalities `lower <= coefficients @ x <= upper`.

    Attributes:
        coefficients: (R, D).
        lower: (R,), `-inf` where one-sided.
        upper: (R,), `inf` where one-sided.
        weight: (R,), exponents of the rows' masses in proposals; 1 for plain hard evidence.
    """

    coefficients: Tensor
    lower: Tensor
    upper: Tensor
    weight: Tensor

    def __len__(self) -> int:
        return len(self.lower)

    @staticmethod
    def empty(dim: int) -> Rows:
        """No rows over `dim` variables."""
        nothing = torch.zeros(0, dtype=torch.float64)
        return Rows(torch.zeros(0, dim, dtype=torch.float64), nothing, nothing, nothing)

    def select(self, index: Tensor) -> Rows:
        """The rows at `index`, in that order."""
        return Rows(self.coefficients[index], self.lower[index], self.upper[index], self.weight[index])

    def given(self, fixed: Tensor, values: Tensor) -> Rows:
        """What the rows say of the other entries once those at `fixed`, bool (D,), have their `values` (D,)."""
        offset = self.coefficients[:, fixed] @ values[fixed]
        free = torch.where(fixed, 0.0, self.coefficients)
        return Rows(free, self.lower - offset, self.upper - offset, self.weight)

    def violation(self, x: Tensor) -> Tensor:
        """How far each of `x` (n, D) lies outside each row: (n, R), zero inside."""
        value = x @ self.coefficients.T
        return torch.maximum(self.lower - value, value - self.upper).clamp_min(0.0)


def _no_softs() -> Tensor:
    return torch.zeros(0, dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class LinearEvidence:
    """Everything known about a vector of `dim` entries, in float64.

    Attributes:
        known: bool (D,), entries fixed exactly.
        values: (D,), their values; anything elsewhere.
        lower: (D,) box, `-inf` where open.
        upper: (D,) box, `inf` where open.
        box_weight: (D,), see `Rows.weight`.
        rows: further inequalities; those with `lower == upper` are equalities (`eliminate`).
        soft: int64 (S,), variables with soft evidence `N(soft_mean; x, sd^2)`.
        soft_mean: (S,).
        soft_sd: (S,), positive; used where `soft_fraction` is zero.
        soft_fraction: (S,), 0 or a mask value m in (0, 1) meaning `sd = s sqrt(1 / m^2 - 1)`, s the component's own
            standard deviation of the variable.
        soft_weight: (S,), exponents in proposals.
    """

    known: Tensor
    values: Tensor
    lower: Tensor
    upper: Tensor
    box_weight: Tensor
    rows: Rows
    soft: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    soft_mean: Tensor = field(default_factory=_no_softs)
    soft_sd: Tensor = field(default_factory=_no_softs)
    soft_fraction: Tensor = field(default_factory=_no_softs)
    soft_weight: Tensor = field(default_factory=_no_softs)

    @property
    def dim(self) -> int:
        """`D`."""
        return len(self.known)

    @staticmethod
    def nothing(dim: int) -> LinearEvidence:
        """Evidence that says nothing about `dim` variables."""
        zero = torch.zeros(dim, dtype=torch.float64)
        return LinearEvidence(
            torch.zeros(dim, dtype=torch.bool), zero, zero - math.inf, zero + math.inf, zero + 1, Rows.empty(dim)
        )

    def as_intervals(self, held: Tensor) -> LinearEvidence:
        """The same with known entries at `held`, bool (D,), as intervals that hold their one value."""
        lower, upper = (torch.where(held, self.values, side) for side in (self.lower, self.upper))
        return replace(self, known=self.known & ~held, lower=lower, upper=upper)

    def standardised(self, location: Tensor, scale: Tensor) -> LinearEvidence:
        """The same evidence about `(x - location) / scale`, entrywise; `scale` (D,) positive."""
        rows = self.rows
        shift = rows.coefficients @ location
        return LinearEvidence(
            self.known,
            (self.values - location) / scale,
            (self.lower - location) / scale,
            (self.upper - location) / scale,
            self.box_weight,
            Rows(rows.coefficients * scale, rows.lower - shift, rows.upper - shift, rows.weight),
            self.soft,
            (self.soft_mean - location[self.soft]) / scale[self.soft],
            self.soft_sd / scale[self.soft],
            self.soft_fraction,
            self.soft_weight,
        )


def simplify(evidence: LinearEvidence) -> Rows:
    """Reduce box and rows to inequalities over the entries that are not known.

    Args:
        evidence: what is known; differentiable in values and limits.

    Returns:
        Rows over the free entries (R, U), of unit length, no two parallel; box sides first.

    Raises:
        EvidenceError: a known value breaks a constraint, or two constraints leave nothing between them.
    """
    known = evidence.known
    free = ~known
    _check_known(evidence)
    rows = evidence.rows
    coefficients = rows.coefficients[:, free]
    offset = rows.coefficients[:, known] @ evidence.values[known]
    slack = _ROUNDING * (1 + (rows.coefficients[:, known].abs() @ evidence.values[known].detach().abs()))
    lower, upper = rows.lower - offset, rows.upper - offset
    length = coefficients.norm(dim=1)
    used = length > _ROUNDING * rows.coefficients.norm(dim=1).clamp_min(1e-300)
    if bool((~used & ((lower > slack) | (upper < -slack))).any()):
        raise EvidenceError("the known values contradict an inequality: it holds for no value of the other entries")
    coefficients, length = coefficients[used], length[used]
    lower, upper, weight = lower[used] / length, upper[used] / length, rows.weight[used]
    coefficients = coefficients / length.unsqueeze(1)

    box_low, box_high, box_weight = evidence.lower[free], evidence.upper[free], evidence.box_weight[free]
    bounded = (box_low > -math.inf) | (box_high < math.inf)
    dim = len(box_low)
    coefficients = torch.cat([torch.eye(dim, dtype=coefficients.dtype)[bounded], coefficients])
    lower, upper = torch.cat([box_low[bounded], lower]), torch.cat([box_high[bounded], upper])
    weight = torch.cat([box_weight[bounded], weight])
    vacuous = torch.isneginf(lower) & torch.isposinf(upper)
    merged = Rows(coefficients, lower, upper, weight).select(torch.nonzero(~vacuous).squeeze(-1))
    if bool(used.any()):  # box sides alone are never parallel
        merged = _merge(merged)
    if bool((merged.lower >= merged.upper).any()):
        raise EvidenceError(
            "the evidence is impossible: two constraints on the same combination of variables leave nothing between "
            "them (use Known to fix a value exactly)"
        )
    return merged


def _check_known(evidence: LinearEvidence) -> None:
    known = evidence.known
    if not bool(known.any()):
        return
    values, low, high = evidence.values[known].detach(), evidence.lower[known], evidence.upper[known]
    slack = _ROUNDING * (1 + values.abs())
    if bool(((values < low - slack) | (values > high + slack)).any()):
        raise EvidenceError("the evidence is impossible: a known value lies outside the interval given for it")


def _merge(rows: Rows) -> Rows:
    """Join parallel rows into one two-sided row each."""
    if len(rows) < 2:
        return rows
    table = rows.coefficients.detach()
    # the first entry that matters decides the sign, so that a and -a meet
    first = (table.abs() > 1e-9).to(torch.uint8).argmax(1, keepdim=True)
    sign = torch.where(table.gather(1, first) < 0, -1.0, 1.0).to(table.dtype).squeeze(1)
    keys = (table * sign.unsqueeze(1) * 1e10).round().numpy() + 0.0  # + 0.0 turns -0.0 into 0.0
    _, index, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    if len(index) == len(rows):
        return rows
    lower = torch.where(sign > 0, rows.lower, -rows.upper)
    upper = torch.where(sign > 0, rows.upper, -rows.lower)
    group = torch.as_tensor(inverse.reshape(-1))
    count = len(index)
    low = torch.full((count,), -math.inf, dtype=lower.dtype).scatter_reduce(0, group, lower, "amax")
    high = torch.full((count,), math.inf, dtype=upper.dtype).scatter_reduce(0, group, upper, "amin")
    weight = torch.zeros(count, dtype=lower.dtype).scatter_reduce(0, group, rows.weight, "amax")
    representative = torch.as_tensor(index)
    order = representative.argsort()
    chosen = representative[order]
    return Rows(rows.coefficients[chosen] * sign[chosen].unsqueeze(1), low[order], high[order], weight[order])


@dataclass(frozen=True, eq=False)
class RowPlan:
    """Which rows are linearly independent, and where the others belong.

    Attributes:
        independent: int64 (k,), rows that get a coordinate of their own, in order.
        combination: (R, k), every row as a combination of the independent ones.
        groups: for each coordinate, the rows whose last coordinate it is: their intervals are intersected there.
    """

    independent: Tensor
    combination: Tensor
    groups: tuple[tuple[int, ...], ...]


def plan(coefficients: Tensor) -> RowPlan:
    """Find the independent rows of (R, U), greedily in the order given.

    The answer depends on the rows alone, never on the mixture component, as long as components have full rank.
    """
    table = coefficients.detach().numpy()
    count = len(table)
    if count == 1:
        return RowPlan(torch.zeros(1, dtype=torch.long), torch.ones(1, 1, dtype=coefficients.dtype), ((0,),))
    basis = np.zeros((0, table.shape[1]))
    chosen: list[int] = []
    for r, row in enumerate(table):
        if len(chosen) == table.shape[1]:
            break
        rest = row - basis.T @ (basis @ row)
        rest -= basis.T @ (basis @ rest)
        size = np.linalg.norm(rest)
        if size > 1e-9:
            basis = np.vstack([basis, rest / size])
            chosen.append(r)
    combination = np.zeros((count, len(chosen)))
    combination[chosen, np.arange(len(chosen))] = 1.0
    others = [r for r in range(count) if r not in set(chosen)]
    groups: list[list[int]] = [[r] for r in chosen]
    if others:
        combination[others] = np.linalg.lstsq(table[chosen].T, table[others].T, rcond=None)[0].T
        combination[others] *= np.abs(combination[others]) > 1e-9
        for r in others:
            groups[int(np.nonzero(combination[r])[0][-1])].append(r)
    return RowPlan(torch.tensor(chosen), torch.as_tensor(combination), tuple(map(tuple, groups)))


def is_feasible(rows: Rows) -> bool:
    """Return whether some point satisfies every row strictly (a small linear programme)."""
    from scipy.optimize import linprog

    table, low, high = (t.detach().numpy() for t in (rows.coefficients, rows.lower, rows.upper))
    if len(table) == 0:
        return True
    below, above = np.isfinite(high), np.isfinite(low)
    sides = np.vstack([table[below], -table[above]])
    limits = np.concatenate([high[below], -low[above]])
    # maximise the margin t in  sides x + t <= limits,  t <= 1
    result = linprog(
        np.append(np.zeros(table.shape[1]), -1.0),
        A_ub=np.hstack([sides, np.ones((len(sides), 1))]),
        b_ub=limits,
        bounds=[(None, None)] * table.shape[1] + [(None, 1.0)],
    )
    return bool(result.status == 3 or (result.status == 0 and -result.fun > 1e-13))


def project(x: Tensor, evidence: LinearEvidence, rounds: int = 8) -> tuple[Tensor, Tensor]:
    """Put known values in bit for bit, clamp to the box, and push rounding-level violations of the rows inside.

    Args:
        x: (n, D) draws that satisfy the evidence up to rounding.
        evidence: in the same units.
        rounds: how often to push and clamp.

    Returns:
        The repaired draws (n, D), and bool (n,): True where every hard constraint now holds however the sum is rounded,
        equalities up to a relative error of 1e-12.
    """
    known = evidence.known
    rows = evidence.rows
    equal = rows.lower == rows.upper
    if bool(equal.any()):
        return _project_onto(x, evidence, equal, rounds)
    values, low, high = evidence.values.detach(), evidence.lower.detach(), evidence.upper.detach()
    x = torch.where(known, values, x)
    boxed = bool(((low > -math.inf) | (high < math.inf)).any())
    if boxed:
        x = torch.where(known, values, torch.minimum(torch.maximum(x, low), high))
    if len(rows) == 0:
        return x, torch.ones(len(x), dtype=torch.bool)
    table = rows.coefficients.detach()
    movable = torch.where(known, 0.0, table)
    squared = movable.square().sum(1)
    lower, upper = rows.lower.detach(), rows.upper.detach()
    can_move = squared > 0
    # a margin of a few roundings, so that whichever way a user adds up the terms, the sum stays inside
    for _ in range(rounds):
        value = x @ table.T
        margin = 4e-16 * table.shape[1] ** 0.5 * (x.abs() @ table.abs().T + 1e-300)
        short, long = (lower + margin - value).clamp_min(0.0), (value + margin - upper).clamp_min(0.0)
        bad = torch.where(can_move, (short > 0) | (long > 0), False).any(1)
        if not bool(bad.any()):
            break
        step = torch.where(can_move, (short[bad] - long[bad]) * 1.5 / squared.clamp_min(1e-300), 0.0)
        moved = x[bad] + step @ movable
        x[bad] = torch.minimum(torch.maximum(moved, low), high) if boxed else moved
        x = torch.where(known, values, x)
    value = x @ table.T
    # rows without free variables were judged, with their rounding, when the evidence was simplified
    return x, ((value >= lower) & (value <= upper) | ~can_move).all(1)


def _project_onto(x: Tensor, evidence: LinearEvidence, equal: Tensor, rounds: int) -> tuple[Tensor, Tensor]:
    """The same with equalities among the rows: push inside and go back onto the equalities, by turns."""
    known, rows = evidence.known, evidence.rows
    table, target = rows.coefficients[equal].detach(), rows.lower[equal].detach()
    free = torch.where(known, 0.0, table)
    inverse = torch.linalg.pinv(free)  # rows of zeros for known entries
    # rows that the equalities decide were judged, with their rounding, when the evidence was simplified
    others = rows.coefficients.detach()
    rest = torch.where(known, 0.0, others) @ (torch.eye(len(known), dtype=torch.float64) - inverse @ free)
    open_rows = rows.select(torch.nonzero(~equal & (rest.norm(dim=1) > 1e-9 * others.norm(dim=1))).squeeze(-1))
    without = replace(evidence, rows=open_rows)
    inside = torch.zeros(len(x), dtype=torch.bool)
    for _ in range(rounds):
        x, _ = project(x, without)
        x = x + (target - x @ table.T) @ inverse.T
        boxed = known | (x >= evidence.lower.detach()) & (x <= evidence.upper.detach())
        inside = boxed.all(1) & (open_rows.violation(x) <= 0).all(1)
        if bool(inside.all()):
            break
    slack = _ROUNDING * (x.abs() @ table.abs().T + target.abs())
    return x, inside & ((target - x @ table.T).abs() <= slack).all(1)


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
