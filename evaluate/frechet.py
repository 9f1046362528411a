"""Distances between two samples of features: Fréchet (with its error bar and its limit), and the kernel distance.

The Fréchet distance between normals, |m1 - m2|^2 + tr S1 + tr S2 - 2 tr sqrt(S1 S2) (Dowson and Landau, 1982), is
computed without any matrix square root: with S = F F^T the last trace is the nuclear norm of F1^T F2. That form never
squares condition numbers, needs no full rank, and takes fewer rows than features as they come. All in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from phlogiston.arrays import tensor_of
from phlogiston.errors import ConfigError, DataError, ShapeError
from phlogiston.evaluate.metric import Metric

_PAIRS = 300_000_000  # kernel values of one U-statistic; sets with more are divided into blocks
_BLOCK_NUMBERS = 8_000_000  # kernel values in memory at a time
_EPS = torch.finfo(torch.float64).eps
_CLEAR = 1e4 * _EPS  # pivots of a covariance, times its size: above this it has full rank, and rounding is far below
_ACCURACY = 1e-9  # of a nuclear norm, relative: what its faster form has to promise, and then keeps many times over


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
        size = len(self.covariance)
        rank = size if self.n is None else min(size, max(self.n - 1, 0))
        if rank == size:
            lower, failed = torch.linalg.cholesky_ex(self.covariance)
            pivots = lower.diagonal().square()
            if not int(failed) and bool(pivots.min() > _CLEAR * size * pivots.max()):
                return lower
        values, vectors = torch.linalg.eigh(self.covariance)
        # what is left below this is rounding; its square roots would add up
        keep = values > values[-1].clamp(min=0.0) * size * _EPS
        keep[: size - rank] = False
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
    It covers the choice of both sets; it does not cover the bias, which is about 1/N and upwards. Where the two
    distributions nearly agree the distance has no first-order influence and the error bar comes out too small.

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
        return a @ _unfactor(one, rotation @ two.T), b @ _unfactor(two, rotation.T @ one.T)
    left, _, right = _svd(a @ b.T)
    ratio = math.sqrt((n - 1) / (m - 1))
    return ratio * (left @ (right @ b)), (right.T @ (left.T @ a)) / ratio


def _unfactor(factor: Tensor, matrix: Tensor) -> Tensor:
    """Return F^-T M, F lower triangular; by its pseudo-inverse where F is singular."""
    size = factor.diagonal().abs()
    if bool(size.min() > 1e-10 * size.max()):
        return torch.linalg.solve_triangular(factor.T, matrix, upper=True)
    return torch.linalg.pinv(factor, rtol=1e-10).T @ matrix


def _svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    keep = values > values[:1] * max(matrix.shape) * torch.finfo(matrix.dtype).eps
    return left[:, keep], values[keep], right[keep]


def frechet_infinity(real: Any, generated: Any, *, sizes: int = 8, repeats: int = 4, seed: int = 0) -> Metric:
    """Extrapolate the Fréchet distance to infinitely many samples.

    Chong and Forsyth, *Effectively unbiased FID and Inception score and where to find them*, 2020: the distance is
    regressed on 1/N over random subsets of both sets (from a quarter to all of them) and the intercept reported, with
    the standard error of the regression. Subsets overlap, so that the error bar is on the small side. Sets of unequal
    size are thinned by the same share: the bias falls with the share whatever the sizes, and no row is left out.

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
    fewer = min(len(a), len(b))
    if fewer < 20:
        raise DataError(f"extrapolating needs at least 20 rows on both sides; the smaller has {fewer}.")
    draw = torch.Generator().manual_seed(seed)
    counts, values = [], []
    for count in np.linspace(fewer // 4, fewer, sizes).round().astype(int).tolist():
        for _ in range(repeats if count < fewer else 1):
            parts = (rows[torch.randperm(len(rows), generator=draw)[: count * len(rows) // fewer]] for rows in (a, b))
            counts.append(count)
            values.append(frechet_from_features(*parts))
    slope, intercept, error = _regress(1.0 / np.array(counts), np.array(values))
    detail = {"slope": slope, "sizes": sorted(set(counts)), "repeats": repeats, "n_real": len(a), "n_generated": len(b)}
    return Metric(intercept, error, fewer, "estimate", False, detail)


def _regress(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """Return slope, intercept and the intercept's standard error of a least-squares line."""
    design = np.stack([x, np.ones_like(x)], 1)
    solution, *_ = np.linalg.lstsq(design, y, rcond=None)
    residual = y - design @ solution
    spread = float(residual @ residual) / max(len(x) - 2, 1)
    covariance = np.linalg.inv(design.T @ design) * spread
    return float(solution[0]), float(solution[1]), math.sqrt(covariance[1, 1])


def kernel_distance(real: Any, generated: Any, *, seed: int = 0, degree: int = 3) -> Metric:
    """Compute the kernel (Inception) distance: unbiased squared MMD with the kernel (x.y / d + 1)^3.

    Bińkowski et al., *Demystifying MMD GANs*, 2018. Unbiased at any sample size, so it may be negative. Every row of
    both sets is used. Up to about 10,000 rows on either side this is the U-statistic over all pairs, whatever the seed;
    larger sets are divided at random into disjoint blocks, whose values are averaged. The standard error is that of the
    U-statistic, both of its orders: it holds for sets of unequal size and where the two distributions agree.

    Args:
        real: features (n, d).
        generated: features (m, d).
        seed: of the division into blocks.
        degree: of the polynomial.

    Returns:
        The distance; without an error bar where a set has fewer than four rows.
    """
    a, b = _rows(real, "real"), _rows(generated, "generated")
    if a.shape[1] != b.shape[1]:
        raise ShapeError(f"the features have {a.shape[1]} and {b.shape[1]} dimensions; they must agree.")
    n, m = len(a), len(b)
    blocks = max(1, min(math.ceil((n * n + m * m + n * m) / _PAIRS), n // 4, m // 4))
    if blocks > 1:
        draw = torch.Generator().manual_seed(seed)
        a, b = (rows[torch.randperm(len(rows), generator=draw)] for rows in (a, b))
    pairs = zip(a.tensor_split(blocks), b.tensor_split(blocks), strict=True)
    values, variances = zip(*(_mmd(*pair, degree) for pair in pairs), strict=True)
    error = None if min(n, m) < 4 else math.sqrt(sum(variances)) / blocks
    detail = {"n_real": n, "n_generated": m, "blocks": blocks, "degree": degree}
    return Metric(sum(values) / blocks, error, min(n, m), "estimate", False, detail)


def mmd(a: Tensor, b: Tensor, degree: int = 3) -> float:
    """Unbiased squared MMD of rows (n, d) and (m, d) under the polynomial kernel."""
    return _mmd(a, b, degree)[0]


def _mmd(a: Tensor, b: Tensor, degree: int) -> tuple[float, float]:
    """The U-statistic of squared MMD and an estimate of its variance.

    The variance has two orders (Hoeffding, 1948): that of the rows' influence, and that of the kernel with its row and
    column means taken away, which is all that is left where both sets follow one distribution. The variance of the
    estimated influences holds the second order twice over, so it is taken off once.
    """
    n, m = len(a), len(b)
    within_a, within_b, across = _sums(a, a, degree), _sums(b, b, degree), _sums(a, b, degree)
    of_a, of_b = within_a.rows / (n - 1), within_b.rows / (m - 1)
    to_b, to_a = across.rows / m, across.columns / n
    value = float(of_a.mean() + of_b.mean() - to_b.mean() - to_a.mean())
    if min(n, m) < 4:
        return value, math.nan
    second = (
        2.0 * _own_spread(within_a.squares, of_a) / (n * (n - 1.0))
        + 2.0 * _own_spread(within_b.squares, of_b) / (m * (m - 1.0))
        + 4.0 * _cross_spread(across.squares, to_b, to_a) / (n * m)
    )
    influence = 4.0 * float((of_a - to_b).var() / n + (of_b - to_a).var() / m)
    return value, max(influence - second, 0.5 * second)


class _Sums(NamedTuple):
    """Sums over a kernel matrix (its diagonal left out where a set meets itself): by row, by column, of squares."""

    rows: Tensor
    columns: Tensor
    squares: float


def _sums(a: Tensor, b: Tensor, degree: int) -> _Sums:
    """Kernel sums in blocks of rows: memory does not grow with the number of pairs."""
    rows, columns, squares = a.new_empty(len(a)), b.new_zeros(len(b)), 0.0
    step = max(1, _BLOCK_NUMBERS // len(b))
    for start in range(0, len(a), step):
        kernel = torch.addmm(a.new_ones(()), a[start : start + step], b.T, alpha=1.0 / a.shape[1]).pow_(degree)
        if a is b:
            kernel.diagonal(start).zero_()
        rows[start : start + step] = kernel.sum(1)
        columns += kernel.sum(0)
        squares += float(kernel.square_().sum())
    return _Sums(rows, columns, squares)


def _own_spread(squares: float, mean: Tensor) -> float:
    """Mean square of a set's kernel with row and column means (n,) taken away, diagonal left out.

    Unbiased: Székely and Rizzo, "Partial distance correlation with methods for dissimilarities", Ann. Stat. 42, 2014.
    """
    n, whole = len(mean), float(mean.mean())
    around = float((mean - whole).square().sum())
    return max(0.0, squares - n * (n - 1) * whole**2 - 2.0 * (n - 1) ** 2 / (n - 2) * around) / (n * (n - 3.0))


def _cross_spread(squares: float, rows: Tensor, columns: Tensor) -> float:
    """The same for the kernel between two sets, with means (n,) and (m,)."""
    n, m, whole = len(rows), len(columns), float(rows.mean())
    around = m * float((rows - whole).square().sum()) + n * float((columns - whole).square().sum())
    return max(0.0, squares - n * m * whole**2 - around) / ((n - 1.0) * (m - 1.0))


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
    """Sum the singular values of a matrix.

    They are the roots of the eigenvalues of its square, which take a fraction of the time. Squaring costs accuracy
    where an eigenvalue is small: each is known to `error`, its root to error / (2 root). Where that adds up to more
    than `_ACCURACY` of the sum, the singular values are computed from the matrix itself.
    """
    if not matrix.numel():
        return 0.0
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    values = torch.linalg.eigvalsh(wide @ wide.T)
    error = float(values[-1]) * _EPS * 2.0 * math.sqrt(len(values))
    if float(values[0]) > error:
        roots = values.sqrt()
        if error * float(roots.reciprocal().sum()) <= 2.0 * _ACCURACY * float(roots.sum()):
            return float(roots.sum())
    return float(torch.linalg.svdvals(matrix).sum())


def _rows(values: Any, name: str) -> Tensor:
    rows = tensor_of(name, values).cpu().double()
    if rows.ndim != 2 or rows.shape[1] == 0:
        raise ShapeError(f"{name} has shape {tuple(rows.shape)}; expected features of shape (rows, features).")
    if len(rows) < 2:
        raise DataError(f"{name} has {len(rows)} row; a distance between samples needs at least 2 on each side.")
    if not bool(torch.isfinite(rows).all()):
        row = int((~torch.isfinite(rows)).any(1).nonzero()[0])
        raise DataError(f"{name} holds NaN or infinite features in row {row}.")
    return rows
