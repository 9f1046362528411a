"""Frames: how one layer of a deep residual mixture moves, scales and turns what the layers below it describe.

A layer with `K` components maps the next layer's coordinates `u'` to its own by `u = mu_k + T_k u'`; scoring goes
the other way, `u' = W_k (u - mu_k)` with `W_k = T_k^-1`. The four frames differ in what `T_k` may be:

    shift   T = I, the residual of the paper; one noise scale per layer for the density truncated there
    iso     T = positive scalar per component
    diag    T = positive diagonal per component
    tril    T lower triangular with positive diagonal, parametrised by W (the precision's Cholesky factor)

Shapes below: `...` is any batch, `K` components, `D` features. Log-scales are floored at `MIN_LOG_SCALE` because real
tables hold columns that are almost constant, and a density that grows without bound helps nobody.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

FrameName = Literal["shift", "iso", "diag", "tril"]

MIN_LOG_SCALE = math.log(1e-3)

WIDE = 64
"""Features from which on the products of one component are work enough by themselves."""


class Frame(nn.Module):
    """One layer's components: means and frames.

    Args:
        num_components: `K`.
        features: `D`.

    Attributes:
        mean: parameter (K, D), the `mu_k`, in this layer's coordinates.
        log_scale: parameter, log of the diagonal of `T`; its shape depends on the frame.
        initial_log_scale: buffer like `log_scale`: where initialisation put it, the centre of its MAP prior.
    """

    full = False  # True when T is a matrix rather than a diagonal

    def __init__(self, num_components: int, features: int, scale_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.num_components = num_components
        self.features = features
        self.mean = nn.Parameter(torch.randn(num_components, features))
        self.log_scale = nn.Parameter(torch.zeros(scale_shape))
        self.initial_log_scale: Tensor
        self.register_buffer("initial_log_scale", torch.zeros(scale_shape))

    def inverse_scale(self) -> Tensor:
        """Diagonal of `W`, broadcastable to (K, D)."""
        return torch.exp(-self.log_scale.clamp(min=MIN_LOG_SCALE))

    def log_det(self, mask: Tensor | None = None) -> Tensor:
        """Log |det W| over the known features.

        Args:
            mask: float (..., D), 1 where known; None when everything is known.

        Returns:
            (K,) without a mask, (..., K) with one.
        """
        log_inverse = -self.log_scale.clamp(min=MIN_LOG_SCALE).expand(self.num_components, self.features)
        return log_inverse.sum(-1) if mask is None else mask @ log_inverse.T

    def whiten_all(self, u: Tensor) -> Tensor:
        """`W_k (u - mu_k)` for every component: (..., D) -> (..., K, D)."""
        return (u.unsqueeze(-2) - self.mean) * self.inverse_scale()

    def square_distances(self, u: Tensor) -> Tensor:
        """Squared norms of `whiten_all`, without its gradients: (..., D) -> (..., K)."""
        with torch.no_grad():
            return self.whiten_all(u).square_().sum(-1)

    def whiten(self, u: Tensor, code: Tensor) -> Tensor:
        """`W_k (u - mu_k)` for one component per row.

        Args:
            u: (..., D), broadcastable with `code`.
            code: int64 (...), the component of each row.

        Returns:
            The whitened coordinates (..., D).
        """
        inverse = self.inverse_scale().expand(self.num_components, self.features)
        return (u - functional.embedding(code, self.mean)) * functional.embedding(code, inverse)

    def log_diagonal(self, code: Tensor) -> Tensor:
        """Log |W_dd| of one component per row, which sums to the log determinant: int64 (...) -> (..., D)."""
        log_inverse = -self.log_scale.clamp(min=MIN_LOG_SCALE)
        return functional.embedding(code, log_inverse.expand(self.num_components, self.features))

    def push(self, u: Tensor, code: Tensor) -> Tensor:
        """`mu_k + T_k u` for one component per row: generation's direction. Shapes as in `whiten`."""
        scale = (1 / self.inverse_scale()).expand(self.num_components, self.features)
        return functional.embedding(code, self.mean) + functional.embedding(code, scale) * u

    def factors(self) -> Tensor:
        """Every `T_k`: (K, D) for diagonal frames, (K, D, D) for triangular ones."""
        return (1 / self.inverse_scale()).expand(self.num_components, self.features)

    @torch.no_grad()
    def place(self, mean: Tensor, covariance: Tensor) -> None:
        """Set means and frames from clusters.

        Args:
            mean: (K, D).
            covariance: (K, D, D), positive definite.
        """
        self.mean.copy_(mean)
        variance = covariance.diagonal(dim1=-2, dim2=-1)
        self.log_scale.copy_(self._log_scale_from(variance))
        self.initial_log_scale.copy_(self.log_scale)

    def _log_scale_from(self, variance: Tensor) -> Tensor:
        return 0.5 * variance.clamp(min=math.exp(2 * MIN_LOG_SCALE)).log()

    @torch.no_grad()
    def revive(self, component: int, mean: Tensor) -> None:
        """Move one unused component to `mean` (D,) with a typical frame of its layer."""
        self.mean[component] = mean
        if self.log_scale.dim() and self.log_scale.shape[0] == self.num_components:
            self.log_scale[component] = self.log_scale.median(0).values


