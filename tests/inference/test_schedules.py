import json
import math

import pytest

from phlogiston.errors import ConfigError
from phlogiston.inference import schedules


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
