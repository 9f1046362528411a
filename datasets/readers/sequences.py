"""Sequences of different lengths: read from flat or sketch-rnn npz files, padded, checked, divided.

In every source of sequences a batch holds `x` float32 (batch, time, columns), 0 after the end, and `length` int64
(batch,). Drawings have the columns `dx`, `dy` (the step to this point) and `pen` (1 where the pen is lifted after
it): the "stroke-3" form. Two layouts of npz files are read:

- flat: `values` (total, columns) and `lengths` (rows,), one file per part (`train.npz`, `valid.npz`, `test.npz`);
- sketch-rnn: `train`, `valid`, `test`, each an array of arrays (time, 3) (see `object_arrays`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from phlogiston.datasets.base import PARTS, Array, Dataset, Decision, Info, Split
from phlogiston.datasets.fetch import cache_folder
from phlogiston.datasets.readers import object_arrays
from phlogiston.datasets.untrusted import arrays
from phlogiston.datasets.untrusted.limits import check_count, limits
from phlogiston.errors import DataError

STROKES = ("dx", "dy", "pen")
Rows = list[Array]
Change = Callable[[Array], Array | None]


def folder_of(name: str, root: str | PathLike[str] | None) -> Path:
    """Return the folder a source's files live in."""
    return Path(root).expanduser() if root is not None else cache_folder() / name


def read_flat(path: Path) -> Rows:
    """Read `values` and `lengths` as a list of sequences.

    Raises:
        DataError: damaged, or the lengths do not add up.
    """
    content = object_arrays.read(path)
    for name in ("values", "lengths"):
        if name not in content or isinstance(content[name], list):
            raise DataError(f"{str(path)!r} has no array {name!r}; it holds {', '.join(content) or 'nothing'}.")
    values, lengths = np.asarray(content["values"]), np.asarray(content["lengths"])
    if len(lengths.shape) == 1 and len(lengths) > max(limits().sequences, path.stat().st_size):
        check_count(len(lengths), "sequences", f"{str(path)!r}: sequences")
    if values.ndim != 2 or lengths.ndim != 1 or lengths.dtype.kind not in "iu":
        raise DataError(f"{str(path)!r}: values {values.shape} and lengths {lengths.shape} are not sequences.")
    if (len(lengths) and int(lengths.min()) < 0) or int(lengths.sum()) != len(values):
        raise DataError(f"{str(path)!r}: lengths sum to {int(lengths.sum()):,}; there are {len(values):,} steps.")
    return np.split(values.astype(np.float64), np.cumsum(lengths.astype(np.int64))[:-1])


def read_parts(path: Path) -> dict[str, Rows]:
    """Read a sketch-rnn file: part -> list of (time, 3) arrays.

    Raises:
        DataError: damaged, or another layout.
    """
    content = object_arrays.read(path)
    if "train" not in content:
        raise DataError(f"{str(path)!r} has no array 'train'; it holds {', '.join(content) or 'nothing'}.")
    parts = {}
    for part in PARTS:
        rows = [np.asarray(row, dtype=np.float64) for row in content.get(part, [])]
        for i, row in enumerate(rows):
            if row.ndim != 2 or row.shape[1] != 3:
                raise DataError(f"{str(path)!r}: {part} drawing {i} has shape {row.shape}; expected (points, 3).")
        parts[part] = rows
    return parts


def is_sequences(path: Path) -> bool:
    """Say whether an npz file holds sequences in one of the two layouts."""
    content = arrays.headers(path)
    if {"values", "lengths"} <= content.keys():
        return True
    train = content.get("train")
    return train is not None and (train.dtype == object or (len(train.shape) == 3 and train.shape[2] == 3))


def pad(rows: Sequence[Array]) -> tuple[Array, Array]:
    """Return (rows, longest, columns) float32 with zeros after the ends, and the lengths."""
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    columns = rows[0].shape[1] if rows else 0
    out = np.zeros((len(rows), int(lengths.max(initial=0)), columns), dtype=np.float32)
    for target, row in zip(out, rows, strict=True):
        target[: len(row)] = row
    return out, lengths


def check(rows: Sequence[Array], columns: Sequence[str], where: str) -> None:
    """Refuse what no model can learn from, naming the first culprit.

    Raises:
        DataError: an empty sequence, another number of columns, NaN, infinity, or a pen that is neither 0 nor 1.
    """
    for i, row in enumerate(rows):
        if row.ndim != 2 or row.shape[1] != len(columns):
            raise DataError(f"{where}: sequence {i} has shape {row.shape}; expected (steps, {len(columns)}).")
        if not len(row):
            raise DataError(f"{where}: sequence {i} is empty; leave it out.")
        if not np.isfinite(row).all():
            step, column = np.argwhere(~np.isfinite(row))[0]
            raise DataError(f"{where}: sequence {i}, step {step}: {columns[column]} is {row[step, column]}.")
        if "pen" in columns:
            pen = row[:, list(columns).index("pen")]
            if not np.isin(pen, (0.0, 1.0)).all():
                raise DataError(f"{where}: sequence {i} has a pen of {pen[~np.isin(pen, (0, 1))][0]}; expected 0 or 1.")


