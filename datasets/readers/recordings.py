"""Recordings: sequences of your own, from files or arrays, whatever was measured step by step.

    datasets.load("touches.npz", names=("x", "y", "dt"))
    datasets.load("touches.csv")                          # as `phlogiston sample --out touches.csv` writes them
    datasets.load({"x": padded, "length": lengths})

What is read: npz files with `values` (all steps, columns) and `lengths` (sequences), such files as train.npz (and
valid.npz, test.npz) of a folder, drawings in the form of sketch-rnn, csv files with a column `sequence` that numbers
the sequences, and mappings of arrays. Columns called `dt` are times, a last column called `pen` is the pen's state:
models treat both as what they are. Three columns without a name whose last is 0 or 1 are taken for drawings.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from phlogiston.datasets.base import PARTS, Array, Dataset, Info, part_rows, stream
from phlogiston.datasets.readers import sequences
from phlogiston.datasets.untrusted import arrays
from phlogiston.datasets.untrusted.guard import reading
from phlogiston.errors import DataError

INFO = Info(
    name="recordings",
    title="your own sequences: npz, csv, folder or arrays; pass the path instead of a name",
    kind="yours",
    licence="yours",
    rows="yours",
    shape="steps x columns, of different lengths",
    notes="npz with values and lengths, sketch-rnn npz, or csv with a column 'sequence'. names=x,y,dt names columns.",
)


def accepts(data: Any) -> bool:
    """Say whether data of the user's are sequences: a file, folder or mapping in one of the forms above."""
    if isinstance(data, Mapping):
        return {"values", "lengths"} <= set(data) or ({"x", "length"} <= set(data) and np.ndim(data["x"]) == 3)
    if not isinstance(data, str | PathLike):
        return False
    path = Path(data).expanduser()
    if path.is_dir():
        return _holds_sequences(path / "train.npz")
    return _holds_sequences(path)


def _holds_sequences(path: Path) -> bool:
    if not path.is_file():
        return False
    if path.suffix.lower() == ".csv":
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.readline(1 << 16).split(",")[0].strip().strip('"') == "sequence"
    return path.suffix.lower() == ".npz" and sequences.is_sequences(path)


def load(
    root: str | PathLike[str] | None = None,
    *,
    data: Any = None,
    names: Sequence[str] = (),
    valid: float = 0.1,
    test: float = 0.2,
    max_length: int = 0,
    min_length: int = 1,
    seed: int = 0,
) -> Dataset:
    """Load the user's own sequences.

    Args:
        root: folder that relative paths start from.
        data: path or mapping, see above.
        names: of the columns; those of the file, or `x0`, `x1`, ..., by default.
        valid: share of the sequences for validation, where parts do not come as such.
        test: the same for testing.
        max_length: cut sequences after this many steps; 0 keeps them whole.
        min_length: leave out shorter ones.
        seed: of the division into parts.

    Returns:
        `x` float32 (rows, steps, columns), `length` int64 (rows,).

    Raises:
        DataError: no sequences, a damaged file, or columns that do not fit.
    """
    if data is None:
        raise DataError("no data given. Pass a path instead of a name: datasets.load('touches.npz').")
    if max_length < 0 or min_length < 1:
        raise DataError(f"max_length={max_length}, min_length={min_length}: at least 0 and 1 are expected.")
    if not (0 <= valid < 1 and 0 <= test < 1):
        raise DataError(f"valid={valid}, test={test}; shares from 0 to below 1 are expected.")
    title, parts, own_names = _read(data, root)
    rows = parts["train"]
    if not rows:
        raise DataError(f"{title!r} holds no sequence.")
    width = rows[0].shape[1] if rows[0].ndim == 2 else 0
    columns = tuple(names) or own_names or _columns(rows, width)
    if len(columns) != width:
        raise DataError(f"names={','.join(columns)}: {len(columns)} names for {width} columns.")

    def change(row: Array) -> Array | None:
        return row[: max_length or None] if len(row) >= min_length else None

    if set(parts) == {"train"}:
        held = {"valid": round(valid * len(rows)), "test": round(test * len(rows))}
        first = part_rows(len(rows), valid=held["valid"], test=held["test"], what=repr(title))
        order = stream(seed, "recordings").permutation(len(rows))
        cut = np.cumsum([first, held["valid"]])
        parts = {
            part: [rows[i] for i in np.sort(chosen)] for part, chosen in zip(PARTS, np.split(order, cut), strict=True)
        }
    options = {"names": columns, "max_length": max_length, "min_length": min_length, "seed": seed}
    options |= {"data": str(data) if isinstance(data, str | PathLike) else None, "valid": valid, "test": test}
    return sequences.dataset(INFO, parts, columns, options, change, title=title)


def _read(data: Any, root: str | PathLike[str] | None) -> tuple[str, dict[str, list[Array]], tuple[str, ...]]:
    """Title, sequences by part, and names of columns where the file has them."""
    if isinstance(data, Mapping):
        return "sequences in memory", {"train": _from_arrays(data)}, ()
    path = Path(root or ".").expanduser() / Path(data).expanduser()
    if path.is_dir():
        there = [part for part in PARTS if (path / f"{part}.npz").is_file()]
        return path.name, {part: sequences.read_flat(path / f"{part}.npz") for part in there}, ()
    if path.suffix.lower() == ".csv":
        columns, rows = _read_csv(path)
        return path.name, {"train": rows}, columns
    if {"values", "lengths"} <= arrays.headers(path).keys():
        return path.name, {"train": sequences.read_flat(path)}, ()
    parts = {part: rows for part, rows in sequences.read_parts(path).items() if rows or part == "train"}
    return path.name, parts, sequences.STROKES


def _from_arrays(data: Mapping[str, Any]) -> list[Array]:
    if "values" in data:
        values, lengths = np.asarray(data["values"], np.float64), np.asarray(data["lengths"], np.int64)
        if values.ndim != 2 or int(lengths.sum()) != len(values):
            raise DataError(f"values {values.shape}: lengths sum to {int(lengths.sum()):,}.")
        return np.split(values, np.cumsum(lengths)[:-1])
    x, length = np.asarray(data["x"], np.float64), np.asarray(data["length"], np.int64)
    if length.shape != (len(x),) or (len(x) and int(length.max()) > x.shape[1]):
        raise DataError(f"x {x.shape}: length must hold {len(x)} numbers of at most {x.shape[1]}.")
    return [row[:n] for row, n in zip(x, length, strict=True)]


def _read_csv(path: Path) -> tuple[tuple[str, ...], list[Array]]:
    """Sequences of a csv file: a column `sequence`, perhaps a column `step`, then numbers; a row per step."""
    with reading(path, "a csv file of sequences"), path.open(newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        head = [name.strip() for name in next(reader, [])]
        skip = 2 if head[1:2] == ["step"] else 1
        rows: dict[str, list[list[float]]] = {}
        for number, line in enumerate(reader, 2):
            if not line:
                continue
            try:
                rows.setdefault(line[0], []).append([float(field) for field in line[skip:]])
            except ValueError:
                raise DataError(f"{str(path)!r}, line {number}: {','.join(line)!r} does not hold numbers.") from None
            if len(line) != len(head):
                raise DataError(f"{str(path)!r}, line {number}: {len(line)} fields; the head has {len(head)}.")
    return tuple(head[skip:]), [np.array(row) for row in rows.values()]


def _columns(rows: Sequence[Array], width: int) -> tuple[str, ...]:
    if width == 3 and all(bool(np.isin(row[:, 2], (0.0, 1.0)).all()) for row in rows):
        return sequences.STROKES
    return tuple(f"x{i}" for i in range(width))
