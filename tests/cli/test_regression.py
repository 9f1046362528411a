"""The verbs on a table with a target: train on it, draw rows of it, ask about it, score it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

from phlogiston.systems import workflow

from .conftest import Command

SMALL = ("--set", "hidden=8", "--set", "num_components=2", "--steps", "30")


@pytest.fixture(scope="module")
def houses(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A table whose target is no last column, and a run on it."""
    rng = np.random.default_rng(0)
    area, age = rng.uniform(50, 150, 200), rng.uniform(0, 1e7, 200)
    folder = tmp_path_factory.mktemp("houses")
    with (folder / "houses.csv").open("w", newline="") as file:
        rows = zip(area, 3 * area + rng.normal(size=200), age, strict=True)
        csv.writer(file).writerows([["area", "price", "age"], *rows])
    sets = {"hidden": "8", "num_components": "2", "target": "price"}
    run = folder / "run"
    workflow.train("mdn", data=str(folder / "houses.csv"), sets=sets, steps=30, out=run, progress="off")
    return folder, run


def test_one_name_is_enough_where_an_option_takes_several(houses: tuple[Path, Path]) -> None:
    options = json.loads((houses[1] / "config.json").read_text())["config"]["options"]
    assert options["target"] == ["price"]
    assert options["hidden"] == [8]


def test_drawn_rows_hold_the_target_under_its_name(command: Command, houses: tuple[Path, Path]) -> None:
    assert command("sample", houses[1], "-n", 40, "--out", "drawn.csv").code == 0
    with open("drawn.csv", newline="") as file:
        header, *rows = list(csv.reader(file))
    assert header == ["area", "age", "price"]
    drawn = np.array(rows, dtype=float)
    assert drawn.shape == (40, 3)
    assert drawn[:, 1].max() > 1e5
    assert drawn[:, 2].min() > 0, "prices lie between 150 and 450"
    assert command("sample", houses[1], "-n", 40, "--out", "drawn.npz").code == 0
    with np.load("drawn.npz") as found:
        assert found["columns"].tolist() == ["area", "age"]
        assert found["columns_y"].tolist() == ["price"]
        np.testing.assert_allclose(found["y"][:, 0], drawn[:, 2], rtol=1e-6)


def test_questions_name_inputs_and_target(command: Command, houses: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "question.json").write_text('["area = 100", "age >= 0", "age <= 1e7", "price >= 250"]')
    found = command("query", houses[1], "--evidence", "question.json", "--out", "answer.npz")
    assert found.code == 0
    assert "price: median" in found.out
    with np.load("answer.npz") as answer:
        assert (answer["x"][:, 0] == 100).all()
        assert (answer["y"] >= 250).all()


def test_one_input_and_one_target_make_a_picture(command: Command) -> None:
    run = command("train", "mdn", "--data", "arcsine", "--data-set", "sizes=[300,50,50]", *SMALL).out.strip()
    assert command("sample", run, "--out", "cloud.png").code == 0
    assert iio.imread("cloud.png").shape[0] > 300
    scored = command("evaluate", run, "--json").json
    assert {"log_likelihood", "crps", "coverage_90"} <= set(scored["metrics"])
