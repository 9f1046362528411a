"""What rows say about a layer's components: densities for the E-step of EM, expected moments for its M-step.

A row reaches a layer once for every path through the layers above that explains it: a *pair* of row and prefix, with
the row's residual `u` behind that prefix. Rows whose entries are all known, or whose components have diagonal
covariances, give `u` itself, entry by entry. With full covariances a row that misses entries says `x = b + F u` about
its known ones, and the moments are those of `u` given that.

Everything is float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

LOG_2PI = math.log(2 * math.pi)
BLOCK = 4_000_000
"""Floats of second moments that are formed at once."""


@dataclass
class Components:
    """Gaussians of a layer.

    Attributes:
        mean: (K, D).
        factor: their covariance is `factor factor^T`: lower triangular (K, D, D), or its diagonal (K, D).
    """

    mean: Tensor
    factor: Tensor

    def inverse(self) -> Tensor:
        """`factor^-1`, of the same shape."""
        if self.factor.dim() == 2:
            return 1 / self.factor
        eye = torch.eye(self.mean.shape[1], dtype=self.mean.dtype)
        return torch.linalg.solve_triangular(self.factor, eye.expand_as(self.factor), upper=False)

    def log_det(self) -> Tensor:
        """Log determinant of `factor^-1`: (K,), or by entry (K, D) where covariances are diagonal."""
        if self.factor.dim() == 2:
            return -self.factor.log()
        return -self.factor.diagonal(dim1=1, dim2=2).log().sum(1)


@dataclass
class Moments:
    """Sums over pairs, weighted by responsibility.

    Attributes:
        count: (K, D): the weight of what is known of each entry.
        first: (K, D), of u.
        second: of u u^T (K, D, D), or of its diagonal (K, D).
    """

    count: Tensor
    first: Tensor
    second: Tensor

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.count + other.count, self.first + other.first, self.second + other.second)


class Products:
    """Numbers of pairs that densities and moments are linear in, in blocks of rows; kept where they are small."""

    def __init__(self) -> None:
        self._kept: list[Tensor] = []

    def form(self, rows: slice) -> Tensor:
        """The products of some rows: (rows, P)."""
        raise NotImplementedError

    def blocks(self, rows: int, width: int) -> list[Tensor]:
        """Those of all rows, of about so many columns."""
        if self._kept:
            return self._kept
        block = max(1, BLOCK // width)
        made = [self.form(slice(start, start + block)) for start in range(0, max(rows, 1), block)]
        if len(made) <= 4:
            self._kept = made
        return made


class Entrywise(Products):
    """Pairs under diagonal covariances.

    Densities and moments are products of one matrix with rows `known, u, u^2`, the first of them 1 where everything is.

    Args:
        u: (R, D), 0 where unknown.
        known: float (R, D), 1 where known; None when everything is.
    """

    def __init__(self, u: Tensor, known: Tensor | None) -> None:
        super().__init__()
        self.u, self.known = u, known

    def __len__(self) -> int:
        return len(self.u)

    def points(self) -> Tensor:
        """Where pairs lie for the first clusters: (R, D)."""
        return self.u

    def form(self, rows: slice) -> Tensor:
        """The products of some rows: (rows, P)."""
        u = self.u[rows]
        return torch.cat([torch.ones_like(u[:, :1]) if self.known is None else self.known[rows], u, u.square()], 1)

    def log_density(self, c: Components) -> Tensor:
        """Log N(u; mean, covariance) of what is known under every component: (R, K)."""
        w = c.factor.reciprocal().square()
        constant = c.log_det() - 0.5 * (c.mean.square() * w + LOG_2PI)  # (K, D)
        constant = constant.sum(1, keepdim=True) if self.known is None else constant
        weights = torch.cat([constant, c.mean * w, -0.5 * w], 1)
        return torch.cat([part @ weights.T for part in self.blocks(*self.u.shape)])

    def moments(self, share: Tensor, c: Components | None) -> Moments:
        """Sums with responsibilities (R, K)."""
        del c
        products, features = self.blocks(*self.u.shape), self.u.shape[1]
        parts = zip(share.split([len(rows) for rows in products]), products, strict=True)
        sums = torch.stack([some.T @ rows for some, rows in parts]).sum(0)
        count, first, second = sums.split([sums.shape[1] - 2 * features, features, features], 1)
        return Moments(count.expand(-1, features), first, second)

    def child(self, c: Components, at: Tensor, code: Tensor) -> tuple[Entrywise, Tensor]:
        """Residuals of pairs `at` (P,) behind components `code` (P,), and the log determinants that come with them."""
        known = None if self.known is None else self.known[at]
        u = (self.u[at] - c.mean[code]) / c.factor[code]
        log_det = c.log_det()
        if known is None:
            return Entrywise(u, None), log_det.sum(1)[code]
        return Entrywise(u * known, known), (log_det[code] * known).sum(1)


class Whole(Products):
    """Pairs under full covariances with every entry known.

    Densities and moments are products of one matrix with rows `1, u, u u^T`.

    Args:
        u: (R, D).
    """

    def __init__(self, u: Tensor) -> None:
        super().__init__()
        self.u = u
        self.rows, self.columns = torch.tril_indices(u.shape[1], u.shape[1])

    def __len__(self) -> int:
        return len(self.u)

    def points(self) -> Tensor:
        """Where pairs lie for the first clusters: (R, D)."""
        return self.u

    def form(self, rows: slice) -> Tensor:
        """The products of some rows: (rows, P)."""
        u = self.u[rows]
        return torch.cat([torch.ones_like(u[:, :1]), u, u[:, self.rows] * u[:, self.columns]], 1)

    def log_density(self, c: Components) -> Tensor:
        """Log N(u; mean, covariance) under every component: (R, K)."""
        w = c.inverse()
        precision = w.mT @ w
        pull = (precision @ c.mean.unsqueeze(-1)).squeeze(-1)
        constant = c.log_det() - 0.5 * ((pull * c.mean).sum(1) + self.u.shape[1] * LOG_2PI)
        twice = torch.where(self.rows == self.columns, -0.5, -1.0).to(precision)
        weights = torch.cat([constant.unsqueeze(1), pull, precision[:, self.rows, self.columns] * twice], 1)
        return torch.cat([part @ weights.T for part in self.blocks(len(self.u), len(self.rows))])

    def moments(self, share: Tensor, c: Components | None) -> Moments:
        """Sums with responsibilities (R, K)."""
        del c
        products = self.blocks(len(self.u), len(self.rows))
        parts = zip(share.split([len(rows) for rows in products]), products, strict=True)
        sums = torch.stack([some.T @ rows for some, rows in parts]).sum(0)
        features = self.u.shape[1]
        second = sums.new_zeros(len(sums), features, features)
        second[:, self.rows, self.columns] = sums[:, 1 + features :]
        second[:, self.columns, self.rows] = sums[:, 1 + features :]
        return Moments(sums[:, :1].expand(-1, features), sums[:, 1 : 1 + features], second)

    def child(self, c: Components, at: Tensor, code: Tensor) -> tuple[Whole, Tensor]:
        """Residuals of pairs `at` (P,) behind components `code` (P,), and the log determinants that come with them."""
        order = code.argsort(stable=True)
        rows, w = self.u[at], c.inverse()
        counts = code.bincount(minlength=len(w)).tolist()
        parts = zip(order.split(counts), w, c.mean, strict=True)
        u = torch.cat([(rows[some] - mean) @ inverse.T for some, inverse, mean in parts])
        return Whole(torch.empty_like(u).index_copy_(0, order, u)), c.log_det()[code]


class Partial:
    """Pairs under full covariances of which some entries are unknown: `x = b + F u`, of which the known entries count.

    Args:
        x: (R, D), 0 where unknown.
        known: float (R, D), 1 where known.
        b: (R, D), means of the prefixes.
        factor: `F`, (R, D, D).
    """

    def __init__(self, x: Tensor, known: Tensor, b: Tensor, factor: Tensor) -> None:
        self.x, self.known, self.b, self.factor = x, known, b, factor

    @classmethod
    def of_rows(cls, u: Tensor, known: Tensor) -> Partial:
        """Before the first layer: rows (R, D)."""
        return cls(u, known, torch.zeros_like(u), torch.eye(u.shape[1], dtype=u.dtype).expand(len(u), -1, -1))

    def __len__(self) -> int:
        return len(self.x)

    def points(self) -> Tensor:
        """Where pairs lie for the first clusters, the mean of a standard normal u given what is known: (R, D)."""
        zero, eye = torch.zeros_like(self.x[0]), torch.eye(self.x.shape[1], dtype=self.x.dtype)
        _, gap, spread = self._given(zero, eye)
        return (spread.mT @ gap.unsqueeze(-1)).squeeze(-1)

    def _given(self, mean: Tensor, factor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Under one component `u = mean + factor e`: log density (R,), whitened gap g (R, D) and H (R, D, D).

        Then e given what is known has the mean `H^T g` and the covariance `I - H^T H`.
        """
        rows = (self.factor @ factor) * self.known.unsqueeze(-1)
        root = torch.linalg.cholesky(rows @ rows.mT + torch.diag_embed(1 - self.known))
        gap = (self.x - self.b - self.factor @ mean) * self.known
        solved = torch.linalg.solve_triangular(root, torch.cat([gap.unsqueeze(-1), rows], -1), upper=False)
        gap, spread = solved[..., 0], solved[..., 1:]
        log_det = root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return -0.5 * (gap.square().sum(-1) + self.known.sum(-1) * LOG_2PI) - log_det, gap, spread

    def log_density(self, c: Components) -> Tensor:
        """Log density of what is known under every component: (R, K)."""
        return torch.stack([self._given(m, t)[0] for m, t in zip(c.mean, c.factor, strict=True)], 1)

    def moments(self, share: Tensor, c: Components | None) -> Moments:
        """Expected sums with responsibilities (R, K), given what is known, under the components they come from."""
        zero, eye = torch.zeros_like(self.x[0]), torch.eye(self.x.shape[1], dtype=self.x.dtype)
        first, second = [], []
        for k, weight in enumerate(share.unbind(1)):
            mean, factor = (zero, eye) if c is None else (c.mean[k], c.factor[k])
            _, gap, spread = self._given(mean, factor)
            expected = mean + (spread.mT @ gap.unsqueeze(-1)).squeeze(-1) @ factor.T
            explained = (spread * weight[:, None, None]).flatten(0, 1).T @ spread.flatten(0, 1)
            first.append(weight @ expected)
            rest = factor @ (weight.sum() * eye - explained) @ factor.T
            second.append((expected * weight.unsqueeze(1)).T @ expected + rest)
        count = share.sum(0).unsqueeze(1).expand(-1, self.x.shape[1])
        return Moments(count, torch.stack(first), torch.stack(second))

    def child(self, c: Components, at: Tensor, code: Tensor) -> tuple[Partial, Tensor]:
        """Pairs `at` (P,) behind components `code` (P,); their log determinants belong to the densities to come."""
        above = self.factor[at]
        b = self.b[at] + (above @ c.mean[code].unsqueeze(-1)).squeeze(-1)
        return Partial(self.x[at], self.known[at], b, above @ c.factor[code]), torch.zeros_like(b[:, 0])


Evidence = Entrywise | Whole | Partial
