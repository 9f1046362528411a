"""Judges learn from real data, say how good they are, are kept by what determines them, and score generated sets."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from phlogiston import datasets
from phlogiston.errors import ConfigError, DataError, DataWarning, ShapeError
from phlogiston.evaluate import fid
from phlogiston.evaluate.features import make_extractor
from phlogiston.evaluate.judge import Judge, JudgeConfig, _glimpse, _moved, entropies, judge_of, train_judge

QUICK = JudgeConfig(epochs=6, batch_size=32, widths=(8, 16), features=32)


def bars(n: int, seed: int = 0, noise: float = 20.0) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Pictures of one upright or lying bar in the left or right half; 12 x 12 pixels."""
    random = np.random.default_rng(seed)
    lying, right = random.integers(0, 2, n), random.integers(0, 2, n)
    images = np.zeros((n, 12, 12))
    for i in range(n):
        left = 1 + 6 * right[i]
        if lying[i]:
            images[i, 5:7, left : left + 4] = 220
        else:
            images[i, 3:9, left + 1 : left + 3] = 220
    images += random.normal(0, noise, images.shape)
    return images.clip(0, 255).astype(np.uint8), {"lying": lying, "right": right}


@pytest.fixture(scope="module")
def judge() -> Judge:
    images, labels = bars(600)
    test, test_labels = bars(200, 1)
    return train_judge(images, labels, test, test_labels, config=QUICK, cache=False)


def test_a_judge_knows_its_own_accuracy_on_held_out_real_data(judge: Judge) -> None:
    assert set(judge.held_out) == {"lying", "right"}
    for metric in judge.held_out.values():
        assert metric.value > 0.97
        assert metric.n == 200
    assert judge.describe()["judge_accuracy"]["lying"] > 0.97


def test_accuracy_consistency_and_entropies_of_generated_sets(judge: Judge) -> None:
    real, labels = bars(200, 2)
    again, _ = bars(200, 2, noise=25.0)
    assert judge.accuracy(real, labels)["right"].value > 0.97
    assert judge.consistency(real, again)["lying"].value > 0.97
    flipped = real[:, :, ::-1].copy()
    assert judge.consistency(real, flipped)["right"].value < 0.1
    good = judge.entropies(real)
    assert good["inter_entropy_lying"].value == pytest.approx(math.log(2), abs=0.02)
    assert good["intra_entropy"].value < 0.15
    assert good["kl"].value == pytest.approx(good["inter_entropy"].value - good["intra_entropy"].value, abs=1e-9)
    collapsed = judge.entropies(np.repeat(real[:1], 200, 0))
    assert collapsed["inter_entropy"].value < 0.2
    assert collapsed["kl"].value < 0.01 < good["kl"].value


def test_entropies_of_known_probabilities() -> None:
    sure = torch.eye(4).repeat(25, 1).clamp(min=1e-30).log()
    found = entropies(sure)
    assert found["intra_entropy"].value == pytest.approx(0.0, abs=1e-9)
    assert found["inter_entropy"].value == pytest.approx(math.log(4))
    assert found["kl"].value == pytest.approx(math.log(4))
    unsure = entropies(torch.full((10, 4), -math.log(4)))
    assert unsure["intra_entropy"].value == pytest.approx(math.log(4))
    assert unsure["kl"].value == pytest.approx(0.0, abs=1e-6)


def test_labels_of_minus_one_are_skipped(judge: Judge) -> None:
    images, labels = bars(50, 3)
    half = np.where(np.arange(50) < 25, labels["lying"], -1)
    assert judge.accuracy(images, {"lying": half})["lying"].n == 25


