"""Drawing from Gaussians between inequalities, one coordinate after the other.

With the rows' factors as `L Q`, L lower triangular, row r bounds coordinate r given the coordinates before it. Each is
drawn from the truncated normal its row leaves, and the product of the masses it was drawn from is the draw's weight:
the separation of variables of Genz, "Numerical computation of multivariate normal probabilities", J. Comp. Graph.
Stat. 1, 1992 (also known as GHK), whose mean weight is an unbiased estimate of the mass.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from phlogiston.distributions.far_corners import TINY, Corners, turned
from phlogiston.distributions.gaussian_conditioning import Conditioned, orthogonalise
from phlogiston.distributions.linear_constraints import RowPlan, Rows
from phlogiston.distributions.normal_interval import (
    confine,
    log_interval_mass,
    standard_truncated,
    truncated_mean,
    truncated_with_mass,
)
from phlogiston.distributions.resampling import compact

_MAX_FLOATS = 2**22  # numbers that the tables of one pass over the draws may hold
_MANY = 16  # coordinates from which on they are kept in one table
_MAX_GATHERED = 2**20  # above this many numbers factors are applied component by component


def draw_rows(
    conditioned: Conditioned,
    rows: Rows,
    row_plan: RowPlan | None,
    component: Tensor,
    noise: bool,
    temper: bool,
    generator: torch.Generator | None,
    tries: int = 1,
    values: bool = True,
    corners: Corners | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw free entries for components `component` (n,); returns x (n, U) and the log mass of the rows met (n,).

    With several tries each draw is picked among as many candidates in proportion to their weights and carries their
    mean weight: still properly weighted, with less variance. `values=False` skips x. Of components with `corners` the
    first coordinate is the direction of theirs.
    """
    n, mean, factor = len(component), conditioned.mean, conditioned.factor
    if mean.shape[1] == 0:  # everything is known
        return mean.new_zeros(n, 0), mean.new_zeros(n)
    parts = _parts(conditioned, rows, row_plan, component, tries)
    if corners is not None:  # components that drop the same row share a plan
        kinds = corners.dropped[component]
        parts = tuple(part[kinds[part] == kind] for part in parts for kind in kinds[part].unique())
    if len(parts) > 1:
        x, log_rows = mean.new_zeros(n if values else 0, mean.shape[1]), mean.new_zeros(n)
        for part in parts:
            used, local = compact(component[part], len(mean))
            some, log_rows[part] = draw_rows(
                conditioned.subset(used),
                rows,
                row_plan,
                local,
                noise,
                temper,
                generator,
                tries,
                values,
                None if corners is None else corners.subset(used),
            )
            if values:
                x[part] = some
        return x, log_rows
    if row_plan is None:
        x = mean.index_select(0, component)
        if noise:
            eps = torch.randn(n, factor.shape[-1], dtype=mean.dtype, generator=generator)
            x = x + apply_factors(factor, component, eps)
        return x, mean.new_zeros(n)
    if conditioned.diagonal and bool(((rows.coefficients != 0).sum(1) == 1).all()):
        return _draw_box(conditioned, rows, component, noise, temper, generator)
    limits, q = _limits(conditioned, rows, row_plan, corners, int(component[0]))
    square = q.shape[1] == factor.shape[-1]  # the rows touch every direction
    first = own = None
    if noise and values:
        # without inequalities x would be mean + F eps, whose coordinates along the rows are Q eps
        eps = torch.randn(n, factor.shape[-1], dtype=mean.dtype, generator=generator)
        own = eps if square else apply_factors(q, component, eps)
    if noise and (tries > 1 or not values):
        first = _strata(n, tries, generator)
    candidates = component.repeat(tries) if tries > 1 else component
    source = _Source(first, own if first is None else None, generator) if noise else None
    coordinates, log_rows = _sequence(limits, candidates, source, temper, values)
    if tries > 1:
        weights = log_rows.reshape(tries, n)
        log_rows = torch.logsumexp(weights, 0) - math.log(tries)
        if values:
            picked = _picked(weights, log_rows, generator)
            coordinates = [c.index_select(0, picked) for c in coordinates]
    if not values:
        return mean[:0], log_rows
    drawn = torch.stack(coordinates, 1)
    x = mean.index_select(0, component)
    if own is not None and not square:
        x, drawn = x + apply_factors(factor, component, eps), drawn - own
    along = factor.unsqueeze(-1) * q.mT if conditioned.diagonal else factor @ q.mT  # (S, U, k)
    return x + apply_factors(along, component, drawn), log_rows


