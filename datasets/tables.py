"""Reading tables of the user's: npz, npy, csv, folders of either, folders of images, arrays in memory.

Only numbers and text are read, never pickled objects. Whatever cannot be used raises `DataError` with the file, the
row and column, and what to do about it.
"""

from __future__ import annotations

import csv
import zipfile
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from phlogiston.datasets.base import Array, Decision
from phlogiston.datasets.picture_arrays import as_pictures
from phlogiston.errors import DataError, ShapeError

MISSING = frozenset({"", "?", "NA", "N/A", "n/a", "NaN", "nan", "NAN", "null", "NULL"})
TABLES = (".npz", ".npy", ".csv", ".tsv")
RESERVED = frozenset({"x", "mask", "weight"})


@dataclass
class Table:
    """Columns of one file, before categories become codes and rows are divided.

    Attributes:
        source: where it came from, for messages.
        x: float64 (rows, features), NaN where missing.
        names: one name per column of `x`.
        text: name -> the entries of a text column, None where missing.
        extra: name -> other arrays with one entry per row, passed on as they are (`mask` and `weight` among them).
        image_shape: shape of a picture when `x` holds flattened pictures.
        decisions: what was decided about the data, for people.
    """

    source: str
    x: Array
    names: tuple[str, ...]
    text: dict[str, list[str | None]] = field(default_factory=dict)
    extra: dict[str, Array] = field(default_factory=dict)
    image_shape: tuple[int, ...] | None = None
    decisions: list[Decision] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return len(self.x)


def read(
    path: Path,
    *,
    header: bool | None = None,
    delimiter: str | None = None,
    categorical: Collection[str] = (),
    columns: Collection[str] | None = None,
    value_range: tuple[float, float] | None = None,
) -> Table:
    """Read one table file, chosen by its suffix.

    Raises:
        DataError: the suffix is unknown, or the file cannot be read or used.
    """
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv", ".txt"):
        return read_csv(path, header=header, delimiter=delimiter, categorical=categorical, columns=columns)
    if suffix in (".npz", ".npy"):
        return from_arrays(_load_arrays(path), str(path), value_range)
    raise DataError(
        f"{str(path)!r}: cannot read {suffix or 'a file without a suffix'}. Use one of: {', '.join(TABLES)}."
    )


def folder_parts(path: Path) -> dict[str, Path]:
    """Find train / valid / test tables in a folder, or its only table; {} where there is none.

    Raises:
        DataError: several files claim the same part, or there are several tables and none is called train.
    """
    found = sorted(p for p in path.iterdir() if p.is_file() and p.suffix.lower() in TABLES)
    called = {"train": "train", "valid": "valid", "val": "valid", "validation": "valid", "test": "test"}
    parts: dict[str, Path] = {}
    for file in found:
        part = called.get(file.stem.lower())
        if part in parts:
            raise DataError(f"{str(path)!r}: {parts[part].name} and {file.name} both hold the {part} rows. Keep one.")
        if part:
            parts[part] = file
    if "train" in parts:
        return parts
    if len(found) == 1:
        return {"train": found[0]}
    if found:
        shown = ", ".join(p.name for p in found[:5])
        raise DataError(
            f"{str(path)!r} holds several tables ({shown}) and none called train. Name one, or rename them."
        )
    return {}


def read_csv(
    path: Path,
    *,
    header: bool | None = None,
    delimiter: str | None = None,
    categorical: Collection[str] = (),
    columns: Collection[str] | None = None,
) -> Table:
    """Read comma-, semicolon- or tab-separated text.

    A first line without a single number is taken for the header, unless `header` says otherwise. Columns of numbers go
    to `x`; columns of other text, and those named in `categorical`, go to `text`. With `columns`, text is checked for
    slips only there, because the others will not be used.
    """
    lines = _csv_lines(path, delimiter)
    if not lines:
        raise DataError(f"{str(path)!r} is empty. Expected a header line and rows of numbers.")
    first = lines[0][1]
    if header is None:
        header = all(_number(v) is None or v.strip() in MISSING for v in first) and any(
            v.strip() not in MISSING for v in first
        )
    names = tuple(v.strip() or f"x{i}" for i, v in enumerate(first)) if header else _default_names(len(first))
    rows = lines[1:] if header else lines
    if not rows:
        raise DataError(f"{str(path)!r} has a header and no rows.")
    _check_names(names, str(path))
    for number, row in rows:
        if len(row) != len(names):
            raise DataError(
                f"{str(path)!r}, line {number}: {len(row)} fields, expected {len(names)} as in the first line."
            )
    numeric: dict[str, list[float]] = {}
    text: dict[str, list[str | None]] = {}
    for j, name in enumerate(names):
        entries = [row[j].strip() for _, row in rows]
        values = [_number(entry) for entry in entries]
        if name not in categorical and all(value is not None for value in values):
            numeric[name] = [value for value in values if value is not None]
        else:
            if name not in categorical and (columns is None or name in columns):
                _check_text(path, name, entries, values, [number for number, _ in rows])
            text[name] = [None if entry in MISSING else entry for entry in entries]
    x = np.array(list(numeric.values()), dtype=np.float64).T.reshape(len(rows), len(numeric))
    return Table(str(path), x, tuple(numeric), text)


