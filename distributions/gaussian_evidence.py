"""Conditioning a mixture of Gaussians on linear evidence: masses, exact where possible, and constrained draws.

Given P components `x = m + F eps` with log prior probabilities, and `LinearEvidence` E (known entries, soft entries,
inequalities), this computes the evidence mass `e = integral N(x; m, F F^T) E(x) dx` of every component and draws from
`p(x | E)`. One factorisation serves every kind. Rows of evidence R are stacked, equalities above inequalities, and
`[R F, noise] = L Q` with L lower triangular: given the coordinates before it, each row bounds (or fixes) one more.

| evidence, after simplification                  | mass                    | components are proposed by         |
|-------------------------------------------------|-------------------------|------------------------------------|
| known and soft entries, equalities              | exact                   | their exact posterior              |
| ... and one inequality                          | exact                   | their exact posterior              |
| ... and inequalities independent given x's component (a box, diagonal F) | exact product | their exact posterior |
| several inequalities                            | unbiased, sequential    | one-row masses, improved by a pilot |

`eliminate` makes known entries of equalities of several, `gaussian_conditioning` has what is known and soft,
`sequential_draws` the inequalities, `far_corners` what helps them in far corners. Run it in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from phlogiston.distributions.far_corners import Corners, find_corners
from phlogiston.distributions.gaussian_conditioning import Remoteness, condition, remoteness
from phlogiston.distributions.linear_constraints import LinearEvidence, RowPlan, Rows, eliminate, plan, simplify
from phlogiston.distributions.normal_interval import log_interval_mass
from phlogiston.distributions.resampling import (
    compact,
    effective_size,
    group_sizes,
    grouped_error,
    log_mean,
    systematic,
)
from phlogiston.distributions.sequential_draws import draw_rows

_LIVE = math.log(1e-8)  # components whose mass is certain to be this far below the best are left as they are
_TRIAL = 256  # draws that decide how many candidates each final draw needs
_MAX_TRIES = 16
_MAX_WORK = 2**22  # draws times candidates beyond which evidence counts as too improbable
_PILOT_WORK = 2**22  # components times draws times rows of each of the pilot's two rounds
_HARD_ROWS = 4  # with more rows than this a component's mass takes more draws to estimate
_CLOSER = 8  # times as many draws for components that hold a share of the mass
_DEFENCE = (0.85, 0.10, 0.05)  # shares of draws by the pilot, by upper bounds, by the twist
_SPARE = 0.03  # share of draws that may be wasted on components with a bound in the place of a mass
_FEW = 256  # so many components are refined at once, without first finding the best of them
_TURNED = 4096  # so many components of known mass are turned at once
_COMPARED = 32  # draws that decide whether a component is turned
_SETTLED = 0.1  # components whose mass is known this well (nats) whatever their correlations need no pilot


@dataclass(frozen=True, eq=False)
class Draws:
    """Weighted draws from a conditioned mixture.

    Attributes:
        component: int64 (n,), which component each came from.
        x: (n, D) float64, known entries exact; rows of weight zero may hold anything.
        log_weights: (n,), log importance weights; their log mean is the log evidence.
        exact: True when all weights are equal by construction.
        error: (), standard error of the log mean weight, from the spread between independent groups of draws; 0 when
            exact, None with too few draws for groups.
        shares: (P,), the components' shares of the mass, as exactly as they are known; they sum to 1.
    """

    component: Tensor
    x: Tensor
    log_weights: Tensor
    exact: bool
    error: Tensor | None
    shares: Tensor


class ConditionedMixture:
    """A Gaussian mixture given linear evidence.

    Args:
        log_prior: (P,), log probabilities of the components; need not be normalised (a subset, importance weighted).
        means: (P, D).
        factors: (P, D, D) with covariance `F F^T`, or standard deviations (P, D).
        evidence: float64, in the same coordinates.
        temper: weights of evidence other than 1 then define the distribution over components (no correction):
            heuristic, and `log_evidence` is no probability any more.

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
        self._coordinates = eliminate(evidence)
        if self._coordinates is not None:
            means, factors = self._coordinates.of_components(means, factors)
            evidence = self._coordinates.evidence
        self._simple = evidence  # without equalities, in coordinates of its own where there were some
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
            # no set of rows has more mass than one of them
            self._upper = tempered + powers.amin(-1) if temper else self.log_equal + row_mass.amin(-1)
            if not self.exact:
                self._settled = _settled(row_mass, rows.weight)
        else:
            self.log_mass, self.log_twist = self.log_equal, tempered
        self.rows = rows
        self._tempered_equal = tempered
        self._plan: RowPlan | None = None
        self._corners: Corners | None = None
        self._bounded = False  # whether upper bounds are good enough a proposal
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
        upper = torch.where(self._settled, -math.inf, self._upper)
        settled = torch.where(self._settled, self._product, -math.inf)
        # Their masses are known, but not which of the rows to begin with: none that matters may be left out, so their
        # number has no limit but the one above. A nearest point takes some 40 microseconds, a block a bounded memory.
        for block in torch.nonzero(settled > settled.max() + _LIVE).squeeze(-1).split(_TURNED):
            self._turn(block)
        if float(torch.logsumexp(upper, 0) - torch.logsumexp(settled, 0)) < math.log(_SPARE):
            # proposing the others by upper bounds wastes a few draws, and none of those can weigh much
            self._bounded = True
            return torch.maximum(settled, upper)
        known = settled.max()
        if bool((self.rows.weight == 1).all()):
            return self._refine_corners(upper, known, log_equal)
        # First the most promising components, then all that could still matter beside the best of those.
        matter = torch.nonzero(upper > known + 1.5 * _LIVE).squeeze(-1)
        if len(matter) > _FEW:
            best = upper.topk(min(64, count)).indices
            known = torch.maximum(known, self._through_means(best, log_equal).max())
            matter = torch.nonzero(upper > known + 1.5 * _LIVE).squeeze(-1)
        if len(matter) == 0:
            return self._product
        return self._product.index_copy(0, matter, self._through_means(matter, log_equal))

    def _refine_corners(self, upper: Tensor, known: Tensor, log_equal: Tensor) -> Tensor:
        """Refine block by block, the most promising components first, until no bound reaches what is known to be there.

        How several rows work together may cost a component hundreds of nats beside the mass of its hardest row: only
        the half-spaces of `far_corners` bring the bounds down to where they tell which components matter.
        """
        refined = self._product.clone()
        order = torch.nonzero(upper > known + 1.5 * _LIVE).squeeze(-1)
        for block in order[upper[order].argsort(descending=True)].split(_FEW):
            block = block[upper[block] > known + 1.5 * _LIVE]
            if len(block) == 0:
                break
            bound = self._turn(block)
            if bound is not None:
                self._upper[block] = torch.minimum(self._upper[block], log_equal[block] + bound)
                block = block[self._upper[block] > known + 1.5 * _LIVE]
                if len(block) == 0:
                    continue
            refined[block] = self._through_means(block, log_equal)
            known = torch.maximum(known, refined[block].max())
        return refined

    def _turn(self, index: Tensor) -> Tensor | None:
        """Draw the components at `index` from their half-spaces on, where they have any and draws are better for it.

        Returns:
            Upper bounds of their log masses; None where no component has a half-space.
        """
        corners = find_corners(self.conditioned.subset(index), self.rows, self.plan)
        far = torch.nonzero(corners.dropped >= 0).squeeze(-1)
        if len(far) == 0:
            return None
        better = far[self._better(index[far], corners.subset(far))]
        if len(better):
            if self._corners is None:
                self._corners = Corners.none(len(self.log_prior), self.conditioned.factor.shape[-1])
            self._corners = self._corners.with_rows(index[better], corners.subset(better))
        return corners.log_bound

    def _better(self, index: Tensor, corners: Corners) -> Tensor:
        """Return whether draws that begin with the half-space do better than plain ones: bool (len(index),).

        The row that gives way to the half-space is met last, together with another: among many rows hardly a draw may
        meet both, where one row after the other loses none. Plain draws, in turn, may see hundreds of nats less of the
        mass. Both estimate the same mass without bias, so the better one sees more of it and spreads its weights less.
        """
        conditioned, position = self.conditioned.subset(index), torch.arange(len(index)).repeat(_COMPARED)
        scores = []
        for scheme in (None, corners):
            seeded = torch.Generator().manual_seed(0)  # the choice must not depend on the draws it is made for
            _, drawn = draw_rows(
                conditioned, self.rows, self.plan, position, True, False, seeded, values=False, corners=scheme
            )
            drawn = drawn.reshape(_COMPARED, len(index))
            scores.append(log_mean(drawn) + effective_size(drawn).log())
        return scores[1] > scores[0]

    def _through_means(self, index: Tensor, log_equal: Tensor) -> Tensor:
        position = torch.arange(len(index))
        _, log_rows = self._draw(index, position, False, True, None, values=False)
        if len(self.rows) > 2 and len(index) * len(self.rows) * _MAX_TRIES <= _PILOT_WORK:
            # means alone run into corners that a few draws walk around
            seeded = torch.Generator().manual_seed(0)
            _, drawn = self._draw(index, position, True, True, seeded, _MAX_TRIES, values=False)
            log_rows = torch.maximum(log_rows, drawn)
        return torch.where(torch.isfinite(log_rows), log_equal[index] + log_rows, self._product[index])

    def _draw(
        self,
        components: Tensor,
        position: Tensor,
        noise: bool,
        temper: bool,
        generator: torch.Generator | None,
        tries: int = 1,
        values: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """`draw_rows` for positions `position` (n,) in `components`, by all that is known about their corners."""
        return draw_rows(
            self.conditioned.subset(components),
            self.rows,
            self.plan if len(self.rows) else None,
            position,
            noise,
            temper,
            generator,
            tries,
            values,
            None if self._corners is None else self._corners.subset(components),
        )

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

    def remoteness(self) -> Remoteness:
        """How far the evidence lies from every component."""
        return remoteness(self.log_prior, self.means, self.factors, self.evidence, self.conditioned)

    # -- drawing ------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def sample(
        self, n: int, *, pilot: int | None = None, noise: bool = True, generator: torch.Generator | None = None
    ) -> Draws:
        """Draw from p(x | E).

        Args:
            n: how many.
            pilot: sequential draws per component, as far as it may matter, that improve the proposal over components;
                0 for none. Used only where masses are not in closed form. By default 8, or 32 where many rows, or
                more rows than free directions, make a mass hard to estimate. Components that may hold a share of the
                mass get some more; others keep a share of the draws by an upper bound of their mass.
            noise: False draws components only and returns their constrained means.
            generator: source of randomness; the global one by default.

        Returns:
            Draws in random order. All log-weights are `-inf` when nothing satisfied the evidence.
        """
        log_q = self.log_twist
        if not bool(torch.isfinite(log_q.max())):
            return self._nothing(n)
        if not self.exact:
            log_q = self._propose(log_q, pilot, generator)
        log_q = log_q.log_softmax(0)
        probs = log_q.exp()
        same = self.exact and not bool((self.log_twist != self.log_mass).any())
        # independent groups give the error; systematic selection leaves neighbours sharing
        # components: shuffle
        sizes = [n] if same else group_sizes(n)
        chosen = [systematic(probs, size, generator)[torch.randperm(size, generator=generator)] for size in sizes]
        component = torch.cat(chosen)
        x_free, log_rows = self._draw_free(component, probs, noise, generator)
        x = self._with_known(x_free)
        if self.exact:
            total = self.log_twist if self.temper else self.log_mass
            weights = (total - log_q).index_select(0, component)  # equal unless tempered twists are being corrected
            error = weights.new_zeros(()) if same else grouped_error(weights, sizes)
            return Draws(component, x, weights, same, error, total.softmax(0))
        base = (self._tempered_equal if self.temper else self.log_equal) - log_q
        weights = base.index_select(0, component) + log_rows
        return Draws(component, x, weights, False, grouped_error(weights, sizes), probs)

    def _with_known(self, x_free: Tensor) -> Tensor:
        """Put the known entries among the free ones: (n, U) -> (n, D)."""
        known = self._simple.known
        if not bool(known.any()):
            return x_free
        x = self._simple.values.detach().repeat(len(x_free), 1)
        x = x.index_copy_(1, torch.nonzero(~known).squeeze(-1), x_free)
        return x if self._coordinates is None else x @ self._coordinates.back.T

    @torch.no_grad()
    def draw_each(self, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw once from every component instead of choosing among them.

        Returns:
            Draws (P, D) and log weights (P,): unbiased estimates of each component's evidence mass, prior excluded.
        """
        every = torch.arange(len(self.means))
        x_free, log_rows = self._draw(every, every, True, False, generator, 1 if self.exact else _MAX_TRIES)
        return self._with_known(x_free), (self.log_mass if self.exact else self.log_equal + log_rows) - self.log_prior

    def _draw_free(
        self, component: Tensor, probs: Tensor, noise: bool, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Draw the free entries for the components chosen, trying harder while nothing satisfies the evidence."""
        n = len(component)
        used, position = compact(component, len(probs))
        tries = self._tries(probs, n, generator) if noise and not self.exact else 1
        x, log_rows = self._draw(used, position, noise, self.temper, generator, tries)
        if not noise and bool(torch.isneginf(log_rows).any()):
            # means one after the other ran into a corner: those rows get constrained draws instead
            other, log_other = self._draw_free(component, probs, True, generator)
            cornered = torch.isneginf(log_rows)
            return torch.where(cornered.unsqueeze(1), other, x), torch.where(cornered, log_other, log_rows)
        while bool(torch.isneginf(log_rows).all()) and n * tries * 16 <= _MAX_WORK:
            tries *= 16
            x, log_rows = self._draw(used, position, noise, self.temper, generator, tries)
        return x, log_rows

    def _tries(self, probs: Tensor, n: int, generator: torch.Generator | None) -> int:
        """Choose how many candidates each draw needs, from a small trial independent of the draws themselves."""
        if float(torch.where(self._settled, 0.0, probs).sum()) < 0.05 * float(probs.sum()):
            return 1
        component = systematic(probs, _TRIAL, generator)
        used, position = compact(component, len(probs))
        _, log_rows = self._draw(used, position, True, self.temper, generator, values=False)
        share = float(effective_size(self.log_equal[component] - probs[component].log() + log_rows)) / _TRIAL
        if share > 0.85:
            return 1
        limit = _MAX_TRIES if share > 0.05 else 8 * _MAX_TRIES
        tries = min(limit, math.ceil(8 * (1 / max(share, 1e-3) - 1)))
        return max(1, min(tries, 2**22 // (n * len(self.rows))))

    def _nothing(self, n: int) -> Draws:
        dead = torch.full((n,), -math.inf, dtype=self.means.dtype)
        return Draws(
            torch.zeros(n, dtype=torch.long),
            self.means[:1].repeat(n, 1),
            dead,
            False,
            None,
            torch.zeros_like(self.log_prior),
        )

    def _propose(self, log_twist: Tensor, draws: int | None, generator: torch.Generator | None) -> Tensor:
        """Propose components by a pilot's estimates of their masses, mixed with upper bounds and the twist.

        A component that the twist gives up may hold most of the mass: none is left without a share of the draws.
        """
        if self._bounded:
            return log_twist
        upper = torch.where(self._settled, -math.inf, self._upper)
        spent = torch.ones_like(upper)
        parts = [log_twist]
        if draws is None:
            hard = len(self.rows) > _HARD_ROWS or len(self.plan.independent) < len(self.rows)
            draws = 32 if hard else 8
        if draws > 0:
            estimates, spent = self._pilot(log_twist, upper, draws, generator)
            if bool(torch.isfinite(estimates.max())):
                parts = [estimates, log_twist]
        if bool(torch.isfinite(upper.max())):
            # what so many draws have not reached can hardly be more than a share of the bound
            parts.insert(-1, upper - spent.log())
        shares = _DEFENCE[-len(parts) :]
        mixed = [p.log_softmax(0) + math.log(share / sum(shares)) for p, share in zip(parts, shares, strict=True)]
        return torch.logsumexp(torch.stack(mixed), 0)

    def _pilot(
        self, log_twist: Tensor, upper: Tensor, draws: int, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Estimate masses by sequential draws, in two rounds: all components that may matter, then those that do.

        Returns:
            Log estimates (P,), `-inf` where no draw had mass, and how many draws they rest on (P,), at least 1.
        """
        estimates = torch.where(self._settled, log_twist, -math.inf)
        spent = torch.ones_like(estimates)
        first = (
            torch.maximum(log_twist, self._product).masked_fill(self._settled, -math.inf).topk(min(64, len(estimates)))
        )
        self._look(first.indices[torch.isfinite(first.values)], draws, estimates, spent, generator)
        total = estimates.logsumexp(0)
        live = torch.nonzero((upper > total + _LIVE) & (spent == 1)).squeeze(-1)
        most = max(64, _PILOT_WORK // (draws * len(self.rows)))
        if len(live) > most:
            live = live[torch.maximum(log_twist, self._product)[live].topk(most).indices]
        self._look(live, draws, estimates, spent, generator)
        total = estimates.logsumexp(0)
        held = (estimates > total - math.log(1e3)) | (torch.isneginf(estimates) & (upper > total - math.log(1e2)))
        again = torch.nonzero(held & (spent > 1)).squeeze(-1)
        if 0 < len(again) * len(self.rows) * draws <= _PILOT_WORK:
            more = min(_CLOSER * draws, _PILOT_WORK // (len(again) * len(self.rows)))
            self._look(again, more, estimates, spent, generator)
        return estimates, spent

    def _look(
        self, index: Tensor, draws: int, estimates: Tensor, spent: Tensor, generator: torch.Generator | None
    ) -> None:
        """Estimate the masses of the components at `index` by so many more draws each, in place."""
        if len(index) == 0:
            return
        position = torch.arange(len(index))
        _, mass = self._draw(index, position, True, self.temper, generator, draws, values=False)
        mass = mass + (self._tempered_equal if self.temper else self.log_equal)[index]
        before = torch.where(spent[index] > 1, spent[index], 0.0)
        together = before + draws
        estimates[index] = torch.logaddexp(
            estimates[index] + (before / together).log(), mass + (draws / together).log()
        )
        spent[index] = together


def _settled(row_mass: Tensor, weight: Tensor) -> Tensor:
    """Return which components' joint mass hardly depends on how their rows are correlated: (P, R), (R,) -> bool (P,).

    By Frechet's inequalities the mass of all rows lies between 1 - sum(1 - p_r) and min p_r. The product lies between
    the two as well. Most components of a wide box are wholly inside.
    """
    if bool((weight != 1).any()):
        return torch.zeros(len(row_mass), dtype=torch.bool)
    least = 1 + torch.expm1(row_mass).sum(-1)
    return least > math.exp(-_SETTLED) * row_mass.amin(-1).exp()
