"""Conditioning a mixture of Gaussians on linear evidence: masses, exact where possible, and constrained draws.

Given P components `x = m + F eps` with log prior probabilities, and `LinearEvidence` E (known entries, soft entries,
inequalities), this computes the evidence mass `e = integral N(x; m, F F^T) E(x) dx` of every component and draws from
`p(x | E)`. One factorisation serves every kind. Rows of evidence R are stacked, equalities above inequalities, and
`[R F, noise] = L Q` with L lower triangular: given the coordinates before it, each row bounds (or fixes) one more.

| evidence, after simplification                  | mass                    | components are proposed by         |
|-------------------------------------------------|-------------------------|------------------------------------|
| known and soft entries                          | exact                   | their exact posterior              |
| ... and one inequality                          | exact                   | their exact posterior              |
| ... and inequalities independent given x's component (a box, diagonal F) | exact product | their exact posterior |
| several inequalities                            | unbiased, sequential    | one-row masses, improved by a pilot |

The sequential estimate is the separation of variables of Genz, "Numerical computation of multivariate normal
probabilities", J. Comp. Graph. Stat. 1, 1992 (also known as GHK); far corners of two inequalities are tilted. Run it in
float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from phlogiston.distributions.linear_constraints import LinearEvidence, RowPlan, Rows, plan, simplify
from phlogiston.distributions.resampling import effective_size, systematic
from phlogiston.distributions.truncated_normal import (
    log_interval_mass,
    log_normal_density,
    standard_truncated,
    truncated_with_mass,
)

_UNROLL = 4  # up to this many rows plain vector operations beat batched LAPACK
_LIVE = math.log(1e-8)  # components whose proposal is this far below the best get no pilot
_TRIAL = 256  # draws that decide how many candidates each final draw needs
_MAX_TRIES = 16
_MAX_WORK = 2**22  # draws times candidates beyond which evidence counts as too improbable
_CORNER = -6.0  # components with less log mass than this in one of two rows are tilted
_PILOT_ROWS = 8  # with more rows than this a pilot of a few draws adds noise rather than knowledge


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
    """

    log_terms: Tensor
    mean: Tensor
    factor: Tensor

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
        return centre, (rows.coefficients @ self.factor).norm(dim=-1)


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
    return _condition_full(means, factors, evidence, soft_sd)


def _condition_diagonal(means: Tensor, sd: Tensor, evidence: LinearEvidence, soft_sd: Tensor) -> Conditioned:
    known, soft = evidence.known, evidence.soft
    target = evidence.values[known]
    terms = log_normal_density((target - means[:, known]) / sd[:, known]) - sd[:, known].log()
    if len(soft):
        total = torch.hypot(sd[:, soft], soft_sd)
        z = (evidence.soft_mean - means[:, soft]) / total
        terms = torch.cat([terms, log_normal_density(z) - total.log()], 1)
        shift = sd[:, soft].square() / total * z
        # out of place, so that gradients reach the evidence; entries of `soft` are distinct
        means = means.index_add(1, soft, shift)
        sd = sd.index_copy(1, soft, sd[:, soft] * soft_sd / total)
    return Conditioned(terms, means[:, ~known], sd[:, ~known])


def _condition_full(means: Tensor, factors: Tensor, evidence: LinearEvidence, soft_sd: Tensor) -> Conditioned:
    known, soft = torch.nonzero(evidence.known).squeeze(-1), evidence.soft
    free = ~evidence.known
    if len(known) + len(soft) == 0:
        return Conditioned(means.new_zeros(len(means), 0), means, factors)
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
    if factor.shape[1] == 1:
        factor = factor.norm(dim=-1, keepdim=True)
    return Conditioned(terms, mean, factor)


@dataclass(frozen=True, eq=False)
class Draws:
    """Weighted draws from a conditioned mixture.

    Attributes:
        component: int64 (n,), which component each came from.
        x: (n, D) float64, known entries exact; rows of weight zero may hold anything.
        log_weights: (n,), log importance weights; their log mean is the log evidence.
        exact: True when all weights are equal by construction.
    """

    component: Tensor
    x: Tensor
    log_weights: Tensor
    exact: bool


