"""Distances between two samples of features: Fréchet (with its error bar and its limit), and the kernel distance.

The Fréchet distance between normals, |m1 - m2|^2 + tr S1 + tr S2 - 2 tr sqrt(S1 S2) (Dowson and Landau, 1982), is
computed without any matrix square root: with S = F F^T the last trace is the nuclear norm of F1^T F2. That form never
squares condition numbers, needs no full rank, and takes fewer rows than features as they come. All in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from phlogiston.errors import ConfigError, DataError, ShapeError
from phlogiston.evaluate.metric import Metric


@dataclass(frozen=True)
class Gaussian:
    """Mean (d,), covariance (d, d) and a factor (d, r) of it, float64; `n` rows made them, None if unknown."""

    mean: Tensor
    covariance: Tensor
    n: int | None = None
    exact_factor: Tensor | None = None

    def factor(self) -> Tensor:
        """Return F (d, r) with F F^T = covariance; from the rows themselves where those are at hand."""
        if self.exact_factor is not None:
            return self.exact_factor
        values, vectors = torch.linalg.eigh(self.covariance)
        rank = len(values) if self.n is None else min(len(values), max(self.n - 1, 0))
        # what is left below this is rounding; its square roots would add up
        keep = values > values[-1].clamp(min=0.0) * len(values) * torch.finfo(torch.float64).eps
        keep[: len(values) - rank] = False
        return vectors[:, keep] * values[keep].sqrt()


class Moments:
    """Mean and covariance of a stream of feature rows, in memory that does not grow with their number.

    Sums are taken in float64 about the first batch's mean, so that features far from zero lose nothing.
    """

    def __init__(self) -> None:
        self.n = 0
        self._shift: Tensor | None = None
        self._sum = torch.zeros(0)
        self._products = torch.zeros(0)

    def update(self, features: Tensor) -> None:
        """Add rows (n, d).

        Raises:
            ShapeError: another number of features than before.
        """
        rows = features.detach().double()
        if self._shift is None:
            self._shift = rows.mean(0)
            self._sum = torch.zeros_like(self._shift)
            self._products = rows.new_zeros(rows.shape[1], rows.shape[1])
        if rows.shape[1] != len(self._shift):
            raise ShapeError(f"features have {rows.shape[1]} columns; the rows before had {len(self._shift)}.")
        rows = rows - self._shift
        self.n += len(rows)
        self._sum += rows.sum(0)
        self._products.addmm_(rows.T, rows)

    def gaussian(self) -> Gaussian:
        """Return mean and unbiased covariance.

        Raises:
            DataError: fewer than two rows.
        """
        if self.n < 2 or self._shift is None:
            raise DataError(f"a covariance needs at least 2 rows of features; there are {self.n}.")
        mean = self._sum / self.n
        covariance = (self._products - self.n * torch.outer(mean, mean)) / (self.n - 1)
        covariance = (covariance + covariance.T) / 2
        return Gaussian((self._shift + mean).cpu(), covariance.cpu(), self.n)


def gaussian_of(features: Any, name: str = "features") -> Gaussian:
    """Fit a normal to feature rows (n, d), keeping an exact factor of its covariance.

    Raises:
        ShapeError, DataError: not rows and columns, NaN or infinite, or fewer than two rows.
    """
    rows = _rows(features, name)
    mean = rows.mean(0)
    centred = (rows - mean) / math.sqrt(len(rows) - 1)
    if len(rows) > rows.shape[1]:
        factor = torch.linalg.qr(centred, mode="r").R.T  # R^T R = S, without having squared anything
    else:
        factor = centred.T
    return Gaussian(mean, centred.T @ centred, len(rows), factor)


def frechet_distance(first: Gaussian, second: Gaussian) -> float:
    """Compute the squared Fréchet distance between two normals.

    Raises:
        ShapeError: they live in spaces of different dimension.
    """
    if first.mean.shape != second.mean.shape:
        raise ShapeError(f"the features have {len(first.mean)} and {len(second.mean)} dimensions; they must agree.")
    one, two = first.factor(), second.factor()
    shift = float((first.mean - second.mean).square().sum())
    traces = float(one.square().sum() + two.square().sum())
    return max(0.0, shift + traces - 2.0 * _nuclear_norm(one.T @ two))


def frechet_from_features(real: Any, generated: Any) -> float:
    """Compute the squared Fréchet distance between normals fitted to features (n, d) and (m, d)."""
    return frechet_distance(gaussian_of(real, "real"), gaussian_of(generated, "generated"))


def frechet_std_error(real: Any, generated: Any, n_real: int | None = None, n_generated: int | None = None) -> float:
    """Standard error of the Fréchet distance by the infinitesimal jackknife.

    Each row's influence is the derivative of the distance by the row's weight, in closed form:
    2 (m2 - m1).x + |x|^2 - x.T x about the mean, T the optimal map between the two normals (for rank-deficient sets the
    derivative of the nuclear norm takes its place). One pass, where a bootstrap would factor hundreds of matrices.
    It covers the choice of both sets; it does not cover the bias, which is about 1/N and upwards. Where the two laws
    nearly agree the distance has no first-order influence and the error bar comes out too small.

    Args:
        real: features (n, d), all of them or a random part.
        generated: features (m, d).
        n_real: rows the distance itself used on this side, if more; 0 to treat this side as known exactly.
        n_generated: the same for the other side.
    """
    a, b = _rows(real, "real"), _rows(generated, "generated")
    n_real = len(a) if n_real is None else n_real
    n_generated = len(b) if n_generated is None else n_generated
    gap = b.mean(0) - a.mean(0)
    a, b = a - a.mean(0), b - b.mean(0)
    map_a, map_b = _transport(a, b)
    variance = 0.0
    for rows, mapped, sign, size in ((a, map_a, -1.0, n_real), (b, map_b, 1.0, n_generated)):
        if size:
            influence = 2.0 * sign * (rows @ gap) + rows.square().sum(1) - (rows * mapped).sum(1)
            variance += float(influence.var(unbiased=True)) / size
    return math.sqrt(variance)


def _transport(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return for the centred rows of each set what the derivative of the nuclear norm pairs them with."""
    n, m = len(a), len(b)
    if min(n, m) > a.shape[1]:
        one = torch.linalg.qr(a / math.sqrt(n - 1), mode="r").R.T
        two = torch.linalg.qr(b / math.sqrt(m - 1), mode="r").R.T
        left, _, right = _svd(one.T @ two)
        rotation = left @ right  # S1^(1/2) rotated towards S2^(1/2): T1 = F2 R^T F1^-1
        return _unfactor(a, one) @ rotation @ two.T, _unfactor(b, two) @ rotation.T @ one.T
    left, _, right = _svd(a @ b.T)
    ratio = math.sqrt((n - 1) / (m - 1))
    return ratio * (left @ (right @ b)), (right.T @ (left.T @ a)) / ratio


