"""What the page of a table asks: dates as dates, values on a grid as the nearest that the grid has."""

from __future__ import annotations

import numpy as np
import pandas
import pytest

from phlogiston.errors import EvidenceError
from phlogiston.systems.drmm.system import DRMM
from phlogiston.systems.explore.panels import table


@pytest.fixture(scope="module")
def visits() -> DRMM:
    random = np.random.default_rng(0)
    z = random.standard_normal(300)
    frame = pandas.DataFrame(
        {
            "day": pandas.Timestamp("2024-05-01") + pandas.to_timedelta(np.round(40 * z), "D"),
            "children": random.poisson(2.0, 300),
            "age": 50 + 10 * z,
        }
    )
    return DRMM(num_layers=1, num_components=2, steps=5).fit(frame, progress="off")


def test_marks_become_statements_that_are_understood(visits: DRMM) -> None:
    marks = {"day": {"low": 19844.25, "high": 19850.0}, "children": {"fix": 2.3}, "age": {"high": 60.5}}
    answer = table.ask(visits, "run", {"columns": marks, "num_samples": 50, "seed": 0})
    assert answer["said"] == ["2024-05-01 06:00 <= day <= 2024-05-07", "children = 2.0", "age <= 60.5"]
    assert 19844.25 <= answer["columns"]["day"]["median"] <= 19850.0
    assert answer["columns"]["children"]["median"] == 2.0
    assert table.statements(visits, {"columns": {"day": {"fix": 19844}}}) == ["day = 2024-05-01"]


def test_a_limit_that_is_no_number_is_named(visits: DRMM) -> None:
    with pytest.raises(EvidenceError, match="age: 'old' is no number"):
        table.statements(visits, {"columns": {"age": {"low": "old"}}})
