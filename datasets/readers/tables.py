"""Reading tables of the user's: npz, npy, csv, folders of either, folders of images, arrays in memory.

Only numbers and text are read, never pickled objects. Whatever cannot be used raises `DataError` with the file, the
row and column, and what to do about it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from phlogiston.datasets.base import Array, Decision
from phlogiston.datasets.containers import Plain, frame_columns, frame_kind, is_frame, plain
from phlogiston.datasets.frames import TEXT_LABELS, labels_as_they_are
from phlogiston.datasets.labels import as_labels
from phlogiston.datasets.readers import hub
from phlogiston.datasets.readers.csv_tables import read_csv
from phlogiston.datasets.readers.frame_files import FRAMES, read_frame
from phlogiston.datasets.readers.picture_arrays import as_pictures
from phlogiston.datasets.untrusted import arrays
from phlogiston.datasets.untrusted.limits import check_count, check_memory
from phlogiston.errors import DataError, ShapeError

TEXT = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz")
TABLES = (".npz", ".npy", ".csv", ".tsv", ".csv.gz", ".tsv.gz", *FRAMES)
SCENES = (".tfrecord", ".pt", ".pt.gz")
RESERVED = frozenset({"x", "mask", "weight"})
COPIES = 7
"""Times that the float64 numbers of a table are in memory at most, until its rows are divided."""


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
        units: name -> unit of a column's numbers, where it is known.
        aside: columns that say nothing about other rows, and why; None where columns have no names to go by.
        frame: kind of data frame it came as, such as `"polars"`; "" for other containers.
        decisions: what was decided about the data, for people.
        whole: names in `text` whose entries came as whole numbers.
        precision: the number format of `x` as it came, `"float64"` or `"float32"`.
        categories: name in `text` -> its categories in the order of their codes, where the container says them.
    """

    source: str
    x: Array
    names: tuple[str, ...]
    text: dict[str, list[str | None]] = field(default_factory=dict)
    extra: dict[str, Array] = field(default_factory=dict)
    image_shape: tuple[int, ...] | None = None
    units: dict[str, str] = field(default_factory=dict)
    aside: dict[str, str] | None = None
    frame: str = ""
    decisions: list[Decision] = field(default_factory=list)
    whole: set[str] = field(default_factory=set)
    precision: str = "float64"
    categories: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return len(self.x)


def read(
    path: Path,
    *,
    header: bool | None = None,
    delimiter: str | None = None,
    decimal: str | None = None,
    encoding: str | None = None,
    categorical: Collection[str] = (),
    columns: Collection[str] | None = None,
    value_range: tuple[float, float] | None = None,
) -> Table:
    """Read one table file, chosen by its suffix.

    Raises:
        DataError: the suffix is unknown, or the file cannot be read or used.
    """
    suffix = suffix_of(path)
    if suffix in TEXT:
        text = read_csv(
            path,
            header=header,
            delimiter=delimiter,
            decimal=decimal,
            encoding=encoding,
            categorical=categorical,
            columns=columns,
        )
        x = _side_by_side(text.numeric, text.rows)
        table = Table(str(path), x, tuple(text.numeric), text.text, units=text.units, decisions=text.decisions)
        table.aside = text.aside
        return table
    if suffix in FRAMES:
        table = from_memory(read_frame(path))
        return replace(table, source=str(path), frame="")
    if suffix in (".npz", ".npy"):
        content = _load_arrays(path)
        if content.keys() == {"x"} and is_frame(content["x"]):
            return from_columns({n: plain(n, v, str(path)) for n, v in frame_columns(content["x"]).items()}, str(path))
        return from_arrays(content, str(path), value_range)
    if suffix in SCENES:
        raise DataError(
            f"{str(path)!r} is read as scenes: --data gqn --data-set path={path.name}, after `phlogiston data convert`."
        )
    raise DataError(
        f"{str(path)!r}: cannot read {suffix or 'a file without a suffix'}. Use one of: {', '.join(TABLES)}."
    )