def from_arrays(arrays: Mapping[str, Any], source: str, value_range: tuple[float, float] | None = None) -> Table:
    """Read a mapping of arrays: `x` and its companions, or one array per column.

    `x` of more than two axes holds pictures, which are brought into [0, 1] (see `picture_arrays`) and flattened.
    `columns` names the columns of `x`. Integer and text arrays of one axis are categorical streams.

    Raises:
        DataError: object arrays, no numbers, no rows, or no array that could be `x`.
        ShapeError: arrays of different numbers of rows.
    """
    given = {name: _plain(name, value, source) for name, value in arrays.items()}
    names = tuple(str(name) for name in given.pop("columns")) if "columns" in given else ()
    if "x" not in given:
        wide = [
            name for name, value in given.items() if value.ndim >= 2 and value.dtype.kind in "fiub" and name != "mask"
        ]
        if len(wide) == 1:
            given["x"] = given.pop(wide[0])
        elif not wide and given and all(value.ndim == 1 for value in given.values()):
            return _from_columns(given, source)
        else:
            raise DataError(
                f"{source}: found the arrays {sorted(given)}; expected one called 'x' of shape (rows, features)."
            )
    x = given.pop("x")
    if x.dtype.kind not in "fiub":
        raise DataError(f"{source}: 'x' holds text; expected numbers of shape (rows, features).")
    if x.ndim < 2:
        raise ShapeError(f"{source}: 'x' has shape {x.shape}; expected (rows, features). One column is x[:, None].")
    if not x.size:
        raise DataError(f"{source}: 'x' has shape {x.shape}; the table is empty.")
    given_shape: tuple[int, ...] = x.shape
    image_shape: tuple[int, ...] | None = None
    told: list[Decision] = []
    if x.ndim > 2:
        x, image_shape, told = as_pictures(x, f"'x' of {source}", value_range)
    flat = x.reshape(len(x), -1).astype(np.float64)
    if names and len(names) != flat.shape[1]:
        raise ShapeError(f"{source}: 'columns' has {len(names)} names for {flat.shape[1]} columns.")
    names = names or _default_names(flat.shape[1])
    _check_names(names, source)
    table = Table(source, flat, names, image_shape=image_shape, decisions=told)
    for name, value in given.items():
        if len(value) != table.rows:
            raise ShapeError(
                f"{source}: {name!r} has {len(value)} rows, 'x' has {table.rows}. Remove it or make them agree."
            )
        if value.ndim == 1 and name not in RESERVED and value.dtype.kind in "iuUS":
            table.text[name] = _as_text(value)
        elif value.dtype.kind in "fiub":
            table.extra[name] = value
        else:
            raise DataError(f"{source}: {name!r} holds text of shape {value.shape}; expected one entry per row.")
    if "mask" in table.extra and table.extra["mask"].dtype != np.bool_:
        table.extra["mask"] = _as_bool(table.extra["mask"], source)
    if "mask" in table.extra and table.extra["mask"].shape == given_shape:
        mask = table.extra["mask"]
        if given_shape != x.shape and sorted(given_shape) == sorted(x.shape):  # colours were moved to the end
            mask = np.moveaxis(mask, 1, -1)
        table.extra["mask"] = mask[..., : x.shape[-1]].reshape(flat.shape)
    return table


