"""Stream: tables larger than memory, read from disk batch by batch.

    datasets.load("measurements.npy")          from 1 GiB on; of smaller files: datasets.load("stream", data=...)
    datasets.load("folder/")                   npy files of one width, one after another
    datasets.load(numpy.memmap(...))
    datasets.load("measurements.parquet")      or .arrow, .feather; needs phlogiston[tables]

Training rows stay on disk; validation and test rows, a bounded number of them, are read. Locations, scales and first
parameters come from a sample of the training rows. The rows are divided by a permutation that is computed, not stored.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, cast

import numpy as np

from phlogiston.datasets.base import Dataset, Decision, Info, Split, part_rows
from phlogiston.datasets.permutation import Permutation
from phlogiston.datasets.readers import arrow
from phlogiston.datasets.streamed import SAMPLED, ArrayRows, Rows, Streamed
from phlogiston.datasets.untrusted.arrays import headers, map_file
from phlogiston.datasets.untrusted.guard import reading
from phlogiston.datasets.untrusted.limits import check_count
from phlogiston.errors import DataError, DataWarning, ShapeError

INFO = Info(
    name="stream",
    title="your own table larger than memory: npy, a folder of them, memmap, Parquet or Arrow, read batch by batch",
    kind="yours",
    licence="yours",
    rows="yours",
    shape="columns of numbers",
    notes="Taken by itself from 1 GiB on. Locations and scales come from a sample of the training rows.",
)

LARGE = 1 << 30
"""Bytes from which a table stays on disk unasked."""
HELD = 100_000
"""Most rows of the validation and of the test part, which are read into memory."""


def accepts(data: Any) -> bool:
    """Say whether data of the user's stay on disk: a large memory-mapped array or npy, Arrow data, shards of npy."""
    if isinstance(data, np.memmap):
        return data.ndim == 2 and data.nbytes >= LARGE
    if not isinstance(data, str | PathLike):
        return arrow.is_arrow(data, LARGE)
    path = Path(data).expanduser()
    if path.is_dir():
        return bool(_shards(path))
    if path.suffix.lower() in arrow.SUFFIXES:
        return arrow.is_large(path, LARGE)
    if path.suffix.lower() != ".npy" or not path.is_file() or path.stat().st_size < LARGE:
        return False
    return [len(header.shape) for header in headers(path).values()] == [2]


def load(
    root: str | PathLike[str] | None = None,
    *,
    data: Any = None,
    valid: float = 0.1,
    test: float = 0.1,
    names: Sequence[str] | None = None,
    missing: bool | None = None,
    seed: int = 0,
) -> Dataset:
    """Open a table.

    Args:
        root: folder that relative paths start from.
        data: an npy file of shape (rows, columns), a folder of such files of one width, a `numpy.memmap`, a Parquet,
            Arrow or Feather file, or an Arrow table or Hugging Face data set in memory.
        valid: share of the rows for validation, of which at most 100,000 are used.
        test: the same for testing.
        names: of the columns.
        missing: whether entries may be missing (NaN), so that batches have a mask; whether a sample has such by
            default.
        seed: of the division into parts.

    Returns:
        `x` (rows, columns), as float64 unless the table has float32; `train` stays on disk.

    Raises:
        DataError, ShapeError: no such table, or one of something else than numbers.
    """
    if data is None:
        raise DataError("no data given. Pass a path instead of a name: datasets.load('table.npy').")
    if not (valid >= 0 and test >= 0 and valid + test < 1):
        raise DataError(f"valid={valid}, test={test}: shares of the rows are expected, below 1 together.")
    source, path = _source(data, root, names)
    count = len(source)
    held = {"valid": round(valid * count), "test": round(test * count)}
    part_rows(count, valid=held["valid"], test=held["test"], what=source.name)
    check_count(len(source.columns), "columns", f"{source.name}: columns")
    order = Permutation(count, (seed,))
    whole = Streamed(source, order, masked=True)
    if missing is None:
        missing = not bool(whole.sample(min(SAMPLED, count)).tensors["mask"].all())

    def part(first: int, last: int) -> Streamed:
        return Streamed(source, order, first, last, masked=bool(missing))

    def read(first: int, rows: int) -> Split:
        return part(first, first + min(rows, HELD)).split(slice(None))

    told = [Decision("memory", f"{count:,} training, validation and test rows stay on disk ({source.name})")]
    told.append(Decision("statistics", f"locations, scales and first parameters: of {SAMPLED:,} training rows at most"))
    if max(held.values()) > HELD:
        told.append(Decision("parts", f"{HELD:,} validation and test rows at most are used", "valid=0.001"))
    told.append(Decision("missing", "batches have a mask" if missing else "none in a sample", "missing=true"))
    sides = (read(held["test"], held["valid"]), read(0, held["test"]))
    return Dataset.of(
        INFO,
        (cast(Split, part(held["test"] + held["valid"], count)), *sides),
        {"valid": valid, "test": test, "names": names, "missing": missing, "seed": seed},
        name=path or source.name,
        title=Path(source.name).name,
        notes="",
        columns=source.columns,
        decisions=tuple(told),
    )