class ConditionedMixture:
    """A Gaussian mixture given linear evidence.

    Args:
        log_prior: (P,), log probabilities of the components; need not be normalised (a subset, importance weighted).
        means: (P, D).
        factors: (P, D, D) with covariance `F F^T`, or standard deviations (P, D).
        evidence: float64, in the same coordinates.
        temper: weights of evidence other than 1 then define the law over components (no correction): heuristic, and
            `log_evidence` is no probability any more.

    Attributes:
        log_twist: (P,), log of prior times equality masses times (approximate, unless `exact`) masses of the
            inequalities, to the power of their weights.
        exact: True when masses are in closed form.

    Raises:
        EvidenceError: constraints that contradict each other whatever the component.
    """

    def __init__(
        self, log_prior: Tensor, means: Tensor, factors: Tensor, evidence: LinearEvidence, *, temper: bool = False
    ) -> None:
        self.log_prior, self.means, self.factors = log_prior, means, factors
        self.evidence, self.temper = evidence, temper
        rows = simplify(evidence)
        self.conditioned = condition(means, factors, evidence)
        terms = self.conditioned.log_terms
        weight = torch.cat([terms.new_ones(int(evidence.known.sum())), evidence.soft_weight])
        self.log_equal = log_prior + terms.sum(-1)
        tempered = log_prior + terms @ weight if bool((weight != 1).any()) else self.log_equal
        used = rows.coefficients.detach() != 0
        disjoint = self.conditioned.diagonal and bool((used.sum(0) <= 1).all())
        self.exact = len(rows) <= 1 or disjoint
        if len(rows):
            row_mass = self._row_masses(rows)
            if not self.exact:
                order = self._difficulty(tempered, row_mass)
                rows, row_mass = rows.select(order), row_mass[:, order]
            self.log_mass = self.log_equal + row_mass.sum(-1)
            # a weight of zero times a mass of zero counts as no evidence
            powers = torch.where(rows.weight == 0, 0.0, row_mass * rows.weight)
            self.log_twist = self._product = tempered + powers.sum(-1)
            self._upper = tempered + powers.amin(-1)  # no set of rows has more mass than one of them
        else:
            self.log_mass, self.log_twist = self.log_equal, tempered
        self.rows = rows
        self._tempered_equal = tempered
        self._plan: RowPlan | None = None
        self._tilt: Tensor | None = None
        if not self.exact:
            self.log_twist = self._refine(tempered)

    @torch.no_grad()
    def _refine(self, log_equal: Tensor) -> Tensor:
        """Improve the product of one-row masses by one sequential pass through truncated means.

        In far corners of correlated components the product is off by hundreds of nats and would hide the components
        that matter; this pass knows the correlations. Where the means run into an empty corner the product stays.
        """
        width = self.conditioned.factor.shape[-1]
        count = len(self.log_prior)
        if count * len(self.rows) * width > 2**25:
            return self._product
        # First the most promising components, then all that could still matter beside the best of those.
        best = self._upper.topk(min(64, count)).indices
        refined = self._through_means(best, log_equal)
        matter = torch.nonzero(self._upper > refined.max() + 1.5 * _LIVE).squeeze(-1)
        refined = self._through_means(matter, log_equal)
        if len(self.rows) == len(self.plan.independent) == 2 and bool((self.rows.weight == 1).all()):
            upper = self._upper[matter]
            corner = upper - log_equal[matter] < _CORNER
            if bool((corner & (upper > refined.max() - 1)).any()):
                index = matter[corner]
                tilt, bound = _tilt(_subset(self.conditioned, index), self.rows, self.plan)
                self._tilt = tilt.new_zeros(count).index_copy(0, index, tilt)
                refined = refined.masked_scatter(corner, log_equal[index] + bound)
        return self._product.index_copy(0, matter, refined)

    def _through_means(self, index: Tensor, log_equal: Tensor) -> Tensor:
        local = _subset(self.conditioned, index)
        place = torch.arange(len(index))
        _, log_rows = _draw(local, self.rows, self.plan, place, False, True, None, values=False)
        return torch.where(torch.isfinite(log_rows), log_equal[index] + log_rows, self._product[index])

    def _row_masses(self, rows: Rows) -> Tensor:
        centre, scale = self.conditioned.row_scales(rows)
        return log_interval_mass((rows.lower - centre) / scale, (rows.upper - centre) / scale)

    @staticmethod
    def _difficulty(log_equal: Tensor, row_mass: Tensor) -> Tensor:
        """Order rows by their mass in the mixture, hardest first: early coordinates then fit the late ones best."""
        return torch.logsumexp(log_equal.unsqueeze(1) + row_mass, 0).argsort()

    @property
    def plan(self) -> RowPlan:
        """Which rows get coordinates of their own."""
        if self._plan is None:
            self._plan = plan(self.rows.coefficients)
        return self._plan

    @property
    def log_evidence(self) -> Tensor:
        """Log p(E), shape (): exact when `exact`, else the twist's approximation. Differentiable in the evidence."""
        return torch.logsumexp(self.log_mass, 0)

    @property
    def log_posterior(self) -> Tensor:
        """Log probabilities of the components given E, (P,): exact when `exact`, else the twist's approximation."""
        return self.log_mass.log_softmax(0)

    # -- drawing ------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def sample(
        self, n: int, *, pilot: int | None = None, noise: bool = True, generator: torch.Generator | None = None
    ) -> Draws:
        """Draw from p(x | E).

        Args:
            n: how many.
            pilot: sequential draws per live component that improve the proposal over components; 0 for none.
                Used only where masses are not in closed form. By default 8, or 32 where more rows than free
                directions make empty intersections likely: a component that a pilot misses altogether gets a few
                draws of enormous weight.
            noise: False draws components only and returns their constrained means.
            generator: source of randomness; the global one by default.

        Returns:
            Draws in random order. All log-weights are `-inf` when nothing satisfied the evidence.
        """
        log_q = self.log_twist
        if not bool(torch.isfinite(log_q.max())):
            return self._nothing(n)
        if pilot is None:
            pilot = 8 if self.exact or len(self.plan.independent) == len(self.rows) else 32
        if not self.exact and pilot > 0:
            log_q = self._pilot(log_q, pilot, generator)
        log_q = log_q.log_softmax(0)
        # systematic selection leaves neighbours sharing components: shuffle
        probs = log_q.exp()
        component = systematic(probs, n, generator)[torch.randperm(n, generator=generator)]
        x_free, log_rows = self._draw_free(component, probs, noise, generator)
        x = self.evidence.values.detach().repeat(n, 1)
        x[:, ~self.evidence.known] = x_free
        if self.exact:
            total = self.log_twist if self.temper else self.log_mass
            weights = total - log_q  # equal unless tempered twists are being corrected
            return Draws(component, x, weights[component], not bool((self.log_twist != self.log_mass).any()))
        base = (self._tempered_equal if self.temper else self.log_equal) - log_q
        return Draws(component, x, base[component] + log_rows, False)

    @torch.no_grad()
    def draw_each(self, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw once from every component instead of choosing among them.

        Returns:
            Draws (P, D) and log weights (P,): unbiased estimates of each component's evidence mass, prior excluded.
        """
        place = torch.arange(len(self.means))
        row_plan = self.plan if len(self.rows) else None
        tries = 1 if self.exact else _MAX_TRIES
        tilt = self._tilt
        x_free, log_rows = _draw(self.conditioned, self.rows, row_plan, place, True, False, generator, tries, tilt=tilt)
        x = self.evidence.values.detach().repeat(len(self.means), 1)
        x[:, ~self.evidence.known] = x_free
        return x, (self.log_mass if self.exact else self.log_equal + log_rows) - self.log_prior

    def _draw_free(
        self, component: Tensor, probs: Tensor, noise: bool, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Draw the free entries for the components chosen, trying harder while nothing satisfies the evidence."""
        n = len(component)
        used, place = component.unique(return_inverse=True)
        local = _subset(self.conditioned, used)
        row_plan = self.plan if len(self.rows) else None
        tries = self._tries(probs, n, generator) if noise and not self.exact else 1
        tilt = None if self._tilt is None else self._tilt[used]
        x, log_rows = _draw(local, self.rows, row_plan, place, noise, self.temper, generator, tries, tilt=tilt)
        if not noise and bool(torch.isneginf(log_rows).any()):
            # means one after the other ran into a corner: those rows get constrained draws instead
            other, log_other = self._draw_free(component, probs, True, generator)
            cornered = torch.isneginf(log_rows)
            return torch.where(cornered.unsqueeze(1), other, x), torch.where(cornered, log_other, log_rows)
        while bool(torch.isneginf(log_rows).all()) and n * tries * 16 <= _MAX_WORK:
            tries *= 16
            x, log_rows = _draw(local, self.rows, row_plan, place, noise, self.temper, generator, tries, tilt=tilt)
        return x, log_rows

    def _tries(self, probs: Tensor, n: int, generator: torch.Generator | None) -> int:
        """Choose how many candidates each draw needs, from a small trial independent of the draws themselves."""
        component = systematic(probs, _TRIAL, generator)
        used, place = component.unique(return_inverse=True)
        local = _subset(self.conditioned, used)
        tilt = None if self._tilt is None else self._tilt[used]
        _, log_rows = _draw(local, self.rows, self.plan, place, True, self.temper, generator, values=False, tilt=tilt)
        share = float(effective_size(self.log_equal[component] - probs[component].log() + log_rows)) / _TRIAL
        if share > 0.85:
            return 1
        limit = _MAX_TRIES if share > 0.05 else 8 * _MAX_TRIES
        tries = min(limit, math.ceil(8 * (1 / max(share, 1e-3) - 1)))
        return max(1, min(tries, 2**22 // (n * len(self.rows))))

    def _nothing(self, n: int) -> Draws:
        dead = torch.full((n,), -math.inf, dtype=self.means.dtype)
        return Draws(torch.zeros(n, dtype=torch.long), self.means[:1].repeat(n, 1), dead, False)

    def _pilot(self, log_twist: Tensor, draws: int, generator: torch.Generator | None) -> Tensor:
        """Propose components by a few sequential draws each, mixed with 5 % of the twist and of the plain product."""
        live = torch.nonzero(log_twist > log_twist.max() + _LIVE).squeeze(-1)
        if len(self.rows) > _PILOT_ROWS or len(live) * draws * len(self.rows) > 2**25:
            return log_twist
        local = _subset(self.conditioned, live)
        place = torch.arange(len(live))
        tilt = None if self._tilt is None else self._tilt[live]
        _, mass = _draw(local, self.rows, self.plan, place, True, self.temper, generator, draws, False, tilt)
        pilot = (self._tempered_equal if self.temper else self.log_equal)[live] + mass
        if not bool(torch.isfinite(pilot.max())):
            return log_twist
        log_q = torch.logaddexp(log_twist.log_softmax(0), self._product.log_softmax(0)) + math.log(0.025)
        return log_q.index_copy(0, live, torch.logaddexp(log_q[live], pilot.log_softmax(0) + math.log(0.95)))


def _subset(conditioned: Conditioned, index: Tensor) -> Conditioned:
    return Conditioned(
        conditioned.log_terms[:0], conditioned.mean.index_select(0, index), conditioned.factor.index_select(0, index)
    )


def _draw(
    conditioned: Conditioned,
    rows: Rows,
    row_plan: RowPlan | None,
    place: Tensor,
    noise: bool,
    temper: bool,
    generator: torch.Generator | None,
    tries: int = 1,
    values: bool = True,
    tilt: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw free entries for components `place` (n,); returns x (n, U) and the log mass of the rows met (n,).

    With several tries each draw is picked among as many candidates in proportion to their weights and carries their
    mean weight: still properly weighted, with less variance. `values=False` skips x. `tilt` (components,) shifts the
    normal from which the first coordinate is drawn.
    """
    n, mean, factor = len(place), conditioned.mean, conditioned.factor
    if mean.shape[1] == 0:  # everything is known
        return mean.new_zeros(n, 0), mean.new_zeros(n)
    if row_plan is None:
        x = mean.index_select(0, place)
        if noise:
            x = x + _apply(factor, place, torch.randn(n, factor.shape[-1], dtype=mean.dtype, generator=generator))
        return x, mean.new_zeros(n)
    single = (rows.coefficients != 0).sum(1) == 1
    if conditioned.diagonal and bool(single.all()):
        return _draw_box(conditioned, rows, place, noise, temper, generator)
    centre, row_factor = conditioned.row_factors(rows)
    lower, q = orthogonalise(row_factor.index_select(1, row_plan.independent))
    first = _strata(n, tries, generator) if noise else None
    candidates = place.repeat(tries) if tries > 1 else place
    coordinates, log_rows = _sequence(
        rows, row_plan, centre, lower, candidates, first, noise, temper, generator, values, tilt
    )
    if tries > 1:
        log_rows = log_rows.reshape(tries, n)
        mean_weight = torch.logsumexp(log_rows, 0) - math.log(tries)
        if values:
            ends = torch.exp(log_rows - torch.where(mean_weight > -math.inf, mean_weight, 0.0)).cumsum(0)
            points = ends[-1] * torch.rand(n, dtype=mean.dtype, generator=generator)
            picked = (ends <= points).sum(0).clamp_max(tries - 1) * n + torch.arange(n)
            coordinates = [c.index_select(0, picked) for c in coordinates]
        log_rows = mean_weight
    if not values:
        return mean[:0], log_rows
    wide = torch.diag_embed(factor) if conditioned.diagonal else factor
    along = wide @ q.mT  # (S, U, k)
    x = mean.index_select(0, place) + _apply(along, place, torch.stack(coordinates, 1))
    if q.shape[1] < wide.shape[1] and noise:  # some directions are touched by no row
        eps = torch.randn(n, wide.shape[2], dtype=mean.dtype, generator=generator)
        x = x + _apply(wide - along @ q, place, eps)
    return x, log_rows


def _tilt(conditioned: Conditioned, rows: Rows, row_plan: RowPlan) -> tuple[Tensor, Tensor]:
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
        return mass, slope * _truncated_mean(a, b, mass)

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


def _apply(factor: Tensor, place: Tensor, eps: Tensor) -> Tensor:
    """Multiply each row's factor with its noise: factors (S, U, W) or (S, U), place (n,), eps (n, W) -> (n, U)."""
    if factor.dim() == 2:
        return factor.index_select(0, place) * eps
    _, u, w = factor.shape
    if u * w <= 16:
        # columns as contiguous vectors: many times faster than a batch of tiny matrix products
        columns = factor.reshape(-1, u * w).T.contiguous().index_select(1, place)
        noise = eps.T.contiguous()
        parts = []
        for i in range(u):
            total = columns[i * w] * noise[0]
            for j in range(1, w):
                total = total.addcmul_(columns[i * w + j], noise[j])
            parts.append(total)
        return torch.stack(parts, 1)
    return (factor.index_select(0, place) @ eps.unsqueeze(-1)).squeeze(-1)


def _draw_box(
    conditioned: Conditioned,
    rows: Rows,
    place: Tensor,
    noise: bool,
    temper: bool,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    """Draw independent entries, some of them between limits: all at once."""
    n = len(place)
    index = rows.coefficients.abs().argmax(1)
    sign = rows.coefficients.gather(1, index.unsqueeze(1)).squeeze(1)
    low = torch.where(sign > 0, rows.lower, -rows.upper)
    high = torch.where(sign > 0, rows.upper, -rows.lower)
    mean, sd = conditioned.mean.index_select(0, place), conditioned.factor.index_select(0, place)
    eps = torch.randn(mean.shape, dtype=mean.dtype, generator=generator) if noise else torch.zeros_like(mean)
    a, b = (low - mean[:, index]) / sd[:, index], (high - mean[:, index]) / sd[:, index]
    if noise:
        eps[:, index] = standard_truncated(torch.rand(a.shape, dtype=a.dtype, generator=generator), a, b)
    else:
        eps[:, index] = _truncated_mean(a, b, log_interval_mass(a, b))
    return mean + sd * eps, mean.new_zeros(n)


def _strata(n: int, tries: int, generator: torch.Generator | None) -> Tensor:
    """Uniforms (tries * n,): the t-th block of n lies in the t-th of `tries` equal strata."""
    u = torch.rand(tries, n, dtype=torch.float64, generator=generator)
    return ((u + torch.arange(tries, dtype=u.dtype).unsqueeze(1)) / tries).reshape(-1)


def _truncated_mean(a: Tensor, b: Tensor, log_mass: Tensor) -> Tensor:
    """Mean of the standard normal between limits, given the log mass between them."""
    mean = torch.exp(log_normal_density(a) - log_mass) - torch.exp(log_normal_density(b) - log_mass)
    return torch.nan_to_num(mean).clamp(a, b)


def _sequence(
    rows: Rows,
    row_plan: RowPlan,
    centre: Tensor,
    lower: Tensor,
    place: Tensor,
    first: Tensor | None,
    noise: bool,
    temper: bool,
    generator: torch.Generator | None,
    values: bool,
    tilt: Tensor | None,
) -> tuple[list[Tensor], Tensor]:
    """Draw the rows' coordinates one after the other, each between the limits the earlier ones leave it.

    Args:
        rows: R inequalities.
        row_plan: its `groups` say which rows bound which coordinate.
        centre: (S, R), the rows' means per component.
        lower: (S, k, k), L of the independent rows.
        place: (n,), component of each draw.
        first: (n,), uniforms for the first coordinate, or None.
        noise: False for truncated means instead of draws.
        temper: raise each step's mass to the weight of its row.
        generator: source of randomness.
        values: False leaves out the last coordinate, on which no weight depends.
        tilt: (S,), draw the first coordinate from a normal with this mean, and correct the weight; None for zero.

    Returns:
        k coordinates (n,) each, and the log weight (n,): `-inf` where an intersection was empty.
    """
    every = row_plan.combination @ lower if len(rows) > lower.shape[1] else lower  # (S, R, k)
    coordinates: list[Tensor] = []
    log_weight = centre.new_zeros(len(place))
    for k, group in enumerate(row_plan.groups):
        low = high = None
        for r in group:
            rest = centre[:, r].index_select(0, place)
            for j in range(k):
                entry = every[:, r, j]
                if len(rows) == lower.shape[1] or bool(row_plan.combination[r, j:].any()):
                    rest = torch.addcmul(rest, entry.index_select(0, place), coordinates[j])
            slope = every[:, r, k].index_select(0, place)
            start, end = (rows.lower[r] - rest) / slope, (rows.upper[r] - rest) / slope
            if r != row_plan.independent[k]:  # only dependent rows can point the other way
                start, end = torch.minimum(start, end), torch.maximum(start, end)
            low = start if low is None else torch.maximum(low, start)
            high = end if high is None else torch.minimum(high, end)
        assert low is not None
        assert high is not None
        if len(group) > 1:  # an empty intersection has mass zero either way; give the draw something finite
            high = torch.maximum(low, high)
        if not values and k == len(row_plan.groups) - 1:
            mass = log_interval_mass(low, high)
        elif noise:
            u = first if k == 0 and first is not None else torch.rand(low.shape, dtype=low.dtype, generator=generator)
            if k == 0 and tilt is not None:
                shift = tilt.index_select(0, place)
                coordinate, mass = truncated_with_mass(u, low - shift, high - shift)
                coordinate = (coordinate + shift).clamp(low, high)
                mass = mass + shift * (0.5 * shift - coordinate)
            else:
                coordinate, mass = truncated_with_mass(u, low, high)
            coordinates.append(coordinate)
        else:
            mass = log_interval_mass(low, high)
            coordinates.append(_truncated_mean(low, high, mass))
        power = rows.weight[group[0]]
        log_weight = log_weight + (mass * power if temper and power != 1 else mass)
    return coordinates, log_weight
