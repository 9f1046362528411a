"""What all frames have, and the frames whose scales are diagonal."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

MIN_LOG_SCALE = math.log(1e-3)


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

    full = False  # True when T is kept as a matrix rather than a diagonal
    mixes = False  # True when an entry of W (u - mu) depends on several entries of u

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
            covariance: (K, D, D), positive definite; its diagonals (K, D) do where T is no full matrix.
        """
        self.mean.copy_(mean)
        variance = covariance if covariance.dim() == 2 else covariance.diagonal(dim1=-2, dim2=-1)
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
