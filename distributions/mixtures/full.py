"""Mixtures whose components have correlated coordinates: `FullMixture` and `BivariateMixture`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints

from phlogiston.distributions.mixtures.base import HALF_LOG_2PI, positions, take
from phlogiston.distributions.mixtures.diagonal import DiagMixture
from phlogiston.distributions.mixtures.joint import Given, JointMixture
from phlogiston.distributions.normal_interval import log_interval_mass, standard_truncated


class _Open(constraints.interval):  # type: ignore[misc]
    """An interval without its ends."""

    def check(self, value: Tensor) -> Tensor:
        return (self.lower_bound < value) & (value < self.upper_bound)


def tril_of(covariance: Tensor) -> Tensor:
    """Cholesky factors in double precision, returned in the covariance's dtype: (..., D, D)."""
    return torch.linalg.cholesky(covariance.double()).to(covariance.dtype)


class _Correlated(JointMixture):
    """What both share, given triangular factors."""

    def factors(self) -> Tensor:
        """Lower triangular factors of the components' covariances, (..., K, D, D)."""
        raise NotImplementedError

    def component_covariance(self) -> Tensor:
        """See `JointMixture.component_covariance`."""
        tril = self.factors()
        return tril @ tril.mT

    def from_noise(self, index: Tensor, noise: Tensor) -> Tensor:
        """See `JointMixture.from_noise`."""
        return take(self.loc, index, 2) + (take(self.factors(), index, 3) @ noise.unsqueeze(-1)).squeeze(-1)

    def _precise(self, vectors: Tensor) -> Tensor:
        return torch.cholesky_solve(vectors.unsqueeze(-1), self.factors().expand(*vectors.shape, -1)).squeeze(-1)

    def _balance(self, share: Tensor) -> Tensor:
        precision = torch.cholesky_inverse(self.factors())
        total = (share[..., None, None] * precision).sum(-3)
        pull = (share.unsqueeze(-1) * (precision @ self.loc.unsqueeze(-1)).squeeze(-1)).sum(-2)
        return torch.linalg.solve(total, pull.unsqueeze(-1)).squeeze(-1)

    def _pairs(self) -> tuple[Tensor, Tensor]:
        dtype = self.loc.dtype
        covariance, loc = self.component_covariance().double(), self.loc.double()
        gap = loc.unsqueeze(-2) - loc.unsqueeze(-3)
        log_det = torch.linalg.slogdet(covariance).logabsdet
        precision = torch.linalg.inv(covariance).unsqueeze(-4)  # of j
        spread = covariance.unsqueeze(-3)  # of i
        trace = (precision * spread.mT).sum((-1, -2))
        square = (gap * (precision @ gap.unsqueeze(-1)).squeeze(-1)).sum(-1)
        divergence = 0.5 * (trace + square - self.features + log_det.unsqueeze(-2) - log_det.unsqueeze(-1))
        mixed = 0.5 * (covariance.unsqueeze(-3) + covariance.unsqueeze(-4))
        square = (gap * torch.linalg.solve(mixed, gap.unsqueeze(-1)).squeeze(-1)).sum(-1)
        halves = 0.5 * (log_det.unsqueeze(-1) + log_det.unsqueeze(-2))
        distance = square / 8 + 0.5 * (torch.linalg.slogdet(mixed).logabsdet - halves)
        return divergence.to(dtype), distance.to(dtype)

    def given(self, values: Any, mask: Any) -> Given:
        """Return the distribution of every row given the entries `mask` marks; see `DiagMixture.given`."""
        values, mask = self._check_known(values, mask)
        dtype = self.loc.dtype
        covariance, loc = self.component_covariance().double(), self.loc.double()
        known = mask.unsqueeze(-2).double()  # (..., 1, D)
        both = known.unsqueeze(-1) * known.unsqueeze(-2)
        # unknown rows and columns become those of the identity: one factorisation serves every pattern
        block = covariance * both + torch.diag_embed(1 - known)
        tril = torch.linalg.cholesky(block)
        gap = (known * (values.double().unsqueeze(-2) - loc)).unsqueeze(-1)
        white = torch.linalg.solve_triangular(tril, gap, upper=False).squeeze(-1)
        log_det = tril.diagonal(dim1=-1, dim2=-2).log().sum(-1)
        log_component = -0.5 * white.square().sum(-1) - log_det - known.sum(-1) * HALF_LOG_2PI
        cross = covariance * known.unsqueeze(-2)  # columns of known entries
        along = torch.cholesky_solve(cross.mT.contiguous(), tril.expand(cross.shape))  # (..., D, D): block^-1 cross^T
        mean = loc + (along.mT @ gap).squeeze(-1)
        free = (1 - known).unsqueeze(-1) * (1 - known).unsqueeze(-2)
        left = (covariance - cross @ along) * free + torch.diag_embed(known.expand(mean.shape))
        factor = torch.linalg.cholesky(left) * free
        mean = torch.where(mask.unsqueeze(-2), values.unsqueeze(-2).double(), mean)
        log_joint = self.logits.log_softmax(-1) + log_component.to(dtype)
        return Given(values, mask, log_joint, mean.to(dtype), factor.to(dtype))

    def log_prob_in_box(self, lower: Any, upper: Any, draws: int = 1024) -> Tensor:
        """Log P(lower < Y <= upper), by sequential conditioning on a fixed lattice of `draws` points.

        Args:
            lower: (..., D), infinite limits allowed.
            upper: (..., D).
            draws: lattice points; the error falls almost like 1 / draws.

        Returns:
            (...), a deterministic estimate.

        Reference: Genz, "Numerical computation of multivariate normal probabilities", J. Comp. Graph. Stat. 1, 1992.
        """
        lower, upper = (self._value(t).double().unsqueeze(-2) - self.loc.double() for t in (lower, upper))
        tril = self.factors().double()
        steps = torch.tensor([math.sqrt(p) % 1 for p in _primes(self.features)], dtype=torch.double)
        lattice = (torch.arange(1, draws + 1, dtype=torch.double).unsqueeze(-1) * steps) % 1  # (draws, D)
        lattice = (2 * lattice - 1).abs()  # folded: smoother ends, faster convergence
        shape = (draws,) + (1,) * (lower.dim() - 1)
        log_mass = torch.zeros(())
        z: list[Tensor] = []
        for i in range(self.features):
            done = sum((tril[..., i, j] * z[j] for j in range(i)), torch.zeros((), dtype=torch.double))
            a = (lower[..., i] - done) / tril[..., i, i]
            b = (upper[..., i] - done) / tril[..., i, i]
            log_mass = log_mass + log_interval_mass(a, b)
            z.append(standard_truncated(lattice[:, i].reshape(shape), a, b))
        inside = torch.logsumexp(log_mass.expand(draws, *log_mass.shape[-len(shape) + 1 :]), 0) - math.log(draws)
        total = torch.logsumexp(self.logits.double().log_softmax(-1) + inside, -1)
        return total.to(self.loc.dtype)


