"""Drawings and recordings in the files they are published in: every container holds what was put in, or is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phlogiston import datasets
from phlogiston.datasets.readers import object_arrays
from phlogiston.errors import DataError, DataWarning

RNG = np.random.default_rng(0)


def drawing(points: int, seed: int) -> Any:
    row = np.c_[np.random.default_rng(seed).integers(-20, 20, (points, 2)), np.zeros(points)].astype(np.int16)
    row[-1, 2] = 1
    return row


def ragged(rows: list[Any]) -> Any:
    held = np.empty(len(rows), dtype=object)
    held[:] = rows
    return held


@pytest.mark.parametrize("points", [(5, 7, 6), (6, 6, 6), (1, 1, 1)])
@pytest.mark.parametrize("stored", ["object", "object as numpy makes it", "numbers", "floats"])
def test_parts_of_any_lengths_come_back(points: tuple[int, ...], stored: str, tmp_path: Path) -> None:
    rows = [drawing(n, i) for i, n in enumerate(points)]
    if stored in ("numbers", "floats") and len(set(points)) > 1:
        pytest.skip("numbers have one length")
    if stored == "object":
        train = ragged([*rows])
    else:
        train = np.array(rows, dtype={"numbers": np.int16, "floats": np.float64}.get(stored, object))
    np.savez(tmp_path / "cat.npz", train=train, valid=np.array([drawing(4, 9)], dtype=object), test=ragged([]))
    for data in (datasets.load("quickdraw", root=tmp_path), datasets.load(tmp_path / "cat.npz")):
        x = data.train.numpy("x")
        for i, row in enumerate(rows):
            assert np.array_equal(x[i, : len(row)], row)
        assert data.train.tensors["length"].tolist() == list(points)
        assert np.array_equal(data.valid.numpy("x")[0, :4], drawing(4, 9))


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(3, 4, 3), (1, 2, 3), (2, 1)])
def test_object_arrays_of_numbers_keep_their_order(shape: tuple[int, ...], order: Any, tmp_path: Path) -> None:
    values = RNG.integers(-9, 9, shape)
    np.savez(tmp_path / "a.npz", a=np.asarray(values.astype(object), order=order), b=(values / 7).astype(object))
    found = object_arrays.read(tmp_path / "a.npz")
    assert np.array_equal(np.array(found["a"]), values)
    assert np.array_equal(np.array(found["b"]), values / 7)


LINES = [
    {"word": "cat", "drawing": [[[0, 5, 9], [1, 2, 3]], [[4, 4], [8, 9]]]},
    {"word": "cat", "drawing": [[[0.5, 5.0], [1.0, 2.5], [0, 17]]]},  # raw: with times
]


@pytest.mark.parametrize("where", ["file", "folder", "name"])
def test_drawings_in_json_are_read_from_a_file_a_folder_or_by_name(where: str, tmp_path: Path) -> None:
    (tmp_path / "cat.ndjson").write_text("\n".join(map(json.dumps, LINES)) + "\n\n")
    name = {"file": tmp_path / "cat.ndjson", "folder": tmp_path, "name": "quickdraw"}[where]
    root = tmp_path if where == "name" else None
    data = datasets.load(name, root=root, valid=0.0, test=0.0)
    assert data.train.tensors["length"].tolist() == [5, 2]
    first = [[0, 0, 0], [5, 1, 0], [4, 1, 1], [-5, 5, 0], [0, 1, 1]]
    assert data.train.numpy("x")[0].tolist() == first
    assert data.train.numpy("x")[1, :2].tolist() == [[0.0, 0.0, 0.0], [4.5, 1.5, 1.0]]
    assert data.meta.categorical == {"label": ("cat",)}


def test_lines_without_a_drawing_are_counted_and_told(tmp_path: Path) -> None:
    good = [json.dumps(LINES[0])] * 20
    bad = ['{"word": "cat"}', '{"drawing": [[[1, 2], [3]]]}', '{"drawing": []}', "{", '{"drawing": [[[1], [NaN]]]}']
    (tmp_path / "cat.ndjson").write_text("\n".join(good + bad))
    with pytest.warns(DataWarning, match=r"5 of 25 lines of cat\.ndjson .*line 21"):
        data = datasets.load(tmp_path / "cat.ndjson", test=0.1)
    assert len(data.train) + len(data.valid) + len(data.test) == 20
    assert len(data.test) == 2
    assert {"skipped", "parts"} <= {decision.topic for decision in data.meta.decisions}
    (tmp_path / "cat.ndjson").write_text("\n".join(bad))
    with pytest.raises(DataError, match="none of the 5 lines"):
        datasets.load(tmp_path / "cat.ndjson")


@pytest.mark.parametrize("lengths", [(5, 9, 7), (6, 6, 6)])
@pytest.mark.parametrize("by_path", [True, False])
def test_the_published_recordings_are_read(lengths: tuple[int, ...], by_path: bool, tmp_path: Path) -> None:
    rows = [RNG.random((n, 4)) for n in lengths]
    np.savez_compressed(tmp_path / "training-dataset-4d.npz", perfs=np.array(rows, dtype=object))
    data = datasets.load(tmp_path / "training-dataset-4d.npz") if by_path else datasets.load("control", root=tmp_path)
    assert data.meta.columns == ("dt", "control_1", "control_2", "control_3")
    found = [r["x"][0, : int(r["length"])].numpy() for part in (data.train, data.valid) for r in part]
    assert sorted(map(len, found)) == sorted(lengths)
    for row in rows:
        assert any(row.shape == f.shape and np.allclose(row, f) for f in found)


def iam(folder: Path, broken: str | None) -> Path:
    for f in range(4):
        form = f"a0{f}-000"
        strokes, texts = (folder / kind / form[:3] / form for kind in ("lineStrokes", "ascii"))
        strokes.mkdir(parents=True)
        texts.mkdir(parents=True)
        (texts / f"{form}u.txt").write_text("CSR:\n\nhello there\nworld\n")
        points = "".join(f'<Point x="{i * 3}" y="{i * 7 % 11}" time="{i}"/>' for i in range(6))
        content = f"<S><StrokeSet><Stroke>{points}</Stroke></StrokeSet></S>"
        for k in (1, 2, 3):
            (strokes / f"{form}u-0{k}.xml").write_text(broken if broken is not None and (f, k) == (2, 2) else content)
    return folder


@pytest.mark.parametrize("broken", ["", "<?xml", "<S><StrokeSet/></S>", "<S><Stroke><Point x='1'/></Stroke></S>"])
def test_one_broken_line_of_handwriting_does_not_cost_the_others(broken: str, tmp_path: Path) -> None:
    with pytest.warns(DataWarning, match=r"1 of 12 lines .* a02-000u-02\.xml"):
        data = datasets.load("iam_online", root=iam(tmp_path, broken))
    assert sum(map(len, (data.train, data.valid, data.test))) == 7
    told = {decision.topic: decision.found for decision in data.meta.decisions}
    assert told["left out"] == "4 lines have no text in ascii/"
