"""Columns of dates and of numbers on a grid in questions: what these cannot hold is refused, not reread."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
import pandas
import pytest

from phlogiston.errors import EvidenceError
from phlogiston.inference.query.text import parse, question

COLUMNS = {"x": ["day", "due", "count", "size", "in"]}
DATES = ["day", "due"]
GRIDS = {"count": (0.0, 1.0), "size": (0.25, 0.5)}
MAY = 19_844
"""2024-05-01 in days since 1970-01-01."""


def test_the_day_that_stands_for_may() -> None:
    assert (datetime.date(2024, 5, 1) - datetime.date(1970, 1, 1)).days == MAY


@pytest.mark.parametrize(
    "statement",
    [
        "day >= 2024-05",  # 2024 - 5 = 2019 days: 1975, which every later day would be after
        "day >= 2024",
        "day = 19844",
        "day in [2024-05-01, 19900]",
        "2024-05-01 <= day <= 19900",
        "day ~ 19844 +- 3",
        "2*day - due >= 0",
        "day >= count",
        "x[0] >= 19844",
    ],
)
def test_a_date_is_compared_with_dates_alone(statement: str) -> None:
    with pytest.raises(EvidenceError, match="'day' holds dates: compare it with one"):
        parse(statement, COLUMNS, None, DATES)


@pytest.mark.parametrize(
    ("statement", "normal", "offset"),
    [
        ("due - day >= 7", [-1.0, 1.0, 0.0, 0.0, 0.0], -7.0),  # a span of time is a number of days
        ("due >= day + count", [-1.0, 1.0, -1.0, 0.0, 0.0], 0.0),
    ],
)
def test_spans_between_dates_are_numbers_of_days(statement: str, normal: list[float], offset: float) -> None:
    (found,) = parse(statement, COLUMNS, None, DATES)["x"]
    assert found.a.flatten().tolist() == normal
    assert float(found.b) == offset


def test_a_span_is_no_date() -> None:
    with pytest.raises(EvidenceError, match="a number of days apart, not a date"):
        parse("due - day >= 2024-05-01", COLUMNS, None, DATES)
    with pytest.raises(EvidenceError, match="mean and sd must be numbers"):
        parse("day ~ 2024-05-01 +- 2024-05-01", COLUMNS, None, DATES)


@pytest.mark.parametrize(
    "value", ["2024-05-01", " 2024-05-01", datetime.date(2024, 5, 1), pandas.Timestamp("2024-05-01"), MAY, float(MAY)]
)
def test_objects_say_dates_as_text_as_dates_and_as_days(value: Any) -> None:
    known = parse("day = 2024-05-01", COLUMNS, None, DATES)["x"][0]
    for given in ({"day": value}, {"day": {"known": value}}, {"x": [value, None, None, None, None]}):
        found = parse(given, COLUMNS, None, DATES)["x"][0]
        assert found.mask.tolist() == known.mask.tolist()
        assert float(found.value[0]) == float(known.value[0]) == MAY
    box = parse({"day": [value, "2024-05-03 12:00"]}, COLUMNS, None, DATES)["x"][0]
    assert (float(box.lower[0]), float(box.upper[0])) == (MAY, MAY + 2.5)


def test_text_in_a_data_frame_is_read_as_dates() -> None:
    found = question([pandas.DataFrame({"day": ["2024-05-01", None, "2024-05-02"]})], COLUMNS, None, DATES)["x"][0]
    assert found.mask[:, 0].tolist() == [True, False, True]
    assert found.value[:, 0].tolist() == [MAY, 0.0, MAY + 1]


@pytest.mark.parametrize(
    "given",
    [
        {"count": pandas.Timestamp("2024-05-01")},
        {"count": [datetime.date(2024, 5, 1), None]},
        {"count": np.array(["2024-05-01"], "datetime64[D]")},
        pandas.DataFrame({"count": pandas.to_datetime(["2024-05-01"])}),
    ],
)
def test_dates_are_no_numbers(given: Any) -> None:
    with pytest.raises(EvidenceError, match="holds numbers, no dates"):
        question([given], COLUMNS, None, DATES)


@pytest.mark.parametrize("text", ["2024-05", "May 2024", "2024-02-31", "05/01/2024"])
def test_text_that_is_no_date(text: str) -> None:
    with pytest.raises(EvidenceError, match="no date"):
        parse({"day": text}, COLUMNS, None, DATES)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("count = 2.5", "never 2.5; ask for 2, for 3, or for 2 <= count <= 3"),
        ({"count": 2.5}, "never 2.5"),
        ("2*count = 5", "never 2.5"),
        ("size = 0.5", "ask for 0.25, for 0.75"),
    ],
)
def test_what_a_grid_does_not_hold_has_no_probability(given: Any, words: str) -> None:
    with pytest.raises(EvidenceError, match=words):
        parse(given, COLUMNS, None, DATES, GRIDS)


@pytest.mark.parametrize("statement", ["count = 2", "size = 0.75", "count + size = 2.5", "count ~ 2.5 +- 1"])
def test_what_a_grid_holds_is_read(statement: str) -> None:
    assert parse(statement, COLUMNS, None, DATES, GRIDS)["x"]


def test_a_column_called_like_a_word_of_the_language_wants_backquotes() -> None:
    with pytest.raises(EvidenceError, match="write the column as `in`"):
        parse("in >= 1", COLUMNS, None, DATES)
    assert parse("`in` >= 1", COLUMNS, None, DATES)["x"]