def suffix_of(path: Path) -> str:
    """The suffix that says what a file holds, `.gz` with what is packed in it."""
    packed = path.suffix.lower() == ".gz"
    return "".join(path.suffixes[-2:]).lower() if packed else path.suffix.lower()


def _side_by_side(columns: Mapping[str, Array], rows: int) -> Array:
    """Columns as one float64 array (rows, columns); they are given up one by one, for memory."""
    x = np.empty((rows, len(columns)), order="F")  # what follows goes column by column
    for j, values in enumerate(columns.values()):
        x[:, j] = values
    return x


def folder_parts(path: Path) -> dict[str, Path]:
    """Find train / valid / test tables in a folder, or its only table; {} where there is none.

    Raises:
        DataError: several files claim the same part, or there are several tables and none is called train.
    """
    files = sorted(p for p in path.iterdir() if p.is_file() and suffix_of(p) in TABLES)
    called = {"train": "train", "valid": "valid", "val": "valid", "validation": "valid", "test": "test"}
    parts: dict[str, Path] = {}
    for file in files:
        part = called.get(file.name.split(".")[0].lower())
        if part in parts:
            raise DataError(f"{str(path)!r}: {parts[part].name} and {file.name} both hold the {part} rows. Keep one.")
        if part:
            parts[part] = file
    if "train" in parts:
        return parts
    if len(files) == 1:
        return {"train": files[0]}
    if files:
        shown = ", ".join(p.name for p in files[:5])
        raise DataError(
            f"{str(path)!r} holds several tables ({shown}) and none called train. Name one, or rename them."
        )
    return {}


def named(data: Any) -> bool:
    """Whether data in memory have columns with names: a data frame, a structured array, or a mapping of columns."""
    if isinstance(data, Mapping):
        return "x" not in data and all(np.ndim(value) == 1 for value in data.values())
    return is_frame(data) and not (hub.is_hub(data) and hub.has_pictures(data))


def from_memory(
    data: Any,
    numeric: Collection[str] = (),
    value_range: tuple[float, float] | None = None,
    columns: Collection[str] | None = None,
) -> Table:
    """Read an array, a mapping of arrays, a data frame, a structured array or a Hugging Face data set.

    Args:
        data: any of these.
        numeric: companions of `x` that are numbers, whatever they look like.
        value_range: values of black and white, where `x` holds pictures; found out by default.
        columns: of a Hugging Face data set, those to read; all by default.
    """
    if hub.is_hub(data):
        return _from_hub(data, numeric, value_range, columns)
    if isinstance(data, Mapping):
        return from_arrays(data, "the arrays given", value_range, numeric)
    if is_frame(data):
        source = "the structured array given" if isinstance(data, np.ndarray) else "the data frame given"
        columns = {name: plain(name, value, source) for name, value in frame_columns(data).items()}
        if not columns:
            raise DataError(f"{source} has no columns.")
        return replace(from_columns(columns, source), frame=frame_kind(data))
    return from_arrays({"x": data}, "the array given", value_range, numeric)


def _from_hub(
    data: Any,
    numeric: Collection[str],
    value_range: tuple[float, float] | None,
    columns: Collection[str] | None,
) -> Table:
    """Read a Hugging Face data set as its features say."""
    found = hub.read(data, columns)
    if found.pictures:
        white = (0.0, 255.0) if found.bytes and value_range is None else value_range
        table = from_arrays(found.arrays, hub.SOURCE, white, numeric)
        table.decisions.append(Decision("pictures", f"column {found.pictures!r} is x", "columns=..."))
    else:
        table = from_columns({n: plain(n, v, hub.SOURCE) for n, v in found.arrays.items()}, hub.SOURCE)
    for name, entries in found.labels.items():
        table.text[name] = entries
        table.decisions.append(
            Decision("labels", f"column {name!r}: {len(found.categories[name])} categories, as told")
        )
    return replace(table, categories=found.categories)


