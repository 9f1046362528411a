"""Text tables of any coding, size and packing: what pandas cuts is what Python's own csv and float would read."""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from phlogiston import datasets
from phlogiston.datasets.containers import MISSING
from phlogiston.datasets.readers.csv_tables import read_csv
from phlogiston.errors import DataError, DataWarning

WHOLE: dict[str, Any] = {"valid": 0, "test": 0}
KEEP = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def told(data: datasets.Dataset, topic: str) -> str:
    return "; ".join(d.found for d in data.meta.decisions if d.topic == topic)


@KEEP
@given(
    rows=st.lists(
        st.tuples(
            st.one_of(st.floats(allow_nan=False, allow_infinity=False).map(repr), st.sampled_from(["", "NA", " ?"])),
            st.one_of(st.integers(-(2**53), 2**53).map(str), st.just("")),
            st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=5),
            st.one_of(st.floats(-1e9, 1e9).map(lambda v: f" {v:.4f} "), st.just("N/A")),
        ),
        min_size=2,
        max_size=12,
    ),
    delimiter=st.sampled_from([",", ";", "\t", "|"]),
)
def test_every_entry_is_what_python_reads(tmp_path: Path, rows: list[tuple[str, ...]], delimiter: str) -> None:
    buffer = io.StringIO()
    csv.writer(buffer, delimiter=delimiter).writerows([("a", "b", "t", "c"), *rows])
    path = tmp_path / "t.csv"
    path.write_text(buffer.getvalue(), encoding="utf-8", newline="")
    found = read_csv(path, delimiter=delimiter, categorical=["t"])

    def value(entry: str) -> float:
        return float("nan") if entry.strip() in ("", "?", "NA", "N/A", "nan") else float(entry)

    for name, j in (("a", 0), ("b", 1), ("c", 3)):
        np.testing.assert_array_equal(found.numeric[name], [value(row[j]) for row in rows])
    assert [t or "" for t in found.text["t"]] == ["" if row[2].strip() in MISSING else row[2].strip() for row in rows]


@pytest.mark.parametrize(
    ("encoding", "option", "word"),
    [
        ("utf-8", None, ""),
        ("utf-8-sig", None, ""),
        ("utf-16", None, "utf-16"),
        ("utf-16-le", None, "utf-16-le"),
        ("cp1252", None, "cp1252, for it is no Unicode"),
        ("cp1251", "cp1251", "cp1251"),
        ("shift_jis", "shift_jis", "shift_jis"),
    ],
)
def test_letters_are_read_in_their_coding(tmp_path: Path, encoding: str, option: str | None, word: str) -> None:
    word_ = {"cp1251": "рост", "shift_jis": "身長"}.get(encoding, "Größe")
    (tmp_path / "t.csv").write_bytes(f"{word_};art\n1,5;{word_}\n2,5;b\n".encode(encoding))
    data = datasets.load(tmp_path / "t.csv", encoding=option, **WHOLE)
    assert data.meta.columns == (word_,)
    assert set(data.meta.categorical["art"]) == {"b", word_}
    assert data.train.numpy().ravel().tolist() == [1.5, 2.5]
    assert told(data, "encoding").startswith(word)


def test_letters_that_fit_no_coding_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("größe\n1\n".encode("cp1252"))
    with pytest.raises(DataError, match="cannot be read as text"):
        datasets.load(tmp_path / "t.csv", encoding="utf-8")
    with pytest.raises(DataError, match="encoding is 'klingon'"):
        datasets.load(tmp_path / "t.csv", encoding="klingon")


@pytest.mark.parametrize("name", ["t.csv.gz", "t.tsv.gz", "t.tsv", "t.txt"])
def test_packed_and_tabbed_files_are_tables(tmp_path: Path, name: str) -> None:
    content = b"a\tb\n1\t2\n3\t4\n"
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert datasets.load(tmp_path / name, **WHOLE).train.numpy().tolist() == [[1, 2], [3, 4]]
    if name.endswith(".gz"):
        (tmp_path / name).write_bytes(gzip.compress(content)[:-9])
        with pytest.raises(DataError, match="cannot be read as text"):
            datasets.load(tmp_path / name)


def long(entry: str, at: int = 700, rows: int = 1000, column: str = "{i}.5") -> str:
    """A table whose one odd entry comes after what is looked at first."""
    lines = [f"{column.format(i=i)},{i % 7}" for i in range(rows)]
    lines[at] = entry
    return "a,b\n" + "\n".join(lines) + "\n"


