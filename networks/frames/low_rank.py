"""Frames of a diagonal and a few directions: factor analysers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from phlogiston.networks.frames.diagonal import DiagonalFrame
from phlogiston.networks.frames.reordering import by_component


class LowRankFrame(DiagonalFrame):
    """`T_k T_k^T = S_k (I + A_k A_k^T) S_k`: a diagonal and `rank` directions. Only the last layer of a path has it.

    With `C C^T = I + A^T A` (rank x rank) everything costs as much as `A` has numbers: by Woodbury's identity
    `(I + A A^T)^-1 = I - A (C C^T)^-1 A^T`, and a square root of it is `I - A (I + C^T)^-1 C^-1 A^T`, whose inverse is
    `I + A (I + C)^-1 A^T`.

    Args:
        num_components: `K`.
        features: `D`.
        rank: columns of `A`.

    Attributes:
        loadings: parameter (K, D, rank), the `A_k`.
    """

    mixes = True

    def __init__(self, num_components: int, features: int, rank: int = 4) -> None:
        super().__init__(num_components, features)
        self.loadings = nn.Parameter(torch.randn(num_components, features, rank) / features**0.5)

    def core(self) -> Tensor:
        """Every `C_k`: (K, rank, rank), lower triangular."""
        eye = torch.eye(self.loadings.shape[-1], dtype=self.mean.dtype, device=self.mean.device)
        return torch.linalg.cholesky(eye + self.loadings.mT @ self.loadings)

    def _roots(self) -> tuple[Tensor, Tensor]:
        """`(I + C^T)^-1 C^-1` and `(I + C)^-1` of every component: (K, rank, rank) each."""
        core = self.core()
        eye = torch.eye(core.shape[-1], dtype=core.dtype, device=core.device)
        inverse = torch.linalg.solve_triangular(core, eye.expand_as(core), upper=False)
        return torch.linalg.solve_triangular(core.mT + eye, inverse, upper=True), torch.linalg.solve_triangular(
            core + eye, eye.expand_as(core), upper=False
        )

    def log_det(self, mask: Tensor | None = None) -> Tensor:
        """Log |det W|: (K,). Where something is unknown `known_scores` has it."""
        assert mask is None
        return super().log_det() - self.core().diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def log_diagonal(self, code: Tensor) -> Tensor:
        shared = self.core().diagonal(dim1=-2, dim2=-1).log().sum(-1) / self.features
        return super().log_diagonal(code) - functional.embedding(code, shared.unsqueeze(-1))

    def whiten_all(self, u: Tensor) -> Tensor:
        y = super().whiten_all(u)  # (..., K, D)
        root, _ = self._roots()
        inner = torch.einsum("...kd,kdr->...kr", y, self.loadings)
        return y - torch.einsum("...kr,ksr,kds->...kd", inner, root, self.loadings)

    def square_distances(self, u: Tensor) -> Tensor:
        with torch.no_grad():
            w = self.inverse_scale()
            square = u.square() @ w.square().T - 2 * u @ (self.mean * w.square()).T + (self.mean * w).square().sum(-1)
            turned = (self.loadings * w.unsqueeze(-1)).transpose(0, 1).flatten(1)  # (D, K * rank)
            inner = (u @ turned).unflatten(-1, (self.num_components, -1))
            inner = inner - torch.einsum("kd,kdr->kr", self.mean * w, self.loadings)
            solved = torch.linalg.solve_triangular(self.core(), inner.unsqueeze(-1), upper=False)
            return square - solved.squeeze(-1).square().sum(-1)

    def whiten(self, u: Tensor, code: Tensor) -> Tensor:
        roots, _ = self._roots()
        inverse = self.inverse_scale()

        def turned(rows: Tensor, k: int) -> Tensor:
            y = (rows - self.mean[k]) * inverse[k]
            return y - ((y @ self.loadings[k]) @ roots[k].T) @ self.loadings[k].T

        return by_component(u, code, self.num_components, turned)

    def push(self, u: Tensor, code: Tensor) -> Tensor:
        _, roots = self._roots()
        scale = 1 / self.inverse_scale()

        def pushed(rows: Tensor, k: int) -> Tensor:
            return self.mean[k] + scale[k] * (rows + ((rows @ self.loadings[k]) @ roots[k].T) @ self.loadings[k].T)

        return by_component(u, code, self.num_components, pushed)

    def known_scores(self, u: Tensor, mask: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        """Squared distance and log determinant of the marginal of known entries, for one component per row.

        Args:
            u: (..., D), broadcastable with `code`; unknown entries may hold anything finite.
            mask: float (..., D), 1 where known, broadcastable likewise.
            code: int64 (...).

        Returns:
            (...) each.
        """
        u, mask, wide = torch.broadcast_tensors(u, mask, code.unsqueeze(-1))
        inverse = self.inverse_scale()
        eye = torch.eye(self.loadings.shape[-1], dtype=u.dtype, device=u.device)

        def scored(rows: Tensor, k: int) -> Tensor:
            values, known = rows.chunk(2, -1)
            loadings = self.loadings[k]
            y = (values - self.mean[k]) * inverse[k] * known
            products = (loadings.unsqueeze(-1) * loadings.unsqueeze(-2)).flatten(1)
            core = torch.linalg.cholesky(eye + (known @ products).unflatten(-1, eye.shape))
            inner = torch.linalg.solve_triangular(core, (y @ loadings).unsqueeze(-1), upper=False).squeeze(-1)
            log_det = known @ inverse[k].log() - core.diagonal(dim1=-2, dim2=-1).log().sum(-1)
            return torch.stack([y.square().sum(-1) - inner.square().sum(-1), log_det], -1)

        both = by_component(torch.cat([u, mask], -1), wide[..., 0], self.num_components, scored)
        return both[..., 0], both[..., 1]

    def factors(self) -> Tensor:
        """Every `T_k`, written out: (K, D, D)."""
        _, root = self._roots()
        eye = torch.eye(self.features, dtype=self.mean.dtype, device=self.mean.device)
        return (1 / self.inverse_scale()).unsqueeze(-1) * (eye + self.loadings @ root @ self.loadings.mT)

    @torch.no_grad()
    def revive(self, component: int, mean: Tensor) -> None:
        super().revive(component, mean)
        if self.num_components > 1:  # another's directions; zeros would get no gradient
            self.loadings[component] = self.loadings[(component + 1) % self.num_components]