def _unfactor(rows: Tensor, factor: Tensor) -> Tensor:
    """Return rows times the inverse of the lower triangular factor's transpose, or its pseudo-inverse if singular."""
    size = factor.diagonal().abs()
    if bool(size.min() > 1e-10 * size.max()):
        return torch.linalg.solve_triangular(factor, rows.T, upper=False).T
    return rows @ torch.linalg.pinv(factor, rtol=1e-10).T


def _svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    keep = values > values[:1] * max(matrix.shape) * torch.finfo(matrix.dtype).eps
    return left[:, keep], values[keep], right[keep]


def frechet_infinity(real: Any, generated: Any, *, sizes: int = 8, repeats: int = 4, seed: int = 0) -> Metric:
    """Extrapolate the Fréchet distance to infinitely many samples.

    Chong and Forsyth, *Effectively unbiased FID and Inception score and where to find them*, 2020: the distance is
    regressed on 1/N over random subsets of both sets (from a quarter to all of them) and the intercept reported, with
    the standard error of the regression. Subsets overlap, so that the error bar is on the small side.

    Args:
        real: features (n, d).
        generated: features (m, d).
        sizes: subset sizes, at least 5.
        repeats: random subsets per size.
        seed: of the subsets.

    Raises:
        ConfigError: fewer than 5 sizes.
        DataError: fewer than 20 rows.
    """
    if sizes < 5 or repeats < 1:
        raise ConfigError(f"sizes is {sizes} and repeats {repeats}; at least 5 and 1 are needed.")
    a, b = _rows(real, "real"), _rows(generated, "generated")
    most = min(len(a), len(b))
    if most < 20:
        raise DataError(f"extrapolating needs at least 20 rows on both sides; the smaller has {most}.")
    draw = torch.Generator().manual_seed(seed)
    counts, values = [], []
    for count in np.linspace(most // 4, most, sizes).round().astype(int).tolist():
        for _ in range(repeats if count < most else 1):
            one, two = (rows[torch.randperm(len(rows), generator=draw)[:count]] for rows in (a, b))
            counts.append(count)
            values.append(frechet_from_features(one, two))
    slope, intercept, error = _regress(1.0 / np.array(counts), np.array(values))
    detail = {"slope": slope, "sizes": sorted(set(counts)), "repeats": repeats}
    return Metric(intercept, error, most, "estimate", False, detail)


def _regress(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """Return slope, intercept and the intercept's standard error of a least-squares line."""
    design = np.stack([x, np.ones_like(x)], 1)
    solution, *_ = np.linalg.lstsq(design, y, rcond=None)
    residual = y - design @ solution
    spread = float(residual @ residual) / max(len(x) - 2, 1)
    covariance = np.linalg.inv(design.T @ design) * spread
    return float(solution[0]), float(solution[1]), math.sqrt(covariance[1, 1])


def kernel_distance(
    real: Any, generated: Any, *, subsets: int = 100, subset_size: int = 1000, seed: int = 0, degree: int = 3
) -> Metric:
    """Compute the kernel (Inception) distance: unbiased squared MMD with the kernel (x.y / d + 1)^3.

    Bińkowski et al., *Demystifying MMD GANs*, 2018. Unbiased at any sample size, so it may be negative. Both sets are
    cut at random into disjoint blocks and these are averaged (several times over, until `subsets` are used); the
    standard error is the blocks' deviation over the square root of the number of *disjoint* blocks. Too few rows
    for two blocks: one value over all rows, without an error bar.

    Args:
        real: features (n, d).
        generated: features (m, d).
        subsets: how many pairs of blocks to average.
        subset_size: rows per block, 1000 by custom.
        seed: of the blocks.
        degree: of the polynomial.

    Raises:
        ConfigError: no subsets, or blocks of fewer than two rows.
    """
    if subsets < 1 or subset_size < 2:
        raise ConfigError(f"subsets is {subsets} and subset_size {subset_size}; at least 1 and 2 are needed.")
    a, b = _rows(real, "real"), _rows(generated, "generated")
    if a.shape[1] != b.shape[1]:
        raise ShapeError(f"the features have {a.shape[1]} and {b.shape[1]} dimensions; they must agree.")
    size = min(subset_size, len(a), len(b))
    disjoint = min(len(a), len(b)) // size
    if disjoint < 2 and subset_size > 20:  # rather smaller blocks with an error bar than one without
        smaller = min(len(a), len(b)) // 10
        if smaller >= 20:
            size, disjoint = smaller, min(len(a), len(b)) // smaller
    draw = torch.Generator().manual_seed(seed)
    values: list[float] = []
    while len(values) < subsets:
        order_a, order_b = (torch.randperm(len(rows), generator=draw) for rows in (a, b))
        for i in range(min(disjoint, subsets - len(values))):
            block = slice(i * size, (i + 1) * size)
            values.append(mmd(a[order_a[block]], b[order_b[block]], degree))
        if disjoint < 2:
            break
    spread = float(np.std(values, ddof=1)) / math.sqrt(min(disjoint, len(values))) if len(values) > 1 else None
    detail = {"subsets": len(values), "subset_size": size, "degree": degree}
    return Metric(float(np.mean(values)), spread, min(len(a), len(b)), "estimate", False, detail)


def mmd(a: Tensor, b: Tensor, degree: int = 3) -> float:
    """Unbiased squared MMD of rows (n, d) and (m, d) under the polynomial kernel."""
    n, m, scale = len(a), len(b), 1.0 / a.shape[1]
    within_a = (a @ a.T * scale + 1.0) ** degree
    within_b = (b @ b.T * scale + 1.0) ** degree
    across = (a @ b.T * scale + 1.0) ** degree
    own_a = (within_a.sum() - within_a.diagonal().sum()) / (n * (n - 1))
    own_b = (within_b.sum() - within_b.diagonal().sum()) / (m * (m - 1))
    return float(own_a + own_b - 2.0 * across.mean())


def inception_score(logits: Any, *, splits: int = 10, seed: int = 0) -> Metric:
    """exp of the mean divergence of p(y | x) from p(y) (Salimans et al., 2016): mean and error over random splits.

    Meaningless for pictures unlike ImageNet's; biased upwards with few samples per class.

    Args:
        logits: class logits (n, classes), without the last layer's bias for the standard network.
        splits: parts the rows are divided into.
        seed: of the division.

    Raises:
        DataError: fewer rows than splits.
    """
    rows = _rows(logits, "logits")
    if len(rows) < splits or splits < 1:
        raise DataError(f"the Inception score needs at least one row per split; {len(rows)} rows, {splits} splits.")
    rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))].log_softmax(1)
    scores = []
    for part in rows.tensor_split(splits):
        marginal = part.logsumexp(0) - math.log(len(part))
        scores.append(float((part.exp() * (part - marginal)).sum(1).mean().exp()))
    error = float(np.std(scores, ddof=1)) / math.sqrt(splits) if splits > 1 else None
    return Metric(float(np.mean(scores)), error, len(rows), "estimate", True, {"splits": splits})


def _nuclear_norm(matrix: Tensor) -> float:
    return float(torch.linalg.svdvals(matrix).sum()) if matrix.numel() else 0.0


def _rows(values: Any, name: str) -> Tensor:
    rows = (
        values.detach().cpu().double() if isinstance(values, Tensor) else torch.as_tensor(np.asarray(values)).double()
    )
    if rows.ndim != 2 or rows.shape[1] == 0:
        raise ShapeError(f"{name} has shape {tuple(rows.shape)}; expected features of shape (rows, features).")
    if len(rows) < 2:
        raise DataError(f"{name} has {len(rows)} row; a distance between samples needs at least 2 on each side.")
    if not bool(torch.isfinite(rows).all()):
        row = int((~torch.isfinite(rows)).any(1).nonzero()[0])
        raise DataError(f"{name} holds NaN or infinite features in row {row}.")
    return rows