def _name_of_x(given: Mapping[str, Plain], source: str) -> str:
    """The array that holds the rows: `x`, or the only one that could."""
    if "x" in given:
        return "x"
    wide = [
        name
        for name, value in given.items()
        if value.values.ndim >= 2 and not value.text and name not in ("mask", "weight", "y")
    ]
    if len(wide) != 1:
        raise DataError(
            f"{source} holds the arrays {sorted(given)}; expected one called 'x' of shape (rows, features)."
        )
    return wide[0]


def from_arrays(
    data: Mapping[str, Any],
    source: str,
    value_range: tuple[float, float] | None = None,
    numeric: Collection[str] = (),
) -> Table:
    """Read a mapping of arrays in any container: `x` and its companions, or one array per column.

    `x` of more than two axes holds pictures, which are brought into [0, 1] (see `picture_arrays`) and flattened.
    `columns` names the columns of `x`. Companions that hold labels (see `labels.as_labels`) become categorical columns.

    Args:
        data: name -> array; see `containers.plain` for what an array may be.
        source: where they came from, for messages.
        value_range: values of black and white, where `x` holds pictures; found out by default.
        numeric: companions that are numbers, whatever they look like.

    Raises:
        DataError: entries that are no numbers or text, no rows, or no array that could be `x`.
        ShapeError: arrays of different numbers of rows.
    """
    if {"images", "cameras"} <= set(data):
        raise DataError(f"{source} holds scenes: 'images' and 'cameras'. Read it by --data gqn --data-set path=FILE.")
    given = {str(name): plain(str(name), value, source) for name, value in data.items()}
    if "x" not in given and given and all(value.values.ndim == 1 for value in given.values()):
        return from_columns(given, source)
    names = tuple(str(name) for name in given.pop("columns").values.tolist()) if "columns" in given else ()
    given_x = given.pop(_name_of_x(given, source))
    if given_x.text:
        raise DataError(f"{source}: 'x' holds text; expected numbers of shape (rows, features).")
    x = given_x.values
    if x.ndim < 2:
        raise ShapeError(f"{source}: 'x' has shape {x.shape}; expected (rows, features). One column is x[:, None].")
    if not x.size:
        raise DataError(f"{source}: 'x' has shape {x.shape}; the table is empty.")
    check_memory(COPIES * 8 * x.size, f"{source}: a table of {len(x):,} rows")
    given_shape: tuple[int, ...] = x.shape
    image_shape: tuple[int, ...] | None = None
    decisions = [] if given_x.decision is None else [given_x.decision]
    if x.ndim > 2:
        if given_x.missing is not None:  # what stands behind a mask is no colour
            x = np.where(given_x.missing, x[~given_x.missing].min(initial=0), x)
        x, image_shape, decided = as_pictures(x, f"'x' of {source}", value_range)
        decisions += decided
        flat = x.reshape(len(x), -1).astype(np.float64)
    else:
        flat = given_x.numbers("x", source)
    check_count(flat.shape[1], "columns", f"{source}: columns of 'x'")
    if names and len(names) != flat.shape[1]:
        raise ShapeError(f"{source}: 'columns' has {len(names)} names for {flat.shape[1]} columns.")
    _check_names(names, source)
    names = names or _default_names(flat.shape[1])
    table = Table(source, flat, names, image_shape=image_shape, decisions=decisions)
    table.precision = "float32" if x.dtype in (np.float16, np.float32) else "float64"
    for name, value in given.items():
        if len(value.values) != table.rows:
            raise ShapeError(
                f"{source}: {name!r} has {len(value.values)} rows, 'x' has {table.rows}. Remove it or make them agree."
            )
        _companion(table, name, value, name in numeric)
    if "mask" in table.extra and table.extra["mask"].dtype != np.bool_:
        table.extra["mask"] = _as_bool(table.extra["mask"], source)
    if image_shape is not None and given_x.missing is not None:
        behind = ~given_x.missing
        given_mask = table.extra.get("mask", behind)
        table.extra["mask"] = behind & given_mask if given_mask.shape == behind.shape else behind
    if "mask" in table.extra and table.extra["mask"].shape == given_shape:
        mask = table.extra["mask"]
        if given_shape != x.shape and sorted(given_shape) == sorted(x.shape):  # colours were moved to the end
            mask = np.moveaxis(mask, 1, -1)
        table.extra["mask"] = mask[..., : x.shape[-1]].reshape(flat.shape)
    return table


