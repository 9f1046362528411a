"""Mixtures whose components cover all coordinates together: what they share whatever the covariance.

`JointMixture` is their base class, `Given` what one of them becomes once some coordinates are known.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from phlogiston.distributions.mixtures import univariate as line
from phlogiston.distributions.mixtures.base import (
    Mixture,
    Modes,
    choose,
    distinct,
    normal,
    positions,
    take,
)
from phlogiston.distributions.mixtures.univariate import Intervals
from phlogiston.distributions.shapes import joint_shape
from phlogiston.errors import ConfigError, ShapeError

_ASCENT = 400


class Given:
    """A mixture of which some coordinates are known, in every row others if need be: the distribution of all of them.

    Known coordinates come back exactly.

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
        unknown = line.quantile(torch.as_tensor(q, dtype=torch.double), *self._line())
        return torch.where(self.mask, self.values, unknown)

    def interval(self, p: float = 0.9) -> Intervals:
        """Shortest regions per coordinate, (..., D, K); a point where known."""
        regions = line.highest_density(p, *self._line())
        known, first = self.mask.unsqueeze(-1), torch.arange(regions.mask.shape[-1]) == 0
        point = torch.where(first, self.values.unsqueeze(-1), torch.nan)
        return Intervals(
            torch.where(known, point, regions.lower),
            torch.where(known, point, regions.upper),
            torch.where(known, first, regions.mask),
        )


