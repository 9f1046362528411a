"""Splits, data sets and the registry."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from phlogiston import datasets
from phlogiston.datasets.base import Dataset, Meta, Split, stream
from phlogiston.errors import DataError, ShapeError, UnknownNameError


def test_floats_become_float32_integers_int64_and_bytes_and_bools_stay() -> None:
    rows = {"x": np.zeros((3, 2)), "i": np.zeros(3, np.int16), "b": np.zeros(3, np.uint8), "m": np.zeros(3, bool)}
    kinds = {name: tensor.dtype for name, tensor in Split(rows).tensors.items()}
    assert kinds == {"x": torch.float32, "i": torch.int64, "b": torch.uint8, "m": torch.bool}


@pytest.mark.parametrize(
    "index", [slice(1, 3), torch.tensor([1, 2]), np.array([1, 2]), [1, 2], torch.tensor([False, True, True, False])]
)
def test_every_kind_of_index_selects_the_same_rows(index: object) -> None:
    split = Split({"x": torch.arange(8.0).reshape(4, 2), "label": torch.arange(4)})
    batch = split[index]
    assert batch["x"].tolist() == [[2.0, 3.0], [4.0, 5.0]]
    assert batch["label"].tolist() == [1, 2]


def test_one_row_is_a_batch_of_one_and_iteration_ends() -> None:
    split = Split({"x": np.arange(3.0)[:, None]})
    assert split[-1]["x"].tolist() == [[2.0]]
    assert [row["x"].item() for row in split] == [0.0, 1.0, 2.0]
    with pytest.raises(IndexError, match="row 3"):
        split[3]


def test_views_with_negative_strides_and_read_only_arrays_are_accepted() -> None:
    x = np.arange(6.0).reshape(3, 2)
    x.flags.writeable = False
    assert Split({"x": x[::-1]}).tensors["x"][0].tolist() == [4.0, 5.0]
    assert Split({"x": x.astype(">f8")}).tensors["x"][2].tolist() == [4.0, 5.0]


def test_an_empty_split_is_false_and_an_empty_training_part_is_refused() -> None:
    none, some = Split({"x": np.zeros((0, 2))}), Split({"x": np.zeros((1, 2))})
    assert not none
    assert some
    assert len(Dataset(some, none, none, Meta("a")).valid) == 0
    with pytest.raises(DataError, match="training split is empty"):
        Dataset(none, some, some, Meta("a"))


@pytest.mark.parametrize(
    ("tensors", "error", "message"),
    [
        ({}, DataError, "at least one tensor"),
        ({"x": np.zeros((3, 2)), "label": np.zeros(2)}, ShapeError, "x: 3, label: 2"),
        ({"x": np.array([[0.0, 1.0], [2.0, np.nan]])}, DataError, "NaN in row 1, column 'b'.*mask"),
        ({"x": np.array([[0.0, 1.0], [-np.inf, 0.0]])}, DataError, "infinite value in row 1, column 'a'"),
        ({"x": np.array([[1e300]])}, DataError, "Rescale"),
        ({"x": np.array([["a"]])}, DataError, "expected numbers"),
        ({"x": np.array([1j])}, DataError, "complex128"),
        ({"x": np.array(1.0)}, ShapeError, "single number"),
        ({"x": np.zeros((2, 2)), "mask": np.ones((2, 1), bool)}, ShapeError, r"'mask' has shape \(2, 1\)"),
        ({"x": np.zeros((2, 2)), "mask": np.ones((2, 2))}, DataError, "expected bool"),
        ({"x": np.zeros((2, 2)), "weight": np.array([1.0, -1.0])}, DataError, "negative in row 1"),
        ({"x": np.zeros((2, 2)), "weight": np.ones((2, 1))}, ShapeError, "one number per row"),
    ],
)
def test_unusable_rows_are_refused_by_name(tensors: dict[str, np.ndarray], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        Split(tensors, columns=("a", "b"))


def test_a_sequence_must_be_one_of_the_tensors() -> None:
    assert Split({"frames": np.zeros((2, 5))}, sequences=["frames"]).sequences == {"frames"}
    with pytest.raises(UnknownNameError, match="Did you mean 'frames'"):
        Split({"frames": np.zeros((2, 5))}, sequences=["frame"])


def test_parts_must_hold_the_same_tensors_of_the_same_row_shape() -> None:
    a, b, c = Split({"x": np.zeros((1, 2))}), Split({"x": np.zeros((1, 3))}), Split({"y": np.zeros((1, 2))})
    with pytest.raises(ShapeError, match="valid: rows of 'x'"):
        Dataset(a, b, a, Meta("a"))
    with pytest.raises(ShapeError, match="test has"):
        Dataset(a, a, c, Meta("a"))


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (np.array([0.0, 1.0]), "test: 'kind' has categories, whose codes are whole numbers; got torch.float32"),
        (np.array([0, 2]), "test: 'kind' has codes from 0 to 2; there are 2 categories"),
        (np.array([-2, 1]), "codes from -2 to 1"),
    ],
)
def test_codes_that_name_no_category_are_refused(codes: np.ndarray, message: str) -> None:
    train = Split({"x": np.zeros((2, 3)), "kind": np.array([0, -1])})
    info = Meta("d", categorical={"kind": ("a", "b")})
    assert len(Dataset(train, train.select(slice(0, 0)), train, info).test) == 2
    with pytest.raises(DataError, match=message):
        Dataset(train, train, Split({"x": np.zeros((2, 3)), "kind": codes}), info)


def test_streams_differ_by_name_and_seed_and_repeat_otherwise() -> None:
    draws = {(s, n): stream(s, n).random() for s in (0, 1) for n in ("a", "b", "ab")}
    assert len(set(draws.values())) == 6
    assert stream(1, "ab").random() == draws[1, "ab"]
    with pytest.raises(DataError, match="seed is -1"):
        stream(-1, "a")


def test_listing_the_sources_loads_no_torch() -> None:
    program = (
        "import sys; from phlogiston import datasets; print([datasets.info(n).title for n in datasets.names()]);"
        "print([m for m in ('torch', 'sklearn', 'scipy', 'imageio', 'matplotlib', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_source_is_registered_under_the_name_of_its_file() -> None:
    assert {"array", "digits", "mnist", "poses", "sierpinski", "swissroll"} <= set(datasets.names())
    for name in datasets.names():
        about = datasets.info(name)
        assert about.name == name
        assert about.title
        assert about.licence
        assert about.options
        assert about.state
        assert about.kind in ("built in", "fetched", "yours")


def test_unknown_names_and_options_come_with_the_nearest_valid_one() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'swissroll'"):
        datasets.load("swisroll")
    with pytest.raises(UnknownNameError, match="Did you mean 'noise_sd'"):
        datasets.load("swissroll", noise=0.2)
    with pytest.raises(UnknownNameError, match="Did you mean 'digits'"):
        datasets.info("digit")
    with pytest.raises(DataError, match=r"no file or folder 'data/none\.csv'"):
        datasets.load("data/none.csv")


@pytest.mark.parametrize("offset", [0.0, 1e4, 1e6, -1e8, 1e12])
def test_columns_that_float32_would_flatten_are_refused_by_name(offset: float) -> None:
    x = np.random.default_rng(0).normal(size=(40, 7, 2))
    x[..., 1] += offset
    padded = np.concatenate([x, np.zeros((40, 3, 2))], 1)
    for rows in (x, padded):
        if abs(offset) < 1e5:
            torch.testing.assert_close(
                Split({"x": rows}).tensors["x"].double(), torch.from_numpy(rows), atol=2e-3, rtol=0
            )
            continue
        with pytest.raises(DataError, match=r"'x' lies between .* in column 1: float32"):
            Split({"x": rows})
    assert Split({"x": x}, double=("x",)).tensors["x"].dtype == torch.float64


def test_constants_and_rounding_noise_are_no_loss() -> None:
    noise = 1e8 + 1e-8 * np.random.default_rng(0).normal(size=(30, 1))
    for rows in (np.full((30, 1), 1e9), noise, np.array([[0.3], [0.1 + 0.2]]), np.zeros((4, 2))):
        assert Split({"x": rows}).tensors["x"].dtype == torch.float32


def test_rows_are_selected_by_numbers_from_either_end() -> None:
    split = Split({"x": torch.arange(12.0).reshape(6, 2), "label": torch.arange(6)})
    for index in ([4, 0, 4], [-1, 2], torch.tensor([5, -6])):
        for name in ("x", "label"):
            assert torch.equal(split[index][name], split.tensors[name][index])
    for outside in ([6], [-7]):
        with pytest.raises(IndexError):
            split[outside]
