"""Hugging Face data sets: their features say what columns hold, and every row is the right one."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import phlogiston as ph
from phlogiston.datasets.readers import stream
from phlogiston.errors import DataError, DataWarning, ShapeError

hf: Any = pytest.importorskip("datasets", reason="needs the package datasets, which is an extra: phlogiston[hub]")
if not hasattr(hf, "ClassLabel"):
    pytest.skip("a folder called datasets stands before the package of that name on the path", allow_module_level=True)

ROWS = 40
KINDS = ("wolf", "ant", "NA")  # in no alphabetical order, and with a name that reads like a missing entry


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHLOGISTON_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def columns() -> dict[str, list[Any]]:
    rng = np.random.default_rng(0)
    found: dict[str, list[Any]] = {
        "height": rng.normal(170.0, 10.0, ROWS).tolist(),
        "count": rng.integers(0, 2000, ROWS).tolist(),
        "day": [datetime.date(2024, 1, 1) + datetime.timedelta(days=i) for i in range(ROWS)],
        "kind": rng.integers(0, 3, ROWS).tolist(),
        "town": [["Köln", "Łódź", None][i % 3] for i in range(ROWS)],
        "pair": rng.normal(size=(ROWS, 2)).tolist(),
    }
    found["height"][3] = found["count"][5] = None
    found["kind"][7] = -1
    return found


def made(columns: dict[str, list[Any]]) -> Any:
    features = hf.Features(
        {
            "height": hf.Value("float64"),
            "count": hf.Value("int32"),
            "day": hf.Value("date32"),
            "kind": hf.ClassLabel(names=list(KINDS)),
            "town": hf.Value("string"),
            "pair": hf.Sequence(hf.Value("float64"), length=2),
        }
    )
    return hf.Dataset.from_dict(columns, features=features)


def test_every_row_is_right(columns: dict[str, list[Any]]) -> None:
    data = ph.datasets.load(made(columns), valid=0, test=0)
    assert data.meta.columns == ("height", "count", "day", "pair_0", "pair_1")
    x, mask = data.train.numpy(), data.train.numpy("mask")
    assert not mask[3, 0]
    assert not mask[5, 1]
    assert mask.sum() == 5 * ROWS - 2
    for j, name in enumerate(("height", "count")):
        known = [i for i in range(ROWS) if columns[name][i] is not None]
        np.testing.assert_array_equal(x[known, j], [columns[name][i] for i in known])
    np.testing.assert_array_equal(x[:, 2], 19723 + np.arange(ROWS))  # 2024-01-01 in days
    np.testing.assert_array_equal(x[:, 3:], columns["pair"])
    assert data.meta.categorical == {"kind": KINDS, "town": ("Köln", "Łódź")}
    np.testing.assert_array_equal(data.train.numpy("kind"), columns["kind"])  # codes are the data set's own
    assert data.train.numpy("town").tolist() == [[0, 1, -1][i % 3] for i in range(ROWS)]


def test_rows_that_were_chosen_and_ordered_stay_so(columns: dict[str, list[Any]]) -> None:
    chosen = [11, 2, 30, 4, 19]
    data = ph.datasets.load(made(columns).select(chosen), valid=0, test=0)
    np.testing.assert_array_equal(data.train.numpy("kind"), [columns["kind"][i] for i in chosen])
    np.testing.assert_array_equal(data.train.numpy()[:, 3:], [columns["pair"][i] for i in chosen])


def test_parts_of_a_data_set_are_kept(columns: dict[str, list[Any]]) -> None:
    whole = made(columns)
    parts = hf.DatasetDict(
        train=whole.select(range(25)), validation=whole.select(range(25, 30)), test=whole.select(range(30, ROWS))
    )
    data = ph.datasets.load(parts)
    assert [len(part) for part in (data.train, data.valid, data.test)] == [25, 5, 10]
    np.testing.assert_array_equal(data.test.numpy("kind"), columns["kind"][30:])
    with pytest.raises(DataError, match=r"unsupervised.*train"):
        ph.datasets.load(hf.DatasetDict(train=whole, unsupervised=whole))


def test_a_data_set_goes_through_every_verb(columns: dict[str, list[Any]]) -> None:
    given = made(columns)
    system = ph.DRMM(num_layers=1, num_components=2, steps=6, batch_size=16).fit(given, progress="off")
    assert np.isfinite(system.log_prob(given).value.numpy()).all()
    assert set(system.query("kind = ant", num_samples=9, seed=0).to_frame()["kind"]) == {"ant"}
    full = system.impute(given, num_samples=5)
    assert full.column("kind").to_pylist()[7] in KINDS
    kept = [i for i in range(ROWS) if i != 7]
    assert [full.column("kind").to_pylist()[i] for i in kept] == [KINDS[columns["kind"][i]] for i in kept]
    assert np.isfinite(full.column("height").to_pylist()[3])
    fewer = given.filter(lambda row: row["kind"] != 0)  # a category less must not shift the others
    whole = system.log_prob(given).value
    left = [i for i in range(ROWS) if columns["kind"][i] != 0]
    np.testing.assert_allclose(system.log_prob(fewer).value, whole[left])


def test_pictures_are_decoded() -> None:
    from PIL import Image

    pixels = np.random.default_rng(1).integers(0, 2, (12, 6, 5)).astype(np.uint8)  # all but black
    pictures = [Image.fromarray(p) for p in pixels]
    features = hf.Features({"image": hf.Image(), "label": hf.ClassLabel(names=["b", "a"])})
    given = hf.Dataset.from_dict({"image": pictures, "label": [0, 1] * 6}, features=features)
    data = ph.datasets.load(given, valid=0, test=0)
    assert data.meta.image_shape == (6, 5)
    np.testing.assert_allclose(data.train.numpy(), pixels.reshape(12, 30) / 255.0, atol=1e-7)
    assert data.meta.categorical == {"label": ("b", "a")}
    np.testing.assert_array_equal(data.train.numpy("label"), [0, 1] * 6)
    other = Image.fromarray(np.zeros((3, 3), np.uint8))
    mixed = hf.Dataset.from_dict({"image": [pictures[0], other]}, features=hf.Features({"image": hf.Image()}))
    with pytest.raises(ShapeError, match="3 x 3 pixels in row 1"):
        ph.datasets.load(mixed, valid=0, test=0)


def test_what_no_table_holds_is_refused_by_name() -> None:
    ragged = hf.Dataset.from_dict({"a": [1.0, 2.0], "tokens": [[1, 2], [3]]})
    with pytest.raises(ShapeError, match=r"'tokens' holds lists of 1 to 2 entries.*columns="):
        ph.datasets.load(ragged, valid=0, test=0)
    data = ph.datasets.load(ragged, valid=0, test=0, columns=("a",))
    assert data.train.numpy().tolist() == [[1.0], [2.0]]
    with pytest.raises(DataError, match="streaming=True"):
        ph.datasets.load(ragged.to_iterable_dataset())
    with pytest.raises(DataError, match="categories alone"):
        ph.datasets.load(hf.Dataset.from_dict({"k": [0]}, features=hf.Features({"k": hf.ClassLabel(names=["x"])})))


def test_a_large_data_set_stays_on_disk(columns: dict[str, list[Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "LARGE", 100)
    given = made({**columns, "kind": [max(0, k) for k in columns["kind"]]})
    with pytest.warns(DataWarning, match="'day', 'kind', 'town', 'pair'"):
        data = ph.datasets.load(given, valid=0, test=0)
    assert type(data.train).__name__ == "Streamed"
    assert data.meta.columns == ("height", "count")  # the codes of categories are no numbers
    read = data.train[range(ROWS)]
    known = [[v is not None for v in row] for row in zip(columns["height"], columns["count"], strict=True)]
    assert sorted(map(tuple, read["mask"].tolist())) == sorted(map(tuple, known))
    assert sorted(read["x"][read["mask"][:, 0], 0].tolist()) == sorted(v for v in columns["height"] if v is not None)
