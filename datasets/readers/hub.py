"""Hugging Face data sets: their columns as arrays, as their features say.

    datasets.load(hf)                     a `datasets.Dataset`, or a `DatasetDict` with train, validation and test
    system.fit(hf)

What is held by `ClassLabel` are categories, in its order; pictures are decoded; lists of one length become columns.
Nothing here imports the package: a data set is recognised by what it can do.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from phlogiston.datasets.base import Array
from phlogiston.datasets.untrusted.limits import check_count
from phlogiston.errors import DataError, ShapeError

PARTS = {"train": "train", "valid": "valid", "validation": "valid", "val": "valid", "dev": "valid", "test": "test"}
PICTURES = ("Image", "Array2D", "Array3D")
SOURCE = "the data set given"


@dataclass
class Columns:
    """A data set as arrays.

    Attributes:
        arrays: name -> numbers, text or dates, one entry per row; `x` where it holds pictures.
        labels: name -> category of each row, None where missing, of columns whose categories the data set says.
        categories: name -> those categories, in the order of their codes.
        pictures: name of the column that holds pictures; "" where there is none.
        bytes: whether they are pictures of 8 bits, whose black is 0 and white 255.
    """

    arrays: dict[str, Any] = field(default_factory=dict)
    labels: dict[str, list[str | None]] = field(default_factory=dict)
    categories: dict[str, tuple[str, ...]] = field(default_factory=dict)
    pictures: str = ""
    bytes: bool = False


def is_hub(data: Any) -> bool:
    """Say whether an object is a Hugging Face data set.

    Raises:
        DataError: it is one that can only be read from its beginning.
    """
    if isinstance(data, Mapping) or not (hasattr(data, "features") and hasattr(data, "with_format")):
        return False
    if not hasattr(data, "__len__"):
        raise DataError(f"{SOURCE} is read from its beginning alone; load it without streaming=True.")
    return data.features is not None


def is_parts(data: Any) -> bool:
    """Say whether an object holds the parts of a Hugging Face data set."""
    return isinstance(data, Mapping) and len(data) > 0 and all(is_hub(part) for part in data.values())


def parts_of(data: Mapping[str, Any]) -> dict[str, Any]:
    """The parts by what they are called here.

    Raises:
        DataError: there is no training part, or one that means nothing here.
    """
    unknown = [name for name in data if name not in PARTS]
    if unknown or not any(PARTS[name] == "train" for name in data):
        raise DataError(
            f"{SOURCE} has the parts {', '.join(data)}; expected train, and if there are any validation and test. "
            "Pass one part, such as data['train']."
        )
    found: dict[str, Any] = {}
    for name, part in data.items():
        if PARTS[name] in found:
            raise DataError(f"{SOURCE} has two {PARTS[name]} parts: {', '.join(data)}. Keep one.")
        found[PARTS[name]] = part
    return found


def number_columns(data: Any) -> list[str]:
    """Names of the columns of plain numbers; the codes of categories are none."""
    kinds = {
        name: getattr(feature, "dtype", "") for name, feature in data.features.items() if _kind(feature) == "Value"
    }
    return [name for name, kind in kinds.items() if str(kind).startswith(("int", "uint", "float", "bool"))]


def has_pictures(data: Any) -> bool:
    """Say whether a column of a data set holds pictures."""
    return any(_kind(feature) in PICTURES for feature in data.features.values())


def read(data: Any, columns: Collection[str] | None = None) -> Columns:
    """Read a data set into memory.

    Args:
        data: the data set.
        columns: read only these; all by default.

    Raises:
        DataError: a column of another kind, such as sound, or several of pictures.
        ShapeError: pictures of several sizes, or lists of several lengths.
    """
    flat = data.flatten() if any(isinstance(feature, dict) for feature in data.features.values()) else data
    names = [name for name in flat.column_names if columns is None or name in columns]
    if not names or not len(flat):
        raise DataError(f"{SOURCE} has {len(flat)} rows and the columns {', '.join(flat.column_names) or 'none'}.")
    table = flat.select_columns(names).with_format("arrow")[:]
    found = Columns()
    for name in names:
        feature = flat.features[name]
        kind = _kind(feature)
        if kind == "ClassLabel":
            found.categories[name] = tuple(feature.names)
            found.labels[name] = _labels(table, name, feature)
        elif kind == "Value":
            found.arrays[name] = table.column(name)
        elif kind in PICTURES:
            if found.pictures:
                raise DataError(
                    f"{SOURCE} has pictures in {found.pictures!r} and in {name!r}. Choose by columns=(...)."
                )
            found.pictures, found.bytes = name, kind == "Image"
            found.arrays["x"] = _pictures(flat, name) if kind == "Image" else np.array(table.column(name).to_pylist())
        elif kind in ("List", "Sequence", "LargeList"):
            found.arrays |= _list_columns(table.column(name), name)
        else:
            raise DataError(
                f"{SOURCE}: column {name!r} holds {kind}; expected numbers, text, categories or pictures. "
                "Leave it out by columns=(...)."
            )
    if not found.arrays:
        raise DataError(
            f"{SOURCE} has categories alone ({', '.join(found.labels)}); at least a column of numbers is needed."
        )
    return found


def _kind(feature: Any) -> str:
    return type(feature).__name__


def as_table(data: Any) -> Any:
    """A data set as an Arrow table, categories by name."""
    table = data.with_format("arrow")[:]
    for name, feature in data.features.items():
        if _kind(feature) == "ClassLabel":
            table = table.set_column(table.column_names.index(name), name, [_labels(table, name, feature)])
    return table


def _labels(table: Any, name: str, feature: Any) -> list[str | None]:
    codes = table.column(name).to_pylist()
    return [None if code is None or code < 0 else feature.names[code] for code in codes]


def _pictures(data: Any, name: str) -> Array:
    """The pictures of a column, uint8 (rows, height, width), or with three colours."""
    first: tuple[int, ...] | None = None
    found, colours = [], False
    for row, entry in enumerate(data.select_columns([name]).with_format(None)):
        picture = entry[name]
        if picture is None:
            raise DataError(f"{SOURCE}: {name!r} is missing in row {row}; leave such rows out.")
        grey = picture.mode in ("1", "L", "LA", "La")
        if not grey and picture.mode.startswith(("I", "F")):
            raise DataError(f"{SOURCE}: {name!r} in row {row} has more than 8 bits per channel; convert it first.")
        values = np.asarray(picture.convert("L" if grey else "RGB"))
        first = first or values.shape[:2]
        if values.shape[:2] != first:
            raise ShapeError(
                f"{SOURCE}: {name!r} has {values.shape[0]} x {values.shape[1]} pixels in row {row} and "
                f"{first[0]} x {first[1]} in row 0. Bring them to one size first, by data.map(...)."
            )
        colours |= not grey
        found.append(values)
    assert first is not None
    check_count(first[0] * first[1] * 3, "columns", f"{SOURCE}: values of a picture in {name!r}")
    return np.stack([np.repeat(p[..., None], 3, -1) if colours and p.ndim == 2 else p for p in found])


def _list_columns(column: Any, name: str) -> dict[str, Array]:
    """A column of lists of numbers as columns by position."""
    rows = column.to_pylist()
    lengths = {len(row) for row in rows if row is not None}
    if len(lengths) != 1:
        shown = f"{min(lengths)} to {max(lengths)} entries" if lengths else "no entries"
        raise ShapeError(
            f"{SOURCE}: {name!r} holds lists of {shown}; expected one length. Leave it out by columns=(...)."
        )
    width = lengths.pop()
    check_count(width, "columns", f"{SOURCE}: entries of {name!r}")
    try:
        values = np.array([[np.nan] * width if row is None else row for row in rows], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{SOURCE}: {name!r} holds lists of something else than numbers ({error}).") from error
    if values.ndim != 2:
        raise ShapeError(f"{SOURCE}: {name!r} holds lists of lists; expected lists of numbers.")
    return {f"{name}_{i}": values[:, i] for i in range(width)}