def _load_arrays(path: Path) -> dict[str, Array]:
    try:
        with path.open("rb") as file:
            content = np.load(file, allow_pickle=False)
            if isinstance(content, np.ndarray):
                return {"x": content}
            return {name: content[name] for name in content.files}
    except ValueError as error:
        if "allow_pickle" in str(error):
            why = "it holds Python objects, or is no npz/npy file; objects are never read. Save plain arrays of numbers"
            raise DataError(f"{str(path)!r}: {why}.") from error
        raise DataError(f"{str(path)!r} cannot be read: {error}") from error
    except (OSError, EOFError, zipfile.BadZipFile, KeyError, SyntaxError) as error:
        raise DataError(f"{str(path)!r} cannot be read, it may be incomplete: {error}") from error


def _csv_lines(path: Path, delimiter: str | None) -> list[tuple[int, list[str]]]:
    """Return (line number, fields) of every line that is not blank."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if delimiter is None:
                head = file.readline()
                delimiter = max((",", ";", "\t"), key=head.count)
                file.seek(0)
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            return [(reader.line_num, row) for row in reader if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{str(path)!r} cannot be read as text: {error}") from error


def _number(entry: str) -> float | None:
    """Return the number, NaN where missing, None where it is text."""
    entry = entry.strip()
    if entry in MISSING:
        return float("nan")
    if "_" in entry:  # Python reads 1_000 as a number; in a table it is text
        return None
    try:
        return float(entry)
    except ValueError:
        return None


def _check_text(
    path: Path, name: str, entries: Sequence[str], values: Sequence[float | None], numbers: Sequence[int]
) -> None:
    """Tell a column of categories from a column of numbers with a slip in it, and from free text."""
    known = [entry for entry in entries if entry not in MISSING]
    slips = [i for i, value in enumerate(values) if value is None]
    if len(slips) < len(known) / 2:
        line, entry = numbers[slips[0]], entries[slips[0]]
        raise DataError(
            f"{str(path)!r}, line {line}, column {name!r}: {entry!r} is no number while most entries are. "
            f"Correct it, or pass categorical=({name!r},)."
        )
    if len(set(known)) > 50 and len(set(known)) > len(known) / 2:
        raise DataError(
            f"{str(path)!r}, column {name!r}: {len(set(known))} different texts in {len(entries)} rows. "
            f"Leave it out with columns=(...), or pass categorical=({name!r},)."
        )


def _check_names(names: Sequence[str], source: str) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(f"{source}: column {twice[0]!r} appears {Counter(names)[twice[0]]} times. Names must differ.")


def _default_names(count: int) -> tuple[str, ...]:
    return tuple(f"x{i}" for i in range(count))


def _plain(name: str, value: Any, source: str) -> Array:
    if type(value).__module__.startswith("torch"):
        value = value.detach().cpu().numpy()
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ShapeError(f"{source}: {name!r} is ragged: {error}") from error
    if array.dtype.kind not in "fiubUS":
        raise DataError(f"{source}: {name!r} holds {array.dtype} values; expected numbers or text.")
    if array.ndim == 0:
        raise ShapeError(f"{source}: {name!r} is a single value; expected one entry per row.")
    return array


def _from_columns(columns: Mapping[str, Array], source: str) -> Table:
    """Read one array per column: numbers go to `x`, text to streams."""
    lengths = {name: len(value) for name, value in columns.items()}
    if len(set(lengths.values())) != 1:
        raise ShapeError(f"{source}: columns of different lengths: {lengths}.")
    if not next(iter(lengths.values())):
        raise DataError(f"{source}: the table is empty.")
    companions = {name: value for name, value in columns.items() if name == "weight"}
    numeric = {n: v.astype(np.float64) for n, v in columns.items() if v.dtype.kind in "fiub" and n not in companions}
    text = {name: _as_text(value) for name, value in columns.items() if value.dtype.kind in "US"}
    x = np.array(list(numeric.values())).T.reshape(next(iter(lengths.values())), len(numeric))
    return Table(source, x, tuple(numeric), text, companions)


def _as_text(values: Array) -> list[str | None]:
    """Write categories as text; -1 and the usual marks mean missing."""
    if values.dtype.kind in "iu":
        return [None if value == -1 else str(value) for value in values.tolist()]
    entries = [v.decode() if isinstance(v, bytes) else v for v in values.tolist()]
    return [None if entry.strip() in MISSING else entry for entry in entries]


def _as_bool(mask: Array, source: str) -> Array:
    if not np.isin(mask, (0, 1)).all():
        raise DataError(f"{source}: 'mask' holds values other than 0 and 1; expected True where the entry is known.")
    return mask.astype(np.bool_)
