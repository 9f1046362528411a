"""Messy files go through info, train, query and evaluate, from the shell and from Python, and no row is wrong."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

import phlogiston as ph
from phlogiston.cli.main import main
from phlogiston.errors import PhlogistonWarning

_SPEC = importlib.util.spec_from_file_location("messy_files", Path(__file__).with_name("messy_files.py"))
assert _SPEC is not None
assert _SPEC.loader is not None
messy = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(messy)

SMALL = {"num_layers": 1, "num_components": 2, "steps": 6, "batch_size": 16}
VIDEOS = {
    "steps": 2,
    "lengths": [2],
    "shares": [1.0],
    "batch_size": 2,
    "hidden": 8,
    "slots": 1,
    "particles": 2,
    "glimpse": [8, 8],
}
TABLES = [name for name in messy.FILES if name not in ("pictures", "videos")]
GAPPED = {"missing.csv", "missing german.csv", "nullable.parquet"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("messy")
    messy.write_all(path)
    return path


def shell(*words: Any) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    assert not ended.value.code, f"`phlogiston {' '.join(map(str, words))}` left with {ended.value.code}"


def shown(*things: Any) -> list[str]:
    """What a notebook shows of things, each well-formed; the texts."""
    return ["".join(ElementTree.fromstring(thing._repr_html_()).itertext()) for thing in things]


def sets(options: dict[str, Any]) -> list[str]:
    return [word for key, value in options.items() for word in ("--set", f"{key}={value}")]


@pytest.mark.parametrize("name", TABLES)
def test_every_row_of_a_table_is_right(folder: Path, name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PhlogistonWarning)
        data = ph.datasets.load(folder / name, valid=0, test=0)
    parts = [split for split in (data.train, data.valid, data.test) if len(split)]
    x = np.concatenate([split.numpy() for split in parts])[: messy.ROWS]
    truth = np.stack([messy.HEIGHT, messy.COUNT, messy.DAYS], 1)
    known = np.ones_like(truth, dtype=bool)
    if name in GAPPED:
        known[3, 0] = known[5, 1] = known[8, 2] = False
        np.testing.assert_array_equal(np.concatenate([split.numpy("mask") for split in parts]), known)
    columns = list(data.meta.columns)
    assert len(columns) == (4 if name == "identifiers.csv" else 3), columns
    np.testing.assert_allclose(x[:, :3][known], truth[known], rtol=1e-12)
    label = next(key for key in data.meta.categorical if key != "ok")
    codes = np.concatenate([split.numpy(label) for split in parts])[: messy.ROWS]
    read = [None if code < 0 else data.meta.categorical[label][code] for code in codes]
    gone = {9, 39} if name in GAPPED else set()
    assert read == [None if i in gone else grade for i, grade in enumerate(messy.GRADE.tolist())]


@pytest.mark.parametrize("name", [*TABLES, "pictures"])
@pytest.mark.filterwarnings("ignore::phlogiston.errors.PhlogistonWarning")
def test_files_go_through_every_verb(folder: Path, tmp_path: Path, name: str) -> None:
    file, run = folder / name, tmp_path / "run"
    shell("data", "info", file)
    shell("train", "drmm", "--data", file, *sets(SMALL), "--out", run)
    loaded = ph.load(run)
    column = loaded.vocabulary()[0]["x"][0]
    question = f"{column} >= 1500" if name != "pictures" else f"{column} >= 0"
    shell("query", run, question, "-n", "20", "--out", tmp_path / "answer.csv")
    shell("evaluate", run, "--metrics", "log_likelihood")
    shell("evaluate", run, "--metrics", "log_likelihood", "--data", file, "--all-rows", "--out", tmp_path / "all")
    assert (run / "report.html").is_file()
    data = ph.datasets.load(file)
    system = ph.DRMM(SMALL).fit(data, progress="off")
    answer = system.query(question, num_samples=20, seed=0)
    assert len(answer.to_frame()) == 20
    assert answer.to_frame()[column].min() >= (1500 if name != "pictures" else 0)
    metrics = system.evaluate(data, ["log_likelihood"])
    assert np.isfinite(metrics["log_likelihood"].value)
    told = shown(data, system, answer, metrics, loaded, system.history)
    assert f"{len(data.train):,} to train" in told[0]
    assert all(column in text or len(loaded.vocabulary()[0]["x"]) > 20 for text in told[:3])


@pytest.mark.filterwarnings("ignore::phlogiston.errors.PhlogistonWarning")
def test_videos_go_through_every_verb(folder: Path, tmp_path: Path) -> None:
    file, run = folder / "videos", tmp_path / "run"
    shell("data", "info", file)
    source = (
        "--data",
        "video_folder",
        "--data-set",
        f"data={file}",
        "--data-set",
        "size=[16, 16]",
        "--data-set",
        "length=4",
    )
    shell("train", "sqair", *source, *sets(VIDEOS), "--out", run)
    shell("query", run, "-n", "4")
    shell("evaluate", run, "--metrics", "log_likelihood", "--split", "train")
    system = ph.load(run)
    answer = system.query(num_samples=3, seed=0)
    assert answer.num_samples == 3
    data = ph.datasets.load("video_folder", data=file, size=[16, 16], length=4)
    assert str(tuple(data.train.tensors["x"].shape)) in shown(data, system, answer, data.train)[0]


@pytest.mark.parametrize("kind", ["pandas", "polars", "pyarrow"])
@pytest.mark.filterwarnings("ignore::phlogiston.errors.PhlogistonWarning")
def test_frames_in_memory_go_through_every_verb(kind: str) -> None:
    import polars
    import pyarrow

    made = messy.frame(nullable=True)
    given = {"pandas": lambda: made, "polars": lambda: polars.from_pandas(made), "pyarrow": lambda: pyarrow.table(made)}
    frame = given[kind]()
    system = ph.DRMM(SMALL).fit(frame, progress="off")
    assert np.isfinite(system.log_prob(frame).value.numpy()).all()
    assert len(system.query("ok = true", "grade = gut", "day >= 2024-02-01", num_samples=9, seed=0).to_polars()) == 9
    full = system.impute(frame, num_samples=5)
    assert type(full) is type(frame)
    assert all("grade" in text for text in shown(system, system.query("ok = true", num_samples=5, seed=0)))
