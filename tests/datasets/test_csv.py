"""Text tables as people and spreadsheets write them: each is read right, told about, or refused by name."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from phlogiston import datasets
from phlogiston.datasets.readers.csv_fields import Fields
from phlogiston.errors import DataError

WHOLE: dict[str, Any] = {"valid": 0, "test": 0}
KEEP = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def load(folder: Path, text: str, **options: Any) -> datasets.Dataset:
    path = folder / "t.csv"
    path.write_text(text, encoding="utf-8")
    return datasets.load(path, **{**WHOLE, **options})


def told(data: datasets.Dataset, topic: str) -> str:
    return "; ".join(d.found for d in data.meta.decisions if d.topic == topic)


@pytest.mark.parametrize(
    ("text", "columns", "rows"),
    [
        ("country,2000,2001\nA,1.5,2.5\nB,3,4\n", ("2000", "2001"), [[1.5, 2.5], [3, 4]]),
        ("2000,2001,2002\n1.5,2,3\n4,5,6\n", ("2000", "2001", "2002"), [[1.5, 2, 3], [4, 5, 6]]),
        ("name;2020\nu;1,5\nv;2,5\n", ("2020",), [[1.5], [2.5]]),
        ("0,1\n0.5,2\n0.25,3\n", ("0", "1"), [[0.5, 2], [0.25, 3]]),
        # numbers that are data
        ("2011,1.5\n2010,2.5\n2009,3\n", ("x0", "x1"), [[2011, 1.5], [2010, 2.5], [2009, 3]]),
        ("2011\n2010\n", ("x0",), [[2011], [2010]]),
        ("0,1\n3,4\n5,6\n", ("x0", "x1"), [[0, 1], [3, 4], [5, 6]]),
        ("a,1,2\nb,3,4\nc,1,5\n", ("x1", "x2"), [[1, 2], [3, 4], [1, 5]]),
        ("1,2\n3,4\n", ("x0", "x1"), [[1, 2], [3, 4]]),
        # names above numbers, with a number among them or a field missing
        ("id,7,b\n1,2,3\n4,5,6\n", ("id", "7", "b"), [[1, 2, 3], [4, 5, 6]]),
        (",a\n1,2\n3,4\n", ("x0", "a"), [[1, 2], [3, 4]]),
    ],
)
def test_the_first_line_is_names_where_it_is(tmp_path: Path, text: str, columns: tuple[str, ...], rows: Any) -> None:
    data = load(tmp_path, text)
    assert data.meta.columns == columns
    assert data.train.numpy().tolist() == rows
    assert ("holds names" in told(data, "header")) == (columns[-1][0] != "x")
    if columns[-1] in ("b", "a"):  # text above numbers can be nothing else
        with pytest.raises(DataError, match="is no number while most entries are"):
            load(tmp_path, text, header=False)
    else:  # the option decides otherwise
        assert len(load(tmp_path, text, header=columns[-1][0] == "x").train) != len(data.train)


@pytest.mark.parametrize(
    ("cells", "values", "words"),
    [
        (["1,5", "2,25", "-3,0"], [1.5, 2.25, -3.0], "decimal mark ','"),
        (["1.234,5", "12.345,0", "7"], [1234.5, 12345.0, 7.0], "decimal mark ','"),
        (["1,234.5", "1,234,567", "8"], [1234.5, 1234567.0, 8.0], "decimal mark '.'"),
        (["1.234.567", "1.000", "5"], [1234567.0, 1000.0, 5.0], "decimal mark ','"),
        (["1 234 567", "2 000", "3"], [1234567.0, 2000.0, 3.0], "thousands apart"),
        (["1\u00a0234,5", "2\u202f000,25", "3"], [1234.5, 2000.25, 3.0], "decimal mark ','"),
        (["1'234.50", "2'000.00", "3"], [1234.5, 2000.0, 3.0], "decimal mark '.'"),
        (["12 %", "50%", "7.5%"], [0.12, 0.5, 0.075], "per cent, divided by 100"),
        (["12,5 %", "50 %", ""], [0.125, 0.5, None], "per cent"),
        (["$1,200.50", "$3.00", "($4.25)"], [1200.5, 3.0, -4.25], "currency $"),
        (["1.200,50 €", "3,00 €", "-4,25 €"], [1200.5, 3.0, -4.25], "currency €"),
        (["EUR 5.25", "EUR 6", "?"], [5.25, 6.0, None], "currency EUR"),
        (["\u22121.5", "2", "3e2"], [-1.5, 2.0, 300.0], "decimal mark"),
        (["2024-01-31", "2024-02-01", "1970-01-01"], [19753.0, 19754.0, 0.0], "year first"),
        (["2024-01-31T12:00", "2024-02-01 00:00:00", ""], [19753.5, 19754.0, None], "dates"),
        (["2024-01-31T12:00:00Z", "2024-02-01T02:00:00+02:00", ""], [19753.5, 19754.0, None], "UTC"),
        (["31.01.2024", "01.02.2024", "1.1.1970"], [19753.0, 19754.0, 0.0], "day first"),
        (["01/31/2024", "02/01/2024", "01/01/1970"], [19753.0, 19754.0, 0.0], "month first"),
        (["31/01/2024", "01/02/2024", "01/01/1970"], [19753.0, 19754.0, 0.0], "day first"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("delimiter", [";", "\t", ","])
def test_numbers_and_dates_are_read_as_people_write_them(
    tmp_path: Path, cells: list[str], values: list[float | None], words: str, delimiter: str
) -> None:
    buffer = io.StringIO()
    csv.writer(buffer, delimiter=delimiter).writerows([("a", "b"), *((c, i) for i, c in enumerate(cells))])
    data = load(tmp_path, buffer.getvalue())
    assert data.meta.columns == ("a", "b")
    known = [v is not None for v in values]
    assert data.train.numpy()[known, 0] == pytest.approx([v for v in values if v is not None], rel=1e-15)
    if not all(known):
        assert data.train.tensors["mask"][:, 0].tolist() == known
    assert words in told(data, "numbers") + told(data, "dates")
    text = load(tmp_path, buffer.getvalue(), categorical=("a",))
    assert set(text.meta.categorical["a"]) == {c for c in cells if c not in ("", "?")}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a;b\n1,234;5\n2,345;6\n", r"column 'a': '1,234' may be 1234 or 1\.234.*decimal=','"),
        ("a;b\n1,5;5\n2.75;6\n", "column 'a': commas and points are both decimal marks"),
        ("a;b\n12 %;5\n3;6\n", "column 'a': the notation of per cent changes"),
        ("a;b\n$12;5\n€3;6\n", "column 'a': the notation of currency changes"),
        ("a;b\n01/02/2024;5\n03/04/2024;6\n", r"column 'a': '01/02/2024' may be day/month or month/day"),
        ("a;b\n2024-01-01T10:00Z;5\n2024-01-02T10:00;6\n", "column 'a': some times have a time zone"),
    ],
)
def test_notations_in_doubt_are_refused_by_column(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        load(tmp_path, text)
    assert load(tmp_path, text, categorical=("a",)).meta.columns == ("b",)


def test_other_columns_and_the_option_settle_doubts(tmp_path: Path) -> None:
    assert load(tmp_path, "a;b\n1,234;0,5\n2,345;0,25\n").train.numpy()[:, 0].tolist() == [1.234, 2.345]
    assert load(tmp_path, "a;b\n1,234;0.5\n2,345;0.25\n").train.numpy()[:, 0].tolist() == [1234, 2345]
    assert load(tmp_path, "a;b\n1.234;0,5\n2.345;0,25\n").train.numpy()[:, 0].tolist() == [1234, 2345]
    assert load(tmp_path, "a;b\n1,234;1\n2,345;2\n", decimal=",").train.numpy()[:, 0].tolist() == [1.234, 2.345]
    with pytest.raises(DataError, match="decimal is ';'"):
        load(tmp_path, "a\n1\n", decimal=";")


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("1,5;2,5\n3,5;4,5\n", 2),
        ("a|b\n1|2\n", 2),
        ("0.5 1.5  2.5\n1 2 3\n", 3),  # numpy.savetxt
        ("name,note\nu,a;b\nv,c;d\n", 0),
        ('a,b\n"1,5",2\n"3,5",4\n', 2),
    ],
)
def test_the_delimiter_cuts_every_line_alike(tmp_path: Path, text: str, columns: int) -> None:
    if columns:
        assert len(load(tmp_path, text).meta.columns) == columns
    else:
        with pytest.raises(DataError, match=r"no numeric columns left \(text: \['name', 'note'\]\)"):
            load(tmp_path, text)


@KEEP
@given(
    rows=st.lists(st.tuples(st.integers(-(10**9), 10**9), st.integers(0, 99)), min_size=2, max_size=8),
    style=st.sampled_from([(",", "."), (".", ","), (",", " "), (",", ""), (".", "'"), (".", "")]),
)
def test_amounts_come_back_from_every_notation(tmp_path: Path, rows: list[Any], style: tuple[str, str]) -> None:
    mark, apart = style
    cells = [f"{'-' if a < 0 else ''}{abs(a):,}".replace(",", apart) + f"{mark}{c:02d}" for a, c in rows]
    buffer = io.StringIO()
    csv.writer(buffer, delimiter=";").writerows([("a", "b"), *((c, i) for i, c in enumerate(cells))])
    x = load(tmp_path, buffer.getvalue()).train.numpy()[:, 0]
    np.testing.assert_allclose(x, [float(f"{'-' if a < 0 else ''}{abs(a)}.{c:02d}") for a, c in rows], rtol=1e-15)


@pytest.mark.parametrize(
    "late", ["  7.5, 2", ' "7.5","2"', "7.5,   ", " NA,2", "\t7.5,2", ' "7.5", "2"', "nan, inf", "1e3 , 2 "]
)
def test_blanks_and_quotes_far_below_numbers_are_read_as_where_they_are_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: str
) -> None:
    lines = [f"{i}.5,{-i}" for i in range(700)]

    def read() -> Any:
        try:
            data = load(tmp_path, "\n".join(["a,b", *lines, late]) + "\n")
        except DataError as error:
            return str(error)
        return data.meta.columns, data.meta.categorical, data.meta.decisions, data.train[:]["x"].nan_to_num(-1).tolist()

    first = read()
    monkeypatch.setattr(Fields, "_read_all", lambda self, text, decimal: self._read(range(2), text, decimal))
    assert first == read()
