"""Distances between samples: exact where an oracle knows, unbiased where promised, with honest error bars."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import linalg

from phlogiston.errors import ConfigError, DataError, ShapeError
from phlogiston.evaluate import frechet
from phlogiston.evaluate.frechet import (
    Gaussian,
    Moments,
    frechet_distance,
    frechet_from_features,
    frechet_infinity,
    frechet_std_error,
    gaussian_of,
    inception_score,
    kernel_distance,
)


def oracle(a: np.ndarray, b: np.ndarray) -> float:
    """The definition, with the nuclear norm of the centred products in long double accumulation order."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    x, y = (a - a.mean(0)) / math.sqrt(len(a) - 1), (b - b.mean(0)) / math.sqrt(len(b) - 1)
    trace = linalg.svdvals(x @ y.T).sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + (x**2).sum() + (y**2).sum() - 2 * trace)


def features(n: int, d: int, seed: int, spread: float = 1.0, shift: float = 0.0) -> np.ndarray:
    random = np.random.default_rng(seed)
    mix = np.random.default_rng(99).normal(size=(d, d)) / math.sqrt(d)
    return random.normal(size=(n, d)) @ mix * spread + shift


@pytest.mark.parametrize(
    ("n", "m", "d"),
    [(400, 300, 8), (20, 30, 64), (20, 400, 64), (400, 20, 64), (100, 90, 1), (2, 3, 5), (65, 65, 64), (300, 300, 256)],
)
def test_the_distance_equals_the_oracle_from_features_and_from_streamed_moments(n: int, m: int, d: int) -> None:
    a, b = features(n, d, 1), features(m, d, 2, 1.3, 0.4)
    wanted = oracle(a, b)
    assert frechet_from_features(a, b) == pytest.approx(wanted, rel=1e-6)
    streamed = []
    for rows in (a, b):
        moments = Moments()
        for block in np.array_split(rows, min(3, len(rows))):
            moments.update(torch.tensor(block))
        streamed.append(moments.gaussian())
    assert frechet_distance(*streamed) == pytest.approx(wanted, rel=1e-6)


def test_the_distance_equals_the_textbook_formula_where_matrix_roots_are_safe() -> None:
    a, b = features(500, 6, 1), features(500, 6, 2, 1.5)
    one, two = np.cov(a.T), np.cov(b.T)
    root = linalg.sqrtm(one)
    inner = np.sqrt(np.linalg.eigvalsh(root.real @ two @ root.real)).sum()
    wanted = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(one) + np.trace(two) - 2 * inner
    assert frechet_from_features(a, b) == pytest.approx(wanted, rel=1e-9)


def test_covariances_of_huge_condition_lose_nothing() -> None:
    scales = np.logspace(0, -8, 16)
    random = np.random.default_rng(0)
    a, b = random.normal(size=(200, 16)) * scales, random.normal(size=(200, 16)) * scales * 1.1
    assert frechet_from_features(a, b) == pytest.approx(oracle(a, b), rel=1e-6)


@pytest.mark.parametrize("decades", [0, 2, 4, 6, 8])
@pytest.mark.parametrize(("n", "m", "d"), [(200, 180, 48), (30, 180, 48), (200, 30, 48)])
def test_the_distance_is_exact_at_every_condition_and_rank(n: int, m: int, d: int, decades: int) -> None:
    random = np.random.default_rng(7)
    turn = linalg.qr(random.normal(size=(d, d)))[0]
    a, b = (random.normal(size=(k, d)) * np.logspace(0, -decades, d) @ turn for k in (n, m))
    found = frechet_from_features(a, 1.2 * b)
    assert found == pytest.approx(oracle(a, 1.2 * b), rel=1e-10)
    streamed = []
    for rows in (a, 1.2 * b):
        moments = Moments()
        moments.update(torch.tensor(rows))
        streamed.append(moments.gaussian())
    # a covariance knows its small eigenvalues to the rounding of its large ones
    assert frechet_distance(*streamed) == pytest.approx(found, rel=1e-10 if decades < 4 else 1e-6)


def test_the_faster_nuclear_norm_gives_way_where_squares_lose_digits() -> None:
    draw = torch.Generator().manual_seed(0)
    turns = [torch.linalg.qr(torch.randn(40, 40, generator=draw, dtype=torch.float64))[0] for _ in range(2)]
    for smallest in (1e-1, 1e-4, 1e-8, 1e-12, 0.0):
        values = torch.linspace(smallest, 1.0, 40, dtype=torch.float64)
        values[1:5] = smallest
        matrix = turns[0] * values @ turns[1]
        for given in (matrix, matrix[:, :7], matrix[:7]):
            wanted = float(torch.linalg.svdvals(given).sum())
            assert frechet._nuclear_norm(given) == pytest.approx(wanted, rel=2e-9)