class DiagonalFrame(Frame):
    """`T_k = diag(exp(log_scale_k))`."""

    def __init__(self, num_components: int, features: int) -> None:
        super().__init__(num_components, features, (num_components, features))


class IsotropicFrame(Frame):
    """`T_k = exp(log_scale_k) I`."""

    def __init__(self, num_components: int, features: int) -> None:
        super().__init__(num_components, features, (num_components, 1))

    def _log_scale_from(self, variance: Tensor) -> Tensor:
        return super()._log_scale_from(variance.mean(-1, keepdim=True))


class ShiftFrame(Frame):
    """`T_k = I`, the paper's residual, and one noise scale `s` for the density truncated after this layer.

    The layer never applies `s` to what it hands down: the mixture divides by it once, at the depth where the path
    ends (`noise_log_scale`). The last layer's `s` belongs to the model, the others' to the recognition only.
    """

    def __init__(self, num_components: int, features: int) -> None:
        super().__init__(num_components, features, (1,))

    def _log_scale_from(self, variance: Tensor) -> Tensor:
        return super()._log_scale_from(variance.mean().reshape(1))

    def noise_log_scale(self) -> Tensor:
        """Log of the noise scale `s_l`: (1,)."""
        return self.log_scale.clamp(min=MIN_LOG_SCALE)

    def log_det(self, mask: Tensor | None = None) -> Tensor:
        return self.mean.new_zeros(()).expand(*(() if mask is None else mask.shape[:-1]), self.num_components)

    def whiten_all(self, u: Tensor) -> Tensor:
        return u.unsqueeze(-2) - self.mean

    def whiten(self, u: Tensor, code: Tensor) -> Tensor:
        return u - functional.embedding(code, self.mean)

    def log_diagonal(self, code: Tensor) -> Tensor:
        return self.mean.new_zeros(()).expand(*code.shape, self.features)

    def push(self, u: Tensor, code: Tensor) -> Tensor:
        return functional.embedding(code, self.mean) + u

    def factors(self) -> Tensor:
        return torch.ones_like(self.mean)


