"""Sequences: both npz layouts, files that mean harm, drawings no model can use."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phlogiston import datasets
from phlogiston.datasets.readers import object_arrays, sequences
from phlogiston.errors import DataError

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
FILES = {"tinyperf": "tinyperf", "control": "control3", "kanji": "kanji", "omniglot": "omniglot_strokes"}
FIRED: list[str] = []


class Trap:
    """Leaves a trace when somebody unpickles it."""

    def __reduce__(self) -> Any:
        return FIRED.append, ("run",)


def drawings(*lengths: int, dtype: Any = np.int16) -> np.ndarray[Any, Any]:
    rows = np.empty(len(lengths), dtype=object)
    for i, n in enumerate(lengths):
        rows[i] = np.column_stack([np.arange(n) + i, -np.arange(n), np.arange(n) == n - 1]).astype(dtype)
    return rows


def save_objects(path: Path, protocol: int, **arrays: Any) -> None:
    """Write object arrays as NumPy does, with a pickle protocol of choice."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.lib.format.write_array_header_1_0(buffer, np.lib.format.header_data_from_array_1_0(array))
            plain = array.dtype != object
            buffer.write(array.tobytes("A") if plain else pickle.dumps(array, protocol=protocol))
            archive.writestr(f"{name}.npy", buffer.getvalue())


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("dtype", [np.int16, np.float32, ">i2", np.float64])
def test_object_arrays_come_back_as_they_were_saved(tmp_path: Path, protocol: int, dtype: Any) -> None:
    rows = drawings(3, 1, 7, dtype=dtype)
    save_objects(tmp_path / "a.npz", protocol, train=rows, flat=np.arange(6.0).reshape(2, 3, order="F"))
    found = object_arrays.read(tmp_path / "a.npz")
    for mine, theirs in zip(found["train"], rows, strict=True):
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(mine, theirs)
    assert found["flat"].tolist() == [[0, 2, 4], [1, 3, 5]]  # type: ignore[union-attr]


def test_numpys_own_file_is_read(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", train=drawings(2, 5), valid=drawings(3), test=drawings(4))
    parts = sequences.read_parts(tmp_path / "a.npz")
    assert [len(row) for row in parts["train"]] == [2, 5]
    assert sequences.is_sequences(tmp_path / "a.npz")


def test_what_a_file_asks_to_be_run_is_refused_and_not_run(tmp_path: Path) -> None:
    bad = np.empty(1, dtype=object)
    bad[0] = Trap()
    for protocol in (2, 4):
        save_objects(tmp_path / f"{protocol}.npz", protocol, train=bad)
        with pytest.raises(DataError):
            object_arrays.read(tmp_path / f"{protocol}.npz")
    assert FIRED == []


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "text"])
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "train.npz"
    np.savez_compressed(path, values=np.arange(3000.0).reshape(1000, 3), lengths=np.array([400, 600]))
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        for i in range(100, 140):
            content[i] ^= 0xFF
    contents = {"truncated": bytes(content[:500]), "flipped": bytes(content), "empty": b"", "text": b"hello"}
    path.write_bytes(contents[damage])
    with pytest.raises(DataError, match=r"train\.npz"):
        sequences.read_flat(path)


def test_lengths_that_do_not_add_up_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", values=np.zeros((5, 3)), lengths=np.array([2, 2]))
    with pytest.raises(DataError, match="lengths sum to 4"):
        sequences.read_flat(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("row", "word"),
    [
        (np.zeros((0, 3)), "empty"),
        (np.array([[0.0, np.nan, 0.0]]), "dy is nan"),
        (np.array([[0.0, 0.0, 0.5]]), "pen of 0.5"),
        (np.zeros((4, 2)), "shape"),
    ],
)
def test_drawings_nobody_can_learn_from_are_refused(row: Any, word: str) -> None:
    with pytest.raises(DataError, match=word):
        sequences.check([row], sequences.STROKES, "here")


def test_a_drawing_of_one_point_is_a_drawing() -> None:
    row = sequences.offsets_of([np.array([[3.0, 4.0]])])
    assert row.tolist() == [[0.0, 0.0, 1.0]]
    with pytest.raises(DataError, match="single point"):
        sequences.offsets_of([np.zeros((0, 2))])


