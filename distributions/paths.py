"""Distributions of deep residual mixtures: over component paths, over data given a path, and with the path summed out.

PathPrior            z ~ p(z)                 the path prior as one site, event shape (L,)
PathPosterior        z ~ q(z | x)             an explicit list of paths per row with their probabilities
ResidualNormal       x | z                    the Gaussian a path stands for, missing entries marginalised
PathMixture          x                        sum_z p(z) p(x | z): the collapsed density training runs on
MixtureCategorical   y | x                    a categorical column with the path averaged out
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import Categorical, TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from phlogiston.distributions.cell_map import CellMap, log_slopes, standardised
from phlogiston.distributions.shapes import joint_shape
from phlogiston.networks.beam import LOG_2PI, Beam
from phlogiston.networks.frames import Frame, LowRankFrame, ShiftFrame, compose, path_gaussian
from phlogiston.networks.path_priors import PathPriorModule, all_paths, log_path_prior

FARTHEST = 1e15
"""Standard deviations from the mean beyond which values are clamped: squares of more would not be finite."""
ONE = torch.Size()  # the sample shape of a single draw


class PathPrior(TorchDistribution):
    """The path prior as a distribution: batch shape as requested, event shape (L,).

    Args:
        prior: the module with `log_conditional`.
        batch_shape: leading shape of a draw.
        depth: how many layers to draw; all by default.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    has_enumerate_support = True

    def __init__(
        self,
        prior: PathPriorModule,
        batch_shape: torch.Size | tuple[int, ...] = (),
        depth: int | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self.prior = prior
        self.depth = depth or len(prior.sizes)
        super().__init__(torch.Size(batch_shape), torch.Size((self.depth,)), validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=1)  # type: ignore[untyped-decorator]
    def support(self) -> Any:
        """One index per layer, below the layer's size."""
        last = torch.tensor(self.prior.sizes[: self.depth], device=next(self.prior.parameters()).device) - 1
        return constraints.independent(constraints.integer_interval(torch.zeros_like(last), last), 1)

    def expand(self, batch_shape: torch.Size | list[int] | tuple[int, ...], _instance: object = None) -> PathPrior:
        new = PathPrior(self.prior, torch.Size(batch_shape), self.depth, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def sample(self, sample_shape: torch.Size | Sequence[int] = ONE) -> Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape
        device = next(self.prior.parameters()).device
        if shape.numel() == 0:  # multinomial draws nothing from nothing only with an error
            return torch.empty(*shape, self.depth, dtype=torch.long, device=device)
        codes = torch.empty(*shape, 0, dtype=torch.long, device=device)
        with torch.no_grad():
            for _ in range(self.depth):
                probs = self.prior.log_conditional(codes).exp()
                drawn = torch.multinomial(
                    probs.reshape(-1, probs.shape[-1]), shape.numel() if probs.dim() == 1 else 1, replacement=True
                )
                codes = torch.cat([codes, drawn.reshape(*shape, 1)], -1)
        return codes

    def log_prob(self, value: Tensor) -> Tensor:
        """Log p(z) of paths (..., L): (...)."""
        if self._validate_args:
            self._validate_sample(value)
        log_prior = log_path_prior(self.prior, value[..., : self.depth])
        return log_prior.expand(joint_shape(value.shape[:-1], self.batch_shape))

    def enumerate_support(self, expand: bool = True) -> Tensor:
        paths = all_paths(self.prior.sizes[: self.depth], next(self.prior.parameters()).device)
        paths = paths.reshape(-1, *(1,) * len(self.batch_shape), self.depth)
        return paths.expand(-1, *self.batch_shape, -1) if expand else paths


class PathPosterior(TorchDistribution):
    """An explicit distribution over P paths per row: what a beam leaves, or every path there is.

    Args:
        codes: int64 (..., P, L), distinct along P.
        logits: (..., P).
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "codes": constraints.independent(constraints.nonnegative_integer, 2),
        "log_probs": constraints.real_vector,
    }
    support = constraints.independent(constraints.nonnegative_integer, 1)
    has_enumerate_support = True

    def __init__(self, codes: Tensor, logits: Tensor, validate_args: bool | None = None) -> None:
        batch = logits.shape[:-1]
        if codes.shape[:-2] != batch:
            batch = joint_shape(codes.shape[:-2], batch)
            codes, logits = codes.expand(*batch, *codes.shape[-2:]), logits.expand(*batch, logits.shape[-1])
        self.codes, self.log_probs = codes, logits.log_softmax(-1)
        super().__init__(batch, codes.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: torch.Size | list[int] | tuple[int, ...], _instance: object = None) -> PathPosterior:
        shape = torch.Size(batch_shape)
        new = PathPosterior(
            self.codes.expand(*shape, *self.codes.shape[-2:]),
            self.log_probs.expand(*shape, self.log_probs.shape[-1]),
            validate_args=False,
        )
        new._validate_args = self._validate_args
        return new

    def sample(self, sample_shape: torch.Size | Sequence[int] = ONE) -> Tensor:
        with torch.no_grad():
            slot = torch.distributions.Categorical(logits=self.log_probs, validate_args=False).sample(sample_shape)
            codes = self.codes.expand(*slot.shape, *self.codes.shape[-2:])
            index = slot[..., None, None].expand(*slot.shape, 1, codes.shape[-1])
            return codes.gather(-2, index).squeeze(-2)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log q(z): -inf for paths that are not on the list."""
        if value.dim() == self.codes.dim() and value.shape[0] == self.codes.shape[-2]:
            # The support itself, as enumeration hands it back: no need to look the paths up.
            own = self.codes.movedim(-2, 0)
            if value.shape == own.shape and value.data_ptr() == own.data_ptr():
                return self.log_probs.movedim(-1, 0)
        if self._validate_args:
            self._validate_sample(value)
        same = (value.unsqueeze(-2) == self.codes).all(-1)
        return torch.where(same, self.log_probs, -math.inf).logsumexp(-1)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        return self.codes.movedim(-2, 0)


class ResidualNormal(TorchDistribution):
    """The Gaussian that a path stands for: `x = location + scale * (mu_1 + T_1 (mu_2 + T_2 (... eps)))`.

    Args:
        layers: the frames of the path's layers, first layer first.
        codes: int64 (..., L).
        location: (D,), of the data.
        scale: (D,), positive, of the data.
        mask: bool (..., D), True where the value is known; unknown entries are marginalised, never imputed.
        cells: the maps that take the place of location and scale where columns are on a grid.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "location": constraints.real_vector,
        "scale": constraints.independent(constraints.positive, 1),
    }
    support = constraints.real_vector
    has_rsample = False

    def __init__(
        self,
        layers: Sequence[Frame],
        codes: Tensor,
        location: Tensor,
        scale: Tensor,
        mask: Tensor | None = None,
        validate_args: bool | None = None,
        cells: CellMap | None = None,
    ) -> None:
        self.layers, self.codes, self.location, self.scale, self.known = layers, codes, location, scale, mask
        self.cells = cells
        batch = codes.shape[:-1] if mask is None else joint_shape(codes.shape[:-1], mask.shape[:-1])
        super().__init__(batch, location.shape, validate_args=validate_args)

    def expand(self, batch_shape: torch.Size | list[int] | tuple[int, ...], _instance: object = None) -> ResidualNormal:
        codes = self.codes.expand(*batch_shape, self.codes.shape[-1])
        new = ResidualNormal(self.layers, codes, self.location, self.scale, self.known, False, self.cells)
        new._validate_args = self._validate_args
        return new

    def sample(self, sample_shape: torch.Size | Sequence[int] = ONE) -> Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape
        codes = self.codes.expand(*shape, self.codes.shape[-1])
        with torch.no_grad():
            like = self.layers[0].mean
            noise = torch.randn(*shape, len(self.location), dtype=like.dtype, device=like.device)
            u = compose(self.layers, codes, noise)
            x = self.location + self.scale * u
            if self.cells is None:
                return x
            at = self.cells.position
            return x.index_copy(-1, at, self.cells.inverse(u.index_select(-1, at).double()).to(x.dtype))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log p(x | z) in the data's own units: (...)."""
        if self._validate_args:
            self._validate_sample(value if self.known is None else torch.where(self.known, value, 0.0))
        u = standardised(value, self.location, self.scale, self.cells)
        u = u.clamp(-FARTHEST, FARTHEST).to(self.layers[0].mean.dtype)
        log_slope = log_slopes(value, self.scale, self.cells).to(u.dtype)
        if self.known is not None:
            u = u.masked_fill(~self.known.bool(), 0.0)  # whatever stands there, its square must be finite
        features = len(self.location)
        depth = self.codes.shape[-1]
        if self.known is not None and self.layers[0].full and not bool(self.known.all()):
            return self._marginal(u, log_slope)
        known = torch.ones((), dtype=u.dtype) if self.known is None else self.known.to(u.dtype)
        last = self.layers[depth - 1]
        if isinstance(last, LowRankFrame) and self.known is not None:
            return self._known(u, log_slope, known, last)
        log_det = torch.where(known > 0, log_slope, 0.0)
        for frame, code in zip(self.layers[:depth], self.codes.unbind(-1), strict=True):
            u = frame.whiten(u, code)
            log_det = log_det + frame.log_diagonal(code) * known
        if isinstance(last, ShiftFrame):
            s = last.noise_log_scale()
            u, log_det = u * torch.exp(-s), log_det - s * known
        return (log_det - 0.5 * (u.square() + LOG_2PI) * known).expand(*u.shape[:-1], features).sum(-1)

    def _known(self, u: Tensor, log_slope: Tensor, known: Tensor, last: LowRankFrame) -> Tensor:
        log_det = torch.where(known > 0, log_slope, 0.0)
        *before, code = self.codes.unbind(-1)
        for frame, earlier in zip(self.layers, before, strict=False):
            u = frame.whiten(u, earlier)
            log_det = log_det + frame.log_diagonal(earlier) * known
        square, log_last = last.known_scores(u, known, code)
        return log_det.sum(-1) + log_last - 0.5 * (square + LOG_2PI * known.sum(-1))

    def _marginal(self, u: Tensor, log_slope: Tensor) -> Tensor:
        assert self.known is not None
        known = self.known.to(u.dtype)
        mean, factor = path_gaussian(self.layers, self.codes)
        rows = factor * known.unsqueeze(-1)
        cholesky = torch.linalg.cholesky(rows @ rows.transpose(-1, -2) + torch.diag_embed(1 - known))
        gap = ((u - mean) * known).unsqueeze(-1)
        gap = gap.expand(*joint_shape(gap.shape[:-2], cholesky.shape[:-2]), *gap.shape[-2:])
        eta = torch.linalg.solve_triangular(cholesky, gap, upper=False).squeeze(-1)
        log_det = cholesky.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return (
            -0.5 * (eta.square().sum(-1) + known.sum(-1) * LOG_2PI)
            - log_det
            + torch.where(known > 0, log_slope, 0.0).sum(-1)
        )


class PathMixture(TorchDistribution):
    """The mixture over all paths with the path summed out: one site whose log-density is the (bound on the) marginal.

    Args:
        find: given rows (N, D) in the data's units, their beam; the rows' masks and labels are bound inside.
        draw: given a sample shape, rows from the generative program.
        log_jacobian: (N,) or (), log |d standardised / d data| over the known features; a function of the rows (N, D)
            where it depends on them.
        batch_shape: leading shape of a draw.
        features: `D`.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real_vector

    def __init__(
        self,
        find: Callable[[Tensor], Beam],
        draw: Callable[[torch.Size], Tensor],
        log_jacobian: Tensor | Callable[[Tensor], Tensor],
        batch_shape: torch.Size | tuple[int, ...],
        features: int,
        validate_args: bool | None = None,
    ) -> None:
        self._find, self._draw, self._log_jacobian = find, draw, log_jacobian
        self._last: tuple[Tensor, Beam] | None = None
        super().__init__(torch.Size(batch_shape), torch.Size((features,)), validate_args=validate_args)

    def expand(self, batch_shape: torch.Size | list[int] | tuple[int, ...], _instance: object = None) -> PathMixture:
        if torch.Size(batch_shape) == self.batch_shape:
            return self
        wider = PathMixture(
            self._find, self._draw, self._log_jacobian, torch.Size(batch_shape), self.event_shape[0], False
        )
        wider._last = self._last
        wider._validate_args = self._validate_args
        return wider

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the last beam, which belongs to a graph of gradients and cannot be copied."""
        return {**self.__dict__, "_last": None}

    def beam(self, value: Tensor) -> Beam:
        """The beam of these rows, computed once per value and shared by every site that needs it."""
        if self._last is None or self._last[0] is not value:
            self._last = (value, self._find(value))
        return self._last[1]

    def sample(self, sample_shape: torch.Size | Sequence[int] = ONE) -> Tensor:
        with torch.no_grad():
            return self._draw(torch.Size(sample_shape) + self.batch_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log p(x), or the beam's lower bound on it: (N,)."""
        if self._validate_args:
            self._validate_sample(value)
        result = self.beam(value).nested[..., -1] + self._jacobian(value)
        return result.expand(joint_shape(value.shape[:-1], self.batch_shape))

    def nested_log_prob(self, value: Tensor) -> Tensor:
        """Log density after each depth: (N, L)."""
        return self.beam(value).nested + self._jacobian(value).unsqueeze(-1)

    def _jacobian(self, value: Tensor) -> Tensor:
        return self._log_jacobian if isinstance(self._log_jacobian, Tensor) else self._log_jacobian(value)


class MixtureCategorical(Categorical):
    """`p(y | x) = sum_z q(z | x, earlier ones) p(y | z)`, with the same conditional at every truncated depth.

    Args:
        log_posterior: (N, P), normalised over the paths.
        stream_logits: (N, P, V), normalised log p(y | z).
        observed: int64 (N,), the labels the beam was built with, -1 where missing (they score 0).
        nested: (N, L), log-probability of `observed` after each depth.
    """

    def __init__(
        self,
        log_posterior: Tensor,
        stream_logits: Tensor,
        observed: Tensor | None = None,
        nested: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self._observed, self._nested = observed, nested
        logits = (log_posterior.unsqueeze(-1) + stream_logits).logsumexp(-2)
        super().__init__(logits=logits, validate_args=validate_args)

    def expand(self, batch_shape: torch.Size | list[int] | tuple[int, ...], _instance: object = None) -> Categorical:
        if torch.Size(batch_shape) == self.batch_shape:
            return self
        new = self._get_checked_instance(MixtureCategorical, _instance)
        new._observed, new._nested = None, None  # those are the labels of the rows of before
        return super().expand(batch_shape, new)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log p(y | x): (N,); zero for missing labels."""
        if value is self._observed:
            return self.nested_log_prob(value)[..., -1]
        return super().log_prob(value)

    def nested_log_prob(self, value: Tensor) -> Tensor:
        """Log p(y | x) after each depth, for the labels the beam was built with: (N, L)."""
        if self._nested is None or value is not self._observed:
            raise ValueError("the truncated conditionals exist only for the labels the beam was built with")
        return self._nested
