"""Columns of a table may be called like what has a meaning beside an array `x`: they are columns all the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import polars
import pyarrow
import pytest
import torch

import phlogiston as ph
from phlogiston import datasets
from phlogiston.errors import DataError, DataWarning

RANDOM = np.random.default_rng(0)
NUMBERS = RANDOM.uniform(40, 90, size=(60, 2))


def _csv(frame: pandas.DataFrame, folder: Path) -> Any:
    frame.to_csv(folder / "a.csv", index=False)
    return folder / "a.csv"


CONTAINERS: dict[str, Callable[[pandas.DataFrame, Path], Any]] = {
    "pandas": lambda frame, folder: frame,
    "polars": lambda frame, folder: polars.from_pandas(frame),
    "arrow": lambda frame, folder: pyarrow.Table.from_pandas(frame),
    "columns": lambda frame, folder: {name: frame[name].to_numpy() for name in frame},
    "csv": _csv,
}


@pytest.mark.parametrize("container", list(CONTAINERS))
@pytest.mark.parametrize("name", ["weight", "y", "columns", "length", "mask", "index"])
def test_a_column_of_numbers_stays_one(name: str, container: str, tmp_path: Path) -> None:
    frame = pandas.DataFrame({"height": NUMBERS[:, 0], name: NUMBERS[:, 1]})
    train = datasets.load(CONTAINERS[container](frame, tmp_path), valid=0, test=0).train
    assert sorted(train.tensors) == ["x"]
    assert np.allclose(train.tensors["x"].numpy(), NUMBERS)


def test_row_weights_are_named_or_stand_beside_x() -> None:
    frame = pandas.DataFrame({"height": NUMBERS[:, 0], "weight": NUMBERS[:, 1]})
    for data, options in (
        (frame, {"weight": "weight"}),
        ({"x": NUMBERS[:, :1], "weight": NUMBERS[:, 1]}, {}),
    ):
        train = datasets.load(data, valid=0, test=0, **options).train
        assert np.allclose(train.tensors["weight"].numpy(), NUMBERS[:, 1])
        assert tuple(train.tensors["x"].shape) == (60, 1)


LABELS = np.where(NUMBERS[:, 0] > 60, "u", "v")


@pytest.mark.parametrize(
    "data",
    [
        pandas.DataFrame({"a": NUMBERS[:, 0], "b": NUMBERS[:, 1], "y": LABELS}),
        {"x": NUMBERS, "y": LABELS},
    ],
    ids=["frame", "arrays"],
)
def test_labels_called_y_are_labels(data: Any) -> None:
    loaded = datasets.load(data, valid=0, test=0)
    assert loaded.meta.categorical["y"] == ("u", "v")
    assert torch.equal(loaded.train.tensors["y"], torch.tensor(LABELS == "v").long())
    for given in (data, loaded):
        system = ph.DRMM(num_layers=1, num_components=2, steps=2).fit(given, progress="off")
        assert system.schema["categorical"] == {"y": ["u", "v"]}
        with pytest.raises(DataError, match=r"'y' (are categories|holds text)"):
            ph.MDN(num_components=2, steps=2).fit(given, progress="off")


@pytest.mark.parametrize(
    ("name", "guide"),
    [("y", "beam"), ("z", "beam"), ("data", "beam"), ("num_rows", "beam"), ("z_1", "autoregressive")],
)
def test_labels_called_like_a_part_of_the_density_are_labels(name: str, guide: str) -> None:
    def answers(name: str) -> list[Any]:
        frame = pandas.DataFrame({"a": NUMBERS[:, 0], "b": NUMBERS[:, 1], name: LABELS})
        options: dict[str, Any] = {"num_layers": 2, "num_components": 2, "steps": 3, "guide": guide}
        system = ph.DRMM(**options, stream_weight=2.0).fit(frame, progress="off")
        drawn = system.sample(4, seed=0)
        return [
            system.log_prob(frame, joint=True).value,
            torch.as_tensor(np.asarray(system.predict_proba(name, frame.drop(columns=name)))),
            system.query(f"{name} = u", seed=0).mean("x"),
            drawn["x"],
            drawn[name],
        ]

    for found, wanted in zip(answers(name), answers("kind"), strict=True):
        assert torch.equal(found, wanted)


def test_what_a_density_does_not_use_is_told() -> None:
    for y in (NUMBERS[:, 0], NUMBERS):
        with pytest.warns(DataWarning, match="does not use 'y'"):
            ph.DRMM(num_layers=1, num_components=2, steps=2).fit({"x": NUMBERS, "y": y}, progress="off")
