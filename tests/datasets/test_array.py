"""Data of the user's own: what is read, what is refused, and that nothing is lost on the way."""

from __future__ import annotations

import csv
import pickle
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from phlogiston import datasets
from phlogiston.errors import DataError, DataWarning, ShapeError, UnknownNameError

WHOLE: dict[str, Any] = {"valid": 0, "test": 0}  # keeps the order of the rows
KEEP = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


# ---- round trips


entries = st.one_of(st.none(), st.floats(width=32, allow_nan=False, allow_infinity=False))
categories = st.one_of(st.none(), st.sampled_from(["red", "dark blue", 'a "quoted" one', "x,y", "größer"]))


@KEEP
@given(
    rows=st.lists(st.tuples(entries, entries, categories), min_size=1, max_size=12),
    mark=st.sampled_from(["", "?", "NA", "NaN"]),
)
def test_a_csv_with_missing_values_comes_back_as_written(tmp_path: Path, rows: list[Any], mark: str) -> None:
    rows = [(1.5, -2.5, "red"), *rows]
    with (tmp_path / "t.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("a", "b", "colour"), *([mark if v is None else v for v in row] for row in rows)])
    data = datasets.load(tmp_path / "t.csv", **WHOLE)
    x, labels = data.train.numpy(), data.meta.categorical["colour"]
    mask = data.train.tensors["mask"].numpy() if "mask" in data.train.tensors else np.ones(x.shape, bool)
    back = [
        (*(float(v) if known else None for v, known in zip(x[i], mask[i], strict=True)), None if c < 0 else labels[c])
        for i, c in enumerate(data.train.tensors["colour"].tolist())
    ]
    assert back == rows
    assert ("mask" in data.train.tensors) == any(v is None for row in rows for v in row[:2])
    assert data.meta.columns == ("a", "b")


@KEEP
@given(
    x=hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2), elements={"allow_infinity": False}),
    seed=st.integers(0, 5),
)
def test_an_npz_with_missing_values_comes_back_as_written(tmp_path: Path, x: np.ndarray, seed: int) -> None:
    x[0] = np.nan_to_num(x[0])
    label = np.random.default_rng(seed).integers(-1, 3, len(x))
    label[0] = 2
    np.savez(tmp_path / "t.npz", x=x, label=label)
    data = datasets.load(tmp_path / "t.npz", **WHOLE)
    known = ~np.isnan(x)
    assert (data.train.numpy() == np.where(known, x, 0.0)).all()
    assert (data.train.tensors["mask"].numpy() == known).all() if not known.all() else "mask" not in data.train.tensors
    names = data.meta.categorical["label"]
    assert [-1 if c < 0 else int(names[c]) for c in data.train.tensors["label"].tolist()] == label.tolist()


# ---- what is read


def test_every_row_lands_in_exactly_one_part_and_the_seed_decides_which() -> None:
    x = np.arange(200.0).reshape(100, 2)
    a, b, c = (datasets.load(x, valid=0.15, test=30, seed=seed) for seed in (0, 0, 1))
    assert (len(a.train), len(a.valid), len(a.test)) == (55, 15, 30)
    together = np.concatenate([part.numpy() for part in (a.train, a.valid, a.test)])
    assert sorted(together[:, 0].tolist()) == x[:, 0].tolist()
    assert a.train.numpy().tobytes() == b.train.numpy().tobytes() != c.train.numpy().tobytes()


def test_semicolons_tabs_and_files_without_header_are_understood(tmp_path: Path) -> None:
    for delimiter in ";\t,":
        path = write(tmp_path / "t.csv", f"1{delimiter}2\n3{delimiter}4\n\n")
        data = datasets.load(path, **WHOLE)
        assert data.train.numpy().tolist() == [[1, 2], [3, 4]]
        assert data.meta.columns == ("x0", "x1")
    named = datasets.load(write(tmp_path / "t.csv", "1,2\n3,4\n"), header=True, **WHOLE)
    assert named.meta.columns == ("1", "2")
    assert len(named.train) == 1


def test_a_header_may_hold_the_symbol_of_sodium_and_a_byte_order_mark(tmp_path: Path) -> None:
    data = datasets.load(write(tmp_path / "t.csv", "\ufeffNA,K\n1,2\n"), **WHOLE)
    assert data.meta.columns == ("NA", "K")


def test_categories_by_text_or_by_wish_leave_x_and_sort_as_numbers(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "a,grade,kind\n1,10,v\n2,9,w\n3,10,?\n")
    data = datasets.load(path, categorical=["grade"], **WHOLE)
    assert data.meta.columns == ("a",)
    assert data.meta.categorical == {"grade": ("9", "10"), "kind": ("v", "w")}
    assert data.train.tensors["grade"].tolist() == [1, 0, 1]
    assert data.train.tensors["kind"].tolist() == [0, 1, -1]
    array = datasets.load(np.array([[1.0, 3], [2, 4], [5, np.nan]]), names=["a", "g"], categorical="g", **WHOLE)
    assert array.meta.categorical == {"g": ("3", "4")}
    assert array.train.tensors["g"].tolist() == [0, 1, -1]


