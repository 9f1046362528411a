"""Frames with full triangular matrices."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from phlogiston.networks.frames.diagonal import MIN_LOG_SCALE, Frame
from phlogiston.networks.frames.reordering import Reordered

WIDE = 64
"""Features from which on the products of one component are work enough by themselves."""


class TriangularFrame(Frame):
    """`W_k = T_k^-1` lower triangular: full covariances, scored without a triangular solve.

    Attributes:
        lower: parameter (K, D (D - 1) / 2), the strictly lower part of `W`, row by row.
    """

    full = True
    mixes = True

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
    groups = cast(Tensor, Reordered.apply(u.reshape(len(order), u.shape[-1]), order, back)).split(counts)
    parts = zip(groups, mean.unbind(), inverse.unbind(), strict=True)
    turned = torch.cat([(rows - centre) @ w.T for rows, centre, w in parts])
    return cast(Tensor, Reordered.apply(turned, back, order)).view(u.shape)