def _primes(n: int) -> list[int]:
    primes: list[int] = []
    candidate = 2
    while len(primes) < n:
        if all(candidate % p for p in primes):
            primes.append(candidate)
        candidate += 1
    return primes


class FullMixture(_Correlated):
    """A mixture of normals with full covariances.

    Args:
        logits: (..., K), unnormalised log weights.
        loc: (..., K, D).
        scale_tril: (..., K, D, D), lower triangular with a positive diagonal.
    """

    kind = "full"
    trailing: ClassVar[Mapping[str, int]] = {"logits": 1, "loc": 2, "scale_tril": 3}
    arg_constraints: ClassVar[dict[str, Any]] = {
        "logits": constraints.real_vector,
        "loc": constraints.independent(constraints.real, 2),
        "scale_tril": constraints.independent(constraints.lower_cholesky, 1),
    }

    def __init__(self, logits: Tensor, loc: Tensor, scale_tril: Tensor, validate_args: bool | None = None) -> None:
        self.logits, self.loc, self.scale_tril = logits, loc, scale_tril
        self._finish(loc.shape[-1], validate_args)

    def factors(self) -> Tensor:
        """See `_Correlated.factors`."""
        return self.scale_tril

    def component_log_prob(self, value: Tensor) -> Tensor:
        """See `JointMixture.component_log_prob`."""
        gap = (value.unsqueeze(-2) - self.loc).unsqueeze(-1)
        z = torch.linalg.solve_triangular(self.scale_tril, gap, upper=False).squeeze(-1)
        log_det = self.scale_tril.diagonal(dim1=-1, dim2=-2).log().sum(-1)
        return -0.5 * z.square().sum(-1) - log_det - self.loc.shape[-1] * HALF_LOG_2PI

    def component_scales(self) -> Tensor:
        """See `JointMixture.component_scales`."""
        return self.scale_tril.square().sum(-1).sqrt()

    def marginal(self, dims: Sequence[int] | int) -> FullMixture:
        """See `JointMixture.marginal`."""
        kept = positions(dims, self.features)
        if kept == list(range(len(kept))):
            tril = self.scale_tril[..., : len(kept), : len(kept)]
        else:
            tril = tril_of(self.component_covariance()[..., kept, :][..., kept])
        return FullMixture(self.logits, self.loc[..., kept], tril, validate_args=False)

    def _conditional(self, known: list[int], rest: list[int], values: Tensor) -> FullMixture:
        covariance = self.component_covariance().double()
        tril = torch.linalg.cholesky(covariance[..., known, :][..., known])
        cross = covariance[..., rest, :][..., known]  # (..., K, U, E)
        gap = (values.double().unsqueeze(-2) - self.loc[..., known].double()).unsqueeze(-1)
        along = torch.cholesky_solve(cross.mT.contiguous(), tril)  # (..., K, E, U)
        loc = self.loc[..., rest].double() + (along.mT @ gap).squeeze(-1)
        left = covariance[..., rest, :][..., rest] - cross @ along
        dtype = self.loc.dtype
        return FullMixture(self.logits, loc.to(dtype), torch.linalg.cholesky(left).to(dtype), validate_args=False)

    def affine(self, shift: Tensor, factor: Tensor) -> FullMixture:
        """See `JointMixture.affine`."""
        loc = shift.unsqueeze(-2) + factor.unsqueeze(-2) * self.loc
        return FullMixture(self.logits, loc, factor[..., None, :, None] * self.scale_tril, validate_args=False)

    def sharpen(self, factor: Tensor | float) -> FullMixture:
        """See `JointMixture.sharpen`."""
        return FullMixture(self.logits, self.loc, factor * self.scale_tril, validate_args=False)