def test_row_weights_come_from_a_column_and_leave_x(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "a,n\n1,2.5\n2,0\n")
    data = datasets.load(path, weight="n", **WHOLE)
    assert data.train.tensors["weight"].tolist() == [2.5, 0.0]
    assert data.meta.columns == ("a",)
    both = datasets.load({"x": np.ones((2, 2)), "weight": np.array([1.0, 2.0])}, **WHOLE)
    assert both.train.tensors["weight"].tolist() == [1.0, 2.0]


def test_columns_selects_and_spares_the_rest_from_checks(tmp_path: Path) -> None:
    rows = "".join(f"{i},name{i},{i % 3}\n" for i in range(80))
    path = write(tmp_path / "t.csv", "a,id,b\n" + rows)
    with pytest.warns(DataWarning, match=r"set aside: 'id' \(text, 80 different ones in 80 rows\)"):
        assert datasets.load(path).meta.columns == ("a", "b")
    with pytest.raises(DataError, match="80 different texts in 80 rows"):
        datasets.load(path, columns=["b", "id"])
    data = datasets.load(path, columns=["b"])
    assert data.meta.columns == ("b",)
    assert set(data.train.tensors) == {"x"}


def test_parts_of_their_own_are_kept_apart_and_share_categories(tmp_path: Path) -> None:
    for name, rows in (("train", "1,u\n2,v\n"), ("val", "3,w\n"), ("test", "?,u\n")):
        write(tmp_path / f"{name}.csv", "a,kind\n" + rows)
    data = datasets.load(tmp_path)
    assert [len(part) for part in (data.train, data.valid, data.test)] == [2, 1, 1]
    assert data.meta.categorical["kind"] == ("u", "v", "w")
    assert data.valid.tensors["kind"].tolist() == [2]
    assert data.train.tensors["mask"].all()
    assert not data.test.tensors["mask"].any()
    test = datasets.load(tmp_path / "train.csv", test_data=tmp_path / "test.csv", valid=0)
    assert (len(test.train), len(test.valid), len(test.test)) == (2, 0, 1)


def test_a_folder_of_pictures_gives_rows_labels_and_their_shape(tmp_path: Path) -> None:
    for i, kind in enumerate(["cat", "cat", "dog"]):
        (tmp_path / kind).mkdir(exist_ok=True)
        iio.imwrite(tmp_path / kind / f"{i}.png", np.full((4, 5, 3), 51 * i, np.uint8))
    data = datasets.load(tmp_path, **WHOLE)
    assert data.meta.image_shape == (4, 5, 3)
    assert data.train.numpy()[:, 0] == pytest.approx([0.0, 0.2, 0.4])
    assert data.meta.categorical == {"label": ("cat", "dog")}
    iio.imwrite(tmp_path / "dog" / "odd.png", np.zeros((2, 2, 3), np.uint8))
    with pytest.raises(ShapeError, match=r"odd\.png"):
        datasets.load(tmp_path)


def test_tensors_and_mappings_of_columns_are_taken_as_they_are() -> None:
    data = datasets.load({"x": torch.ones(3, 2), "y": torch.zeros(3, 1)}, **WHOLE)
    assert data.train.tensors["y"].shape == (3, 1)
    table = datasets.load({"height": np.arange(3), "sex": np.array(["f", "m", "f"])}, **WHOLE)
    assert table.meta.columns == ("height",)
    assert table.train.tensors["sex"].tolist() == [0, 1, 0]


def test_real_tables_load_in_their_published_form(test_data: Any) -> None:
    arrays = np.load(test_data("uci_regression") / "yacht.npz", allow_pickle=False)
    data = datasets.load({"x": arrays["x"], "y": arrays["y"]})
    assert len(data.train) + len(data.valid) + len(data.test) == 308
    assert data.train.tensors["y"].shape[1:] == (1,)