def test_what_comes_late_in_a_file_counts(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"

    def load(text: str) -> datasets.Dataset:
        path.write_text(text)
        return datasets.load(path, **WHOLE)

    for entry, words in (
        ("oops,1", "line 702, column 'a': 'oops' is no number"),
        ("1.5", "line 702: 1 fields, expected 2"),
        ("1.5,2,3", "line 702: 3 fields, expected 2"),
        ('"1.5,2', "cannot be read as text"),
        ("1_000,2", "line 702, column 'a': '1_000' is no number"),
        ("inf,2", "infinite value in row 700, column 'a'"),
    ):
        with pytest.raises(DataError, match=words):
            load(long(entry))
    data = load(long("NA,"))
    assert data.train.tensors["mask"].all(1).sum() == 999
    assert load(long("NA,", 999).rstrip("\n")).train.tensors["mask"].sum() == 1998
    assert load(long("1e3,2")).train.numpy()[700, 0] == 1000
    percent = load(long("12%,2", column="{i}%"))
    assert percent.train.numpy()[[700, 999], 0].tolist() == [0.12, 9.99]
    assert load(long("True,2", column="False")).meta.categorical["a"] == ("False", "True")
    fractions = "0,1\n" + "3,4\n" * 700 + "0.5,1\n"
    assert load(fractions).meta.columns == ("0", "1")
    assert len(load("0,1\n" + "3,4\n" * 700).train) == 701


def test_decimal_commas_of_large_files_are_told(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a;b;c\n" + "".join(f"{i},25;{i};1.{i % 1000:03d}\n" for i in range(2000)))
    data = datasets.load(path, **WHOLE)
    x = data.train.numpy()
    assert x[1999].tolist() == [1999.25, 1999, 1999]
    assert "column 'a': decimal mark ','" in told(data, "numbers")
    assert "column 'c'" in told(data, "numbers")


def test_columns_that_say_nothing_are_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    lines = [f"{10**17 + i * i},{i * 3},{i},note {i},,{i % 5}" for i in range(100)]
    path.write_text("key,patient_id,age,remark,empty,dose\n" + "\n".join(lines) + "\n")
    with pytest.warns(DataWarning, match="set aside") as caught:
        data = datasets.load(path)
    assert data.meta.columns == ("age", "dose")
    assert dict(data.meta.categorical) == {}
    said = str(caught[0].message)
    for name in ("key", "patient_id", "remark", "empty"):
        assert f"'{name}' (" in said
    kept = datasets.load(path, columns=["patient_id", "age"])
    assert kept.meta.columns == ("patient_id", "age")


def test_frames_in_files_keep_names_dates_and_missing_entries(tmp_path: Path) -> None:
    frame = pandas.DataFrame(
        {
            "age (years)": [41.5, None, 29.0],
            "seen": pandas.to_datetime(["2024-01-31", "2024-02-01", None]),
            "grade": ["A", None, "B"],
            "count": pandas.array([3, None, 5], dtype="Int64"),
        }
    )
    frame.to_parquet(tmp_path / "t.parquet")
    frame.to_excel(tmp_path / "t.xlsx", index=False)
    frame.to_csv(tmp_path / "t.csv", index=False)
    for name in ("t.parquet", "t.xlsx", "t.csv"):
        data = datasets.load(tmp_path / name, **WHOLE)
        assert data.meta.columns == ("age (years)", "seen", "count"), name
        assert dict(data.meta.units) == {"seen": "days since 1970-01-01"}
        assert data.train.tensors["mask"].tolist() == [[True, True, True], [False, True, False], [True, False, True]]
        assert data.train.numpy()[0].tolist() == [41.5, 19753, 3]
        assert data.train.tensors["grade"].tolist() == [0, -1, 1]
    for name in ("t.parquet", "t.xlsx"):
        (tmp_path / name).write_bytes(b"damaged")
        with pytest.raises(DataError, match="cannot be read as"):
            datasets.load(tmp_path / name)


@pytest.mark.parametrize(("name", "package"), [("t.parquet", "pyarrow"), ("t.xlsx", "openpyxl")])
def test_what_is_not_installed_is_named(
    tmp_path: Path, name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, package, None)
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError, match=rf'{package}.*pip install "phlogiston\[tables\]"'):
        datasets.load(tmp_path / name)
