"""Generated touch music: in time with its own beat and swing, on the screen's lattice, item by item reproducible."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from phlogiston import datasets
from phlogiston.datasets.generated import touches
from phlogiston.errors import DataError


@pytest.fixture(scope="module")
def data() -> datasets.Dataset:
    return datasets.load("touches", sizes=(120, 4, 4))


def test_off_beats_come_late_by_the_swing(data: datasets.Dataset) -> None:
    """Taps of drums and melodies lie on the beat or `swing` of a beat after it, within the player's 6 ms."""
    tensors = data.train.tensors
    errors, late = [], []
    for x, n, gesture, (beat, swing) in zip(
        tensors["x"].double(), tensors["length"].tolist(), tensors["gesture"].tolist(), tensors["style"].tolist(),
        strict=True,
    ):  # fmt: skip
        if touches.GESTURES[gesture] not in ("drums", "melody"):
            continue
        dt = x[:n, 2].numpy()
        onset = np.cumsum(dt)[(dt > 0.1) | (np.arange(n) == 0)]
        within = (onset / beat + 0.1) % 1.0 - 0.1  # the first touch is on the beat
        off = within > 0.3
        errors.append(np.where(off, within - swing, within) * beat)
        late.append(off.mean())
    together = np.concatenate(errors)
    assert len(together) > 300
    # two errors of 6 ms, of the first note and of this one, and a frame's jitter
    assert together.std() == pytest.approx(np.sqrt(2) * 0.006, rel=0.2)
    assert 0.1 < np.mean(late) < 0.5


def test_places_lie_on_the_lattice_and_strokes_are_reported_60_times_a_second(data: datasets.Dataset) -> None:
    tensors = data.train.tensors
    for x, n in zip(tensors["x"].double().numpy(), tensors["length"].tolist(), strict=True):
        own = x[:n]
        assert np.abs(own[:, :2] * 600 - np.round(own[:, :2] * 600)).max() < 1e-3
        assert own[:, :2].min() >= 0.0
        assert own[:, :2].max() <= 1.0
        assert own[0, 2] == 0.0
        assert own[:, 2].min() >= 0.0
        assert own[:, 2].sum() <= 5.0
        assert not own[n:].any()
    dt = np.concatenate([x[1:n, 2] for x, n in zip(tensors["x"].numpy(), tensors["length"].tolist(), strict=True)])
    assert np.median(dt[dt < 0.1]) == pytest.approx(1 / 60, rel=0.02)


def test_a_bar_comes_again() -> None:
    """What is drummed in one bar is mostly drummed in the next: far more often than bars of two performances agree."""

    def bars(i: int) -> list[set[int]]:
        steps, _, (beat, swing) = touches.perform(0, "train", i, 12.0)
        onset = np.cumsum(steps[:, 2])[(steps[:, 2] > 0.1) | (np.arange(len(steps)) == 0)] / beat
        halves = 2 * np.floor(onset + 0.1) + ((onset + 0.1) % 1.0 > 0.1 + 0.5 * swing)
        return [{int(h) % 8 for h in halves if h // 8 == bar} for bar in range(3)]

    def alike(a: set[int], b: set[int]) -> float:
        return len(a & b) / len(a | b)

    chosen = [bars(i) for i in range(150) if touches.perform(0, "train", i, 1.0)[1] < 2]
    same = np.mean([alike(a[0], a[1]) for a in chosen])
    other = np.mean([alike(a[0], b[1]) for a, b in itertools.pairwise(chosen)])
    assert same > 0.85
    assert other < 0.6


def test_a_performance_does_not_depend_on_how_many_are_asked_for(data: datasets.Dataset) -> None:
    few = datasets.load("touches", sizes=(3, 1, 1)).train.tensors
    for i, n in enumerate(few["length"].tolist()):
        assert (few["x"][i, :n] == data.train.tensors["x"][i, :n]).all()


@pytest.mark.parametrize("seconds", [0.5, 61.0])
def test_lengths_that_cannot_be_played_are_refused(seconds: float) -> None:
    with pytest.raises(DataError, match="seconds"):
        datasets.load("touches", sizes=(1, 1, 1), seconds=seconds)