def test_strokes_survive_the_way_to_offsets_and_back() -> None:
    strokes = [np.array([[0.0, 0.0], [1.0, 2.0]]), np.array([[5.0, 5.0]]), np.array([[4.0, 4.0], [3.0, 3.0]])]
    back = sequences.strokes_of(sequences.offsets_of(strokes))
    for mine, theirs in zip(back, strokes, strict=True):
        np.testing.assert_allclose(mine, theirs)


@pytest.mark.parametrize("name", FILES)
def test_the_real_files_are_read(name: str) -> None:
    folder = SHARED / FILES[name]
    if not folder.is_dir():
        pytest.skip(f"the files of {name} are not here")
    data = datasets.load(name, root=folder)
    x, length = data.train.tensors["x"], data.train.tensors["length"]
    inside = (data.train.tensors["x"] != 0).any(-1).sum(1)
    assert bool((inside <= length).all())
    assert bool((x[torch_range(x) >= length.unsqueeze(1)] == 0).all())
    with np.load(folder / "train.npz") as content:
        values, lengths = content["values"], content["lengths"]
    kept = int(lengths[0])
    scale = {"kanji": 64.0}.get(name, 1.0)
    np.testing.assert_allclose(
        x[0, :kept].numpy(), values[:kept] / [scale, scale, *[1.0] * (x.shape[2] - 2)], rtol=1e-6
    )


def torch_range(x: Any) -> Any:
    import torch

    return torch.arange(x.shape[1]).unsqueeze(0).expand(len(x), -1)


def test_missing_files_say_what_belongs_where(tmp_path: Path) -> None:
    for name in (*FILES, "quickdraw", "iam_online"):
        with pytest.raises(DataError, match=tmp_path.name):
            datasets.load(name, root=tmp_path)


def test_categories_of_drawings_are_told_apart(tmp_path: Path) -> None:
    np.savez(tmp_path / "cat.npz", train=drawings(2, 300), valid=drawings(3), test=drawings(4))
    np.savez(tmp_path / "sheep.npz", train=drawings(6), valid=drawings(3), test=drawings(4))
    data = datasets.load("quickdraw", root=tmp_path)
    assert data.meta.categorical == {"label": ("cat", "sheep")}
    assert data.train.tensors["label"].tolist() == [0, 1]  # the one of 300 points is too long
    with pytest.raises(DataError, match="there are: cat, sheep"):
        datasets.load("quickdraw", root=tmp_path, categories=("dog",))


# ---- IAM On-Line


def test_iam_lines_are_read_with_their_texts(tmp_path: Path) -> None:
    lines = tmp_path / "lineStrokes" / "a01" / "a01-000"
    texts = tmp_path / "ascii" / "a01" / "a01-000"
    lines.mkdir(parents=True)
    texts.mkdir(parents=True)
    stroke = "<Stroke><Point x='10' y='20' time='0'/><Point x='13' y='24' time='1'/></Stroke>"
    for number in (1, 2):
        content = f"<WhiteboardCaptureSession><StrokeSet>{stroke * number}</StrokeSet></WhiteboardCaptureSession>"
        (lines / f"a01-000u-0{number}.xml").write_text(content)
    (texts / "a01-000u.txt").write_text("OCR:\n\nxx\n\nCSR:\n\nhello you\nthere\n")
    data = datasets.load("iam_online", root=tmp_path, valid=0.0, test=0.0)
    alphabet = data.meta.categorical["text"]
    read = ["".join(alphabet[c] for c in row.tolist() if c >= 0) for row in data.train.tensors["text"]]
    assert read == ["hello you", "there"]
    assert data.train.tensors["x"][0, :2].tolist() == [[0.0, 0.0, 0.0], [3.0, 4.0, 1.0]]
    assert data.train.tensors["length"].tolist() == [2, 4]


def test_iam_files_that_declare_entities_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "lineStrokes" / "a01" / "a01-000"
    folder.mkdir(parents=True)
    (tmp_path / "ascii").mkdir()
    (folder / "a01-000u-01.xml").write_text("<!DOCTYPE x [<!ENTITY a 'b'>]><x>&a;</x>")
    with pytest.raises(DataError, match="document type"):
        datasets.load("iam_online", root=tmp_path)
