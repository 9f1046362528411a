"""Tracking figures of hand-worked videos, and of random ones against py-motmetrics."""

from __future__ import annotations

import math

import numpy as np
import pytest

from phlogiston.errors import ConfigError, DataError, ShapeError
from phlogiston.evaluate.tracking import count, count_accuracy, frames_of, track_metrics

A, B = [0.0, 0.0, 10.0, 10.0], [50.0, 50.0, 10.0, 10.0]
FAR = [200.0, 200.0, 10.0, 10.0]


def values(truth: list[dict], tracked: list[dict], **options: object) -> dict[str, float]:
    return {name: metric.value for name, metric in track_metrics([truth], [tracked], **options).items()}


def test_perfect_tracks() -> None:
    truth = [{1: A, 2: B}] * 4
    found = values(truth, [{"a": A, "b": B}] * 4)
    assert found == {
        "mota": 1.0,
        "motp": 0.0,
        "idf1": 1.0,
        "id_switches": 0.0,
        "fragmentations": 0.0,
        "count_accuracy": 1.0,
    }


def test_a_swap_costs_two_switches_and_half_the_identities() -> None:
    found = values([{1: A, 2: B}] * 4, [{"a": A, "b": B}] * 2 + [{"a": B, "b": A}] * 2)
    assert found["mota"] == 1 - 2 / 8
    assert found["id_switches"] == 2 / 8
    assert found["idf1"] == 2 * 4 / 16
    assert found["count_accuracy"] == 1.0


def test_a_miss() -> None:
    found = values([{1: A, 2: B}] * 4, [{"a": A, "b": B}] * 3 + [{"a": A}])
    assert found["mota"] == 1 - 1 / 8
    assert found["idf1"] == pytest.approx(2 * 7 / (8 + 7))
    assert found["fragmentations"] == 0.0, "lost and never found again is a miss, not a fragment"
    assert found["count_accuracy"] == 3 / 4


def test_a_false_alarm() -> None:
    found = values([{1: A}] * 4, [{"a": A}] * 3 + [{"a": A, "c": FAR}])
    assert found["mota"] == 1 - 1 / 4
    assert found["idf1"] == pytest.approx(2 * 4 / (4 + 5))
    assert found["count_accuracy"] == 3 / 4


def test_a_fragmentation_with_the_same_and_with_a_new_identity() -> None:
    truth = [{1: A}] * 5
    same = values(truth, [{"a": A}, {"a": A}, {}, {"a": A}, {"a": A}])
    assert (same["mota"], same["fragmentations"], same["id_switches"]) == (1 - 1 / 5, 1 / 5, 0.0)
    new = values(truth, [{"a": A}, {"a": A}, {}, {"b": A}, {"b": A}])
    assert (new["mota"], new["fragmentations"], new["id_switches"]) == (1 - 2 / 5, 1 / 5, 1 / 5)
    assert new["idf1"] == pytest.approx(2 * 2 / (5 + 4))


def test_an_old_pair_stays_together_while_it_may_even_if_another_is_nearer() -> None:
    truth = [{1: [0.0, 0.0]}, {1: [0.0, 0.0]}]
    tracked = [{"a": [0.0, 0.0]}, {"a": [3.0, 0.0], "b": [0.0, 0.0]}]
    counts = count(truth, tracked, measure="centre")
    assert (counts.switches, counts.false_alarms, counts.distance) == (0, 1, 3.0)
    gone = count(truth, [{"a": [0.0, 0.0]}, {"a": [6.0, 0.0], "b": [0.0, 0.0]}], measure="centre")
    assert gone.switches == 1
    assert gone.events == ["frame 1: object 1 goes from a to b"]


def test_as_many_pairs_as_possible_are_matched_before_distance_counts() -> None:
    # the nearest pair (2, a) would leave 1 without a partner
    truth, tracked = [{1: [0.0, 0.0], 2: [4.0, 0.0]}], [{"a": [4.0, 0.0], "b": [8.0, 0.0]}]
    counts = count(truth, tracked, measure="centre")
    assert (counts.matches, counts.distance) == (2, 8.0)


def test_overlap_below_the_threshold_is_no_match_and_motp_is_a_distance() -> None:
    half = [5.0, 0.0, 10.0, 10.0]  # intersection 50, union 150
    assert values([{1: A}], [{1: half}])["mota"] == 1 - 2
    found = values([{1: A}], [{1: half}], threshold=0.7)
    assert found["mota"] == 1.0
    assert found["motp"] == pytest.approx(2 / 3)


