"""Containers x types x ranges: every row is read right, alike by `load` and by `fit`, or refused by name."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from phlogiston import datasets
from phlogiston.datasets.containers import plain
from phlogiston.datasets.readers.array import fitting, whole
from phlogiston.errors import DataError, DataWarning, ShapeError
from phlogiston.systems.drmm.system import DRMM
from phlogiston.systems.mdn.system import MDN

WHOLE: dict[str, Any] = {"valid": 0, "test": 0}
NUMBERS = np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])  # what every type can hold
DTYPES = [
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", ">f8", ">i4", "longdouble", "O"),
]


def structured(x: np.ndarray) -> np.ndarray:
    out = np.zeros(len(x), dtype=[("a", x.dtype), ("b", x.dtype)])
    out["a"], out["b"] = x.T
    return out


def read_only(x: np.ndarray) -> np.ndarray:
    x = x.copy()
    x.setflags(write=False)
    return x


CONTAINERS = {
    "array": lambda x: x,
    "columns first": np.asfortranarray,
    "backwards": lambda x: x[::-1][::-1],
    "read-only": read_only,
    "masked": lambda x: np.ma.masked_array(x, mask=np.zeros(x.shape, bool)),
    "list": lambda x: x.tolist(),
    "mapping": lambda x: {"x": x},
    "columns": lambda x: {"a": x[:, 0], "b": x[:, 1]},
    "structured": structured,
}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_container_and_type_holds_the_same_numbers(container: str, dtype: str) -> None:
    data = CONTAINERS[container](NUMBERS.astype(dtype))
    if dtype == "bool" and container in ("columns", "structured"):  # a column of bools is a category
        with pytest.raises(DataError, match="no numeric columns left"):
            whole(data)
        return
    loaded, (split, meta) = datasets.load(data, **WHOLE), whole(data)
    assert loaded.meta.columns == meta.columns
    for tensors in (loaded.train.tensors, split.tensors):
        assert tensors["x"].tolist() == NUMBERS.tolist()
        assert set(tensors) == {"x"}
        narrow = dtype in ("float16", "float32") and container != "list"
        assert tensors["x"].dtype == (torch.float32 if narrow else torch.float64)


def test_bools_by_column_need_one_column_of_numbers() -> None:
    data = {"a": NUMBERS[:, 0], "b": NUMBERS[:, 1] > 0}
    split, meta = whole(data)
    assert split.tensors["b"].tolist() == [1, 0, 1, 0]
    assert meta.categorical == {"b": ("False", "True")}
    assert any("column 'b': bool, 2 categories" in d.found for d in meta.decisions)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int32, torch.float16, torch.bfloat16, torch.float64])
def test_tensors_of_every_type_are_read(dtype: torch.dtype) -> None:
    x = torch.tensor(NUMBERS).to(dtype)
    given = x.requires_grad_() if dtype.is_floating_point else x
    assert whole(given)[0].tensors["x"].tolist() == NUMBERS.tolist()


@pytest.mark.parametrize("mark", ["nan", "mask", "None", "masked tensor"])
def test_missing_entries_are_missing_whatever_marks_them(mark: str) -> None:
    x = np.random.default_rng(0).normal(size=(40, 2))
    gone = np.random.default_rng(1).random(x.shape) < 0.3
    data: Any = {
        "nan": lambda: np.where(gone, np.nan, x),
        "mask": lambda: np.ma.masked_array(np.where(gone, -9999.0, x), mask=gone),
        "None": lambda: np.where(gone, None, x.astype(object)),
        "masked tensor": lambda: {"x": torch.tensor(np.where(gone, -9999.0, x)), "mask": torch.tensor(~gone)},
    }[mark]()
    split, meta = whole(data)
    assert (split.tensors["mask"].numpy() == ~gone).all()
    np.testing.assert_array_equal(split.numpy()[~gone], x[~gone])
    loaded = datasets.load(data, **WHOLE)
    assert (loaded.train.tensors["mask"].numpy() == ~gone).all()
    if mark != "masked tensor":
        assert any(d.topic == "missing" and f"{gone.sum()} of 80" in d.found for d in meta.decisions)
    system = DRMM(num_layers=1, num_components=1, steps=5).fit(data)
    assert max(abs(v) for v in system.schema["location"]) < 1
    assert torch.isfinite(system.log_prob(data).value).all()


LABELS = {
    "int8": lambda b: b.astype(np.int8),
    "uint8": lambda b: b.astype(np.uint8),
    "uint64": lambda b: b.astype(np.uint64),
    "bool": lambda b: b,
    "float": lambda b: b.astype(float),
    "bfloat16": lambda b: torch.tensor(b).bfloat16(),
    "column": lambda b: b.astype(int)[:, None],
    "one-hot": lambda b: np.eye(2)[b.astype(int)],
    "one-hot of bools": lambda b: np.eye(2, dtype=bool)[b.astype(int)],
    "-1 and 1": lambda b: 2 * b.astype(int) - 1,
    "-5 and -4": lambda b: b.astype(int) - 5,
    "text": lambda b: np.where(b, "yes", "no"),
    "objects": lambda b: np.where(b, "yes", "no").astype(object),
    "beyond 2**53": lambda b: b.astype(np.int64) + 2**60,
    "list": lambda b: b.astype(int).tolist(),
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_of_every_type_are_two_categories(kind: str) -> None:
    x = np.random.default_rng(0).normal(size=(60, 2))
    b = x[:, 0] > 0
    data = {"x": x, "label": LABELS[kind](b)}
    loaded, (split, meta) = datasets.load(data, **WHOLE), whole(data)
    assert split.tensors["label"].tolist() == loaded.train.tensors["label"].tolist() == b.astype(int).tolist()
    assert len(meta.categorical["label"]) == 2
    assert meta.categorical == dict(loaded.meta.categorical)
    assert any(d.topic == "labels" and "'label'" in d.found for d in meta.decisions)
    # asked about later, in one row or all, they are the same categories
    for rows in (slice(0, 1), slice(None)):
        some = {name: value[rows] for name, value in data.items()}
        if kind == "one-hot of bools" or rows == slice(None) or kind != "list":
            found = fitting(some, meta.columns, meta.categorical)["label"]
            assert found.tolist() == b.astype(int)[rows].tolist()


def test_missing_labels_stay_missing() -> None:
    x = np.zeros((4, 1))
    for label in (np.array([0, -1, 2, 1]), np.array([0, np.nan, 2, 1]), np.ma.masked_equal([0, 99, 2, 1], 99),
                  np.array(["a", None, "c", "b"], dtype=object), np.array(["a", "", "c", "b"])):  # fmt: skip
        split, meta = whole({"x": x, "label": label})
        assert split.tensors["label"].tolist() == [0, -1, 2, 1]
        assert len(meta.categorical["label"]) == 3


def test_categories_seen_only_later_are_refused_by_name() -> None:
    columns, known = ("x0",), {"label": ("cat", "dog")}
    x = np.zeros((2, 1))
    assert fitting({"x": x, "label": np.array(["dog", "cat"])}, columns, known)["label"].tolist() == [1, 0]
    assert fitting({"x": x, "label": np.array([1, -1])}, columns, known)["label"].tolist() == [1, -1]  # codes
    with pytest.raises(DataError, match=r"'label' is 'cow' in row 1, a category that was not in training; known: cat"):
        fitting({"x": x, "label": np.array(["dog", "cow"])}, columns, known)
    with pytest.raises(DataError, match="'label' is '0' in row 0"):
        fitting({"x": x, "label": np.array([0, 1])}, columns, {"label": ("3", "8")})
    system = DRMM(num_layers=1, num_components=1, steps=2)
    with pytest.raises(DataError, match="code -3 in row 1"):
        system.fit(datasets.Split({"x": np.arange(4.0).reshape(2, 2), "label": np.array([0, -3])}))


def test_what_a_system_does_not_use_is_told() -> None:
    data = {"x": np.random.default_rng(0).normal(size=(30, 2)), "height": np.random.default_rng(1).normal(size=30)}
    with pytest.warns(DataWarning, match="DRMM does not use 'height'"):
        DRMM(num_layers=1, num_components=1, steps=2).fit(data)


@pytest.mark.parametrize("name", ["species.name", "type", "keys", "training", "a b", "größe"])
def test_labels_may_have_any_name(name: str) -> None:
    x = np.random.default_rng(0).normal(size=(60, 2))
    data = {"x": x, name: np.where(x[:, 0] > 0, "u", "v")}
    system = DRMM(num_layers=1, num_components=2, steps=3).fit(data)
    assert system.query({name: "u"}, num_samples=3, seed=0).samples[name].tolist() == [0, 0, 0]
    assert torch.isfinite(system.log_prob(data, joint=True).value).all()


def test_labels_without_a_known_entry_are_refused() -> None:
    x = np.random.default_rng(0).normal(size=(60, 2))
    for label in (np.full(60, -1), np.full(60, None), np.full(60, np.nan)):
        with pytest.raises(DataError, match=r"'label' (is -1 in every row|has no known entry)"):
            whole({"x": x, "label": label})


def test_integers_beyond_float64_are_refused_by_name() -> None:
    for data in ({"x": np.array([[2**53 + 1], [0]])}, {"key": np.array([2**60 + 1, 5], dtype=np.uint64)}):
        with pytest.raises(DataError, match=r"integer \d+, beyond 2\*\*53"):
            whole(data)
    assert whole(np.array([[2**60], [0]]))[0].tensors["x"].tolist() == [[2.0**60], [0.0]]  # exact all the same


def test_dates_become_days() -> None:
    dates = np.array(["1970-01-02", "2000-01-01T12:00", "NaT"], dtype="datetime64[m]")
    split, meta = whole({"when": dates, "long": np.array([1, 2, 3], dtype="timedelta64[h]")})
    assert split.tensors["x"][:, 0].tolist() == [1.0, 10957.5, 0.0]
    assert split.tensors["x"][:, 1].tolist() == pytest.approx([1 / 24, 2 / 24, 3 / 24])
    assert split.tensors["mask"].tolist() == [[True, True], [True, True], [False, True]]
    assert any("days since 1970-01-01" in d.found for d in meta.decisions)
    objects = np.array([datetime.date(1970, 1, 2), datetime.datetime(2000, 1, 1, 12), None], dtype=object)
    assert plain("when", objects, "here").numbers("when", "here")[:2].tolist() == [1.0, 10957.5]


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        ({"x": np.array([[1.0, "a"]], dtype=object)}, DataError, r"'x' holds object values .* \(float, str\)"),
        ({"x": np.array([[1j]])}, DataError, "'x' holds complex128"),
        ({"x": torch.tensor([[1j]])}, DataError, "'x' holds torch.complex"),
        ({"x": np.ones((2, 1)), "weight": np.ma.masked_equal([1, 2], 2)}, DataError, "'weight' is missing in row 1"),
        ({"x": np.ones((2, 1)), "weight": np.array(["a", "b"])}, DataError, "'weight' holds text"),
        ({"x": [[1.0], [1.0, 2.0]]}, ShapeError, "'x' is ragged"),
        ({"x": np.float64(3)}, ShapeError, "'x' is a single value"),
        ({"x": np.array([[np.inf], [1.0]])}, DataError, "infinite value in row 0, column 'x0'"),
        (np.ma.masked_all((3, 2)), DataError, "column 'x0' has no known entry"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_by_name(data: Any, error: type[Exception], words: str) -> None:
    for read in (whole, datasets.load):
        with pytest.raises(error, match=words):
            read(data)


def test_regression_targets_may_be_of_any_type() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 2)), rng.integers(0, 5, 40)
    for targets in (y, y[:, None], y.astype(np.uint8), y.astype(float), torch.tensor(y).bfloat16(), y > 2):
        by_fit = MDN(num_components=1, steps=2, hold_out=0.0).fit({"x": x, "y": targets})
        by_load = MDN(num_components=1, steps=2, hold_out=0.0).fit(datasets.load({"x": x, "y": targets}, **WHOLE))
        want = np.asarray(targets.float() if isinstance(targets, torch.Tensor) else targets, dtype=float)
        assert by_fit.schema["y"]["location"][0] == pytest.approx(want.mean())
        if not (isinstance(targets, np.ndarray) and targets.dtype.kind == "b"):  # by load, bools are categories
            assert by_load.schema["y"]["location"][0] == pytest.approx(want.mean())
            both = [s.log_prob({"x": x, "y": targets}).value for s in (by_fit, by_load)]
            assert len(both[0]) == len(both[1]) == 40
    with pytest.raises(DataError, match="'y' is missing in row 0"):
        MDN(steps=2).fit({"x": x, "y": np.ma.masked_array(y, mask=np.arange(40) == 0)})


def test_a_structured_npy_file_has_columns(tmp_path: Path) -> None:
    np.save(tmp_path / "t.npy", structured(NUMBERS))
    data = datasets.load(tmp_path / "t.npy", **WHOLE)
    assert data.meta.columns == ("a", "b")
    assert data.train.numpy().tolist() == NUMBERS.tolist()


def test_data_frames_keep_names_types_and_missing_marks() -> None:
    frame = pd.DataFrame(
        {
            "a": [1.5, 2.5, None, 4.0],
            "b": pd.array([1, None, 3, 4], dtype="Int64"),
            "kind": pd.Categorical(["u", "v", None, "u"]),
            "flag": pd.array([True, False, None, True], dtype="boolean"),
            "when": pd.to_datetime(["1970-01-02", None, "1970-01-04", "1970-01-05"]),
            "text": ["x", "y", None, "x"],
        }
    )
    split, meta = whole(frame)
    assert meta.columns == ("a", "b", "when")
    assert split.tensors["x"].tolist() == [[1.5, 1, 1], [2.5, 0, 0], [0, 3, 3], [4, 4, 4]]
    assert split.tensors["mask"].tolist() == [[True] * 3, [True, False, False], [False, True, True], [True] * 3]
    assert meta.categorical == {"kind": ("u", "v"), "flag": ("False", "True"), "text": ("x", "y")}
    assert [split.tensors[n].tolist() for n in ("kind", "flag", "text")] == [
        [0, 1, -1, 0],
        [1, 0, -1, 1],
        [0, 1, -1, 0],
    ]
    # later, by name: another order of the columns, and columns the model does not know
    later = fitting(frame.assign(z=0.0)[["z", "when", "text", "b", "a"]], meta.columns, meta.categorical)
    assert later["x"].tolist() == split.tensors["x"].tolist()
    with pytest.raises(DataError, match="lacks the column 'b'"):
        fitting(frame[["a", "when"]], meta.columns, {})
    with pytest.raises(DataError, match="column 'a' appears 2 times"):
        whole(pd.concat([frame[["a"]], frame[["a"]]], axis=1))
    system = DRMM(num_layers=1, num_components=1, steps=2, frame="diag").fit(frame[["a", "b", "kind"]])
    assert system.schema["columns"] == ["a", "b"]
    assert len(system.log_prob(frame).value) == 4