class TriangularFrame(Frame):
    """`W_k = T_k^-1` lower triangular: full covariances, scored without a triangular solve.

    Attributes:
        lower: parameter (K, D (D - 1) / 2), the strictly lower part of `W`, row by row.
    """

    full = True

    def __init__(self, num_components: int, features: int) -> None:
        super().__init__(num_components, features, (num_components, features))
        self.lower = nn.Parameter(torch.zeros(num_components, features * (features - 1) // 2))
        rows, columns = torch.tril_indices(features, features, -1)
        slot = torch.zeros(features, features, dtype=torch.long)
        slot[rows, columns] = torch.arange(len(rows)) + features
        slot[range(features), range(features)] = torch.arange(features)
        self._slot: Tensor
        self.register_buffer("_slot", slot.flatten(), persistent=False)
        self._below: Tensor
        self.register_buffer("_below", torch.ones(features, features).tril().flatten(), persistent=False)

    def inverse(self) -> Tensor:
        """Every `W_k`: (K, D, D), lower triangular."""
        flat = torch.cat([self.inverse_scale(), self.lower], -1)
        return (flat.index_select(-1, self._slot) * self._below).view(-1, self.features, self.features)

    def whiten_all(self, u: Tensor) -> Tensor:
        w = self.inverse()
        offset = torch.matmul(w, self.mean.unsqueeze(-1)).squeeze(-1)  # (K, D)
        turned = functional.linear(u, w.flatten(0, 1), -offset.flatten())  # (..., K * D)
        return turned.view(*u.shape[:-1], self.num_components, self.features)

    def square_distances(self, u: Tensor) -> Tensor:
        if self.features < WIDE:
            return super().square_distances(u)
        # One component after the other: (rows, D) stays in the processor's cache where (rows, K, D) does not. The
        # upper half of the triangle needs the first half of the columns alone.
        with torch.no_grad():
            rows, w = u.flatten(0, -2), self.inverse()
            offset = torch.matmul(w, self.mean.unsqueeze(-1)).squeeze(-1)
            half = self.features // 2
            squares = []
            for matrix, shift in zip(w, offset, strict=True):
                upper = (rows[:, :half] @ matrix[:half, :half].T).sub_(shift[:half])
                lower = (rows @ matrix[half:].T).sub_(shift[half:])
                squares.append(upper.square_().sum(-1).add_(lower.square_().sum(-1)))
            return torch.stack(squares, -1).view(*u.shape[:-1], self.num_components)

    def whiten(self, u: Tensor, code: Tensor) -> Tensor:
        u, code = torch.broadcast_tensors(u, code.unsqueeze(-1))
        code = code[..., 0]
        if u.device.type != "cpu":
            w = functional.embedding(code, self.inverse().flatten(1)).view(*u.shape, self.features)
            return torch.matmul(w, (u - functional.embedding(code, self.mean)).unsqueeze(-1)).squeeze(-1)
        return _whiten_by_component(u, code, self.mean, self.inverse())

    def push(self, u: Tensor, code: Tensor) -> Tensor:
        t = functional.embedding(code, self.factors().flatten(1)).view(*code.shape, self.features, self.features)
        return functional.embedding(code, self.mean) + torch.matmul(t, u.unsqueeze(-1)).squeeze(-1)

    def factors(self) -> Tensor:
        identity = torch.eye(self.features, dtype=self.mean.dtype, device=self.mean.device)
        return torch.linalg.solve_triangular(self.inverse(), identity.expand(self.num_components, -1, -1), upper=False)

    @torch.no_grad()
    def place(self, mean: Tensor, covariance: Tensor) -> None:
        self.mean.copy_(mean)
        # in float64: columns that are linear in others leave a covariance that float32 finds singular
        factor = torch.linalg.cholesky(covariance.double())
        identity = torch.eye(self.features, dtype=factor.dtype, device=factor.device)
        w = torch.linalg.solve_triangular(factor, identity.expand_as(factor), upper=False)
        diagonal = w.diagonal(dim1=-2, dim2=-1)
        floored = diagonal.clamp(max=math.exp(-MIN_LOG_SCALE))
        w = w * (floored / diagonal).unsqueeze(-1)  # the whole row, so that it still measures the same residual
        self.log_scale.copy_(-floored.log())
        rows, columns = torch.tril_indices(self.features, self.features, -1)
        self.lower.copy_(w[:, rows, columns])
        self.initial_log_scale.copy_(self.log_scale)

    @torch.no_grad()
    def revive(self, component: int, mean: Tensor) -> None:
        super().revive(component, mean)
        self.lower[component] = 0.0


def _whiten_by_component(u: Tensor, code: Tensor, mean: Tensor, inverse: Tensor) -> Tensor:
    """`inverse[code] @ (u - mean[code])`, every component for all its rows at once.

    A copy of a matrix for every row would cost D times the memory, and most of the time. How many rows a component
    has is read from the device, which an accelerator would have to wait for: this is for CPUs.

    Args:
        u: (..., D).
        code: int64 (...), with values in [0, K).
        mean: (K, D).
        inverse: (K, D, D).

    Returns:
        (..., D).
    """
    order = code.flatten().argsort(stable=True)
    back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order)))
    counts = code.flatten().bincount(minlength=len(mean)).tolist()
    groups = cast(Tensor, _Reordered.apply(u.reshape(len(order), u.shape[-1]), order, back)).split(counts)
    parts = zip(groups, mean.unbind(), inverse.unbind(), strict=True)
    turned = torch.cat([(rows - centre) @ w.T for rows, centre, w in parts])
    return cast(Tensor, _Reordered.apply(turned, back, order)).view(u.shape)