def split_of(rows: Sequence[Array], columns: Sequence[str], extra: Mapping[str, Any] | None = None) -> Split:
    """Return a split of padded sequences; an empty one keeps its columns."""
    if rows:
        x, length = pad(rows)
    else:
        x, length = np.zeros((0, 1, len(columns)), np.float32), np.zeros(0, np.int64)
    return Split({"x": x, "length": length, **(extra or {})}, sequences=("x",))


def dataset(
    info: Info,
    parts: Mapping[str, Sequence[Array]],
    columns: Sequence[str],
    options: Mapping[str, Any],
    change: Change | None = None,
    extra: Mapping[str, Mapping[str, Any]] | None = None,
    steps: int = 0,
    **described: Any,
) -> Dataset:
    """Make a dataset of lists of sequences.

    Args:
        info: of the source.
        parts: part -> sequences, each (steps, columns).
        columns: their names.
        options: what `load` was called with.
        change: applied to every sequence; None leaves it out.
        extra: part -> further tensors.
        steps: pad to at least this many steps, whatever there is.
        **described: further fields of `Meta`.

    How many sequences `change` left out is said in `Meta.decisions`.

    Raises:
        DataError: sequences that cannot be used.
    """
    ready: dict[str, list[Array]] = {}
    left_out = 0
    for part in PARTS:
        rows = [change(row) if change is not None else row for row in parts.get(part, ())]
        ready[part] = [row for row in rows if row is not None]
        left_out += len(rows) - len(ready[part])
        check(ready[part], columns, f"{info.name}, {part}")
    if not ready["train"]:
        raise DataError(f"{info.name}: no training sequence is left. Loosen the options.")
    longest = max(steps, *(len(row) for rows in ready.values() for row in rows))
    splits = []
    for part in PARTS:  # parts must agree in shape: all are padded to the longest sequence there is
        splits.append(_widen(split_of(ready[part], columns, (extra or {}).get(part)), longest))
    if left_out:
        limits = {name: options[name] for name in ("max_length", "min_length") if options.get(name)}
        option = ", ".join(f"{name}={value}" for name, value in limits.items())
        first = next(iter(limits), "")
        content = Decision("left out", f"{left_out:,} sequences beyond {option}", first and first + "=...")
        described["decisions"] = (*described.get("decisions", ()), content)
    return Dataset.of(
        info, splits, dict(options), title=described.pop("title", info.title), columns=tuple(columns), **described
    )


def _widen(split: Split, steps: int) -> Split:
    x = split.tensors["x"]
    wide = x.new_zeros(len(x), steps, x.shape[2])
    wide[:, : x.shape[1]] = x
    return Split({**split.tensors, "x": wide}, sequences=split.sequences)


def load_flat(
    info: Info,
    root: str | PathLike[str] | None,
    columns: Sequence[str],
    options: Mapping[str, Any],
    origin: str,
    change: Change | None = None,
) -> Dataset:
    """Load a source whose files are `train.npz` and, where there are such, `valid.npz` and `test.npz`.

    Raises:
        DataError: the files are missing (the message says what belongs where) or damaged.
    """
    folder = folder_of(info.name, root)
    if not (folder / "train.npz").is_file():
        raise DataError(
            f"there is no train.npz in {str(folder)!r}. {origin} Put train.npz and valid.npz there: npz files with "
            f"values (steps, {len(columns)}: {', '.join(columns)}) and lengths (sequences)."
        )
    parts = {part: read_flat(folder / f"{part}.npz") for part in PARTS if (folder / f"{part}.npz").is_file()}
    return dataset(info, parts, columns, options, change)


def present(name: str, file: str = "train.npz") -> str:
    """Say whether a source's files are in the cache folder."""
    return "cached" if (folder_of(name, None) / file).is_file() else "yours"


def stroke_change(scale: float = 1.0, max_length: int = 0) -> Change:
    """Return what prepares a drawing: scale its offsets, leave out overlong ones, clamp outliers.

    Args:
        scale: offsets are divided by it.
        max_length: longest drawing to keep, in points; 0 keeps all.
    """

    def change(row: Array) -> Array | None:
        if max_length and len(row) > max_length:
            return None
        offsets = np.clip(row[:, :2] / scale, -1000.0, 1000.0)
        return np.concatenate([offsets, row[:, 2:3]], 1)

    return change


def offsets_of(points: Sequence[Array]) -> Array:
    """Turn strokes, each (points, 2) in absolute coordinates, into stroke-3: (points, 3).

    The first offset is 0, since nothing is known of where the pen came from.

    Raises:
        DataError: no point at all.
    """
    points = [stroke for stroke in points if len(stroke)]
    if not points:
        raise DataError("a drawing without a single point has nothing to learn from.")
    joined = np.concatenate(points)
    pen = np.zeros(len(joined))
    pen[np.cumsum([len(stroke) for stroke in points]) - 1] = 1.0
    return np.concatenate([np.diff(joined, axis=0, prepend=joined[:1]), pen[:, None]], 1)


def strokes_of(x: Array, length: int | None = None) -> Rows:
    """Turn stroke-3 back into strokes in absolute coordinates, each (points, 2)."""
    x = np.asarray(x, dtype=np.float64)[: len(x) if length is None else length]
    points = np.cumsum(x[:, :2], 0)
    ends = np.flatnonzero(x[:, 2] > 0.5) + 1
    return [stroke for stroke in np.split(points, ends) if len(stroke)]