def test_a_judge_is_taken_from_the_cache_by_configuration_and_data(monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = bars(80)
    first = train_judge(images, labels, images, labels, config=JudgeConfig(epochs=1, widths=(4,), features=8))

    def refuse(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("phlogiston.evaluate.judge._train", refuse)
    again = train_judge(images, labels, images, labels, config=JudgeConfig(epochs=1, widths=(4,), features=8))
    assert again.checksum == first.checksum
    assert again.held_out == first.held_out
    for other in (
        JudgeConfig(epochs=1, widths=(4,), features=9),
        JudgeConfig(epochs=1, widths=(4,), features=8, seed=1),
    ):
        with pytest.raises(AssertionError, match="trained again"):
            train_judge(images, labels, images, labels, config=other)
    with pytest.raises(AssertionError, match="trained again"):
        train_judge(images[:79], {k: v[:79] for k, v in labels.items()}, images, labels, config=QUICK)


def test_training_is_reproducible_and_leaves_the_random_state_alone() -> None:
    images, labels = bars(80)
    state = torch.random.get_rng_state()
    a, b = (train_judge(images, labels, images, labels, config=QUICK, cache=False).checksum for _ in range(2))
    assert a == b
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_saved_judge_is_itself_and_a_damaged_one_is_noticed(judge: Judge, tmp_path: Path) -> None:
    judge.save(tmp_path)
    loaded = Judge.load(tmp_path)
    images, _ = bars(20, 4)
    for name, wanted in judge.log_probabilities(images).items():
        assert torch.equal(loaded.log_probabilities(images)[name], wanted)
    about = json.loads((tmp_path / "judge.json").read_text())
    (tmp_path / "judge.json").write_text(json.dumps({**about, "checksum": "00000000"}))
    with pytest.raises(DataError, match="damaged"):
        Judge.load(tmp_path)
    (tmp_path / "judge.safetensors").write_bytes(b"short")
    with pytest.raises(DataError, match="cannot be read as"):
        Judge.load(tmp_path)


def test_a_damaged_cached_judge_is_trained_anew_with_a_warning(tmp_path: Path) -> None:
    images, labels = bars(80)
    first = train_judge(images, labels, images, labels, config=QUICK)
    (folder,) = (tmp_path / "cache" / "judges").iterdir()
    (folder / "judge.safetensors").write_bytes(b"short")
    with pytest.warns(DataWarning, match="trained again"):
        again = train_judge(images, labels, images, labels, config=QUICK)
    assert again.checksum == first.checksum


def test_a_video_judge_takes_clips_of_any_length() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 120)
    clips = np.zeros((120, 4, 1, 8, 8), np.uint8)
    for i, rising in enumerate(labels):  # a dot that goes up or down: no single frame tells
        for t in range(4):
            row = 6 - 2 * t if rising else 2 * t
            clips[i, t, 0, row : row + 2, 3:5] = 255
    config = JudgeConfig(epochs=12, batch_size=20, widths=(8,), features=16)
    judge = train_judge(clips[:80], {"rising": labels[:80]}, clips[80:], {"rising": labels[80:]}, config=config)
    assert judge.held_out["rising"].value > 0.95
    assert judge.clips
    assert judge.predict(clips[:5, :3])["rising"].shape == (5,)
    assert judge(torch.tensor(clips[:5])).shape == (5, 16)


def test_judges_of_moved_clips_that_halve_by_strides_and_average_over_time() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 160)
    clips = np.zeros((160, 4, 1, 8, 8), np.uint8)
    for i, rising in enumerate(labels):
        for t in range(4):
            row = 6 - 2 * t if rising else 2 * t
            clips[i, t, 0, row : row + 2, 3:5] = 255
    config = JudgeConfig(
        epochs=20, batch_size=20, widths=(8, 8), features=16, halving="stride", over_time="mean", shift=1
    )
    judge = train_judge(clips[:120], {"rising": labels[:120]}, clips[120:], {"rising": labels[120:]}, config=config)
    assert judge.held_out["rising"].value > 0.95
    # moving is what training saw: a clip one pixel to the right is judged alike
    aside = np.roll(clips, 1, axis=-1)
    assert judge.accuracy(aside[120:], {"rising": labels[120:]})["rising"].value > 0.95
    again = train_judge(clips[:120], {"rising": labels[:120]}, clips[120:], {"rising": labels[120:]}, config=config)
    assert again.checksum == judge.checksum
    assert again.network.reading == "mean"


