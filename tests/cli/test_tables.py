"""Tables on the command line: answers as csv and Parquet, filling in, and what a run is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas
import pytest

from phlogiston import datasets
from phlogiston.cli.main import main
from phlogiston.systems.drmm.system import DRMM


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return int(ended.value.code or 0)


def lines(n: int = 200) -> list[str]:
    """A German file: decimal commas, dates, an identifier that float64 cannot hold, remarks."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(n):
        side, size = rng.integers(0, 2), rng.normal()
        number = f"{10 + 3 * side + 0.1 * size:.2f}".replace(".", ",")
        day = np.datetime64("2024-01-01") + int(20 * side + size)
        rows.append(f"{10**17 + 3 * i};{number};{day};{'ja' if side else 'nein'};Satz {i}")
    return ["nr;Größe [cm];Tag;krank;Bemerkung", *rows]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("german")
    (folder / "t.csv").write_text("\n".join(lines()) + "\n", encoding="cp1252")
    with pytest.warns(UserWarning, match="set aside"):
        data = datasets.load(folder / "t.csv")
    system = DRMM(num_layers=1, num_components=3, frame="tril", steps=300)
    system.fit(data, out=folder / "run", progress="off")
    return folder / "run", folder


def test_a_table_is_filled_in_and_all_else_is_as_it_was(trained: tuple[Path, Path], tmp_path: Path) -> None:
    model, _ = trained
    rows = lines()
    cells = [row.split(";") for row in rows[1:21]]
    cells[0][1], cells[1][2], cells[2][3] = "", "NA", ""
    path = tmp_path / "gaps.csv"
    path.write_text("\n".join([rows[0], *(";".join(row) for row in cells)]) + "\n", encoding="cp1252")
    assert run("impute", model, path, "--out", tmp_path / "full.csv", "-n", "50") == 0
    full = pandas.read_csv(tmp_path / "full.csv", dtype=str)
    assert list(full.columns) == rows[0].split(";")
    assert full["nr"].tolist() == [row[0] for row in cells]
    assert full["Bemerkung"].tolist() == [row[4] for row in cells]
    for i, row in enumerate(rows[1:21]):
        _, number, day, ill, _ = row.split(";")
        assert float(full["Größe [cm]"][i]) == pytest.approx(float(number.replace(",", ".")), abs=2.0 if i == 0 else 0)
        gap = (pandas.Timestamp(full["Tag"][i]) - pandas.Timestamp(day)).days
        assert abs(gap) <= (15 if i == 1 else 0)
        assert full["krank"][i] == ill or i == 2
    assert run("impute", model, path, "--out", tmp_path / "full.csv") == 2  # what is there stays
    assert run("impute", model, path, "--out", tmp_path / "full.parquet", "--how", "draw") == 0
    assert not pandas.read_parquet(tmp_path / "full.parquet").isna().any().any()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a,b\n1,2\n", "none of the columns"),
        ("Größe [cm];krank\n;vielleicht\n", "unknown value of 'krank' 'vielleicht'"),
        ("Größe [cm];krank\nviel;ja\nwenig;nein\n", "holds text"),
    ],
)
def test_tables_that_do_not_fit_are_refused(
    trained: tuple[Path, Path], tmp_path: Path, content: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "t.csv").write_text(content, encoding="utf-8")
    command = ("impute", trained[0], tmp_path / "t.csv", "--data-set", "encoding=utf-8", "--out")
    assert run(*command, tmp_path / "o.csv") == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert run(*command, tmp_path / "o.docx") == 2


def test_an_answer_is_a_table(trained: tuple[Path, Path], tmp_path: Path) -> None:
    for name in ("a.csv", "a.parquet"):
        assert run("query", trained[0], "krank = ja", "Tag >= 2024-01-10", "-n", "20", "--out", tmp_path / name) == 0
    table, same = pandas.read_csv(tmp_path / "a.csv"), pandas.read_parquet(tmp_path / "a.parquet")
    assert list(table.columns) == list(same.columns) == ["Größe [cm]", "Tag", "krank"]
    assert set(table["krank"]) == {"ja"}
    assert same["Tag"].min() >= pandas.Timestamp("2024-01-10")


def test_samples_are_a_table_with_dates_as_dates(trained: tuple[Path, Path], tmp_path: Path) -> None:
    for name in ("s.csv", "s.parquet"):
        assert run("sample", trained[0], "-n", "20", "--out", tmp_path / name) == 0
    table = pandas.read_csv(tmp_path / "s.csv", parse_dates=["Tag"])
    same = pandas.read_parquet(tmp_path / "s.parquet")
    assert list(table.columns) == list(same.columns) == ["Größe [cm]", "Tag", "krank"]
    assert (table["Tag"] == same["Tag"]).all()
    assert (table["Größe [cm]"] == same["Größe [cm]"]).all()
    assert same["Tag"].between("2023-12-01", "2024-03-01").all()


def test_a_summary_says_what_a_run_is(trained: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("summary", trained[0]) == 0
    text = capsys.readouterr().out
    for words in ("drmm", "Tag [days since 1970-01-01]", "t.csv", "finished, 300 of 300"):
        assert words in text
    assert run("summary", trained[0], "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["columns"] == {"x": ["Größe [cm]", "Tag"]}
    assert told["steps"] == 300