class _Reordered(torch.autograd.Function):
    """`rows[order]` for an order that names every row once, and `back`, the order that undoes it.

    Gradients are put in order the same way, where indexing would add up rows one by one.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, order: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(order, back)
        return rows.index_select(0, order)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        order, back = ctx.saved_tensors
        return _Reordered.apply(grad, back, order), None, None


class _SquaredNorm(torch.autograd.Function):
    """`rows.square().sum(-1)`, whose backward pass reads the rows once instead of three times."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        return rows.square().sum(-1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (rows,) = ctx.saved_tensors
        return rows * (2 * grad).unsqueeze(-1)


def squared_norm(rows: Tensor) -> Tensor:
    """Squared Euclidean norm along the last axis: (..., D) -> (...)."""
    return cast(Tensor, _SquaredNorm.apply(rows))


FRAMES: dict[str, Callable[[int, int], Frame]] = {
    "shift": ShiftFrame,
    "iso": IsotropicFrame,
    "diag": DiagonalFrame,
    "tril": TriangularFrame,
}


def compose(layers: Sequence[Frame], codes: Tensor, noise: Tensor) -> Tensor:
    """Push standard-normal noise (..., D) up through a path's frames (..., l): standardised coordinates (..., D)."""
    depth = codes.shape[-1]
    last = layers[depth - 1]
    u = noise * last.noise_log_scale().exp() if isinstance(last, ShiftFrame) else noise
    for l in reversed(range(depth)):
        u = layers[l].push(u, codes[..., l])
    return u


def path_gaussian(layers: Sequence[Frame], codes: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance factor of paths, in standardised coordinates.

    Args:
        layers: the frames.
        codes: int64 (..., l).

    Returns:
        Mean (..., D), and `F` with covariance `F F^T`: lower triangular (..., D, D), or its diagonal (..., D) for
        the diagonal frames.
    """
    depth = codes.shape[-1]
    full = layers[0].full
    mean = layers[0].mean.new_zeros(*codes.shape[:-1], layers[0].features)
    factor: Tensor | None = None
    for l in range(depth):
        mu = functional.embedding(codes[..., l], layers[l].mean)
        t = layers[l].factors()[codes[..., l]]
        if factor is None:
            mean, factor = mu, t
        elif full:
            mean, factor = mean + (factor @ mu.unsqueeze(-1)).squeeze(-1), factor @ t
        else:
            mean, factor = mean + factor * mu, factor * t
    last = layers[depth - 1]
    assert factor is not None
    return mean, factor * last.noise_log_scale().exp() if isinstance(last, ShiftFrame) else factor
