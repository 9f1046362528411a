"""Gaussian components given their known and soft entries, in closed form.

Rows of evidence R are stacked and `[R F, noise] = L Q` factored with L lower triangular: each equality then fixes one
more coordinate, and the coordinates left are those of the conditional Gaussian. `remoteness` tells how far the evidence
lies from all components. Run it in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from phlogiston.distributions.linear_constraints import LinearEvidence, Rows
from phlogiston.distributions.normal_interval import log_normal_density

_UNROLL = 4  # up to this many rows plain vector operations beat batched LAPACK
_MAX_FLOATS = 2**23  # numbers that the tables of the components conditioned at once may hold
NEGLIGIBLE = -30.0  # log of the share of the prior below which a component is none that the model knows


def orthogonalise(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Factor `matrix = L Q`, L lower triangular with positive diagonal and the rows of Q orthonormal.

    Args:
        matrix: (..., k, W) of rank k.

    Returns:
        L (..., k, k) and Q (..., k, W).
    """
    k = matrix.shape[-2]
    if k == 1:
        size = matrix.norm(dim=-1, keepdim=True)
        return size, matrix / size
    if k <= _UNROLL:
        return _gram_schmidt(matrix)
    lower, failed = torch.linalg.cholesky_ex(matrix @ matrix.mT)
    if not bool(failed.any()):
        q = torch.linalg.solve_triangular(lower, matrix, upper=False)
        # once more on the almost orthonormal rows: what the Gram matrix squared away comes back
        again, failed = torch.linalg.cholesky_ex(q @ q.mT)
        if not bool(failed.any()):
            return lower @ again, torch.linalg.solve_triangular(again, q, upper=False)
    q, r = torch.linalg.qr(matrix.mT)
    sign = torch.where(r.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(r.dtype)
    return r.mT * sign.unsqueeze(-2), q.mT * sign.unsqueeze(-1)


def _gram_schmidt(matrix: Tensor) -> tuple[Tensor, Tensor]:
    k = matrix.shape[-2]
    basis: list[Tensor] = []
    columns: list[Tensor] = []
    for i in range(k):
        row = matrix[..., i, :]
        entries = [torch.zeros_like(row[..., 0]) for _ in range(k)]
        for _ in range(2):  # the second pass removes what rounding left
            for j, q in enumerate(basis):
                along = (row * q).sum(-1)
                entries[j] = entries[j] + along
                row = row - along.unsqueeze(-1) * q
        size = row.norm(dim=-1)
        entries[i] = size
        basis.append(row / size.unsqueeze(-1))
        columns.append(torch.stack(entries, -1))
    return torch.stack(columns, -2), torch.stack(basis, -2)


def solve_lower(lower: Tensor, right: Tensor) -> Tensor:
    """Solve `lower @ y = right` for vectors: (..., k, k), (..., k) -> (..., k); or for several each, (R, ..., k)."""
    k = lower.shape[-1]
    if k == 0:
        return right
    if k > _UNROLL and right.dim() == lower.dim():
        return torch.linalg.solve_triangular(lower, right.movedim(0, -1), upper=False).movedim(-1, 0)
    if k > _UNROLL:
        return torch.linalg.solve_triangular(lower, right.unsqueeze(-1), upper=False).squeeze(-1)
    solution: list[Tensor] = []
    for i in range(k):
        rest = right[..., i]
        for j in range(i):
            rest = rest - lower[..., i, j] * solution[j]
        solution.append(rest / lower[..., i, i])
    return torch.stack(solution, -1)


@dataclass(frozen=True, eq=False)
class Conditioned:
    """Components after their equalities: Gaussians over the free entries.

    Attributes:
        log_terms: (P, E), log density of each equality given the ones before it, in nats.
        mean: (P, U).
        factor: (P, U, W), or (P, U) when diagonal.
        square: (P,), squared distance of the equalities from what each component expects, in standard deviations.
    """

    log_terms: Tensor
    mean: Tensor
    factor: Tensor
    square: Tensor

    @property
    def diagonal(self) -> bool:
        """True when the free entries are independent within each component."""
        return self.factor.dim() == 2

    def row_factors(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Centres (P, R) and factors (P, R, W) of `rows` under each component."""
        centre = self.mean @ rows.coefficients.T
        if self.diagonal:
            return centre, rows.coefficients * self.factor.unsqueeze(1)
        return centre, rows.coefficients @ self.factor

    def row_scales(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Centres (P, R) and standard deviations (P, R) of `rows` under each component."""
        centre = self.mean @ rows.coefficients.T
        if self.diagonal:
            return centre, (self.factor.square() @ rows.coefficients.square().T).sqrt()
        size = max(1, _MAX_FLOATS // (len(rows) * self.factor.shape[-1]))
        return centre, torch.cat([(rows.coefficients @ part).norm(dim=-1) for part in self.factor.split(size)])

    def subset(self, index: Tensor) -> Conditioned:
        """The components at `index`, without their log terms."""
        parts = (part.index_select(0, index) for part in (self.mean, self.factor, self.square))
        return Conditioned(self.log_terms[:0], *parts)


def condition(means: Tensor, factors: Tensor, evidence: LinearEvidence) -> Conditioned:
    """Condition components on the known and soft entries.

    Args:
        means: (P, D).
        factors: (P, D, D), covariance `F F^T`, or standard deviations (P, D).
        evidence: its rows and box are ignored here.

    Returns:
        The log mass of the equalities and the conditional Gaussians of the entries not known.
    """
    diagonal = factors.dim() == 2
    soft_sd = evidence.soft_sd.expand(len(means), -1)  # (P, S)
    if bool((evidence.soft_fraction > 0).any()):
        own = (factors if diagonal else factors.norm(dim=-1))[:, evidence.soft]
        relative = own * (evidence.soft_fraction.clamp_min(1e-12) ** -2 - 1).sqrt()
        soft_sd = torch.where(evidence.soft_fraction > 0, relative, soft_sd)
    if diagonal:
        return _condition_diagonal(means, factors, evidence, soft_sd)
    width = factors.shape[-1] + len(evidence.soft)
    if len(means) * means.shape[1] * width <= _MAX_FLOATS or not (len(evidence.soft) or bool(evidence.known.any())):
        return _condition_full(means, factors, evidence, soft_sd)
    size = max(1, _MAX_FLOATS // (means.shape[1] * width))
    parts = [
        _condition_large(mean, factor, evidence, sd)
        for mean, factor, sd in zip(means.split(size), factors.split(size), soft_sd.split(size), strict=True)
    ]
    return Conditioned(
        torch.cat([p.log_terms for p in parts]),
        torch.cat([p.mean for p in parts]),
        torch.cat([p.factor for p in parts]),
        torch.cat([p.square for p in parts]),
    )


def _condition_diagonal(means: Tensor, sd: Tensor, evidence: LinearEvidence, soft_sd: Tensor) -> Conditioned:
    known, soft = evidence.known, evidence.soft
    target = evidence.values[known]
    gap = (target - means[:, known]) / sd[:, known]
    terms, square = log_normal_density(gap) - sd[:, known].log(), gap.square().sum(-1)
    if len(soft):
        total = torch.hypot(sd[:, soft], soft_sd)
        z = (evidence.soft_mean - means[:, soft]) / total
        terms = torch.cat([terms, log_normal_density(z) - total.log()], 1)
        square = square + z.square().sum(-1)
        shift = sd[:, soft].square() / total * z
        # out of place, so that gradients reach the evidence; entries of `soft` are distinct
        means = means.index_add(1, soft, shift)
        sd = sd.index_copy(1, soft, sd[:, soft] * soft_sd / total)
    return Conditioned(terms, means[:, ~known], sd[:, ~known], square)


def _condition_large(means: Tensor, factors: Tensor, evidence: LinearEvidence, soft_sd: Tensor) -> Conditioned:
    """The same for few components of many entries: soft evidence by information matrices, without columns of noise."""
    spread = factors[:, evidence.soft].norm(dim=-1)
    if len(evidence.soft) == 0 or bool((soft_sd < 1e-5 * spread).any()):  # squares would lose too many digits
        return _condition_full(means, factors, evidence, soft_sd)
    nothing = evidence.soft[:0]
    first = _condition_full(means, factors, replace(evidence, soft=nothing, soft_mean=evidence.soft_mean[:0]), soft_sd)
    index = (~evidence.known).cumsum(0)[evidence.soft] - 1
    rows, mean, factor = first.factor[:, index], first.mean, first.factor
    lower = torch.linalg.cholesky(rows @ rows.mT + torch.diag_embed(soft_sd.square()))
    gap = evidence.soft_mean - mean[:, index]
    eta = solve_lower(lower, gap)
    terms = log_normal_density(eta) - lower.diagonal(dim1=-2, dim2=-1).log()
    gain = torch.cholesky_solve(gap.unsqueeze(-1), lower)
    mean = mean + (factor @ (rows.mT @ gain)).squeeze(-1)
    scaled = rows / soft_sd.unsqueeze(-1)
    information = scaled.mT @ scaled
    information.diagonal(dim1=-2, dim2=-1).add_(1.0)
    root = torch.linalg.cholesky(information)
    factor = torch.linalg.solve_triangular(root, factor.mT, upper=False).mT  # F C^-T, covariance F (C C^T)^-1 F^T
    return Conditioned(torch.cat([first.log_terms, terms], 1), mean, factor, first.square + eta.square().sum(-1))


def noise_width(free: int, directions: int, soft: int) -> int:
    """How many standard normals a draw of the free entries takes, given full factors of `directions` columns."""
    width = directions + soft
    return free if free <= min(_UNROLL, width - 1) else width


@dataclass(frozen=True, eq=False)
class Equalities:
    """What the known and soft entries of full components say, whatever their values.

    Attributes:
        centre: (P, E), what the components expect of them.
        lower: (P, E, E), their covariance's Cholesky factor.
        mean: (P, U), what they expect of the free entries.
        along: (P, U, E), how far the free entries follow, by `lower^-1 (value - centre)`.
        factor: (P, U, W), what is left of the free entries' factor.
    """

    centre: Tensor
    lower: Tensor
    mean: Tensor
    along: Tensor
    factor: Tensor

    @staticmethod
    def of(means: Tensor, factors: Tensor, known: Tensor, soft: Tensor, soft_sd: Tensor) -> Equalities:
        """Condition components.

        Args:
            means: (P, D).
            factors: (P, D, W).
            known: int64 (K,), entries that are known.
            soft: int64 (S,), entries that are soft.
            soft_sd: (P, S), the standard deviations of their noise.
        """
        said = torch.cat([known, soft])
        free = torch.ones(means.shape[1], dtype=torch.bool)
        free[known] = False
        rows, loose = factors[:, said], factors[:, free]
        if len(soft):
            extra = torch.cat([rows.new_zeros(len(rows), len(known), len(soft)), torch.diag_embed(soft_sd)], 1)
            rows = torch.cat([rows, extra], -1)
            loose = torch.cat([loose, loose.new_zeros(*loose.shape[:-1], len(soft))], -1)
        if len(said) == 0:
            return Equalities(means[:, said], rows[..., :0], means, loose[..., :0], factors)
        lower, q = orthogonalise(rows)
        along = loose @ q.mT
        factor = loose - along @ q
        if factor.shape[1] and noise_width(factor.shape[1], factors.shape[2], len(soft)) < factor.shape[2]:
            factor = orthogonalise(factor)[0]  # as many columns as rows: less noise to draw
        return Equalities(means[:, said], lower, means[:, free], along, factor)


def _condition_full(means: Tensor, factors: Tensor, evidence: LinearEvidence, soft_sd: Tensor) -> Conditioned:
    known, soft = torch.nonzero(evidence.known).squeeze(-1), evidence.soft
    if len(known) + len(soft) == 0:
        return Conditioned(means.new_zeros(len(means), 0), means, factors, means.new_zeros(len(means)))
    equal = Equalities.of(means, factors, known, soft, soft_sd)
    target = torch.cat([evidence.values[known], evidence.soft_mean])
    eta = solve_lower(equal.lower, target - equal.centre)
    terms = log_normal_density(eta) - equal.lower.diagonal(dim1=-2, dim2=-1).log()
    mean = equal.mean + (equal.along @ eta.unsqueeze(-1)).squeeze(-1)
    return Conditioned(terms, mean, equal.factor, eta.square().sum(-1))


class Remoteness(NamedTuple):
    """Distances from the nearest component, in its standard deviations; zero where nothing is said.

    Attributes:
        entries: (D,), of known and soft values, and of the nearer side of boxes.
        rows: (R,), of the inequalities.
        together: (), root mean square over all known and soft values, each given the ones before it.
    """

    entries: Tensor
    rows: Tensor
    together: Tensor


@torch.no_grad()
def remoteness(
    log_prior: Tensor, means: Tensor, factors: Tensor, evidence: LinearEvidence, conditioned: Conditioned
) -> Remoteness:
    """Measure evidence against a mixture, whatever its units.

    Args:
        log_prior: (P,), of the components.
        means: (P, D).
        factors: as for `condition`.
        evidence: all of it.
        conditioned: what `condition` made of these.
    """
    e = evidence
    live = torch.nonzero(log_prior > log_prior.max() + NEGLIGIBLE).squeeze(-1)
    means, factors = means[live], factors[live]

    def spread(columns: Tensor) -> Tensor:
        return factors[:, columns] if factors.dim() == 2 else factors[:, columns].norm(dim=-1)

    low, high = (torch.where(e.known, e.values, side) for side in (e.lower, e.upper))
    limited = torch.nonzero((low > -math.inf) | (high < math.inf)).squeeze(-1)  # from nothing one is never far
    own, wide = means[:, limited], spread(limited)
    outside = _nearest_outside((low[limited] - own) / wide, (own - high[limited]) / wide)
    entries = means.new_zeros(means.shape[1]).index_copy(0, limited, outside)
    if len(e.soft):
        wide = torch.hypot(spread(e.soft), torch.where(e.soft_fraction > 0, 0.0, e.soft_sd))
        gap = ((e.soft_mean - means[:, e.soft]) / wide).abs().amin(0)
        entries = entries.index_copy(0, e.soft, torch.maximum(entries[e.soft], gap))
    rows = means.new_zeros(len(e.rows))
    if len(e.rows):
        table = e.rows.coefficients
        centre = means @ table.T
        if factors.dim() == 2:
            scale = (factors.square() @ table.square().T).sqrt()
        else:
            scale = torch.stack([(table @ factor).norm(dim=-1) for factor in factors])
        rows = _nearest_outside((e.rows.lower - centre) / scale, (centre - e.rows.upper) / scale)
    equalities = conditioned.log_terms.shape[1]
    nearest = conditioned.square[live].min()
    together = (nearest / equalities).sqrt() if equalities else means.new_zeros(())
    return Remoteness(entries, rows, together)


def _nearest_outside(below: Tensor, above: Tensor) -> Tensor:
    """How far outside the nearest of the components is, (P, ...) -> (...)."""
    return torch.nan_to_num(torch.maximum(below, above).clamp_min(0.0), posinf=math.inf).amin(0)
