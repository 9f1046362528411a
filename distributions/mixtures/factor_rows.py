"""Mixtures of factor analysers given single entries, known or observed with noise: many rows at once, no D x D matrix.

A component is `x = m + s * (A f + e)` with standard normal factors f (rank) and e (D). Given f its entries are
independent, so everything follows from the factors' posterior, whose precision is `I + A_o^T A_o` over the entries
observed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from phlogiston.distributions.mixtures.conditioned_rows import Entries, Noise, RowDraws, alike, choose, nearest
from phlogiston.networks.frames.reordering import by_component

_MAX_FLOATS = 2**22


@dataclass(frozen=True, eq=False)
class FactorAnalysers:
    """P components of D entries.

    Attributes:
        mean: (P, D).
        scale: (P, D), positive: standard deviations of what is an entry's own.
        loadings: (P, D, rank), in units of `scale`.
    """

    mean: Tensor
    scale: Tensor
    loadings: Tensor

    @property
    def spread(self) -> Tensor:
        """Standard deviations of the entries, (P, D)."""
        return self.scale * (1 + self.loadings.square().sum(-1)).sqrt()

    def draw_given(self, log_prior: Tensor, e: Entries, noise: Noise) -> Iterator[tuple[Tensor, RowDraws]]:
        """Draw from the mixtures given what is known, some rows at a time.

        Args:
            log_prior: (R, P), log probabilities of the components; need not be normalised.
            e: what is known about R vectors.
            noise: of all rows; `rank` normals more than free entries for each draw.

        Yields:
            Positions of rows, and their draws.
        """
        for rows, given in self._observed(e):
            log_mass, square = given.masses(log_prior[rows])
            least, closest = nearest(log_prior[rows], square)
            part = noise.rows(rows)
            component, log_evidence = choose(log_mass, part)
            yield rows, RowDraws(component, given.draw(component, part), log_evidence, least, closest)

    def log_masses(self, log_prior: Tensor, e: Entries) -> Tensor:
        """Log of prior times density of what is known, of every component: (R, P)."""
        result = torch.empty_like(log_prior)
        for rows, given in self._observed(e):
            result[rows] = given.masses(log_prior[rows])[0]
        return result

    def _observed(self, e: Entries) -> Iterator[tuple[Tensor, _Observed]]:
        together = max(1, _MAX_FLOATS // self.mean.numel())
        for same in alike(e):
            at = torch.nonzero(e.sd[same[0]] < math.inf).squeeze(-1)
            total = torch.hypot(self.scale[:, at], e.sd[same[0], at])
            loadings = self.loadings[:, at] * (self.scale[:, at] / total).unsqueeze(-1)
            eye = torch.eye(loadings.shape[-1], dtype=loadings.dtype)
            core = torch.linalg.cholesky(eye + loadings.mT @ loadings)
            for rows in same.split(together):
                y = (e.value[rows][:, at].unsqueeze(1) - self.mean[:, at]) / total  # (R, P, S)
                inner = torch.einsum("nps,psr->npr", y, loadings)
                inner = torch.linalg.solve_triangular(core, inner.unsqueeze(-1), upper=False).squeeze(-1)
                log_det = total.log().sum(-1) + core.diagonal(dim1=-2, dim2=-1).log().sum(-1)
                log_det = log_det + 0.5 * math.log(2 * math.pi) * len(at)
                yield rows, _Observed(self, e[rows], y.square().sum(-1), inner, core, log_det)


@dataclass(frozen=True, eq=False)
class _Observed:
    """Rows with the same entries observed.

    Attributes:
        square: (R, P), squared distances as if there were no factors.
        inner: (R, P, rank), `C^-1 A^T y` with `C C^T` the factors' posterior precision.
        core: (P, rank, rank), the `C`.
        log_det: (P,), what the densities are divided by, in logs.
    """

    analysers: FactorAnalysers
    e: Entries
    square: Tensor
    inner: Tensor
    core: Tensor
    log_det: Tensor

    def masses(self, log_prior: Tensor) -> tuple[Tensor, Tensor]:
        """Log prior times density, and squared distances: (R, P) each."""
        square = self.square - self.inner.square().sum(-1)
        return log_prior - self.log_det - 0.5 * square, square

    def draw(self, component: Tensor, noise: Noise) -> Tensor:
        """Vectors (R, n, D) from the components (R, n), what is known put in."""
        rows, n = component.shape
        rank, a = self.inner.shape[-1], self.analysers
        factors = self.inner.gather(1, component.unsqueeze(-1).expand(-1, -1, rank)).flatten(0, 1)
        normals = torch.stack(noise.normals).flatten(0, 1) if noise.normals else None
        if normals is not None:
            factors = factors + normals[:, :rank]
        place = component.reshape(-1)

        def solved(part: Tensor, k: int) -> Tensor:
            f = torch.linalg.solve_triangular(self.core[k].T, part.T, upper=True).T
            return a.mean[k] + (f @ a.loadings[k].T) * a.scale[k]

        x = by_component(factors, place, len(a.mean), solved).view(rows, n, -1)
        known, soft = self.e.known.unsqueeze(1), self.e.soft.unsqueeze(1)
        scale = a.scale[component]
        if bool(soft.any()):
            sd = torch.where(soft, self.e.sd.unsqueeze(1), 0.0)
            total = torch.hypot(scale, sd)
            x = torch.where(soft, x + scale.square() / total * ((self.e.value.unsqueeze(1) - x) / total), x)
            scale = torch.where(soft, scale * sd / total, scale)
        if normals is not None:
            eps = torch.zeros_like(x)
            eps.masked_scatter_(~known.expand_as(x), normals[:, rank:].reshape(-1))
            x = x + scale * eps
        return torch.where(known, self.e.value.unsqueeze(1), x)