def _companion(table: Table, name: str, value: Plain, numeric: bool) -> None:
    """Put one array beside `x` where it belongs: labels to `text`, everything else to `extra`."""
    source = table.source
    if name in RESERVED or numeric:
        if value.text:
            raise DataError(f"{source}: {name!r} holds text; expected numbers.")
        numbers = value.numbers(name, source)
        if np.isnan(numbers).any():
            row = int(np.isnan(numbers).reshape(len(numbers), -1).any(1).argmax())
            raise DataError(f"{source}: {name!r} is missing in row {row}; it must be known in every row.")
        if name == "weight" and numbers.ndim == 2 and numbers.shape[1] == 1:
            numbers = numbers[:, 0]
        table.extra[name] = value.values if name == "mask" else numbers
        return
    # what is called y may be the targets of a regression: real numbers, and columns of numbers, stay what they are
    target = name == "y" and not value.text and (value.values.ndim > 1 or value.values.dtype.kind == "f")
    labels = None if target else as_labels(name, value)
    if labels is not None:
        table.text[name] = labels[0]
        table.decisions.append(labels[1])
        table.whole |= {name} if value.values.dtype.kind in "iu" else set()
    elif value.text:
        raise DataError(f"{source}: {name!r} holds text of shape {value.values.shape}; expected one entry per row.")
    else:
        numbers = value.numbers(name, source)
        if np.isnan(numbers).all():
            raise DataError(f"{source}: {name!r} has no known entry. Leave it out.")
        table.extra[name] = value.values if value.missing is None else numbers


def _load_arrays(path: Path) -> dict[str, Array]:
    content = arrays.load(path)
    return content if isinstance(content, dict) else {"x": content}


def _check_names(names: Sequence[str], source: str) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(f"{source}: column {twice[0]!r} appears {Counter(names)[twice[0]]} times. Names must differ.")


def _default_names(count: int) -> tuple[str, ...]:
    return tuple(f"x{i}" for i in range(count))


def from_columns(columns: Mapping[str, Plain], source: str) -> Table:
    """Read one array per column: numbers and dates go to `x`, text and bools to categorical columns."""
    lengths = {name: len(value.values) for name, value in columns.items()}
    if len(set(lengths.values())) != 1:
        raise ShapeError(f"{source}: columns of different lengths: {lengths}.")
    rows = next(iter(lengths.values()))
    if not rows:
        raise DataError(f"{source}: the table is empty.")
    check_memory(COPIES * 8 * rows * len(columns), f"{source}: a table of {rows:,} rows")
    table = Table(source, np.empty((rows, 0)), (), aside={})
    numeric: dict[str, Array] = {}
    for name, value in columns.items():
        if value.decision is not None:
            table.decisions.append(value.decision)
        if value.text or value.values.dtype.kind == "b":
            table.text[name] = value.entries()
            known = {entry for entry in table.text[name] if entry is not None}
            if value.text and not value.numbered and labels_as_they_are(list(known), list(known)) != list(known):
                table.units[name] = TEXT_LABELS
            what = "as told" if value.labels else "text" if value.text else "bool"
            table.decisions.append(Decision("labels", f"column {name!r}: {what}, {len(known)} categories"))
        else:
            numeric[name] = value.numbers(name, source)
            if value.unit:
                table.units[name] = value.unit
    table.names = tuple(numeric)
    table.x = _side_by_side(numeric, rows)
    kinds = {columns[name].values.dtype for name in numeric}
    table.precision = "float32" if kinds and kinds <= {np.dtype(np.float16), np.dtype(np.float32)} else "float64"
    return table


def _as_bool(mask: Array, source: str) -> Array:
    if not np.isin(mask, (0, 1)).all():
        raise DataError(f"{source}: 'mask' holds values other than 0 and 1; expected True where the entry is known.")
    return mask.astype(np.bool_)
