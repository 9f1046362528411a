"""Conditioning a Gaussian mixture on known and soft entries of many vectors at once, and drawing once more from each.

What `gaussian_evidence` does for one vector and every kind of evidence, for the common kinds and as many vectors as
there are: what depends on the components alone is worked out once, everything else in few operations over all rows.
Noise comes from outside and belongs to rows, so that a row's draws do not depend on the others. Run it in float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from phlogiston.distributions.gaussian_conditioning import NEGLIGIBLE, Equalities, noise_width, solve_lower
from phlogiston.distributions.sequential_draws import apply_factors

_MAX_FLOATS = 2**16  # numbers that one table over rows and components may hold: it stays in the processor's cache


@dataclass(frozen=True, eq=False)
class Entries:
    """What is known about the entries of R vectors, each by itself.

    Attributes:
        known: bool (R, D), entries fixed exactly.
        value: (R, D), their values, or what soft entries were observed as; finite everywhere.
        sd: (R, D), of the observation: 0 where known, `inf` where nothing is said.
    """

    known: Tensor
    value: Tensor
    sd: Tensor

    def __len__(self) -> int:
        return len(self.known)

    @property
    def soft(self) -> Tensor:
        """Bool (R, D), entries observed with noise."""
        return ~self.known & (self.sd < math.inf)

    def __getitem__(self, rows: Tensor | slice) -> Entries:
        return Entries(self.known[rows], self.value[rows], self.sd[rows])

    def columns(self, index: Tensor) -> Entries:
        """The entries at `index`, in that order."""
        return Entries(self.known[:, index], self.value[:, index], self.sd[:, index])

    def standardised(self, location: Tensor, scale: Tensor) -> Entries:
        """The same about `(x - location) / scale`, entrywise; `scale` (D,) positive."""
        return Entries(self.known, (self.value - location) / scale, self.sd / scale)


@dataclass(frozen=True, eq=False)
class Noise:
    """The random numbers of R rows of n draws each.

    Attributes:
        offset: (R,), uniform, of the choice of components.
        order: int64 (R, n), permutations that shuffle them.
        normals: of each row (n, W), see `normals_per_draw`; empty to draw means.
    """

    offset: Tensor
    order: Tensor
    normals: list[Tensor]

    def rows(self, index: Tensor) -> Noise:
        """Those of the rows at `index`."""
        normals = [self.normals[i] for i in index.tolist()] if self.normals else []
        return Noise(self.offset[index], self.order[index], normals)


def normals_per_draw(e: Entries, diagonal: bool) -> list[int]:
    """How many standard normals a draw of each row takes."""
    free, soft = (~e.known).sum(1), e.soft.sum(1)
    if diagonal:
        return free.tolist()
    return [noise_width(u, e.known.shape[1], s) for u, s in zip(free.tolist(), soft.tolist(), strict=True)]


def draw_noise(
    e: Entries,
    n: int,
    diagonal: bool,
    noise: bool,
    generator: torch.Generator | None,
    categories: Sequence[int] = (),
    factors: int = 0,
) -> tuple[Noise, list[Tensor]]:
    """The random numbers of n draws for each row, row by row, as one question after the other would take them.

    Args:
        e: what is known of R vectors.
        n: draws per row.
        diagonal: whether components have independent entries.
        noise: False where means are drawn.
        generator: source of randomness; torch's own by default.
        categories: numbers of values of the categorical columns that are drawn too.
        factors: further normals for each draw.

    Returns:
        The vectors' noise; and for each categorical column (n, R, V), exponential: the largest probability over them
        is what `torch.multinomial` draws.
    """
    offsets, orders, normals = [], [], []
    races = [torch.empty(len(e), n, size, dtype=torch.float64) for size in categories]
    for row, width in enumerate(normals_per_draw(e, diagonal)):
        offsets.append(torch.rand((), dtype=torch.float64, generator=generator))
        orders.append(torch.randperm(n, generator=generator))
        if noise:
            normals.append(torch.randn(n, width + factors, dtype=torch.float64, generator=generator))
        for race in races:
            race[row].exponential_(1, generator=generator)
    return Noise(torch.stack(offsets), torch.stack(orders), normals), [race.transpose(0, 1) for race in races]


@dataclass(frozen=True, eq=False)
class RowDraws:
    """Draws for R rows, all of equal weight within a row.

    Attributes:
        component: int64 (R, n), which component each came from.
        x: (R, n, D), known entries exact.
        log_evidence: (R,), log density of what is known, in nats.
        square: (R,), squared distance from the nearest component that the model knows, in standard deviations.
        nearest: int64 (R,), which one that is.
    """

    component: Tensor
    x: Tensor
    log_evidence: Tensor
    square: Tensor
    nearest: Tensor


def draw_given(log_prior: Tensor, means: Tensor, factors: Tensor, e: Entries, noise: Noise) -> Iterator[
    tuple[Tensor, RowDraws]
]:  # fmt: skip
    """Draw from the mixtures given what is known, some rows at a time.

    Args:
        log_prior: (R, P), log probabilities of the components; need not be normalised.
        means: (P, D), the same for all rows, or (R, P, D).
        factors: standard deviations like `means`, or (..., P, D, D) with covariance `F F^T`.
        e: what is known about R vectors.
        noise: of all rows.

    Yields:
        Positions of rows, and their draws.
    """
    together = max(1, _MAX_FLOATS // means.shape[-2])
    if factors.dim() > means.dim():
        yield from _draw_given_full(log_prior, means, factors, e, noise, together)
        return
    own = means.dim() == 3
    for rows in torch.arange(len(e)).split(together):
        m, s = (means[rows], factors[rows]) if own else (means, factors)
        yield rows, _given_diagonal(log_prior[rows], m, s, e[rows], noise.rows(rows))


def nearest(log_prior: Tensor, square: Tensor) -> tuple[Tensor, Tensor]:
    """The least of squared distances (R, P) over the components with a share of the prior, and where: (R,) each."""
    some = log_prior[:1] if log_prior.stride(0) == 0 else log_prior
    live = some > some.amax(-1, keepdim=True) + NEGLIGIBLE
    least = (square if bool(live.all()) else square.masked_fill(~live, math.inf)).min(-1)
    return least.values, least.indices


def choose(log_mass: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    """Choose components by their log masses (R, P), which are used up.

    Returns:
        As `resampling.systematic` draws them, shuffled: int64 (R, n); and the log of the sum of the masses (R,).
    """
    n, count = noise.order.shape[1], log_mass.shape[1]
    top = log_mass.amax(-1, keepdim=True).clamp_min(torch.finfo(log_mass.dtype).min)
    ends = log_mass.sub_(top).exp_().cumsum_(-1)
    last = ends[:, -1:].contiguous()
    points = (noise.offset.unsqueeze(1) + torch.arange(n)) * (last / n)
    index = torch.searchsorted(ends, points, right=True)
    index = torch.minimum(index, torch.searchsorted(ends, last))  # however the last end was rounded
    index.clamp_max_(count - 1)  # where there is no mass at all: such rows are refused afterwards
    return index.gather(1, noise.order), (top + last.log()).squeeze(1)


@torch.no_grad()
def remoteness_of_rows(
    log_prior: Tensor, means: Tensor, spread: Tensor, e: Entries, draws: RowDraws, far: float
) -> tuple[Tensor, Tensor]:
    """Measure the known and soft entries of many vectors against their mixtures.

    Args:
        log_prior: (R, P).
        means: (P, D), or (R, P, D).
        spread: standard deviations, like `means`.
        e: what is known of R vectors.
        draws: from the mixtures given it.
        far: entries nearer than this may come out farther than they are, though not farther than `far`.

    Returns:
        As in `gaussian_conditioning.Remoteness`: entries (R, D), and together (R,).
    """
    said = e.sd < math.inf
    together = (draws.square / said.to(draws.square.dtype).sum(1).clamp_min(1)).sqrt()
    noise = torch.where(said, e.sd, 0.0)
    every, index = torch.arange(len(e)), draws.nearest
    m, s = (means[index], spread[index]) if means.dim() == 2 else (means[every, index], spread[every, index])
    # no entry is farther from the nearest component than from the one that is nearest to all of them together
    entries = torch.where(said, ((e.value - m) / torch.hypot(s, noise)).abs(), 0.0)
    for row in torch.nonzero(entries.amax(1) > far).flatten().tolist():
        live = torch.nonzero(log_prior[row] > log_prior[row].max() + NEGLIGIBLE).squeeze(-1)
        m, s = (means, spread) if means.dim() == 2 else (means[row], spread[row])
        gap = ((e.value[row] - m[live]) / torch.hypot(s[live], noise[row])).abs().amin(0)
        entries[row] = torch.where(said[row], gap, 0.0)
    return entries, together


# -- independent entries ----------------------------------------------------------------------------------------------


def _given_diagonal(log_prior: Tensor, means: Tensor, scales: Tensor, e: Entries, noise: Noise) -> RowDraws:
    square, log_mass = _distances(log_prior, means, scales, e)
    least, closest = nearest(log_prior, square)
    component, log_evidence = choose(log_mass.add_(square, alpha=-0.5), noise)
    log_evidence -= 0.5 * math.log(2 * math.pi) * (e.sd < math.inf).to(means.dtype).sum(1)
    if means.dim() == 2:
        x, scale = means[component], scales[component]
    else:
        index = component.unsqueeze(-1).expand(-1, -1, means.shape[-1])
        x, scale = means.gather(1, index), scales.gather(1, index)
    known, soft = e.known.unsqueeze(1), e.soft.unsqueeze(1)
    if bool(soft.any()):
        sd = torch.where(soft, e.sd.unsqueeze(1), 0.0)
        total = torch.hypot(scale, sd)
        x = torch.where(soft, x + scale.square() / total * ((e.value.unsqueeze(1) - x) / total), x)
        scale = torch.where(soft, scale * sd / total, scale)
    if noise.normals:
        eps = torch.zeros_like(x)
        eps.masked_scatter_(~known.expand_as(x), torch.cat([part.reshape(-1) for part in noise.normals]))
        x = x + scale * eps
    x = torch.where(known, e.value.unsqueeze(1), x)
    return RowDraws(component, x, log_evidence, least, closest)


def _distances(log_prior: Tensor, means: Tensor, scales: Tensor, e: Entries) -> tuple[Tensor, Tensor]:
    """Squared distances in standard deviations, and log prior minus the sum of the logs of these: (R, P) each."""
    square = means.new_zeros(len(e), means.shape[-2])
    soft = e.soft
    if means.dim() == 2 and not bool(soft.any()):
        known = e.known.to(means.dtype)
        terms = torch.stack([torch.where(e.known, e.value, 0.0), known], -1)  # (R, D, 2)
        columns = torch.nonzero(e.known.any(0)).flatten().tolist()
        gap = torch.empty_like(square)
        for d in columns:
            inverse = scales[:, d].reciprocal()
            torch.mm(terms[:, d], torch.stack([inverse, -means[:, d] * inverse]), out=gap)
            square.addcmul_(gap, gap)
        return square, torch.addmm(log_prior, known[:, columns], scales[:, columns].log().T, alpha=-1)
    log_mass = log_prior.clone()
    for d in torch.nonzero((e.known | soft).any(0)).flatten().tolist():
        said = e.sd[:, d : d + 1] < math.inf
        total = torch.hypot(scales[..., d], torch.where(said, e.sd[:, d : d + 1], 0.0))
        gap = ((e.value[:, d : d + 1] - means[..., d]) / total).masked_fill_(~said, 0.0)
        square.addcmul_(gap, gap)
        log_mass -= total.log_().masked_fill_(~said, 0.0)
    return square, log_mass


# -- full covariances -------------------------------------------------------------------------------------------------


def _draw_given_full(
    log_prior: Tensor, means: Tensor, factors: Tensor, e: Entries, noise: Noise, together: int
) -> Iterator[tuple[Tensor, RowDraws]]:
    """Rows with the same entries known, and the same soft with the same spread, share what depends on these alone."""
    for same in alike(e):
        known, soft = (torch.nonzero(mark[same[0]]).squeeze(-1) for mark in (e.known, e.soft))
        sd = e.sd[same[0], soft]
        shared = Equalities.of(means, factors, known, soft, sd.expand(len(means), -1)) if means.dim() == 2 else None
        for rows in same.split(together):
            equal = shared
            if equal is None:
                m, f = means[rows].flatten(0, 1), factors[rows].flatten(0, 1)
                equal = Equalities.of(m, f, known, soft, sd.expand(len(m), -1))
            target = e.value[rows][:, torch.cat([known, soft])]
            yield rows, _given_full(log_prior[rows], equal, target, shared is None, e[rows], noise.rows(rows))


def alike(e: Entries) -> Sequence[Tensor]:
    """Positions of rows with the same entries known, and the same soft with the same spread: int64 (G,) each."""
    if len(e) == 1:
        return (torch.zeros(1, dtype=torch.long),)
    _, group = torch.cat([e.known.double(), e.sd], 1).unique(dim=0, return_inverse=True)
    return group.argsort(stable=True).split(torch.bincount(group).tolist())


def _given_full(log_prior: Tensor, equal: Equalities, target: Tensor, own: bool, e: Entries, noise: Noise) -> RowDraws:
    """Draws for rows that have the same entries known and soft, observed as `target` (R, E).

    `own` says that each row has P components of its own, one after the other in `equal`.
    """
    rows, count = log_prior.shape
    log_scale = equal.lower.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    if own:
        eta = solve_lower(equal.lower, target.repeat_interleave(count, 0) - equal.centre).unflatten(0, (rows, count))
        log_scale = log_scale.view(rows, count)
    else:
        eta = solve_lower(equal.lower, target.unsqueeze(1) - equal.centre)
    square = eta.square().sum(-1)
    least, closest = nearest(log_prior, square)
    component, log_evidence = choose((log_prior - log_scale).add_(square, alpha=-0.5), noise)
    log_evidence -= 0.5 * math.log(2 * math.pi) * target.shape[1]
    n = component.shape[1]
    place = (component + torch.arange(rows).unsqueeze(1) * count if own else component).reshape(-1)
    free = equal.mean.index_select(0, place)
    if free.shape[1] and target.shape[1]:
        met = eta.gather(1, component.unsqueeze(-1).expand(-1, -1, eta.shape[-1])).flatten(0, 1)
        free = free + apply_factors(equal.along, place, met)
    if free.shape[1] and noise.normals:
        free = free + apply_factors(equal.factor, place, torch.cat(noise.normals))
    x = e.value.unsqueeze(1).repeat(1, n, 1)
    x[:, :, ~e.known[0]] = free.view(rows, n, -1)
    return RowDraws(component, x, log_evidence, least, closest)
