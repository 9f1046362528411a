"""Other data than those of training: columns and categories go by name, and all rows of a file are scored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from phlogiston import datasets
from phlogiston.errors import ConfigError, DataError
from phlogiston.systems import workflow
from phlogiston.systems.drmm.system import DRMM
from phlogiston.systems.options import shared_steps


def table(folder: Path, name: str, columns: str, rows: int, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    values = {"a": rng.normal(size=rows), "b": 5 + rng.normal(size=rows), "g": rng.choice(["u", "v", "w"], rows)}
    if "2" in name:
        values["g"] = np.where(values["g"] == "u", "w", values["g"])  # a file without one of the categories
    path = folder / name
    lines = [columns, *(",".join(str(values[c][i]) for c in columns.split(",")) for i in range(rows))]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DRMM, Path]:
    folder = tmp_path_factory.mktemp("other")
    data = datasets.load(table(folder, "train.csv", "a,b,g", 200))
    system = DRMM(num_layers=1, num_components=2, steps=60, stream_weight=5.0)
    return folder / "run", system.fit(data, out=folder / "run", progress="off"), folder


def test_all_rows_of_another_file_are_scored_by_name(run: tuple[Path, DRMM, Path]) -> None:
    path, system, folder = run
    straight = table(folder, "new1.csv", "a,b,g", 50, seed=1)
    turned = table(folder, "new1-turned.csv", "g,b,a", 50, seed=1)
    lacking = table(folder, "new2.csv", "b,g,a", 50, seed=1)
    rows = datasets.load(straight, valid=0, test=0).train
    by_hand = float(system.log_prob(rows).value.mean())
    for file in (straight, turned):
        found = workflow.evaluate(path, data=str(file), metrics=["log_likelihood"], out=folder / file.stem)
        assert found["metrics"]["log_likelihood"]["n"] == 50
        assert found["metrics"]["log_likelihood"]["value"] == pytest.approx(by_hand, abs=1e-5)
        assert found["rows"] == "all"
    # codes of categories are those of training, though the file lacks the first of them
    other = datasets.load(lacking, valid=0, test=0)
    joint = system.log_prob(datasets.Dataset(other.train, other.valid, other.train, other.meta), joint=True).value
    frame = {"a": other.train.numpy()[:, 1], "b": other.train.numpy()[:, 0]}
    labels = [other.meta.categorical["g"][code] for code in other.train.tensors["g"].tolist()]
    assert torch.allclose(joint, system.log_prob({**frame, "g": np.array(labels)}, joint=True).value)


def test_parts_are_chosen_by_name(run: tuple[Path, DRMM, Path]) -> None:
    path, _, folder = run
    sizes = {
        split: workflow.evaluate(path, metrics=["log_likelihood"], split=split, out=folder / f"o-{split}")
        for split in (None, "train", "valid", "test", "all")
    }
    assert [found["metrics"]["log_likelihood"]["n"] for found in sizes.values()] == [40, 140, 20, 40, 200]
    own = workflow.evaluate(path, data=str(folder / "train.csv"), metrics=["log_likelihood"], out=folder / "own")
    assert own["metrics"]["log_likelihood"]["n"] == 40  # the file of training: only what was held out
    with pytest.raises(ConfigError, match="unknown split 'tset'"):
        workflow.evaluate(path, split="tset")


@pytest.mark.parametrize(
    ("columns", "content", "words"),
    [("a,g", "", "column"), ("a,b,g", "1,2,z\n", "category 'z', which was not in training")],
)
def test_files_that_do_not_fit_are_refused(
    run: tuple[Path, DRMM, Path], columns: str, content: str, words: str
) -> None:
    path, _, folder = run
    file = table(folder, "bad.csv", columns, 10)
    file.write_text(file.read_text() + content)
    with pytest.raises((DataError, ConfigError), match=words):
        workflow.evaluate(path, data=str(file))


@pytest.mark.parametrize(
    ("options", "total", "shares"),
    [
        ({"steps": 800}, 100, {"steps": 100}),
        ({"frame_steps": 1500, "steps": 1200}, 100, {"frame_steps": 55, "steps": 45}),
        ({"a": 1000, "b": 1, "c": 1}, 3, {"a": 1, "b": 1, "c": 1}),
        ({"a": 1, "b": 1}, 5, {"a": 3, "b": 2}),
    ],
)
def test_steps_are_shared_out(options: dict[str, int], total: int, shares: dict[str, int]) -> None:
    found: dict[str, Any] = shared_steps(options, total)
    assert found == shares
    assert sum(found.values()) == total


def test_fewer_steps_than_stages_are_refused() -> None:
    with pytest.raises(ConfigError, match="2 stages \\(a, b\\)"):
        shared_steps({"a": 3, "b": 3}, 1)
