"""Gaussian components given their known and soft entries, in closed form.

Rows of evidence R are stacked and `[R F, noise] = L Q` factored with L lower triangular: each equality then fixes one
more coordinate, and the coordinates left are those of the conditional Gaussian. Run it in float64.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from phlogiston.distributions.linear_constraints import LinearEvidence, Rows
from phlogiston.distributions.truncated_normal import log_normal_density

_UNROLL = 4  # up to this many rows plain vector operations beat batched LAPACK
_MAX_FLOATS = 2**23  # numbers that the tables of the components conditioned at once may hold


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


def _solve_lower(lower: Tensor, right: Tensor) -> Tensor:
    """Solve `lower @ y = right` for vectors: (..., k, k), (..., k) -> (..., k)."""
    k = lower.shape[-1]
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
    place = (~evidence.known).cumsum(0)[evidence.soft] - 1
    rows, mean, factor = first.factor[:, place], first.mean, first.factor
    lower = torch.linalg.cholesky(rows @ rows.mT + torch.diag_embed(soft_sd.square()))
    gap = evidence.soft_mean - mean[:, place]
    eta = _solve_lower(lower, gap)
    terms = log_normal_density(eta) - lower.diagonal(dim1=-2, dim2=-1).log()
    gain = torch.cholesky_solve(gap.unsqueeze(-1), lower)
    mean = mean + (factor @ (rows.mT @ gain)).squeeze(-1)
    scaled = rows / soft_sd.unsqueeze(-1)
    information = scaled.mT @ scaled
    information.diagonal(dim1=-2, dim2=-1).add_(1.0)
    root = torch.linalg.cholesky(information)
    factor = torch.linalg.solve_triangular(root, factor.mT, upper=False).mT  # F C^-T, covariance F (C C^T)^-1 F^T
    return Conditioned(torch.cat([first.log_terms, terms], 1), mean, factor, first.square + eta.square().sum(-1))


def _condition_full(means: Tensor, factors: Tensor, evidence: LinearEvidence, soft_sd: Tensor) -> Conditioned:
    known, soft = torch.nonzero(evidence.known).squeeze(-1), evidence.soft
    free = ~evidence.known
    if len(known) + len(soft) == 0:
        return Conditioned(means.new_zeros(len(means), 0), means, factors, means.new_zeros(len(means)))
    noise = len(soft)
    rows = factors[:, torch.cat([known, soft])]
    loose = factors[:, free]
    if noise:
        extra = torch.cat([rows.new_zeros(len(rows), len(known), noise), torch.diag_embed(soft_sd)], 1)
        rows = torch.cat([rows, extra], -1)
        loose = torch.cat([loose, loose.new_zeros(*loose.shape[:-1], noise)], -1)
    target = torch.cat([evidence.values[known], evidence.soft_mean])
    lower, q = orthogonalise(rows)
    eta = _solve_lower(lower, target - means[:, torch.cat([known, soft])])
    terms = log_normal_density(eta) - lower.diagonal(dim1=-2, dim2=-1).log()
    along = loose @ q.mT  # (P, U, E)
    mean = means[:, free] + (along @ eta.unsqueeze(-1)).squeeze(-1)
    factor = loose - along @ q
    if 0 < factor.shape[1] <= min(_UNROLL, factor.shape[2] - 1):
        factor = orthogonalise(factor)[0]  # as many columns as rows: less noise to draw
    return Conditioned(terms, mean, factor, eta.square().sum(-1))
