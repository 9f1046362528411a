"""Precision, recall, density and coverage: hand-worked sets, the definitions by brute force, and what they are for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from phlogiston.errors import ConfigError, DataError, ShapeError
from phlogiston.evaluate import neighbours
from phlogiston.evaluate.neighbours import all_four, density_coverage, precision_recall


def brute(real: np.ndarray, fake: np.ndarray, k: int) -> dict[str, float]:
    """The definitions, one distance at a time."""

    def radius(points: np.ndarray, i: int) -> float:
        return sorted(np.linalg.norm(points[i] - points[j]) for j in range(len(points)) if j != i)[k - 1]

    real_radii, fake_radii = ([radius(p, i) for i in range(len(p))] for p in (real, fake))
    inside = np.array([[np.linalg.norm(f - r) <= real_radii[i] for i, r in enumerate(real)] for f in fake])
    recalled = np.array([[np.linalg.norm(f - r) <= fake_radii[j] for j, f in enumerate(fake)] for r in real])
    return {
        "precision": inside.any(1).mean(),
        "recall": recalled.any(1).mean(),
        "density": inside.sum(1).mean() / k,
        "coverage": inside.any(0).mean(),
    }


@pytest.mark.parametrize(("n", "d", "k"), [(40, 2, 3), (30, 50, 5), (25, 1, 1)])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_figures_follow_the_definitions(
    n: int, d: int, k: int, dtype: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "_BLOCK_BYTES", 7 * n * 8)  # several blocks, the last one smaller
    random = np.random.default_rng(0)
    real, fake = (random.normal(shift, 1.0, (n, d)).astype(dtype) for shift in (0.0, 0.4))
    found = all_four(real, fake, k)
    for name, value in brute(real, fake, k).items():
        assert found[name].value == pytest.approx(value)


def test_a_set_compared_with_itself_scores_one_everywhere() -> None:
    points = np.random.default_rng(0).integers(0, 4, (200, 40)).astype(float)  # many duplicates and ties
    found = all_four(points, points)
    assert found["precision"].value == found["recall"].value == found["f1"].value == found["coverage"].value == 1.0


def test_sets_far_apart_score_zero() -> None:
    found = all_four(np.random.default_rng(0).normal(size=(50, 3)), np.random.default_rng(1).normal(100, 1, (50, 3)))
    assert {name: metric.value for name, metric in found.items()} == dict.fromkeys(
        ("precision", "recall", "f1", "density", "coverage"), 0.0
    )


def test_lost_modes_cost_recall_and_coverage_and_not_precision() -> None:
    random = np.random.default_rng(0)
    centres = np.array([[0.0, 0.0], [20.0, 0.0], [0.0, 20.0], [20.0, 20.0]])
    real = centres[np.arange(400) % 4] + random.normal(size=(400, 2))
    fake = centres[np.zeros(400, int)] + random.normal(size=(400, 2))
    found = all_four(real, fake)
    assert found["precision"].value > 0.95
    assert found["recall"].value < 0.3
    assert found["coverage"].value < 0.3
    assert found["f1"].value == pytest.approx(2 * 0.98 * 0.25 / 1.23, abs=0.06)


def test_density_is_one_in_expectation_for_equal_laws() -> None:
    random = np.random.default_rng(0)
    found = density_coverage(random.normal(size=(1500, 3)), random.normal(size=(1500, 3)))
    assert abs(found["density"].value - 1.0) < 5 * found["density"].std_error


@pytest.mark.parametrize(("n", "m"), [(200, 60), (40, 90)])
def test_every_row_of_sets_of_unequal_size_counts(n: int, m: int) -> None:
    random = np.random.default_rng(0)
    real = np.concatenate([random.normal(size=(n // 2, 2)), random.normal(50, 1, (n // 2, 2))])
    fake = random.normal(size=(m, 2))
    found = all_four(real, fake, 3)
    for name, value in brute(real, fake, 3).items():
        assert found[name].value == pytest.approx(value), name
        assert found[name].n == (m if name in ("precision", "density") else n)
        assert found[name].detail["n_real"] == n
        assert found[name].detail["n_generated"] == m


@pytest.mark.parametrize("unit", [1e-30, 1e30])
def test_the_figures_know_no_units(unit: float) -> None:
    random = np.random.default_rng(0)
    real, fake = random.normal(size=(60, 40)), random.normal(0.3, 1.0, (50, 40))
    found = all_four(torch.tensor(real * unit).float(), torch.tensor(fake * unit).float())
    for name, value in brute(real, fake, 5).items():
        assert found[name].value == pytest.approx(value), name


def test_features_of_low_precision_are_widened_and_memory_stays_in_blocks() -> None:
    half = torch.randn(50, 3).half() * 1000
    assert precision_recall(half, half)["precision"].value == 1.0
    assert all(block.stop - block.start <= 3 for block, _ in _blocks(3))


def _blocks(rows: int) -> list[tuple[slice, torch.Tensor]]:
    points = torch.randn(10, 2, dtype=torch.float64)
    saved, neighbours._BLOCK_BYTES = neighbours._BLOCK_BYTES, rows * 10 * 8
    try:
        return list(neighbours._distances(points, points))
    finally:
        neighbours._BLOCK_BYTES = saved


def test_error_bars_match_the_spread_between_repetitions() -> None:
    found = [
        precision_recall(*(torch.randn(200, 2, generator=torch.Generator().manual_seed(2 * s + i)) for i in (0, 1)))
        for s in range(40)
    ]
    spread = np.std([m["precision"].value for m in found], ddof=1)
    stated = np.mean([m["precision"].std_error for m in found])
    assert 0.5 < stated / spread < 1.5


@pytest.mark.parametrize(
    ("real", "fake", "k", "error", "told"),
    [
        (np.zeros((9, 2)), np.zeros((9, 3)), 3, ShapeError, "2 features and generated 3"),
        (np.zeros(9), np.zeros((9, 3)), 3, ShapeError, "expected features of shape"),
        (np.zeros((3, 2)), np.zeros((9, 2)), 3, DataError, "real has 3 rows; more than k = 3"),
        (np.full((9, 2), np.inf), np.zeros((9, 2)), 3, DataError, "infinite features in row 0"),
        (np.zeros((9, 2)), np.zeros((9, 2)), 0, ConfigError, "k is 0"),
    ],
)
def test_malformed_sets_are_refused(
    real: np.ndarray, fake: np.ndarray, k: int, error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        precision_recall(real, fake, k)
