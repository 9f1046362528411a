"""A mixture of which some coordinates are known, a different choice of them in every row if need be."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from phlogiston.distributions.mixtures import univariate as line
from phlogiston.distributions.mixtures.univariate import Intervals


class Given:
    """The law of all coordinates of a mixture given some of them; known ones come back exactly.

    Attributes:
        values: (..., D), the known values; anything where not known.
        mask: bool (..., D), True where known.
        log_evidence: (...), log density of the known entries (0 where nothing is known), in nats.
        logits: (..., K), the components' log probabilities given what is known.
        loc: (..., K, D), conditional means; the known value where known.
        factor: (..., K, D, D) with covariance `F F^T`, or standard deviations (..., K, D); zero where known.
    """

    def __init__(self, values: Tensor, mask: Tensor, log_joint: Tensor, loc: Tensor, factor: Tensor) -> None:
        self.values, self.mask = values, mask
        self.log_evidence = torch.logsumexp(log_joint, -1)
        self.logits = log_joint.log_softmax(-1)
        self.loc, self.factor = loc, factor

    def _scales(self) -> Tensor:
        diagonal = self.factor.dim() == self.loc.dim()
        return self.factor if diagonal else self.factor.square().sum(-1).sqrt()

    def _line(self) -> tuple[Tensor, Tensor, Tensor]:
        scale = torch.where(self.mask.unsqueeze(-2), 1.0, self._scales())
        return self.logits.unsqueeze(-2), self.loc.mT, scale.mT

    def sample(self, sample_shape: Any = (), generator: torch.Generator | None = None) -> Tensor:
        """Draw complete rows, (*sample_shape, ..., D), known entries bit-exact."""
        from phlogiston.distributions.mixtures.base import choose, normal, take

        shape = torch.Size(sample_shape)
        with torch.no_grad():
            batch = self.loc.shape[:-2]
            index = choose(self.logits.expand(*batch, self.logits.shape[-1]), shape, generator)
            noise = normal(index.shape + self.loc.shape[-1:], self.loc, generator)
            loc = take(self.loc, index, 2)
            if self.factor.dim() == self.loc.dim():
                drawn = loc + take(self.factor, index, 2) * noise
            else:
                drawn = loc + (take(self.factor, index, 3) @ noise.unsqueeze(-1)).squeeze(-1)
            return torch.where(self.mask, self.values, drawn)

    @property
    def mean(self) -> Tensor:
        """(..., D), known entries exact."""
        mean = (self.logits.softmax(-1).unsqueeze(-1) * self.loc).sum(-2)
        return torch.where(self.mask, self.values, mean)

    @property
    def variance(self) -> Tensor:
        """(..., D), zero where known."""
        weight = self.logits.softmax(-1).unsqueeze(-1)
        gap = self.loc - self.mean.unsqueeze(-2)
        variance = (weight * (self._scales().square() + gap.square())).sum(-2)
        return torch.where(self.mask, 0.0, variance)

    def quantile(self, q: float) -> Tensor:
        """Quantile of each unknown coordinate by itself, (..., D); the known value where known."""
        found = line.quantile(torch.as_tensor(q, dtype=torch.double), *self._line())
        return torch.where(self.mask, self.values, found)

    def interval(self, p: float = 0.9) -> Intervals:
        """Shortest regions per coordinate, (..., D, K); a point where known."""
        found = line.highest_density(p, *self._line())
        known, first = self.mask.unsqueeze(-1), torch.arange(found.mask.shape[-1]) == 0
        point = torch.where(first, self.values.unsqueeze(-1), torch.nan)
        return Intervals(
            torch.where(known, point, found.lower),
            torch.where(known, point, found.upper),
            torch.where(known, first, found.mask),
        )