# ---- what is refused


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("a,b\n", "header and no rows"),
        ("a,a\n1,2\n", "column 'a' appears 2 times"),
        ("a,b\n1,2\n3\n", "line 3: 1 fields, expected 2"),
        ("a,b\n1,2\n3,inf\n", "infinite value in row 1, column 'b'"),
        ("a,b\n1,1e999\n", "infinite value"),
        ("a,b\n1,2\n2,3\n3,1.2.3\n", "line 4, column 'b': '1.2.3' is no number"),
        ("a\nu\nv\n", "no numeric columns"),
        ("a,mask\n1,u\n2,v\n", "cannot be called 'mask'"),
        ('a,b\n1,"2\n', "cannot be read as text"),
    ],
)
def test_a_csv_that_cannot_be_used_says_why(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        datasets.load(write(tmp_path / "t.csv", text), **WHOLE)


@pytest.mark.parametrize(
    ("arrays", "error", "message"),
    [
        ({"x": np.zeros((0, 2))}, DataError, "empty"),
        ({"x": np.zeros(3)}, ShapeError, r"x\[:, None\]"),
        ({"x": np.array([["a"]])}, DataError, "holds text"),
        ({"a": np.zeros((2, 2)), "b": np.zeros((2, 2))}, DataError, r"holds the arrays \['a', 'b'\]"),
        ({"x": np.zeros((2, 2)), "label": np.zeros(3, int)}, ShapeError, "'label' has 3 rows, 'x' has 2"),
        ({"x": np.zeros((2, 2)), "columns": np.array(["a"])}, ShapeError, "1 names for 2 columns"),
        ({"x": np.zeros((2, 2)), "mask": np.full((2, 2), 2)}, DataError, "other than 0 and 1"),
        ({"x": np.zeros((2, 2)), "mask": np.ones((2, 1), bool)}, ShapeError, "'mask' has shape"),
        ({"x": [[1.0], [1.0, 2.0]]}, ShapeError, "ragged"),
        ({"x": np.array([[None]])}, DataError, "column 'x0' has no known entry"),
        ({"x": np.array([[1.0, "a"]], dtype=object)}, DataError, r"several or unknown kinds \(float, str\)"),
        ({"a": np.zeros(2), "b": np.zeros(3)}, ShapeError, "different lengths"),
    ],
)
def test_arrays_that_cannot_be_used_say_why(arrays: dict[str, Any], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        datasets.load(arrays, **WHOLE)


def test_files_that_hold_objects_or_are_damaged_are_refused_unread(tmp_path: Path) -> None:
    np.savez(tmp_path / "objects.npz", x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(DataError, match="Python objects"):
        datasets.load(tmp_path / "objects.npz")
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(DataError, match="objects are never read"):
        datasets.load(tmp_path / "pickle.npz")
    np.savez(tmp_path / "whole.npz", x=np.ones((50, 3)))
    content = (tmp_path / "whole.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="incomplete"):
        datasets.load(tmp_path / "cut.npz")
    (tmp_path / "binary.csv").write_bytes(bytes(range(128, 256)))
    with pytest.raises(DataError, match="cannot be read as text"):
        datasets.load(tmp_path / "binary.csv")
    with pytest.raises(DataError, match=r"cannot read \.docx"):
        datasets.load(write(tmp_path / "t.docx", "?"))


def test_folders_that_leave_a_doubt_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no data"):
        datasets.load(tmp_path)
    write(tmp_path / "a.csv", "a\n1\n"), write(tmp_path / "b.csv", "a\n1\n")
    with pytest.raises(DataError, match="several tables"):
        datasets.load(tmp_path)
    write(tmp_path / "train.csv", "a\n1\n"), np.savez(tmp_path / "train.npz", x=np.ones((1, 1)))
    with pytest.raises(DataError, match="both hold the train rows"):
        datasets.load(tmp_path)


def test_options_that_name_no_column_or_no_share_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "height,kind\n1,u\n2,v\n3,v\n")
    for option in ({"weight": "heigth"}, {"columns": ["heigth"]}, {"categorical": ["heigth"]}):
        with pytest.raises(UnknownNameError, match="Did you mean 'height'"):
            datasets.load(path, **option)
    with pytest.raises(DataError, match="cannot weight"):
        datasets.load(path, weight="kind")
    with pytest.raises(DataError, match=r"valid is 1\.5"):
        datasets.load(path, valid=1.5)
    with pytest.raises(DataError, match="leave 0 to train on"):
        datasets.load(path, valid=0, test=3)
    with pytest.raises(DataError, match="missing in row 1"):
        datasets.load(write(tmp_path / "w.csv", "a,w\n1,1\n2,\n"), weight="w")
    with pytest.raises(ShapeError, match="must agree"):
        datasets.load(path, test_data=write(tmp_path / "o.csv", "width,kind\n1,u\n"))
    with pytest.raises(DataError, match="no data given"):
        datasets.load("array")


def test_files_of_scenes_name_what_reads_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--data gqn"):
        datasets.load(write(tmp_path / "mazes.tfrecord", "?"))
    np.savez(tmp_path / "s.npz", images=np.zeros((2, 3, 4, 4, 3), np.uint8), cameras=np.zeros((2, 3, 5)))
    with pytest.raises(DataError, match=r"(?s)'images' and 'cameras'.*--data gqn"):
        datasets.load("array", data=tmp_path / "s.npz")
