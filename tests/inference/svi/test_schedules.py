import itertools
import json
import math

import pytest

from phlogiston.errors import ConfigError
from phlogiston.inference.svi import schedules


@pytest.mark.parametrize(
    ("schedule", "golden"),
    [
        (schedules.constant(2.5), [2.5, 2.5, 2.5, 2.5, 2.5]),
        (schedules.linear(1.0, 3.0), [1.0, 1.5, 2.0, 2.5, 3.0]),
        (schedules.cosine(1.0, 0.0), [1.0, 0.8535533905932737, 0.5, 0.14644660940672627, 0.0]),
        (schedules.exponential(1.0, 1e-4), [1.0, 0.1, 0.01, 0.001, 0.0001]),
        (schedules.piecewise([(0.25, 1.0), (0.5, 3.0), (0.5, 0.0), (1.0, 2.0)]), [1.0, 1.0, 0.0, 1.0, 2.0]),
        (schedules.warmup(0.5), [0.0, 0.5, 1.0, 1.0, 1.0]),
        (schedules.warmup(0.5, schedules.linear(2.0, 0.0), start=0.5), [1.0, 1.5, 2.0, 1.0, 0.0]),
        (schedules.hold_then(schedules.linear(1.0, 0.0), hold=0.5), [1.0, 1.0, 1.0, 0.5, 0.0]),
    ],
    ids=lambda value: value.describe()["schedule"] if hasattr(value, "describe") else "",
)
def test_schedules_take_their_golden_values(schedule: schedules.Schedule, golden: list[float]) -> None:
    assert [schedule(p) for p in (0.0, 0.25, 0.5, 0.75, 1.0)] == pytest.approx(golden, abs=1e-12)


def test_progress_outside_the_stage_is_clamped() -> None:
    schedule = schedules.linear(1.0, 2.0)
    assert schedule(-3.0) == 1.0
    assert schedule(7.0) == 2.0


def test_a_schedule_describes_itself_in_json_with_its_inner_schedules() -> None:
    told = json.loads(json.dumps(schedules.hold_then(schedules.cosine(2.0, 1.0), hold=0.25).describe()))
    assert told == {
        "schedule": "holdthen",
        "hold": 0.25,
        "then": {"schedule": "cosine", "start": 2.0, "end": 1.0},
    }


@pytest.mark.parametrize(
    "make",
    [
        lambda: schedules.exponential(0.0, 1.0),
        lambda: schedules.exponential(-1.0, 1.0),
        lambda: schedules.piecewise([]),
        lambda: schedules.piecewise([(0.5, 1.0), (0.2, 1.0)]),
        lambda: schedules.piecewise([(0.0, 1.0), (1.5, 1.0)]),
        lambda: schedules.warmup(0.0),
        lambda: schedules.warmup(1.0),
        lambda: schedules.hold_then(schedules.constant(1.0), hold=1.0),
    ],
)
def test_impossible_schedules_are_refused(make: object) -> None:
    with pytest.raises(ConfigError):
        make()  # type: ignore[operator]


def test_cosine_is_flat_at_both_ends() -> None:
    schedule = schedules.cosine(0.0, 1.0)
    assert schedule(1e-4) < 1e-7
    assert 1.0 - schedule(1.0 - 1e-4) < 1e-7
    assert math.isclose(schedule(0.5), 0.5)


def by_epoch(schedule: schedules.Schedule, epochs: int, at: list[int]) -> list[float]:
    return [schedule((k + 0.5) / epochs) for k in at]


def test_half_cosine_takes_its_golden_values() -> None:
    rise = schedules.half_cosine(1.0, 10.0, 0.5, epochs=200)
    assert by_epoch(rise, 200, [0, 10, 50, 99, 150, 199]) == pytest.approx(
        [1.0022, 1.2660, 5.6413, 10.0, 10.0, 10.0], abs=1e-3
    )
    assert by_epoch(schedules.half_cosine(0.1, 1.0, 1 / 3, epochs=200), 200, [0, 33, 66, 67]) == pytest.approx(
        [0.1002, 0.5571, 1.0, 1.0], abs=1e-3
    )
    smooth = schedules.half_cosine(0.1, 1.0, 0.5)
    assert [smooth(p) for p in (0.0, 0.25, 0.5, 1.0)] == pytest.approx([0.1, 0.55, 1.0, 1.0])


def test_four_point_takes_its_golden_values_and_shows_its_overshoot() -> None:
    epochs = [0, 20, 40, 60, 80, 100, 120, 140, 160, 180, 199]
    first = schedules.four_point(30.0, 0.2, 0.4, 1.0, epochs=200)
    golden = [30, 20.677, 13.035, 7.075, 2.797, 0.2, 0.005, 0.005, 0.4, 0.796, 1.0]
    assert by_epoch(first, 200, epochs) == pytest.approx(golden, abs=1e-3)
    second = schedules.four_point(0.1, 0.4, 0.4, 1.0, epochs=200)
    golden = [0.1, 0.225, 0.317, 0.377, 0.405, 0.4, 0.363, 0.317, 0.4, 0.635, 1.0]
    assert by_epoch(second, 200, epochs) == pytest.approx(golden, abs=1e-3)
    for count, off in ((200, 43), (250, 55)):  # epochs at the lower limit: the spline dips below zero there
        curve = schedules.four_point(30.0, 0.2, 0.4, 1.0, epochs=count)
        assert sum(value <= 0.005 for value in by_epoch(curve, count, list(range(count)))) == off


def test_pchip_never_leaves_the_range_of_its_neighbours() -> None:
    curve = schedules.four_point(30.0, 0.2, 0.4, 1.0, kind="pchip")
    values = [curve(i / 400) for i in range(401)]
    assert values[0] == pytest.approx(30.0)
    assert values[-1] == pytest.approx(1.0)
    assert min(values) == pytest.approx(0.2, abs=1e-6)
    assert all(a >= b - 1e-9 for a, b in itertools.pairwise(values[:201]))


def test_an_epoch_has_one_value_and_curves_describe_themselves() -> None:
    curve = schedules.four_point(30.0, 4.0, 1.5, 1.0, epochs=10)
    assert curve(0.31) == curve(0.39)
    assert curve(0.39) != curve(0.41)
    assert json.loads(json.dumps(curve.describe()))["schedule"] == "fourpoint"
    for wrong in (
        lambda: schedules.half_cosine(0.0, 1.0, 0.0),
        lambda: schedules.four_point(1.0, 1.0, 1.0, 1.0, (0.8, 0.5)),
        lambda: schedules.four_point(1.0, 1.0, 1.0, 1.0, kind="cubic"),
        lambda: schedules.four_point(1.0, 1.0, 1.0, 1.0, epochs=3),
    ):
        with pytest.raises(ConfigError):
            wrong()