@pytest.mark.parametrize(("n", "d"), [(300, 32), (20, 64), (50, 1)])
def test_identical_sets_have_distance_zero(n: int, d: int) -> None:
    a = features(n, d, 3, shift=5.0)
    assert frechet_from_features(a, a) <= 1e-9
    moments = Moments()
    moments.update(torch.tensor(a))
    assert frechet_distance(moments.gaussian(), moments.gaussian()) <= 1e-9
    assert frechet_distance(moments.gaussian(), gaussian_of(a)) <= 1e-7


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance`:UserWarning")
def test_torchmetrics_agrees_on_the_distance_and_on_kid() -> None:
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    class Flat(torch.nn.Module):
        num_features = 12

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1).float() / 255

    images = [torch.randint(0, top, (300, 3, 2, 2), dtype=torch.uint8) for top in (256, 200)]
    rows = [Flat()(x) for x in images]
    fid = FrechetInceptionDistance(feature=Flat())
    kid = KernelInceptionDistance(feature=Flat(), subsets=1, subset_size=300)
    for metric in (fid, kid):
        metric.update(images[0], real=True)
        metric.update(images[1], real=False)
    assert frechet_from_features(*rows) == pytest.approx(float(fid.compute()), rel=1e-4)
    assert frechet.mmd(rows[0].double(), rows[1].double()) == pytest.approx(float(kid.compute()[0]), abs=1e-5)


def test_streamed_moments_survive_features_far_from_zero() -> None:
    rows = torch.randn(1000, 4, dtype=torch.float64) + 1e6
    moments = Moments()
    for block in rows.split(64):
        moments.update(block)
    found = moments.gaussian()
    assert torch.allclose(found.covariance, torch.cov(rows.T), rtol=1e-8)
    assert torch.allclose(found.mean, rows.mean(0), rtol=1e-14)


def test_constant_features_have_a_distance() -> None:
    a = np.ones((10, 4))
    assert frechet_from_features(a, a) == 0.0
    assert frechet_from_features(a, a + 2.0) == pytest.approx(16.0)


@pytest.mark.parametrize(("n", "d"), [(400, 6), (60, 100)])
def test_the_error_bar_equals_the_spread_between_repetitions(n: int, d: int) -> None:
    values, errors = [], []
    for seed in range(60):
        a, b = features(n, d, 2 * seed), features(n, d, 2 * seed + 1, 1.6, 0.3)
        values.append(frechet_from_features(a, b))
        errors.append(frechet_std_error(a, b))
    assert np.mean(errors) == pytest.approx(np.std(values, ddof=1), rel=0.3)


def test_the_error_bar_equals_the_delete_one_jackknife() -> None:
    a, b = features(60, 4, 0), features(50, 4, 1, 1.5)
    variance = 0.0
    for side, rows in enumerate((a, b)):
        left_out = []
        for i in range(len(rows)):
            fewer = np.delete(rows, i, 0)
            left_out.append(frechet_from_features(*((fewer, b) if side == 0 else (a, fewer))))
        variance += (len(rows) - 1) / len(rows) * float(((np.array(left_out) - np.mean(left_out)) ** 2).sum())
    assert frechet_std_error(a, b) == pytest.approx(math.sqrt(variance), rel=0.1)


def test_extrapolation_removes_the_bias_of_few_samples() -> None:
    a, b = features(1500, 32, 1), features(1500, 32, 2)  # one law: the true distance is 0
    plain, found = frechet_from_features(a, b), frechet_infinity(a, b)
    assert plain > 0.25
    assert abs(found.value) < 0.1 * plain
    assert len(found.detail["sizes"]) >= 5
    assert min(found.detail["sizes"]) == 375


def test_kid_of_two_samples_of_one_law_is_zero_on_average() -> None:
    values = []
    for seed in range(200):
        draw = torch.Generator().manual_seed(seed)
        a, b = (torch.randn(60, 8, generator=draw, dtype=torch.float64) for _ in range(2))
        values.append(frechet.mmd(a, b))
    error = np.std(values, ddof=1) / math.sqrt(200)
    assert abs(np.mean(values)) < 3 * error
    assert min(values) < 0 < max(values)


@pytest.mark.parametrize(
    ("n", "m", "d", "scale"), [(200, 200, 8, 1.0), (400, 40, 8, 1.2), (20, 300, 16, 1.0), (60, 60, 64, 1.1)]
)
def test_the_error_bar_of_kid_covers_at_any_sizes(n: int, m: int, d: int, scale: float) -> None:
    """Of sets of unequal size, of equal laws, and of fewer rows than features."""
    draw = torch.Generator().manual_seed(0)
    values, errors = [], []
    for _ in range(200):
        a = torch.randn(n, d, generator=draw, dtype=torch.float64)
        found = kernel_distance(a, scale * torch.randn(m, d, generator=draw, dtype=torch.float64))
        values.append(found.value)
        errors.append(found.std_error)
    # E (x.y / d + 1)^3 = 1 + 3 E (x.y)^2 / d^2, and E (x.y)^2 = d s^2 t^2 for independent normals
    truth = 3.0 * (1.0 + scale**4 - 2.0 * scale**2) / d
    got, stated = np.array(values), np.array(errors)
    assert abs(got.mean() - truth) < 4 * got.std() / math.sqrt(200)
    assert np.sqrt((stated**2).mean()) == pytest.approx(got.std(ddof=1), rel=0.25)
    # of 200 intervals at 95 % fewer than 174 happen once in a million runs; long tails cost a few
    assert (np.abs(got - truth) < 1.96 * stated).mean() >= 0.87


@pytest.mark.parametrize(("n", "m"), [(1000, 20), (1000, 199), (30, 50), (4, 300)])
def test_kid_uses_every_row_of_both_sets(n: int, m: int) -> None:
    a, b = features(n, 8, 1), features(m, 8, 2, 1.1)
    kernel = {key: (x @ y.T / 8 + 1.0) ** 3 for key, (x, y) in {"aa": (a, a), "bb": (b, b), "ab": (a, b)}.items()}
    inner = [(kernel[key].sum() - np.trace(kernel[key])) / (size * (size - 1)) for key, size in (("aa", n), ("bb", m))]
    found = [kernel_distance(a, b, seed=seed) for seed in (0, 1)]
    assert found[0].value == found[1].value == pytest.approx(sum(inner) - 2 * kernel["ab"].mean(), rel=1e-9, abs=1e-9)
    assert found[0].std_error is not None
    assert found[0].detail["n_real"] == n
    assert found[0].detail["n_generated"] == m


def test_kid_of_large_sets_goes_by_blocks_that_hold_every_row(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = features(900, 8, 1), features(120, 8, 2, 1.2)
    whole = kernel_distance(a, b)
    seen: list[int] = []
    plain = frechet._mmd
    monkeypatch.setattr(frechet, "_mmd", lambda x, y, k: (seen.append(len(x) + len(y)), plain(x, y, k))[1])
    monkeypatch.setattr(frechet, "_PAIRS", 200_000)
    parts = kernel_distance(a, b)
    assert parts.detail["blocks"] > 1
    assert sum(seen) == 1020
    assert parts.std_error is not None
    assert whole.std_error is not None
    assert abs(parts.value - whole.value) < 4 * parts.std_error
    assert whole.std_error < 1.2 * parts.std_error


def test_kid_of_very_few_rows_has_no_error_bar() -> None:
    assert kernel_distance(features(3, 4, 1), features(50, 4, 2)).std_error is None


def test_kid_tells_different_laws_apart() -> None:
    found = kernel_distance(features(600, 8, 1), features(600, 8, 2, 1.5))
    assert found.std_error is not None
    assert found.value > 5 * found.std_error > 0


def test_extrapolation_thins_both_sets_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, int]] = []
    plain = frechet.frechet_from_features
    monkeypatch.setattr(frechet, "frechet_from_features", lambda x, y: (sizes.append((len(x), len(y))), plain(x, y))[1])
    found = frechet_infinity(features(2000, 16, 1), features(400, 16, 2))
    assert max(sizes) == (2000, 400)
    assert all(abs(x - 5 * y) <= 5 for x, y in sizes)
    assert abs(found.value) < 0.1 * plain(features(2000, 16, 1), features(400, 16, 2))


def test_the_inception_score_is_one_for_uncertain_and_the_number_of_classes_for_sure_and_varied_logits() -> None:
    assert inception_score(torch.zeros(100, 5)).value == pytest.approx(1.0)
    sure = torch.eye(5).repeat(200, 1) * 50
    assert inception_score(sure, splits=2).value == pytest.approx(5.0, rel=0.02)


@pytest.mark.parametrize(
    ("a", "b", "error", "told"),
    [
        (np.zeros((1, 3)), np.zeros((5, 3)), DataError, "at least 2"),
        (np.full((5, 3), np.nan), np.zeros((5, 3)), DataError, "real holds NaN or infinite features in row 0"),
        (np.zeros((5, 3)), np.zeros((5, 4)), ShapeError, "3 and 4 dimensions"),
        (np.zeros(5), np.zeros((5, 4)), ShapeError, "expected features of shape"),
    ],
)
def test_malformed_features_are_refused(a: np.ndarray, b: np.ndarray, error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        frechet_from_features(a, b)


def test_senseless_options_are_refused() -> None:
    a = np.random.default_rng(0).normal(size=(50, 2))
    with pytest.raises(ConfigError):
        frechet_infinity(a, a, sizes=3)
    with pytest.raises(DataError):
        frechet_infinity(a[:10], a)
    with pytest.raises(DataError, match="at least 2 rows"):
        Moments().gaussian()
    assert isinstance(gaussian_of(a), Gaussian)
