"""Dates with a time zone, spans of time, and categories that look like numbers: they come back as what they were."""

from __future__ import annotations

import datetime
import zoneinfo

import numpy as np
import pandas
import polars
import pyarrow
import pytest

from phlogiston import datasets
from phlogiston.datasets import moments
from phlogiston.datasets.frames import Names, labels_as_they_are, make_frame
from phlogiston.datasets.readers.array import fitting, whole
from phlogiston.errors import DataError, EvidenceError
from phlogiston.inference.query.text import question

BERLIN = "days since 1970-01-01 in Europe/Berlin"
NOON = datetime.datetime(2024, 7, 1, 12, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin"))
WALL = (datetime.datetime(2024, 7, 1, 12) - datetime.datetime(1970, 1, 1)) / datetime.timedelta(days=1)


def series(zone: str | None = "Europe/Berlin") -> pandas.Series:
    return pandas.Series([NOON, None, NOON + datetime.timedelta(days=180)]).dt.tz_convert(zone)


def frame(zone: str | None = "Europe/Berlin") -> pandas.DataFrame:
    return pandas.DataFrame({"a": [1.0, 2.0, 3.0], "seen": series(zone)})


@pytest.mark.parametrize("kind", ["pandas", "polars", "pyarrow", "objects"])
def test_a_time_zone_is_read_as_wall_clock_time_and_comes_back(kind: str) -> None:
    given = {
        "pandas": frame,
        "polars": lambda: polars.from_pandas(frame()),
        "pyarrow": lambda: pyarrow.Table.from_pandas(frame()),
        "objects": lambda: frame().assign(seen=np.array(series().tolist(), dtype=object)),
    }[kind]()
    rows, meta = whole(given)
    assert meta.units == {"seen": BERLIN}
    days = rows.tensors["x"][:, 1].double().numpy()
    assert days[0] == WALL
    back = Names({"x": ("a", "seen")}, units=meta.units).table({"x": rows.tensors["x"].double()})["seen"]
    assert back[0] == NOON
    assert back[2] == NOON + datetime.timedelta(days=180)  # 12:00 in winter, too
    for library in ("pandas", "polars", "pyarrow"):
        table = pyarrow.table(make_frame({"seen": back}, library))
        assert str(table.schema.field("seen").type.tz) == "Europe/Berlin"


def test_rows_of_another_zone_are_told_by_the_clock_of_training() -> None:
    expected = fitting(frame(), ("a", "seen"), {}, units={"seen": BERLIN})["x"]
    for zone in ("UTC", "America/New_York", "+05:30"):
        found = fitting(frame(zone), ("a", "seen"), {}, units={"seen": BERLIN})["x"]
        np.testing.assert_array_equal(found, expected)
    naive = fitting(frame(None), ("a", "seen"), {}, units={"seen": BERLIN})["x"]  # wall-clock time, whatever zone
    assert float(naive[0, 1]) == WALL - 2 / 24
    with pytest.raises(DataError, match="'seen': dates in Europe/Berlin beside dates without a time zone"):
        fitting(frame(), ("a", "seen"), {}, units={"seen": moments.EPOCH})


def test_parts_of_a_table_may_have_other_zones() -> None:
    data = datasets.load(frame(), test_data=frame("UTC"), valid=0)
    assert data.meta.units == {"seen": BERLIN}
    assert float(data.test.tensors["x"][0, 1]) == WALL


@pytest.mark.parametrize(
    "value", [NOON, NOON.astimezone(datetime.UTC), pandas.Timestamp(NOON), datetime.datetime(2024, 7, 1, 12)]
)
def test_questions_with_a_zone_are_moved_to_that_of_the_column(value: datetime.datetime) -> None:
    columns, dates = {"x": ("a", "seen")}, {"seen": "Europe/Berlin"}
    asked = {"seen": value}
    for given in (asked, {"seen": pandas.Series([value])}, {"seen": polars.Series([value])}):
        (known,) = question([given], columns, {}, dates)["x"]
        assert float(np.asarray(known.arrays()["value"]).reshape(-1)[-1]) == pytest.approx(WALL, abs=1e-9)
    (bound,) = question([{"seen": [value, None]}], columns, {}, dates)["x"]
    assert float(np.asarray(bound.arrays()["lower"]).reshape(-1)[1]) == pytest.approx(WALL, abs=1e-9)


def test_a_zone_where_the_column_has_none_is_refused() -> None:
    for asked in ({"seen": NOON}, {"seen": pandas.Series([NOON])}):
        with pytest.raises(EvidenceError, match="time zone"):
            question([asked], {"x": ("seen",)}, {}, {"seen": ""})


def test_mixed_zones_become_utc_and_a_zone_in_some_rows_only_is_refused() -> None:
    mixed = np.array([NOON, NOON.astimezone(datetime.timezone(datetime.timedelta(hours=5)))], dtype=object)
    rows, meta = whole(pandas.DataFrame({"seen": mixed}))
    assert meta.units == {"seen": "days since 1970-01-01 in UTC"}
    assert rows.tensors["x"][:, 0].double().tolist() == [WALL - 2 / 24] * 2
    some = np.array([NOON, datetime.datetime(2024, 7, 1)], dtype=object)
    with pytest.raises(DataError, match="times with a time zone and times without"):
        whole(pandas.DataFrame({"seen": some}))


@pytest.mark.parametrize("spans", [[1.5, None, -2.25], [0.0, 1e4, 3.0]])
def test_spans_of_time_come_back_as_such(spans: list[float | None]) -> None:
    given = pandas.Series([None if s is None else pandas.Timedelta(s, "D") for s in spans], dtype="timedelta64[us]")
    for column in (given, given.astype(object).where(given.notna(), None)):
        _, meta = whole(pandas.DataFrame({"took": column, "a": [1.0, 2.0, 3.0]}))
        assert meta.units == {"took": "days"}
        back = moments.as_they_were(np.array([np.nan if s is None else s for s in spans]), "days")
        assert (pandas.Series(back).fillna(pandas.Timedelta(0)) == given.fillna(pandas.Timedelta(0))).all()


def test_dates_beyond_what_a_calendar_holds_do_not_crash() -> None:
    found = moments.as_they_were(np.array([-1e9, np.nan, 1e9]), BERLIN)
    assert [moment and moment.year for moment in found] == [1, None, 9999]


@pytest.mark.parametrize("zone", ["+02:00", "UTC+02:00", "+0200"])
def test_fixed_offsets_are_zones(zone: str) -> None:
    assert moments.zone_info(zone).utcoffset(None) == datetime.timedelta(hours=2)


def test_an_unknown_zone_is_named() -> None:
    with pytest.raises(DataError, match="no time zone 'Mars/Base'"):
        moments.zone_info("Mars/Base")


def test_post_codes_keep_their_leading_zeros() -> None:
    assert labels_as_they_are(["01234", None], ["01234", "90210"]) == ["01234", None]
    assert labels_as_they_are(["1", None], ["-1", "1"]) == [1, None]
    assert labels_as_they_are(["²"], ["²"]) == ["²"]


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([1, 2, 7, 7], ("1", "2", "7")),
        ([1.5, 2.5, 1.5, 2.5], ("1.5", "2.5")),
        ([True, False, True, False], ("False", "True")),
        (["b", "a", "b", "a"], ("a", "b")),
    ],
)
def test_what_a_frame_calls_categories_are_categories(values: list[object], labels: tuple[str, ...]) -> None:
    column = pandas.Categorical(values)
    arrow = pyarrow.array(values).dictionary_encode()
    frames = [pandas.DataFrame({"a": np.arange(4.0), "c": column})]
    if not isinstance(values[0], bool):  # Arrow has no dictionaries of truth values
        frames.append(pyarrow.table({"a": np.arange(4.0), "c": arrow}))
    for given in frames:
        _, meta = whole(given)
        assert meta.columns == ("a",)
        assert meta.categorical["c"] == labels
    gone = pandas.DataFrame({"a": np.arange(4.0), "c": pandas.Categorical([*values[:3], None])})
    assert whole(gone)[0].tensors["c"].tolist()[3] == -1


@pytest.mark.parametrize("values", [["1", "10", "2", "1"], ["True", "False", "True", "True"]])
def test_text_that_looks_like_numbers_comes_back_as_text(values: list[str]) -> None:
    for column in (values, pandas.Categorical(values)):
        rows, meta = whole(pandas.DataFrame({"a": np.arange(4.0), "c": column}))
        names = Names({"x": ("a",)}, meta.categorical, meta.units)
        assert names.table(dict(rows.tensors))["c"] == values
    data = datasets.load(pandas.DataFrame({"a": np.arange(4.0), "c": values}), valid=0, test=0)
    assert data.meta.units == {"c": "text"}
    truth = pandas.DataFrame({"a": np.arange(4.0), "c": pandas.Categorical([1, 10, 2, 1])})
    assert not whole(truth)[1].units


def test_intervals_are_categories() -> None:
    given = pandas.DataFrame({"a": np.arange(6.0), "c": pandas.cut(np.arange(6.0), 2, labels=None)})
    assert len(whole(given)[1].categorical["c"]) == 2
