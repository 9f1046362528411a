"""Calibration, image error and probes against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import kstest, norm

from phlogiston.errors import ConfigError, DataError, ShapeError
from phlogiston.evaluate.calibration import calibration, coverage, crps, pit
from phlogiston.evaluate.image_error import image_error
from phlogiston.evaluate.probe import linear_probe

RANDOM = np.random.default_rng(0)


def test_the_pit_of_draws_from_the_truth_is_uniform_also_with_few_draws_and_ties() -> None:
    for draws, truth in (
        (RANDOM.normal(size=(9, 4000)), RANDOM.normal(size=4000)),
        (RANDOM.poisson(2.0, (9, 4000)), RANDOM.poisson(2.0, 4000)),
    ):
        assert kstest(pit(draws, truth), "uniform").pvalue > 0.01
    assert kstest(pit(2 * RANDOM.normal(size=(9, 4000)), RANDOM.normal(size=4000)), "uniform").pvalue < 1e-6


def test_weighted_draws_count_by_their_weight() -> None:
    draws = RANDOM.normal(0, 2, (2000, 1500))
    weights = norm.logpdf(draws, 0, 1) - norm.logpdf(draws, 0, 2)
    truth = RANDOM.normal(size=1500)
    assert kstest(pit(draws, truth, weights), "uniform").pvalue > 0.01
    assert crps(draws, truth, weights).mean() == pytest.approx(1 / math.sqrt(math.pi), abs=0.03)


def test_the_crps_of_a_normal_is_the_closed_form_and_unbiased_for_few_draws() -> None:
    truth = np.array([-1.0, 0.0, 0.7, 3.0])
    wanted = truth * (2 * norm.cdf(truth) - 1) + 2 * norm.pdf(truth) - 1 / math.sqrt(math.pi)
    assert np.allclose(crps(RANDOM.normal(size=(40_000, 4)), truth), wanted, atol=0.02)
    few = [crps(RANDOM.normal(size=(3, 4)), truth) for _ in range(20_000)]
    assert np.allclose(np.mean(few, 0), wanted, atol=0.03)


@pytest.mark.parametrize("unit", [1e-150, 1e-30, 1.0, 1e30, 1e150])
def test_the_crps_follows_units_and_origin(unit: float) -> None:
    random = np.random.default_rng(0)
    steps = random.integers(-2000, 2000, (30, 5)) / 1024.0  # exact beside the offset, so nothing is lost in the data
    truth, log_weights = random.integers(-2000, 2000, 5) / 1024.0, random.normal(size=(30, 5))
    for weights in (None, log_weights):
        wanted = crps(steps, truth, weights)
        scale = 2.0 ** round(math.log2(unit))
        moved = crps((steps + 2.0**40) * scale, (truth + 2.0**40) * scale, weights)
        assert moved / scale == pytest.approx(wanted, rel=1e-9)
        assert crps(steps * unit, truth * unit, weights) / unit == pytest.approx(wanted, rel=1e-9)


def test_torchmetrics_agrees_on_the_crps() -> None:
    from torchmetrics.regression import ContinuousRankedProbabilityScore

    draws, truth = torch.randn(50, 30), torch.randn(30)
    biased = ContinuousRankedProbabilityScore()(draws.T, truth)
    x = draws.double()
    spread = (x[:, None] - x[None]).abs().mean((0, 1))  # theirs counts a draw against itself; ours does not
    wanted = float(biased) + float((0.5 * spread).mean()) - float((0.5 * spread * 50 / 49).mean())
    assert crps(draws, truth).mean() == pytest.approx(wanted, abs=1e-5)


def test_intervals_cover_at_their_level() -> None:
    found = coverage(RANDOM.normal(size=(199, 3000)), RANDOM.normal(size=3000), (0.5, 0.9))
    for level, metric in found.items():
        assert abs(metric.value - level) < 4 * metric.std_error
        assert metric.detail["p_value"] > 0.001
    narrow = coverage(0.5 * RANDOM.normal(size=(199, 3000)), RANDOM.normal(size=3000), (0.9,))[0.9]
    assert narrow.value == pytest.approx(2 * norm.cdf(1.645 / 2) - 1, abs=0.04)
    assert narrow.detail["p_value"] < 1e-6


def test_calibration_in_one_call() -> None:
    found = calibration(RANDOM.normal(size=(99, 500)), RANDOM.normal(size=500))
    assert set(found) == {"crps", "pit_deviation", "coverage"}
    assert found["pit_deviation"].detail["p_value"] > 0.001


def test_malformed_predictions_are_refused() -> None:
    with pytest.raises(ShapeError):
        pit(np.zeros((3, 4)), np.zeros(5))
    with pytest.raises(DataError, match="NaN"):
        crps(np.full((3, 4), np.nan), np.zeros(4))
    with pytest.raises(DataError, match="at least 2 draws"):
        crps(np.zeros((1, 4)), np.zeros(4))
    with pytest.raises(DataError, match="log_weights"):
        pit(np.zeros((3, 4)), np.zeros(4), np.full(3, -np.inf))
    with pytest.raises(ConfigError):
        coverage(np.zeros((3, 4)), np.zeros(4), (1.5,))


@pytest.mark.parametrize(
    ("shape", "data_range"), [((3, 1, 11, 11), 1.0), ((2, 3, 24, 17), 1.0), ((4, 3, 20, 20), 255.0)]
)
def test_torchmetrics_agrees_on_the_structural_similarity(shape: tuple[int, ...], data_range: float) -> None:
    from torchmetrics.functional.image import structural_similarity_index_measure

    generator = torch.Generator().manual_seed(0)
    truth = data_range * torch.rand(shape, generator=generator)
    noisy = truth + 0.2 * data_range * torch.randn(shape, generator=generator)
    each = structural_similarity_index_measure(
        noisy.double(), truth.double(), data_range=data_range, reduction="none", gaussian_kernel=True
    )
    found = image_error(noisy, truth, data_range=data_range)["ssim"]
    assert found.value == pytest.approx(float(torch.as_tensor(each).mean()), abs=1e-6)


def test_the_structural_similarity_of_flat_images_has_a_closed_form() -> None:
    """No variance is left: of the formula only the luminance remains, (2 a b + c) / (a² + b² + c), c = 0.01²."""
    found = image_error(torch.full((1, 1, 12, 12), 0.8), torch.full((1, 1, 12, 12), 0.5))["ssim"]
    assert found.value == pytest.approx((2 * 0.8 * 0.5 + 1e-4) / (0.64 + 0.25 + 1e-4), abs=1e-6)


def test_image_errors_of_known_images() -> None:
    truth = torch.full((3, 1, 16, 16), 0.5)
    found = image_error(truth + 0.1, truth)
    assert found["mse"].value == pytest.approx(0.01, rel=1e-5)
    assert found["psnr"].value == pytest.approx(20.0, rel=1e-5)
    same = image_error(truth, truth)
    assert same["psnr"].value == pytest.approx(100.0)
    assert same["ssim"].value == pytest.approx(1.0)
    noisy = image_error((truth + 0.3 * torch.randn_like(truth)).clamp(0, 1), truth)
    assert noisy["ssim"].value < 0.5
    assert noisy["ssim"].n == 3


def test_clips_count_frame_by_frame_and_small_images_have_no_ssim() -> None:
    clips = torch.rand(2, 5, 3, 8, 8)
    found = image_error(clips, clips)
    assert found["mse"].n == 10
    assert "ssim" not in found
    with pytest.raises(ShapeError):
        image_error(torch.zeros(2, 4, 4), torch.zeros(2, 4, 5))
    with pytest.raises(DataError):
        image_error(torch.full((2, 4, 4), math.nan), torch.zeros(2, 4, 4))


def test_a_linear_probe_reads_what_is_there_and_only_that() -> None:
    labels = RANDOM.integers(0, 3, 900)
    codes = np.eye(3)[labels] + 0.3 * RANDOM.normal(size=(900, 3))
    found = linear_probe(codes[:600], labels[:600], codes[600:], labels[600:])
    assert found["accuracy"].value > 0.9
    assert found["chance"].value == pytest.approx(1 / 3, abs=0.1)
    noise = RANDOM.normal(size=(900, 3))
    empty = linear_probe(noise[:600], labels[:600], noise[600:], labels[600:])
    assert abs(empty["accuracy"].value - empty["chance"].value) < 0.1


def test_malformed_probes_are_refused() -> None:
    codes = np.zeros((4, 2))
    with pytest.raises(DataError, match="single class"):
        linear_probe(codes, np.zeros(4, int), codes, np.zeros(4, int))
    with pytest.raises(ShapeError):
        linear_probe(codes, np.zeros(3, int), codes, np.zeros(4, int))
    with pytest.raises(DataError, match="NaN"):
        linear_probe(np.full((4, 2), np.nan), np.arange(4), codes, np.arange(4))
