"""Questions in words: names of any script without quotes, dates, missing values, and what was understood."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas
import polars
import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import phlogiston as ph
from phlogiston.errors import EvidenceError
from phlogiston.inference.query.evidence import HalfSpace, Known, Near, OneOf, Within
from phlogiston.inference.query.explain import explained
from phlogiston.inference.query.text import parse, question

NAMES = [
    "age",
    "sepal length (cm)",
    "年齢",
    "Größe [m]",
    "income, k€",
    "a-b",
    "a",
    "b",
    "2020",
    "day",
    "in",
    "body mass",
]
COLUMNS = {"x": NAMES}
LABELS = {
    "label": ["3", "8", "10"],
    "Iris species": ["Iris setosa", "A+", "10-20", "a; b", "<5"],
    "flag": ["False", "True"],
}


def known(statement: str) -> dict[str, float]:
    (evidence,) = parse(statement, COLUMNS, LABELS, ["day"])["x"]
    return {name: float(v) for name, v, m in zip(NAMES, evidence.value, evidence.mask, strict=True) if m}


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("sepal length (cm) = 2.5", {"sepal length (cm)": 2.5}),
        ("年齢 = 3", {"年齢": 3}),
        ("Gro\u0308\u00dfe [m] = 1.8", {"Größe [m]": 1.8}),  # the same letters in another Unicode form
        ("income, k€ = 5; age=4", {"income, k€": 5, "age": 4}),
        ("`a-b` = 1", {"a-b": 1}),
        ("`2020` = 7 and `in` = 2", {"2020": 7, "in": 2}),
        ("age = 1, body mass = 2\nb = 3", {"age": 1, "body mass": 2, "b": 3}),
        ("day = 2024-01-31", {"day": 19753}),
        ("day = 2024-01-31T12:00, age = 5", {"day": 19753.5, "age": 5}),
        ("3 = age", {"age": 3}),
        ("2*age + 1 = 7", {"age": 3}),
    ],
)
def test_names_need_no_quotes_where_they_are_plain(statement: str, found: dict[str, float]) -> None:
    assert known(statement) == found


@pytest.mark.parametrize(
    ("statement", "low", "high"),
    [
        ("25 <= age <= 30", 25, 30),
        ("age in [25, 30]", 25, 30),
        ("age in (25, 30)", 25, 30),
        ("age ≥ 25", 25, math.inf),
        ("2*age <= 60", -math.inf, 30),
        ("day in [1970-01-02, 1970-01-03]", 1, 2),
    ],
)
def test_intervals(statement: str, low: float, high: float) -> None:
    (box,) = parse(statement, COLUMNS, LABELS, ["day"])["x"]
    entry = NAMES.index("day" if "day" in statement else "age")
    assert (float(box.lower[entry]), float(box.upper[entry])) == (low, high)
    assert int(np.isfinite(box.lower.numpy()).sum() + np.isfinite(box.upper.numpy()).sum()) == 1 + (
        math.isfinite(low) and math.isfinite(high)
    )


@pytest.mark.parametrize(
    ("statement", "codes"),
    [
        ("Iris species = Iris setosa", (0,)),
        ("Iris species in {A+, 10-20}", (1, 2)),
        ("Iris species in {a; b, <5}", (3, 4)),
        ("Iris species != 'a; b'; Iris species not in {<5}", (0, 1, 2)),
        ("Iris species = A+, age = 3", (1,)),
    ],
)
def test_categories_are_written_as_they_are(statement: str, codes: tuple[int, ...]) -> None:
    (evidence,) = parse(statement, COLUMNS, LABELS)["Iris species"]
    assert (evidence.values if isinstance(evidence, OneOf) else (int(evidence.value),)) == codes


def test_a_number_is_a_label_where_labels_are_numbers() -> None:
    assert int(parse("label = 8", COLUMNS, LABELS)["label"][0].value) == 1
    assert int(question([{"label": 8}], COLUMNS, LABELS)["label"][0].value) == 1
    assert question([{"label": {3, 10}}], COLUMNS, LABELS)["label"][0].values == (0, 2)
    assert int(question([{"flag": True}], COLUMNS, LABELS)["flag"][0].value) == 1
    with pytest.raises(EvidenceError, match="unknown value of 'label' '1'"):
        parse("label = 1", COLUMNS, LABELS)  # not the second category: that would be an 8


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("sepal lenght (cm) >= 2", "Did you mean 'sepal length \\(cm\\)'"),
        ("age group >= 3", "unknown column 'age group'"),
        ("Age >= 3", "Did you mean 'age'"),
        ("a-b >= 3", "'a-b' is a column and an expression of others; write the column as `a-b`"),
        ("age >= 2024-01-31", "'age' holds numbers, no dates"),
        ("day >= 2024-02-31", "no date"),
        ("income, k€ <= 5,000", "cannot be read from ',000'"),
        ("age in {25, 30}", "in \\[low, high\\]"),
        ("age in [30, 25]", "empty"),
        ("age or day >= 3", "unknown column 'age or day'"),
        ("age = missing; age = 3", "'age' is said to be missing, and something else"),
        ("label = 3 or 8", "unknown value of 'label' '3 or 8'"),
        ("label in {3, 8", "not closed"),
        ("2020 >= 5", "no column appears"),
        ("2*age = missing", "only a column can be missing"),
    ],
)
def test_what_is_doubtful_is_refused_by_name(statement: str, words: str) -> None:
    with pytest.raises(EvidenceError, match=words):
        parse(statement, COLUMNS, LABELS, ["day"])


def test_missing_says_nothing() -> None:
    assert parse("age = missing; label is missing; b = 2", COLUMNS, LABELS)["x"][0].mask.sum() == 1
    for nothing in (None, math.nan, np.float64("nan")):
        assert question([{"age": nothing, "label": None}], COLUMNS, LABELS) == {}


def test_python_says_what_a_file_says() -> None:
    """Columns by name, objects about a column, whole sites, and statements, in one question."""
    given = ["age >= 40", {"b": Within(0, 1), "a": [None, 3], "day": Near(5.0, 2.0), "Größe [m]": Known(1.8)}]
    found = question([*given, {"label": [3, 8], "where": "2*a - b >= 0.3", "z": 3.0}], COLUMNS, LABELS)
    assert explained({k: v for k, v in found.items() if k != "z"}, COLUMNS, LABELS) == [
        "`Größe [m]` = 1.8",
        "day ~ 5 +- 2",
        "age >= 40",
        "a <= 3",
        "0 <= b <= 1",
        "2*a - b >= 0.3",
        "label in {3, 8}",
    ]
    assert float(found["z"][0].value) == 3.0  # a site that has no named entries
    with pytest.raises(EvidenceError, match="evidence about one column holds one number"):
        question([{"a": Within([0, 1], [1, 2])}], COLUMNS, LABELS)
    with pytest.raises(EvidenceError, match="HalfSpace is about a site"):
        question([{"a": HalfSpace([1.0, 2.0])}], COLUMNS, LABELS)


def test_arrays_by_column_are_rows_of_evidence() -> None:
    found = question([{"age": np.array([20.0, np.nan]), "label": np.array(["8", "3"])}], COLUMNS, LABELS)
    assert found["x"][0].mask[:, 0].tolist() == [True, False]
    assert found["label"][0].value.tolist() == [1, 0]
    with pytest.raises(EvidenceError, match="2 rows of evidence"):
        question([{"age": np.zeros(3), "b": np.zeros(2)}], COLUMNS, LABELS)


def test_a_name_of_site_and_column_is_read_by_what_is_said() -> None:
    names = {"x": ["x", "y"]}
    assert question([{"x": 3}], names)["x"][0].mask.tolist() == [True, False]
    assert question([{"x": Known([1.0, 2.0])}], names)["x"][0].value.tolist() == [1.0, 2.0]
    with pytest.raises(EvidenceError, match="'x' is a site and a column"):
        question([{"x": [1.0, 2.0]}], names)


NUMBERS = st.floats(-1e6, 1e6).map(lambda v: round(v, 6) + 0.0)
NAMED = st.sampled_from(["age", "`sepal length (cm)`", "年齢", "`a-b`", "body mass", "`2020`"])
STATEMENTS = st.one_of(
    st.builds(lambda n, v: f"{n} = {v!r}", NAMED, NUMBERS),
    st.builds(lambda n, v, w: f"{n} ~ {v!r} +- {w!r}", NAMED, NUMBERS, st.floats(0.1, 9)),
    st.builds(lambda n, v, w: f"{v!r} <= {n} <= {v + w!r}", NAMED, NUMBERS, st.floats(0, 9)),
    st.builds(lambda n, m, v: f"2.5*{n} - {m} >= {v!r}", st.just("a"), st.just("b"), NUMBERS),
    st.builds(lambda v: f"label in {{{', '.join(sorted(v))}}}", st.sets(st.sampled_from(LABELS["label"]), min_size=1)),
)


@settings(max_examples=150, deadline=None)
@given(STATEMENTS)
def test_what_was_understood_says_the_same_again(statement: str) -> None:
    found = parse(statement, COLUMNS, LABELS)
    again = parse(explained(found, COLUMNS, LABELS), COLUMNS, LABELS)
    for site, evidence in found.items():
        for one, other in zip(evidence, again[site], strict=True):
            assert {k: v.tolist() for k, v in one.arrays().items()} == {
                k: v.tolist() for k, v in other.arrays().items()
            }


def test_explain_prints_what_was_understood(capsys: pytest.CaptureFixture[str]) -> None:
    ph.explain("age >= 40", "label in {3, 8}", "2*x0 - x1 >= 0.3", "bmi ~ 27 +- 2", "height = missing", {"size": 3})
    assert capsys.readouterr().out.splitlines() == [
        "size = 3",
        "bmi ~ 27 +- 2",
        "age >= 40",
        "2*x0 - x1 >= 0.3",
        "label in {3, 8}",
    ]


def test_dates_are_told_as_dates() -> None:
    found: Any = parse("day >= 2024-01-31", COLUMNS, LABELS, ["day"])
    assert explained(found, COLUMNS, LABELS, ["day"]) == ["day >= 2024-01-31"]


def test_a_data_frame_is_one_question_per_row() -> None:
    columns, categories = {"x": ("a", "b")}, {"side": ("left", "right")}
    frame = pandas.DataFrame({"side": ["left", None], "b": [1.5, np.nan], "a": [np.nan, 2.0]})
    for rows in (frame, polars.from_pandas(frame), pyarrow.Table.from_pandas(frame)):
        found = question([rows, "a <= 5"], columns, categories)
        known, bound = found["x"]
        assert known.arrays()["value"].tolist() == [[0.0, 1.5], [2.0, 0.0]]
        assert known.arrays()["mask"].tolist() == [[False, True], [True, False]]
        assert bound.kind == "within"
        (side,) = found["side"]
        assert side.arrays()["mask"].tolist() == [True, False]
    with pytest.raises(EvidenceError, match="unknown column 'c'"):
        question([frame.rename(columns={"a": "c"})], columns, categories)
