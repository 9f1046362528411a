"""Tables larger than memory: every row once in a computed order, the same fits as in memory, and flat memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from phlogiston import datasets
from phlogiston.datasets.permutation import Permutation
from phlogiston.datasets.readers import stream
from phlogiston.datasets.streamed import ArrayRows, Prepared, Streamed
from phlogiston.errors import ConfigError, DataError, ShapeError
from phlogiston.inference.svi import batches
from phlogiston.systems.drmm.system import DRMM
from phlogiston.systems.mdn.system import MDN


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 3000), st.integers(0, 2**60))
def test_every_number_comes_once(count: int, key: int) -> None:
    found = Permutation(count, (key,))(np.arange(count))
    assert np.array_equal(np.sort(found), np.arange(count))


def test_an_order_depends_on_its_key_and_is_the_same_in_pieces() -> None:
    count = 10_007
    order = Permutation(count, (1, 2, 3))
    whole = order(np.arange(count))
    assert np.array_equal(np.concatenate([order(part) for part in np.array_split(np.arange(count), 13)]), whole)
    assert (Permutation(count, (1, 2, 4))(np.arange(count)) == whole).mean() < 0.01
    assert order(np.arange(12).reshape(3, 4)).shape == (3, 4)
    large = Permutation(5 * 10**8, (0,))(np.arange(1000))
    assert len(set(large.tolist())) == 1000
    assert 0 <= large.min() <= large.max() < 5 * 10**8


def test_an_order_is_as_good_as_chance() -> None:
    # first-place frequencies over keys, and neighbours: chi-square with 19 degrees of freedom, beyond 60 once in 10^5
    count, keys = 20, 4000
    firsts = np.bincount([int(Permutation(count, (key,))(np.array([7]))[0]) for key in range(keys)], minlength=count)
    assert float(((firsts - keys / count) ** 2 / (keys / count)).sum()) < 60
    found = Permutation(100_000, (5,))(np.arange(100_000)).astype(np.float64)
    assert abs(np.corrcoef(found[:-1], found[1:])[0, 1]) < 0.02
    assert abs(np.corrcoef(found, np.arange(100_000))[0, 1]) < 0.02


def test_a_long_epoch_is_computed_and_a_short_one_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    short = batches.Order(1000, 64, seed=3, stage=0)
    drawn = torch.randperm(1000, generator=torch.Generator().manual_seed(batches.mix(3, 0, 0)))
    assert torch.equal(torch.cat([short.batch(i)[0] for i in range(short.per_epoch)]), drawn)
    monkeypatch.setattr(batches, "LARGE", 500)
    for epoch in range(2):
        shards = [batches.Order(1000, 64, seed=3, stage=0, rank=r, world_size=2) for r in range(2)]
        steps = range(epoch * shards[0].per_epoch, (epoch + 1) * shards[0].per_epoch)
        seen = torch.cat([order.batch(i)[0] for i in steps for order in shards])
        assert torch.equal(seen.sort().values, torch.arange(1000))
    assert not torch.equal(shards[0].batch(0)[0], shards[0].batch(shards[0].per_epoch)[0])


def save(path: Path, rows: int = 4000, dtype: str = "f8") -> Any:
    rng = np.random.default_rng(0)
    z = rng.integers(0, 2, rows)
    table = (rng.normal(size=(rows, 3)) * [1.0, 0.1, 3.0] + np.array([[0, 5, -20], [4, 5, 20]])[z]).astype(dtype)
    np.save(path, table)
    return table


def test_rows_on_disk_are_those_of_the_file(tmp_path: Path) -> None:
    table = save(tmp_path / "a.npy")
    data = datasets.load("stream", data=str(tmp_path / "a.npy"), valid=0.05, test=0.1)
    train: Any = data.train
    assert isinstance(train, Streamed)
    assert (len(train), len(data.valid), len(data.test)) == (3400, 200, 400)
    parts = [train[torch.arange(3400)]["x"], data.valid.tensors["x"], data.test.tensors["x"]]
    found = torch.cat(parts).numpy()
    assert np.array_equal(found[np.lexsort(found.T)], table[np.lexsort(table.T)])
    assert found.dtype == np.float64
    assert torch.equal(train[[5, 3399]]["x"], parts[0][[5, 3399]])
    assert torch.equal(train[-1]["x"], parts[0][-1:])
    assert train.sample(50).tensors["x"].shape == (50, 3)
    with pytest.raises(IndexError):
        train[3400]


def test_a_folder_of_shards_is_one_table(tmp_path: Path) -> None:
    table = save(tmp_path / "whole.npy", dtype="f4")
    (tmp_path / "parts").mkdir()
    for i, part in enumerate(np.array_split(table, 3)):
        np.save(tmp_path / "parts" / f"part-{i}.npy", part)
    whole = datasets.load("stream", data=str(tmp_path / "whole.npy"))
    split = datasets.load(tmp_path / "parts")
    assert isinstance(split.train, Streamed)
    assert torch.equal(split.train[torch.arange(500)]["x"], whole.train[torch.arange(500)]["x"])
    assert split.train[0]["x"].dtype == torch.float32
    np.save(tmp_path / "parts" / "part-3.npy", table.astype("f8"))
    with pytest.raises(ShapeError, match="differ"):
        datasets.load(tmp_path / "parts")


def test_missing_entries_are_told_by_a_sample_or_refused(tmp_path: Path) -> None:
    table = save(tmp_path / "a.npy")
    table[17, 1] = np.nan
    np.save(tmp_path / "a.npy", table)
    data = datasets.load("stream", data=str(tmp_path / "a.npy"), test=0.0, valid=0.0)
    assert float((~data.train[torch.arange(len(data.train))]["mask"]).sum()) == 1
    bare = datasets.load("stream", data=str(tmp_path / "a.npy"), test=0.0, valid=0.0, missing=False)
    with pytest.raises(DataError, match=r"row 17, column 'x1' is missing.*missing=True"):
        bare.train[torch.arange(len(bare.train))]


def test_large_tables_stay_on_disk_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = save(tmp_path / "a.npy")
    assert not isinstance(datasets.load(tmp_path / "a.npy").train, Streamed)
    monkeypatch.setattr(stream, "LARGE", 50_000)
    assert isinstance(datasets.load(tmp_path / "a.npy").train, Streamed)
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    assert isinstance(datasets.load(mapped).train, Streamed)
    whole = stream.whole(mapped)
    assert np.array_equal(whole[torch.arange(len(whole))]["x"].numpy(), table)
    view = mapped[100:3000]  # a view does not say where it begins: it is read through itself
    assert np.array_equal(stream.whole(view)[[0, 1]]["x"].numpy(), table[100:102])
    with pytest.raises(ConfigError, match="stays on disk"):
        DRMM(num_layers=1, num_components=2).fit(table[:200], steps=1).log_prob(mapped)


def test_no_pages_of_the_file_stay(tmp_path: Path) -> None:
    def resident() -> int:
        text = Path("/proc/self/status").read_text()
        return int(text.split("RssFile:")[1].split()[0]) // 1024

    shape = (1 << 20, 64)  # 512 MiB of holes
    mapped = np.lib.format.open_memmap(tmp_path / "a.npy", "w+", "f8", shape)
    del mapped
    part = stream.whole(np.load(tmp_path / "a.npy", mmap_mode="r"))
    before = resident()
    order = Permutation(len(part), (0,))
    for start in range(0, 200_000, 2000):  # 200,000 rows on as many pages: 800 MiB if they stayed
        part[order(np.arange(start, start + 2000))]
    assert resident() - before < 100


@pytest.mark.parametrize("kind", ["drmm", "mdn"])
def test_a_system_trains_on_rows_on_disk_as_in_memory(kind: str, tmp_path: Path) -> None:
    save(tmp_path / "a.npy", 6000)
    data = datasets.load("stream", data=str(tmp_path / "a.npy"))
    make = {
        "drmm": lambda: DRMM(num_layers=1, num_components=2, steps=60),
        "mdn": lambda: MDN(steps=60, num_components=2, target=("x2",), hold_out=0.0),
    }[kind]
    assert isinstance(data.train, Streamed)
    rows = data.train[torch.arange(len(data.train))]["x"].numpy()
    streamed, held = make().fit(data), make().fit(rows)
    test = data.test.tensors["x"].numpy()
    # all rows are in the sample, the order of rows is the same: the fits agree to rounding
    assert torch.allclose(streamed.log_prob(test).value, held.log_prob(test).value, atol=1e-4)
    assert streamed.schema["columns"] == list(held.schema["columns"])


def test_a_run_on_rows_on_disk_is_resumed(tmp_path: Path) -> None:
    save(tmp_path / "a.npy")
    data = datasets.load("stream", data=str(tmp_path / "a.npy"))
    straight = DRMM(num_layers=1, num_components=2, steps=40).fit(data)
    DRMM(num_layers=1, num_components=2, steps=40).fit(data, out=tmp_path / "run", checkpoint_every=20)
    again = DRMM(num_layers=1, num_components=2, steps=40).fit(data, out=tmp_path / "run")
    for name, value in straight.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name])


def test_prepared_rows_are_prepared_row_by_row() -> None:
    table = np.arange(40.0).reshape(20, 2)
    part = Streamed(ArrayRows([table], "a table"))
    rows = Prepared(part, lambda split: type(split)({"x": split.tensors["x"] * 2}, double=("x",)))
    assert torch.equal(rows[torch.tensor([3, 1])]["x"], torch.tensor(table[[3, 1]] * 2))
    assert len(rows) == 20


def test_parquet_and_data_sets_are_written_once_and_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    feather = pytest.importorskip("pyarrow.feather")
    monkeypatch.setenv("PHLOGISTON_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    table = pyarrow.table({"a": rng.normal(size=500), "word": ["u"] * 500, "b": [None, *range(499)]})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=100)
    feather.write_feather(table, tmp_path / "a.feather")
    for source in (tmp_path / "a.parquet", tmp_path / "a.feather"):
        with pytest.warns(match="'word'"):
            data = datasets.load("stream", data=str(source), test=0.0, valid=0.0)
        batch = data.train[torch.arange(500)]
        assert data.meta.columns == ("a", "b")
        assert int((~batch["mask"]).sum()) == 1
        assert batch["x"][:, 0].sort().values.tolist() == sorted(table["a"].to_pylist())
    written = [path.stat().st_mtime_ns for path in (tmp_path / "cache" / "tables").glob("*.npy")]
    with pytest.warns(match="'word'"):
        datasets.load("stream", data=str(tmp_path / "a.parquet"))
    assert [path.stat().st_mtime_ns for path in (tmp_path / "cache" / "tables").glob("*.npy")] == written