class JointMixture(Mixture):
    """A Gaussian mixture with one set of weights for all coordinates; see `distributions.mixtures.base`."""

    # ----- to be provided -----------------------------------------------------------------------------------------

    @abstractmethod
    def component_log_prob(self, value: Tensor) -> Tensor:
        """Log N_k(value): value (..., D) -> (..., K)."""

    @abstractmethod
    def component_scales(self) -> Tensor:
        """Standard deviation of each coordinate under each component, (..., K, D)."""

    @abstractmethod
    def component_covariance(self) -> Tensor:
        """(..., K, D, D)."""

    @abstractmethod
    def from_noise(self, index: Tensor, noise: Tensor) -> Tensor:
        """Turn standard normals into values: components `index` (*shape) and noise (*shape, D) -> (*shape, D)."""

    @abstractmethod
    def _precise(self, vectors: Tensor) -> Tensor:
        """Multiply with every component's inverse covariance: (..., K, D) -> (..., K, D)."""

    @abstractmethod
    def _balance(self, share: Tensor) -> Tensor:
        """Solve (sum_k share_k S_k^-1) y = sum_k share_k S_k^-1 loc_k: share (..., K) -> (..., D)."""

    @abstractmethod
    def _pairs(self) -> tuple[Tensor, Tensor]:
        """Kullback-Leibler divergences (i from j) and Bhattacharyya distances of components: (..., K, K) each."""

    @abstractmethod
    def given(self, values: Tensor, mask: Tensor) -> Given:
        """See `condition`."""

    @abstractmethod
    def marginal(self, dims: Sequence[int] | int) -> JointMixture:
        """The mixture that some coordinates follow: a distribution of event shape (len(dims),)."""

    @abstractmethod
    def affine(self, shift: Tensor, factor: Tensor) -> JointMixture:
        """The distribution of `shift + factor * y`, shift and factor (..., D), factor positive."""

    @abstractmethod
    def _conditional(self, known: list[int], rest: list[int], values: Tensor) -> JointMixture:
        """The mixture of coordinates `rest` given coordinates `known`, with the components' old weights."""

    # ----- densities and draws ------------------------------------------------------------------------------------

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density, (...), in nats."""
        if self._validate_args:
            self._validate_sample(value)
        return torch.logsumexp(self.logits.log_softmax(-1) + self.component_log_prob(value), -1)

    def component_posterior(self, value: Any) -> Tensor:
        """Log probability of each component given a value: (..., D) -> (..., K)."""
        value = self._value(value)
        return (self.logits.log_softmax(-1) + self.component_log_prob(value)).log_softmax(-1)

    def _draw(self, logits: Tensor, shape: torch.Size, spread: float, generator: torch.Generator | None) -> Tensor:
        index = choose(logits, shape, generator)
        return self.from_noise(index, spread * normal(index.shape + self.event_shape, self.loc, generator))

    # ----- moments ------------------------------------------------------------------------------------------------

    def marginal_parameters(self) -> tuple[Tensor, Tensor, Tensor]:
        """See `Mixture.marginal_parameters`."""
        return self.logits.unsqueeze(-2), self.loc.mT, self.component_scales().mT

    @property
    def covariance(self) -> Tensor:
        """Of the whole mixture, (..., D, D)."""
        weight = self.logits.softmax(-1)[..., None, None]
        gap = self.loc - self.mean.unsqueeze(-2)
        spread = self.component_covariance() + gap.unsqueeze(-1) * gap.unsqueeze(-2)
        shape = self.batch_shape + self.event_shape + self.event_shape
        return (weight * spread).sum(-3).expand(shape)

    def entropy_bounds(self) -> tuple[Tensor, Tensor]:
        """Lower and upper bound of the differential entropy in nats, (...) each.

        From pairwise distances of components (Bhattacharyya below, Kullback-Leibler above); the upper bound is also
        never more than the entropy of the Gaussian with the same covariance.

        Reference: Kolchinsky and Tracey, "Estimating mixture entropy with pairwise distances", Entropy 19, 2017.
        """
        log_weight = self.logits.log_softmax(-1)
        weight = log_weight.exp()
        covariance = self.component_covariance().double()
        inside = 0.5 * torch.linalg.slogdet(covariance).logabsdet + self.features * (0.5 + 0.5 * math.log(2 * math.pi))
        inside = (weight * inside.to(weight.dtype)).sum(-1)
        divergence, distance = self._pairs()
        lower, upper = (
            inside - (weight * torch.logsumexp(log_weight.unsqueeze(-2) - pairs, -1)).sum(-1)
            for pairs in (distance, divergence)
        )
        gaussian = 0.5 * torch.linalg.slogdet(self.covariance.double()).logabsdet
        gaussian = gaussian.to(upper.dtype) + self.features * (0.5 + 0.5 * math.log(2 * math.pi))
        return lower.expand(self.batch_shape), torch.minimum(upper, gaussian).expand(self.batch_shape)

    def modes(self, n: int | None = None) -> Modes:
        """Local maxima of the density, highest first.

        Fixed-point ascent from every component's mean, in double precision; points that coincide within a tenth of the
        narrowest component, and saddles, are dropped. In more than one dimension a mixture can have more modes than
        components; those are not looked for.

        Args:
            n: at most this many; as many as components by default.

        Returns:
            Modes (..., M, D).

        Reference: Carreira-Perpinan, "Mode-finding for mixtures of Gaussian distributions", IEEE PAMI 22, 2000.
        """
        full = self.detach().expand(self.batch_shape).to(torch.double)
        wide = full.unsqueeze(-1)  # batch (..., 1), to be compared with starts (..., M, D)
        points = full.loc.clone()
        scales = full.component_scales()
        width = scales.amin(-2)  # (..., D)
        for _ in range(_ASCENT):
            share = (wide.logits + wide.component_log_prob(points)).softmax(-1)
            moved = wide._balance(share)
            done = bool(((moved - points).abs() <= 1e-9 * width.unsqueeze(-2)).all())
            points = moved
            if done:
                break
        heights = wide.log_prob(points)
        modes = distinct(points, heights, wide._is_maximum(points), width, n)
        return Modes(modes.points.to(self.loc.dtype), modes.log_density.to(self.loc.dtype), modes.mask)

    def _is_maximum(self, points: Tensor) -> Tensor:
        """Say where the Hessian of the log density is negative definite: (..., D) -> bool (...)."""
        share = (self.logits + self.component_log_prob(points)).softmax(-1)[..., None, None]
        pull = self._precise(self.loc - points.unsqueeze(-2))  # (..., K, D): gradient of each component's log density
        eye = torch.eye(self.features, dtype=self.loc.dtype, device=self.loc.device)
        precision = self._precise_matrix(eye)
        curvature = (share * (pull.unsqueeze(-1) * pull.unsqueeze(-2) - precision)).sum(-3)
        # in units of the narrowest component, so that the test does not depend on units
        width = self.component_scales().amin(-2)
        curvature = curvature * width.unsqueeze(-1) * width.unsqueeze(-2)
        return torch.linalg.eigvalsh(curvature)[..., -1] < 1e-8

    def _precise_matrix(self, eye: Tensor) -> Tensor:
        rows = [self._precise(eye[i].expand(self.loc.shape)) for i in range(self.features)]
        return torch.stack(rows, -1)

    # ----- knowing a part -----------------------------------------------------------------------------------------

    def condition(self, known: Mapping[int, Any]) -> JointMixture:
        """The distribution of the other coordinates, given some.

        Args:
            known: coordinate -> its value, a number or a tensor that broadcasts against the batch.

        Returns:
            A mixture of event shape (D - len(known),), in the order of the coordinates left.

        Raises:
            ConfigError: unknown coordinates, or none left. `given` takes masks that differ by row.
        """
        dims = positions(list(known), self.features) if known else []
        rest = [d for d in range(self.features) if d not in dims]
        if not rest:
            raise ConfigError("every coordinate is known, so there is nothing left to have a distribution; use given()")
        if not dims:
            return self
        values = [torch.as_tensor(v, dtype=self.loc.dtype, device=self.loc.device) for v in known.values()]
        value = torch.stack(torch.broadcast_tensors(*values), -1)
        new = self._conditional(dims, rest, value)
        new.logits = self.logits.log_softmax(-1) + self.marginal(dims).component_log_prob(value)
        return type(new)(**{name: getattr(new, name) for name in new.trailing}, validate_args=False)

    def log_prob_known(self, value: Any, mask: Any) -> Tensor:
        """Log density of the entries a mask marks, the others integrated out.

        Args:
            value: (..., D); entries that are not known may hold anything finite.
            mask: bool (..., D), True where known; may differ from row to row.

        Returns:
            (...), 0 for rows where nothing is known.
        """
        return self.given(value, mask).log_evidence

    def _check_known(self, values: Any, mask: Any) -> tuple[Tensor, Tensor]:
        values = self._value(values)
        mask = torch.as_tensor(mask, dtype=torch.bool, device=values.device)
        if mask.shape[-1:] != self.event_shape:
            raise ShapeError(f"mask has shape {tuple(mask.shape)}; expected the last axis to be {self.features}")
        shape = joint_shape(values.shape, mask.shape, self.batch_shape + self.event_shape)
        return values.expand(shape), mask.expand(shape)
