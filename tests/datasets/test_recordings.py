"""Sequences of the user's own: every form they come in, what is refused, and a picture of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phlogiston import datasets
from phlogiston.datasets import preview
from phlogiston.errors import DataError


def flat(path: Path, rows: int = 10, seed: int = 0) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    lengths = random.integers(2, 9, rows)
    found = {"values": random.random((int(lengths.sum()), 3)).astype(np.float32), "lengths": lengths}
    np.savez(path, **found)
    return found


def test_a_file_of_values_and_lengths_is_read_by_its_path(tmp_path: Path) -> None:
    found = flat(tmp_path / "a.npz")
    data = datasets.load(tmp_path / "a.npz", names=("x", "y", "dt"), valid=0.0, test=0.0)
    assert data.meta.name == "recordings"
    assert data.meta.columns == ("x", "y", "dt")
    assert data.train.tensors["length"].tolist() == found["lengths"].tolist()
    np.testing.assert_array_equal(data.train.numpy()[0, : found["lengths"][0]], found["values"][: found["lengths"][0]])
    parts = datasets.load(tmp_path / "a.npz")
    assert [len(part) for part in (parts.train, parts.valid, parts.test)] == [7, 1, 2]
    assert parts.meta.columns == ("x0", "x1", "x2")


def test_a_folder_brings_its_parts(tmp_path: Path) -> None:
    flat(tmp_path / "train.npz", 6)
    flat(tmp_path / "valid.npz", 3, seed=1)
    data = datasets.load(tmp_path)
    assert [len(part) for part in (data.train, data.valid, data.test)] == [6, 3, 0]


def test_arrays_in_memory_and_their_limits() -> None:
    x, length = np.random.default_rng(0).random((5, 7, 2)), np.array([7, 3, 1, 5, 2])
    data = datasets.load({"x": x, "length": length}, valid=0.0, test=0.2, min_length=2, max_length=4)
    assert len(data.train) + len(data.test) == 4
    assert int(data.train.tensors["length"].max()) == 4
    with pytest.raises(DataError, match="length"):
        datasets.load({"x": x, "length": length + 9})


def test_a_table_of_steps_comes_back_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("sequence,step,dx,dy,pen\n0,0,1,2,0\n0,1,0.5,-1,1\n1,0,3,3,1\n")
    data = datasets.load(tmp_path / "a.csv", valid=0.0, test=0.0)
    assert data.meta.columns == ("dx", "dy", "pen")
    np.testing.assert_allclose(data.train.numpy()[0], [[1, 2, 0], [0.5, -1, 1]])
    (tmp_path / "b.csv").write_text("sequence,x\n0,1\n0,one\n")
    with pytest.raises(DataError, match="line 3"):
        datasets.load(tmp_path / "b.csv")


def test_strokes_are_told_by_their_pen_and_drawn(tmp_path: Path) -> None:
    values = np.random.default_rng(1).random((12, 3))
    values[:, 2] = (values[:, 2] > 0.5).astype(float)
    data = datasets.load({"values": values, "lengths": [4, 4, 4]}, valid=0.0, test=0.0)
    assert data.meta.columns == ("dx", "dy", "pen")
    strokes = preview.figure(data)
    assert len(strokes.axes) == 3
    assert all(axes.lines for axes in strokes.axes)
    numbers = np.random.default_rng(2).random((12, 3))
    touches = datasets.load({"values": numbers, "lengths": [6, 6]}, names=("x", "y", "dt"), test=0.0)
    assert len(preview.figure(touches).axes[0].collections) == 1
    others = datasets.load({"values": numbers[:, :2], "lengths": [6, 6]}, test=0.0)
    assert len(preview.figure(others).axes[0].lines) == 2


def test_what_are_no_sequences_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no data"):
        datasets.load("recordings")
    flat(tmp_path / "a.npz")
    with pytest.raises(DataError, match="2 names for 3"):
        datasets.load(tmp_path / "a.npz", names=("x", "y"))
    with pytest.raises(DataError, match="lengths sum"):
        datasets.load({"values": np.zeros((5, 2)), "lengths": [3]})
    with pytest.raises(DataError, match="valid"):
        datasets.load(tmp_path / "a.npz", valid=1.5)