def _picked(weights: Tensor, mean: Tensor, generator: torch.Generator | None) -> Tensor:
    """Positions of one candidate for each draw, in proportion to log weights (tries, n) of log mean (n,): (n,)."""
    tries, n = weights.shape
    ends = torch.exp(weights - torch.where(mean > -math.inf, mean, 0.0)).cumsum(0)
    points = ends[-1] * torch.rand(n, dtype=mean.dtype, generator=generator)
    return (ends <= points).sum(0).clamp_max(tries - 1) * n + torch.arange(n)


def _parts(
    conditioned: Conditioned, rows: Rows, row_plan: RowPlan | None, component: Tensor, tries: int
) -> tuple[Tensor, ...]:
    """Positions of the draws that are made at once, so that no table holds more than some `_MAX_FLOATS` numbers.

    Neighbours in a part share components, so that each component's factors are worked out in one part, or few.
    """
    free, width = conditioned.mean.shape[1], conditioned.factor.shape[-1]
    count, directions = len(rows), 0 if row_plan is None else len(row_plan.independent)
    if conditioned.diagonal and bool(((rows.coefficients != 0).sum(1) == 1).all()):
        count = directions = 0  # entries are drawn without factors
    each = count * width + (count + free) * directions  # per component
    per_draw = 2 * tries * directions + 4 * (free + width)
    n = len(component)
    components = min(n, len(conditioned.mean))
    if components * each + n * per_draw <= _MAX_FLOATS:
        return (torch.arange(n, device=component.device),)
    order = component.argsort(stable=True)
    rank = torch.diff(component[order], prepend=component.new_full((1,), -1)).ne(0).cumsum(0) - 1
    together = max(1, _MAX_FLOATS // (2 * max(each, 1)))
    sizes = torch.bincount(rank // together).tolist()
    most = max(1, _MAX_FLOATS // (2 * per_draw))
    return tuple(part for parts in order.split(sizes) for part in parts.split(most))


@dataclass(frozen=True, eq=False)
class _Source:
    """Where the noise of a sequence of coordinates comes from.

    Attributes:
        first: (n,), uniforms for the first coordinate, or None.
        normals: (n, k), standard normals to be confined, or None for uniforms throughout.
        generator: source of the rest.
    """

    first: Tensor | None
    normals: Tensor | None
    generator: torch.Generator | None

    def draw(self, k: int, low: Tensor, high: Tensor) -> Tensor:
        """Draw coordinate k between limits (n,)."""
        if self.normals is not None:
            return confine(self.normals[:, k], low, high, self.generator)
        return standard_truncated(self._uniforms(k, low), low, high)

    def draw_with_mass(self, k: int, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Draw coordinate k between limits (n,), and the log mass between them."""
        if self.normals is not None:
            return self.draw(k, low, high), log_interval_mass(low, high)
        return truncated_with_mass(self._uniforms(k, low), low, high)

    def _uniforms(self, k: int, like: Tensor) -> Tensor:
        if k == 0 and self.first is not None:
            return self.first
        return torch.rand(like.shape, dtype=like.dtype, generator=self.generator)


def apply_factors(factor: Tensor, component: Tensor, eps: Tensor) -> Tensor:
    """Multiply each row's factor with its noise: factors (S, U, W) or (S, U), place (n,), eps (n, W) -> (n, U)."""
    if factor.dim() == 2:
        return factor.index_select(0, component) * eps
    _, u, w = factor.shape
    if u * w <= 16:
        # column by column: faster than a batch of tiny matrix products
        rows = factor.reshape(-1, u * w).index_select(0, component)
        total = rows[:, ::w] * eps[:, :1]
        for j in range(1, w):
            total.addcmul_(rows[:, j::w], eps[:, j : j + 1])
        return total
    if len(component) * u * w <= _MAX_GATHERED:
        return (factor.index_select(0, component) @ eps.unsqueeze(-1)).squeeze(-1)
    product = eps.new_empty(len(component), u)  # component by component: a factor for every draw would fill the memory
    order = component.argsort(stable=True)
    counts = torch.bincount(component, minlength=len(factor))
    for number, draws in enumerate(order.split(counts.tolist())):
        if len(draws):
            product[draws] = eps[draws] @ factor[number].mT
    return product


def _draw_box(
    conditioned: Conditioned,
    rows: Rows,
    component: Tensor,
    noise: bool,
    temper: bool,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    """Draw independent entries, some of them between limits: all at once."""
    n = len(component)
    index = rows.coefficients.abs().argmax(1)
    sign = rows.coefficients.gather(1, index.unsqueeze(1)).squeeze(1)
    low = torch.where(sign > 0, rows.lower, -rows.upper)
    high = torch.where(sign > 0, rows.upper, -rows.lower)
    mean, sd = conditioned.mean.index_select(0, component), conditioned.factor.index_select(0, component)
    eps = torch.randn(mean.shape, dtype=mean.dtype, generator=generator) if noise else torch.zeros_like(mean)
    every = len(index) == mean.shape[1] and bool((index[1:] > index[:-1]).all())  # all entries, in order
    m, s, e = (mean, sd, eps) if every else (v.index_select(1, index) for v in (mean, sd, eps))
    a, b = (low - m) / s, (high - m) / s
    inside = confine(e, a, b, generator) if noise else truncated_mean(a, b, log_interval_mass(a, b))
    return mean + sd * (inside if every else eps.index_copy(1, index, inside)), mean.new_zeros(n)


def _along(slopes: Tensor, component: Tensor, coordinates: Tensor) -> Tensor:
    """Sum each draw's coordinates (n, k) times the slopes (S, k) of its component: (n,)."""
    if len(slopes) == 1:
        return coordinates @ slopes[0]
    return (slopes.index_select(0, component) * coordinates).sum(1)


def _strata(n: int, tries: int, generator: torch.Generator | None) -> Tensor:
    """Uniforms (tries * n,): the t-th block of n lies in the t-th of `tries` equal strata."""
    u = torch.rand(tries, n, dtype=torch.float64, generator=generator)
    return ((u + torch.arange(tries, dtype=u.dtype).unsqueeze(1)) / tries).reshape(-1)


@dataclass(frozen=True, eq=False)
class _Limits:
    """Rows over coordinates that are drawn one after the other.

    Attributes:
        low: (S, R), lower limits of the rows less their means, per component.
        high: (S, R), upper limits.
        slopes: (S, R, k), the rows over the coordinates.
        used: bool (R, k), entries of `slopes` that are not zero for all components.
        own: the row that owns each coordinate: its slope is positive.
        groups: the rows that bound each coordinate.
        power: exponent of each coordinate's mass where masses are tempered.
        uneven: whether slopes may be zero for some components at the coordinate a row bounds.
    """

    low: Tensor
    high: Tensor
    slopes: Tensor
    used: Tensor
    own: tuple[int, ...]
    groups: tuple[tuple[int, ...], ...]
    power: tuple[float, ...]
    uneven: bool = False


def _limits(
    conditioned: Conditioned, rows: Rows, row_plan: RowPlan, corners: Corners | None, component: int
) -> tuple[_Limits, Tensor]:
    """The limits of all components' coordinates, and the coordinates' directions Q (S, k, W)."""
    if corners is not None and int(corners.dropped[component]) >= 0:
        low, high, factor, independent = turned(corners, int(corners.dropped[component]), conditioned, rows, row_plan)
        _, q = orthogonalise(factor.index_select(1, independent))
        slopes = factor @ q.mT
        used = (slopes.abs() > TINY).any(0)
        own = tuple(independent.tolist())
        last = [own.index(r) if r in own else int(used[r].nonzero()[-1]) for r in range(len(used))]
        groups = tuple(
            (r, *(i for i, k in enumerate(last) if k == coordinate and i != r)) for coordinate, r in enumerate(own)
        )
        return _Limits(low, high, slopes, used, own, groups, (1.0,) * len(own), True), q
    centre, factor = conditioned.row_factors(rows)
    lower, q = orthogonalise(factor.index_select(1, row_plan.independent))
    several = len(rows) > lower.shape[1]
    slopes = row_plan.combination @ lower if several else lower
    used = torch.ones(slopes.shape[1:], dtype=torch.bool)
    if several:
        used = row_plan.combination.flip(1).ne(0).cummax(1).values.flip(1)
    power = tuple(float(rows.weight[group[0]]) for group in row_plan.groups)
    own = tuple(row_plan.independent.tolist())
    return _Limits(rows.lower - centre, rows.upper - centre, slopes, used, own, row_plan.groups, power), q


def _sequence(
    limits: _Limits, component: Tensor, source: _Source | None, temper: bool, values: bool
) -> tuple[list[Tensor], Tensor]:
    """Draw the rows' coordinates one after the other, each between the limits the earlier ones leave it.

    Args:
        limits: of S components.
        component: (n,), component of each draw.
        source: noise; None for truncated means instead of draws.
        temper: raise each step's mass to the weight of its row.
        values: False leaves the last coordinate undrawn, as no weight depends on it.

    Returns:
        k coordinates (n,) each, and the log weight (n,): `-inf` where an intersection was empty.
    """
    slopes = limits.slopes
    steps = len(limits.groups)
    coordinates: list[Tensor] = []
    # with many coordinates one product per row beats one operation per pair of them
    drawn = slopes.new_empty(len(component), steps) if steps > _MANY else None
    log_weight = slopes.new_zeros(len(component))

    def spread(value: Tensor) -> Tensor:
        return value.index_select(0, component)

    for k, group in enumerate(limits.groups):
        low = high = None
        for r in group:
            # the limits of the first coordinate are the component's
            start, end, slope = limits.low[:, r], limits.high[:, r], slopes[:, r, k]
            if k > 0:
                start, end, slope = spread(start), spread(end), spread(slope)
                rest: Tensor | None = None
                if drawn is not None:
                    rest = _along(slopes[:, r, :k], component, drawn[:, :k])
                for j in range(k if drawn is None else 0):
                    if bool(limits.used[r, j]):
                        term = spread(slopes[:, r, j]) * coordinates[j]
                        rest = term if rest is None else rest + term
                if rest is not None:
                    start, end = start - rest, end - rest
            if limits.uneven and r != limits.own[k]:
                flat = slope.abs() < TINY
                holds = (start <= TINY) & (end >= -TINY)
                steep = torch.where(flat, 1.0, slope)
                # a row without a slope leaves everything, or a single point, which has no mass
                start = torch.where(flat, torch.where(holds, -math.inf, 0.0), start / steep)
                end = torch.where(flat, torch.where(holds, math.inf, 0.0), end / steep)
            else:
                start, end = start / slope, end / slope
            if r != limits.own[k]:  # only dependent rows can point the other way
                start, end = torch.minimum(start, end), torch.maximum(start, end)
            low = start if low is None else torch.maximum(low, start)
            high = end if high is None else torch.minimum(high, end)
        assert low is not None
        assert high is not None
        if len(group) > 1:  # an empty intersection has mass zero either way; give the draw something finite
            high = torch.maximum(low, high)
        if k == 0 or source is None:
            mass = log_interval_mass(low, high)
            if k == 0:
                low, high, mass = spread(low), spread(high), spread(mass)
            coordinate = truncated_mean(low, high, mass) if source is None else source.draw(k, low, high)
        elif values or k < steps - 1:
            coordinate, mass = source.draw_with_mass(k, low, high)
        else:
            coordinate, mass = low, log_interval_mass(low, high)
        coordinates.append(coordinate)
        if drawn is not None:
            drawn[:, k] = coordinate
        log_weight = log_weight + (mass * limits.power[k] if temper else mass)
    return coordinates, log_weight