def test_empty_frames_and_empty_tracks() -> None:
    found = values([{1: A}, {}], [{}, {}])
    assert found["mota"] == 0.0
    assert found["idf1"] == 0.0
    assert math.isnan(found["motp"])
    with pytest.raises(DataError, match="nothing to track"):
        track_metrics([[{}]], [[{1: A}]])


def test_videos_pool_their_counts_and_give_an_error_bar() -> None:
    good = ([{1: A}] * 4, [{"a": A}] * 4)
    bad = ([{1: A}] * 4, [{}] * 4)
    found = track_metrics([good[0], bad[0], good[0]], [good[1], bad[1], good[1]])["mota"]
    assert found.value == pytest.approx(8 / 12)
    assert found.std_error == pytest.approx(np.std([1, 0, 1], ddof=1) / math.sqrt(3))
    assert found.n == 12
    assert found.detail["misses"] == 4
    assert track_metrics([good[0]], [good[1]])["mota"].std_error is None


def test_padded_arrays_become_frames() -> None:
    boxes = np.arange(24.0).reshape(2, 3, 4)
    present = np.array([[1, 0, 1], [0, 0, 0]])
    assert frames_of(boxes, present) == [{0: [0, 1, 2, 3], 2: [8, 9, 10, 11]}, {}]


def test_count_accuracy_is_the_posterior_probability_of_the_true_number() -> None:
    true = np.array([[1, 2], [0, 2]])
    assert count_accuracy(true, np.array([[1, 2], [1, 2]])).value == 0.75
    particles = np.stack([true, true + 1])
    weights = np.log([[0.9, 0.6], [0.1, 0.4]])
    assert count_accuracy(true, particles, weights).value == pytest.approx(0.75)
    with pytest.raises(ShapeError):
        count_accuracy(true, np.zeros((3, 3)))


@pytest.mark.parametrize(
    ("frame", "options", "error", "told"),
    [
        ({1: [0.0, 0.0, -1.0, 2.0]}, {}, DataError, "negative size"),
        ({1: [0.0, math.nan, 1.0, 2.0]}, {}, DataError, "not finite"),
        ({1: [0.0, 0.0]}, {}, DataError, "2 numbers per object"),
        ({1: A}, {"measure": "giou"}, ConfigError, "iou, centre"),
    ],
)
def test_malformed_boxes_are_refused(frame: dict, options: dict, error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        track_metrics([[{1: A}]], [[frame]], **options)
    with pytest.raises(ShapeError):
        track_metrics([[{1: A}]], [[]])


def random_video(seed: int) -> tuple[list[dict], list[dict]]:
    """Objects that drift, tracks that follow them with errors, losses and swaps."""
    random = np.random.default_rng(seed)
    place = random.uniform(0, 40, (4, 2))
    names = np.arange(4)
    truth, tracked = [], []
    for _ in range(25):
        place += random.normal(0, 1.5, place.shape)
        if random.random() < 0.15:
            random.shuffle(names)
        there = random.random(4) < 0.85
        truth.append({int(i): place[i].tolist() for i in np.flatnonzero(there)})
        seen = random.random(4) < 0.8
        frame = {int(names[i]): (place[i] + random.normal(0, 1.5, 2)).tolist() for i in np.flatnonzero(there & seen)}
        if random.random() < 0.2:
            frame[9] = random.uniform(0, 40, 2).tolist()
        tracked.append(frame)
    return truth, tracked


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(8))
def test_random_videos_score_as_in_motmetrics(seed: int) -> None:
    motmetrics = pytest.importorskip("motmetrics", reason="py-motmetrics is the oracle; pip install motmetrics==1.4.0")
    truth, tracked = random_video(seed)
    accumulator = motmetrics.MOTAccumulator(auto_id=True)
    for real, found in zip(truth, tracked, strict=True):
        a = np.array(list(real.values())).reshape(-1, 1, 2)
        b = np.array(list(found.values())).reshape(1, -1, 2)
        apart = np.linalg.norm(a - b, axis=-1)
        accumulator.update(list(real), list(found), np.where(apart <= 5.0, apart, np.nan))
    names = ["mota", "motp", "idf1", "num_switches", "num_fragmentations", "num_misses", "num_false_positives"]
    wanted = motmetrics.metrics.create().compute(accumulator, metrics=names, name="x").iloc[0]
    counts = count(truth, tracked, measure="centre")
    figures = counts.figures()
    assert figures["mota"] == pytest.approx(wanted["mota"])
    assert figures["motp"] == pytest.approx(wanted["motp"])
    assert figures["idf1"] == pytest.approx(wanted["idf1"])
    assert counts.switches == wanted["num_switches"]
    assert counts.misses == wanted["num_misses"]
    assert counts.false_alarms == wanted["num_false_positives"]
    assert counts.fragmentations == wanted["num_fragmentations"]