def whole(data: Any) -> Streamed:
    """All rows of a memory-mapped array or of Arrow data, without dividing them."""
    source, _ = _source(data, None, None)
    masked = not bool(Streamed(source, masked=True).sample().tensors["mask"].all())
    return Streamed(source, masked=masked)


def _source(data: Any, root: str | PathLike[str] | None, names: Sequence[str] | None) -> tuple[Rows, str]:
    """The table, and its path where it has one."""
    if isinstance(data, np.memmap):
        source: Rows = ArrayRows([_checked(_reopened(data), "the array given")], "the array given", _named(data, names))
        return source, ""
    if not isinstance(data, str | PathLike):
        return _converted(data, names), ""
    path = (Path(root or ".").expanduser() / Path(data).expanduser()).absolute()
    with reading(path, "a table"):
        if path.suffix.lower() in arrow.SUFFIXES:
            return _converted(path, names), str(path)
        files = (_shards(path) or sorted(path.glob("*.npy"))) if path.is_dir() else [path]
        if not files:
            raise DataError(f"{str(path)!r} holds no npy files.")
        mapped = [_checked(map_file(file), repr(str(file))) for file in files]
        kinds = {(array.shape[1], array.dtype) for array in mapped}
        if len(kinds) > 1:
            shown = ", ".join(f"{width} columns of {dtype}" for width, dtype in sorted(kinds, key=str)[:3])
            raise ShapeError(f"{str(path)!r}: its files differ: {shown}. They must agree.")
        return ArrayRows(mapped, str(path), _named(mapped[0], names)), str(path)


def _converted(data: Any, names: Sequence[str] | None) -> ArrayRows:
    """The numbers of Arrow data, written as an npy file in the cache."""
    path, columns, left_out = arrow.as_npy(data)
    if left_out:
        shown = ", ".join(map(repr, left_out[:5])) + " ..." * (len(left_out) > 5)
        warnings.warn(f"columns without numbers are left out of a streamed table: {shown}", DataWarning, stacklevel=4)
    array = map_file(path)
    source = str(data) if isinstance(data, Path) else f"the {type(data).__name__} given"
    return ArrayRows([array], source, _named(array, names) or columns)


def _named(array: Any, names: Sequence[str] | None) -> tuple[str, ...]:
    if names is not None and len(names) != array.shape[1]:
        raise ShapeError(f"names has {len(names)} entries for {array.shape[1]} columns.")
    return tuple(names or ())


def _shards(folder: Path) -> list[Path]:
    """The npy files of a folder where they are the shards of one table: several, two axes, one width, none a part."""
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".npy", ".npz", ".csv", ".tsv"))
    parts = {"train", "valid", "val", "validation", "test"}
    if len(files) < 2 or any(path.suffix.lower() != ".npy" or path.stem.lower() in parts for path in files):
        return []
    shapes = [next(iter(headers(path).values()), None) for path in files]
    widths = {header.shape[1:] if header is not None else () for header in shapes}
    return files if len(widths) == 1 and len(widths.pop()) == 1 else []


def _reopened(data: Any) -> Any:
    """A memory-mapped array of the user's, opened anew for reading, so that its pages can be let go of.

    A view of one does not say where it begins, and changes that were never written are in memory alone: these stay.
    """
    if data.mode == "c" or data.filename is None or not data.flags.c_contiguous or type(data.base).__name__ != "mmap":
        return data
    return np.memmap(data.filename, data.dtype, "r", data.offset, data.shape)


def _checked(array: Any, what: str) -> Any:
    if array.ndim != 2 or not array.size:
        raise ShapeError(f"{what} has shape {array.shape}; expected (rows, columns).")
    if array.dtype.kind not in "fiub" or array.dtype.itemsize > 8:
        raise DataError(f"{what} holds {array.dtype}; expected numbers.")
    return array