def test_moving_leaves_nothing_behind_but_what_fell_off_the_edge() -> None:
    rows = torch.zeros(200, 2, 3, 5, 5, dtype=torch.uint8)
    rows[..., 2, 2] = 9
    moved = _moved(rows, 1, torch.Generator().manual_seed(0))
    assert moved.shape == rows.shape
    assert bool((moved.sum((1, 2, 3, 4)) == 54).all())
    places = moved.flatten(3).argmax(-1)
    assert bool((places == places[:, :1, :1]).all())  # all frames and channels of a clip alike
    assert set(places[:, 0, 0].tolist()) == {6, 7, 8, 11, 12, 13, 16, 17, 18}
    assert _moved(rows, 0, torch.Generator()) is rows
    frames = torch.arange(8, dtype=torch.uint8).reshape(1, 8, 1, 1, 1).expand(50, 8, 1, 2, 2)
    seen = _glimpse(frames, 0.5, torch.Generator().manual_seed(0))[:, :, 0, 0, 0].long()
    assert seen.shape == (50, 4)
    assert bool((seen.diff(dim=1) > 0).all())
    assert set(seen.flatten().tolist()) == set(range(8))
    assert _glimpse(rows[:, 0], 0.5, torch.Generator()).shape == (200, 3, 5, 5)
    with pytest.raises(ConfigError, match="halving"):
        JudgeConfig(halving="fold")  # type: ignore[arg-type]
    assert "shift" not in JudgeConfig().describe()


def test_a_judge_is_an_extractor_of_features_with_provenance(judge: Judge) -> None:
    real, _ = bars(150, 5)
    more, _ = bars(150, 6)
    noise = np.random.default_rng(0).integers(0, 256, (150, 12, 12)).astype(np.uint8)
    with pytest.warns(match="fewer than 2048"):
        near, far = (fid.compare(real, x, judge)["fid"] for x in (more, noise))
    assert near.value < 0.2 * far.value
    assert near.detail["weights"] == judge.checksum
    assert near.detail["judge_accuracy"]["lying"] > 0.97
    coloured = np.repeat(real[..., None], 3, -1)
    assert torch.allclose(judge(torch.tensor(coloured).movedim(-1, 1)), judge(torch.tensor(real)[:, None]))
    with pytest.raises(ShapeError, match="trained on"):
        judge(torch.zeros(2, 1, 9, 9, dtype=torch.uint8))


def test_the_judge_of_a_registered_data_set() -> None:
    data = datasets.load("digits")
    judge = judge_of(data, progress=False)
    (factor,) = judge.held_out
    assert judge.held_out[factor].value > 0.95
    assert judge.about["n_train"] == len(data.train) + len(data.valid)
    assert make_extractor("judge:digits").describe()["weights"] == judge.checksum
    with pytest.raises(ConfigError, match="needs images, labels"):
        judge_of("swissroll")


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ({"a": np.zeros(10, int)}, "single class"),
        ({"a": np.zeros(9, int)}, "expected one per row"),
        ({"a": np.full(10, -2)}, "classes from 0"),
        ({}, "same factors"),
    ],
)
def test_malformed_labels_are_refused(labels: dict[str, np.ndarray], told: str) -> None:
    images, _ = bars(10)
    with pytest.raises(DataError, match=told):
        train_judge(images, labels, images, labels, config=QUICK)


def test_unknown_factors_and_senseless_configurations_are_refused(judge: Judge) -> None:
    images, _ = bars(4)
    with pytest.raises(ConfigError, match="no factor 'colour'"):
        judge.accuracy(images, {"colour": np.zeros(4, int)})
    with pytest.raises(ConfigError):
        JudgeConfig(epochs=0)
    with pytest.raises(DataError, match="no row has a label"):
        judge.accuracy(images, {"lying": np.full(4, -1)})
    assert isinstance(judge(torch.tensor(images)[:, None]), Tensor)