class BivariateMixture(_Correlated):
    """A mixture of correlated pairs in closed form, several times cheaper than factorisations (Graves, 2013).

    Args:
        logits: (..., K), unnormalised log weights.
        loc: (..., K, 2).
        scale: (..., K, 2), positive.
        rho: (..., K), correlations in (-1, 1).
    """

    kind = "bivariate"
    trailing: ClassVar[Mapping[str, int]] = {"logits": 1, "loc": 2, "scale": 2, "rho": 1}
    arg_constraints: ClassVar[dict[str, Any]] = {
        "logits": constraints.real_vector,
        "loc": constraints.independent(constraints.real, 2),
        "scale": constraints.independent(constraints.positive, 2),
        "rho": constraints.independent(_Open(-1.0, 1.0), 1),
    }

    def __init__(
        self, logits: Tensor, loc: Tensor, scale: Tensor, rho: Tensor, validate_args: bool | None = None
    ) -> None:
        self.logits, self.loc, self.scale, self.rho = logits, loc, scale, rho
        self._finish(2, validate_args)

    def factors(self) -> Tensor:
        """See `_Correlated.factors`."""
        first, second = self.scale.unbind(-1)
        zero = torch.zeros_like(first * self.rho)
        rows = [first + zero, zero, self.rho * second, (1 - self.rho.square()).sqrt() * second]
        return torch.stack(rows, -1).unflatten(-1, (2, 2))

    def component_log_prob(self, value: Tensor) -> Tensor:
        """See `JointMixture.component_log_prob`."""
        u, v = ((value.unsqueeze(-2) - self.loc) / self.scale).unbind(-1)
        # (1 - rho)(1 + rho): no cancellation near -1 and 1; and the quadratic form as a sum of squares
        q = (1 - self.rho) * (1 + self.rho)
        square = (u - self.rho * v).square() / q + v.square()
        return -0.5 * square - self.scale.log().sum(-1) - 0.5 * q.log() - 2 * HALF_LOG_2PI

    def component_scales(self) -> Tensor:
        """See `JointMixture.component_scales`."""
        return self.scale

    def marginal(self, dims: Sequence[int] | int) -> JointMixture:
        """See `JointMixture.marginal`; one coordinate alone follows a `DiagMixture`."""
        kept = positions(dims, 2)
        if len(kept) == 1:
            return DiagMixture(self.logits, self.loc[..., kept], self.scale[..., kept], validate_args=False)
        return BivariateMixture(self.logits, self.loc[..., kept], self.scale[..., kept], self.rho, validate_args=False)

    def _conditional(self, known: list[int], rest: list[int], values: Tensor) -> DiagMixture:
        z = (values.unsqueeze(-2) - self.loc[..., known]) / self.scale[..., known]
        loc = self.loc[..., rest] + self.rho.unsqueeze(-1) * self.scale[..., rest] * z
        scale = self.scale[..., rest] * ((1 - self.rho) * (1 + self.rho)).sqrt().unsqueeze(-1)
        return DiagMixture(self.logits, loc, scale, validate_args=False)

    def affine(self, shift: Tensor, factor: Tensor) -> BivariateMixture:
        """See `JointMixture.affine`."""
        shift, factor = shift.unsqueeze(-2), factor.unsqueeze(-2)
        return BivariateMixture(
            self.logits, shift + factor * self.loc, factor * self.scale, self.rho, validate_args=False
        )

    def sharpen(self, factor: Tensor | float) -> BivariateMixture:
        """See `JointMixture.sharpen`."""
        return BivariateMixture(self.logits, self.loc, factor * self.scale, self.rho, validate_args=False)
