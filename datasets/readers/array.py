"""Array: data of your own, from an npz, npy or csv file, a folder, or arrays in memory.

    datasets.load("measurements.csv", categorical=("grade",), weight="count")
    datasets.load(numpy_array)
    datasets.load({"x": x, "label": labels})
    datasets.load(hugging_face_data_set)           with its features: see `hub`

Numbers make up `x`, text and what `categorical` names become streams of codes. Missing entries (an empty field, `?`,
`NA`, NaN) are marked in `mask` and hold 0.0 in `x`; missing categories are -1. A folder may hold train, valid and test
tables, or pictures (in sub-folders named after their label).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from phlogiston.datasets import moments, pictures
from phlogiston.datasets.base import Array, Dataset, Decision, Info, Meta, Split, part_rows, recorded, stream
from phlogiston.datasets.labels import codes_of
from phlogiston.datasets.pixels import as_range
from phlogiston.datasets.readers import hub, tables
from phlogiston.datasets.readers.aside import columns_aside, tell_aside, without
from phlogiston.datasets.readers.tables import RESERVED, Table
from phlogiston.datasets.standardise import wild_cells
from phlogiston.errors import DataError, ShapeError, unknown_name

INFO = Info(
    name="array",
    title="your own npz, csv, folder or arrays: pass the path instead of a name",
    kind="yours",
    licence="yours",
    rows="yours",
    shape="yours",
    notes="Missing entries: an empty field, ?, NA or NaN. Rows are divided at random unless you bring the parts.",
)

SHOWN = 20
"""Columns whose ranges are reported."""
GLANCE = 2000
"""Rows by which it is seen whether nearly all values of a column differ."""
SEARCHED = 4096
"""Columns that are searched for wild cells."""


@recorded("data", "valid_data", "test_data")
def load(
    root: str | PathLike[str] | None = None,
    *,
    data: Any = None,
    valid_data: Any = None,
    test_data: Any = None,
    valid: float = 0.1,
    test: float = 0.2,
    seed: int = 0,
    columns: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    categorical: Sequence[str] = (),
    weight: str | None = None,
    header: bool | None = None,
    delimiter: str | None = None,
    decimal: str | None = None,
    encoding: str | None = None,
    size: int = 0,
    value_range: tuple[float, float] | None = None,
) -> Dataset:
    """Load the user's own data.

    Args:
        root: folder that relative paths start from.
        data: path, array (rows, features), or mapping of arrays.
        valid_data: validation rows of their own, instead of the share `valid`.
        test_data: test rows of their own, instead of the share `test`.
        valid: share of the rows (below 1) or number of rows (1 and more) set aside for validation.
        test: the same for testing.
        seed: of the division into parts.
        columns: use only these columns.
        names: names for the columns of data that bring none.
        categorical: columns of numbers that are categories.
        weight: the column that holds row weights; an array called `weight` beside `x` is used by default.
        header: whether the first csv line holds names; by default it does where it has text above numbers, or years
            (or 0, 1, 2, ...) above other numbers.
        delimiter: of csv fields; by default what cuts all lines into equally many fields.
        decimal: the decimal mark of csv numbers, `"."` or `","`; by default what the numbers themselves say.
        encoding: of csv files, such as `"cp1252"`; by default UTF-8, or what the first bytes say.
        size: of pictures in a folder: cut the middle square out and scale it to so many pixels a side; 0 leaves them.
        value_range: values of black and white in pictures; found out from all of them by default.

    Raises:
        DataError: the data cannot be used; the message names file, row and column.
        UnknownNameError: an option names a column that is not there.
    """
    if data is None:
        raise DataError("no data given. Pass a path instead of a name: datasets.load('table.csv'), or data=...")
    if size < 0:
        raise DataError(f"size is {size}; expected pixels a side, or 0.")
    chosen = None if columns is None else _names(columns)
    text: dict[str, Any] = {"header": header, "delimiter": delimiter, "decimal": decimal, "encoding": encoding}
    text["categorical"] = _names(categorical)
    read = _Reader(root, names, {**text, "columns": chosen, "size": size, "value_range": as_range(value_range)})
    train_part, valid_part, test_part = read.parts(data, valid_data, test_data)
    keep = {*_names(categorical), *([weight] if weight else [])}
    aside = columns_aside(train_part, keep) if columns is None else {}
    parts = [without(part, aside) for part in (train_part, valid_part, test_part) if part is not None]
    first, *rest = (_prepare(part, chosen, categorical, weight) for part in parts)
    prepared = [first, *(_by_clock(part, first.units) for part in rest)]
    labels = _labels(prepared)
    train, *others = _splits(prepared, labels)
    given_valid = others.pop(0) if valid_part is not None else None
    given_test = others.pop(0) if test_part is not None else None
    shares = (valid if given_valid is None else 0, test if given_test is None else 0)
    train, validation, testing = _divided(train, *shares, seed, train_part.source)
    return Dataset.of(
        INFO,
        (train, given_valid or validation, given_test or testing),
        {"value_range": value_range and list(value_range), **read.paths(valid_data=valid_data, test_data=test_data)},
        name=str(read.path(data)) if isinstance(data, str | PathLike) else train_part.source,
        title=Path(train_part.source).name,
        notes="",
        columns=first.names,
        categorical=labels,
        image_shape=first.image_shape if columns is None else None,
        units={name: unit for name, unit in first.units.items() if name in (*first.names, *first.text)},
        decisions=(*_own_decisions(prepared), *tell_aside(aside, train_part.source), *_decided(prepared)),
        frame=train_part.frame,
    )


def _own_decisions(parts: Sequence[Table]) -> dict[Decision, None]:
    """What was decided while the parts were read, each once."""
    return dict.fromkeys(decision for part in parts for decision in part.decisions)


def _divided(rows: Split, valid: float, test: float, seed: int, source: str) -> tuple[Split, Split, Split]:
    """Divide rows at random into training, validation and test."""
    count_valid, count_test = _count(valid, len(rows), "valid"), _count(test, len(rows), "test")
    count = part_rows(len(rows), valid=count_valid, test=count_test, what=source)
    order = np.arange(len(rows)) if not count_valid + count_test else stream(seed, "array").permutation(len(rows))
    testing, train, validation = (rows.select(part) for part in np.split(order, [count_test, count_test + count]))
    return train, validation, testing


def whole(data: Any, numeric: Collection[str] = ()) -> tuple[Split, Meta]:
    """Read data in memory as one split, without dividing it.

    Args:
        data: an array (rows, features), a mapping of arrays, a data frame or structured array, as `load` takes them.
        numeric: companions of `x` that are numbers, whatever they look like: the targets of a regression.

    Returns:
        The rows, and names, categories and decisions about them.

    Raises:
        DataError, ShapeError: the data cannot be used; the message names array, row and column.
    """
    table = tables.from_memory(data, numeric)
    aside = columns_aside(table, ())
    table = _prepare(without(table, aside), None, (), None)
    labels = _labels([table])
    split = _splits([table], labels)[0]
    meta = Meta(
        table.source,
        columns=table.names,
        categorical=labels,
        image_shape=table.image_shape,
        units=table.units,
        decisions=(*table.decisions, *tell_aside(aside, table.source), *_decided([table])),
        frame=table.frame,
    )
    return split, meta


def _by_clock(table: Table, units: Mapping[str, str]) -> Table:
    """A table with its dates by the wall clocks of other rows' time zones."""
    return replace(table, x=moments.alike(table.x, table.names, table.units, units, table.source))


def fitting(
    data: Any,
    columns: Sequence[str],
    categorical: Mapping[str, Sequence[str]],
    numeric: Collection[str] = (),
    optional: Collection[str] = (),
    units: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Read data in memory as tensors that fit what a model was trained on.

    Args:
        data: as `whole` takes them. Columns that have names are put in order by them.
        columns: names of the columns of `x` in training.
        categorical: categories of every label in training, in the order of their codes.
        numeric: companions of `x` that are numbers.
        optional: columns that may be missing from data with names, all of them together.
        units: of the columns in training; dates of another time zone are told by the clock of that one.

    Raises:
        DataError, ShapeError: the data cannot be used, lack a column, or hold a category that was not in training.
    """
    table = tables.from_memory(data, numeric)
    if tables.named(data):
        table = _in_order(table, columns, optional)
    else:
        table = replace(table, names=tuple(columns) if table.x.shape[1] == len(columns) else table.names)
    table = _by_clock(table, units or {})
    known = {name: table.text.pop(name) for name in categorical if name in table.text}
    for name in [name for name in categorical if name in table.extra]:
        raise DataError(
            f"{table.source}: {name!r} holds no labels: {table.extra[name].dtype} {table.extra[name].shape}."
        )
    table.text.clear()  # what was not there in training says nothing to the model
    split = _splits([table], {}, fit=False)[0]
    codes = {
        name: codes_of(name, entries, categorical[name], name in table.whole, table.source)
        for name, entries in known.items()
    }
    return Split({**split.tensors, **codes}, double=split.double - codes.keys()).tensors


def _in_order(table: Table, columns: Sequence[str], optional: Collection[str]) -> Table:
    """The columns of `x` in the order of training."""
    lacking = [name for name in columns if name not in table.names]
    if set(lacking) == set(optional):
        columns = [name for name in columns if name not in lacking]
        lacking = []
    if lacking:
        raise DataError(f"{table.source} lacks the column {lacking[0]!r}; it has {', '.join(table.names)}.")
    x = table.x[:, [table.names.index(name) for name in columns]]
    return replace(table, x=x, names=tuple(columns))


def lacks_some(x: Array) -> bool:
    """Whether entries are NaN; a sum tells in a fraction of the time that none are."""
    return not np.isfinite(x.sum()) and bool(np.isnan(x).any())


def _decided(parts: Sequence[Table]) -> list[Decision]:
    """What was decided about the range of columns, and about missing and wild entries."""
    decisions: list[Decision] = []
    first = parts[0]
    for j, name in enumerate(first.names[:SHOWN] if first.image_shape is None else ()):
        known = np.concatenate([part.x[:, j] for part in parts]) if len(parts) > 1 else first.x[:, j]
        if not np.isfinite(known.sum()):
            known = known[np.isfinite(known)]
        if len(known):
            decisions.append(Decision("range", f"{name}: {_range(known)}", f"categorical={name}"))
    if first.image_shape is None and len(first.names) > SHOWN:
        decisions.append(Decision("range", f"and {len(first.names) - SHOWN} more columns"))
    missing = sum(int(np.isnan(part.x).sum()) for part in parts if lacks_some(part.x))
    if missing:
        count = sum(part.x.size for part in parts)
        decisions.append(
            Decision("missing", f"{missing:,} of {count:,} entries of x: an empty field, ?, NA, NaN or a mask")
        )
    if first.image_shape is None and len(first.names) > SEARCHED:
        decisions.append(
            Decision("wild", f"not looked for here in {len(first.names) - SEARCHED:,} columns; training does")
        )
    for part in parts:
        for j, name in enumerate(part.names[:SEARCHED] if part.image_shape is None else ()):
            for cell in wild_cells(part.x[:, j]):
                decisions.append(
                    Decision(
                        "wild",
                        f"column {name!r}, row {cell.row}: {cell.value:.6g} is {cell.sds:.3g} standard deviations from "
                        "the rest; its column is standardised without it",
                    )
                )
    return decisions


def _range(known: Array) -> str:
    """Lowest and highest value of a column, and how many different ones where they are not nearly all different."""
    many = len(np.unique(known[:GLANCE])) > GLANCE // 2
    different = "" if many else f", {len(np.unique(known))} different"
    return f"{known.min():.10g} to {known.max():.10g}{different}"


class _Reader:
    """Turns whatever the user points at into tables."""

    def __init__(
        self, root: str | PathLike[str] | None, names: Sequence[str] | None, options: Mapping[str, Any]
    ) -> None:
        self.root = Path(root).expanduser() if root is not None else None
        self.names, self.options = names, options

    def parts(self, data: Any, valid_data: Any, test_data: Any) -> tuple[Table, Table | None, Table | None]:
        """Read train rows, and valid and test rows where they are given or a folder brings them."""
        if hub.is_parts(data):
            read = {part: self.table(rows) for part, rows in hub.parts_of(data).items()}
            train, valid, test = read["train"], read.get("valid"), read.get("test")
        else:
            train, valid, test = self._parts(data)
        valid = valid if valid_data is None else self.table(valid_data)
        return train, valid, test if test_data is None else self.table(test_data)

    def _parts(self, data: Any) -> tuple[Table, Table | None, Table | None]:
        if isinstance(data, str | PathLike) and (folder := self.path(data)).is_dir():
            files = tables.folder_parts(folder)
            if files:
                read = {part: self.table(file) for part, file in files.items()}
                return read["train"], read.get("valid"), read.get("test")
        return self.table(data), None, None

    def table(self, data: Any) -> Table:
        """Read one table."""
        white = self.options["value_range"]
        if isinstance(data, str | PathLike):
            path = self.path(data)
            if not path.exists():
                raise DataError(f"there is no file or folder {str(path)!r}.")
            options = dict(self.options)
            size = options.pop("size")
            if size and not path.is_dir():
                raise DataError(f"size is for folders of pictures; {str(path)!r} is a file.")
            table = pictures.read_folder(path, size, white) if path.is_dir() else tables.read(path, **options)
        else:
            chosen = self.options["columns"]  # a categorical column is chosen along
            chosen = None if chosen is None else {*chosen, *self.options["categorical"]}
            table = tables.from_memory(data, value_range=white, columns=chosen)
        if self.names is not None:
            if len(self.names) != len(table.names):
                raise ShapeError(f"names has {len(self.names)} entries for {len(table.names)} columns: {table.names}.")
            new = dict(zip(table.names, self.names, strict=True))
            table.units = {new.get(name, name): unit for name, unit in table.units.items()}
            table.names = tuple(self.names)
        return table

    def paths(self, **data: Any) -> dict[str, str]:
        """Name -> absolute path, of those data that are files."""
        return {name: str(self.path(part)) for name, part in data.items() if isinstance(part, str | PathLike)}

    def path(self, data: str | PathLike[str]) -> Path:
        """Return an absolute path, so that a run can find its data again from elsewhere."""
        path = Path(data).expanduser()
        return (self.root / path if self.root is not None else path).absolute()


def _prepare(table: Table, columns: tuple[str, ...] | None, categorical: Sequence[str], weight: str | None) -> Table:
    """Move categories and the weight out of `x`, and keep the requested columns."""
    known = (*table.names, *table.text, *table.extra)
    requested = _names(categorical)
    for name in (*(columns or ()), *requested, *((weight,) if weight else ())):
        if name not in known:
            raise unknown_name(f"column of {table.source}", name, known)
    extra, text, decisions = dict(table.extra), dict(table.text), list(table.decisions)
    if weight and weight in table.names:
        extra["weight"] = _weights(table, weight)
    elif weight and weight in extra:
        extra["weight"] = extra.pop(weight)
    elif weight:
        raise DataError(f"{table.source}: column {weight!r} holds text and cannot weight rows.")
    for name in requested:
        if name in table.names:
            values = table.x[:, table.names.index(name)]
            text[name] = [None if np.isnan(value) else f"{value:.15g}" for value in values]
            decisions.append(Decision("labels", f"column {name!r}: {len(set(text[name]) - {None})} categories"))
    kept = [
        i for i, n in enumerate(table.names) if n not in requested and n != weight and (columns is None or n in columns)
    ]
    if columns is not None:
        text = {name: entries for name, entries in text.items() if name in columns or name in requested}
    if not kept:
        raise DataError(f"{table.source} has no numeric columns left (text: {sorted(text)}). At least one is needed.")
    for name in text:
        if name in RESERVED or name in extra:
            raise DataError(f"{table.source}: a categorical column cannot be called {name!r}. Rename it.")
    if "mask" in extra and extra["mask"].shape == table.x.shape:
        extra["mask"] = extra["mask"][:, kept]
    names = tuple(table.names[i] for i in kept)
    x = table.x if len(kept) == len(table.names) else table.x[:, kept]
    return replace(table, x=x, names=names, text=text, extra=extra, decisions=decisions)


def _weights(table: Table, name: str) -> Array:
    values: Array = table.x[:, table.names.index(name)]
    if np.isnan(values).any():
        raise DataError(f"{table.source}: the weight {name!r} is missing in row {int(np.isnan(values).argmax())}.")
    return values


def _labels(parts: Sequence[Table]) -> dict[str, tuple[str, ...]]:
    """Collect the categories of every stream over all parts, numbers in numeric order."""
    labels: dict[str, tuple[str, ...]] = {}
    for name in parts[0].text:
        seen = {entry for part in parts for entry in part.text.get(name, ()) if entry is not None}
        if seen == {"-1"} and name in parts[0].whole:
            raise DataError(
                f"{parts[0].source}: {name!r} is -1 in every row, which marks missing labels. Leave it out."
            )
        if all(name in part.categories for part in parts):
            labels[name] = parts[0].categories[name]
            continue
        if not seen:
            raise DataError(f"{parts[0].source}: column {name!r} has no known entry. Leave it out with columns=(...).")
        numbers = all(re.fullmatch(r"[-+]?\d+(\.\d*)?", entry) for entry in seen)
        labels[name] = tuple(sorted(seen, key=lambda entry: (float(entry), entry) if numbers else (0.0, entry)))
    return labels


def _splits(parts: Sequence[Table], labels: Mapping[str, tuple[str, ...]], fit: bool = True) -> list[Split]:
    """Build one split per part; all have a mask as soon as one needs it. To `fit`, every column needs a known entry."""
    first = parts[0]
    for part in parts[1:]:
        if part.names != first.names or set(part.text) != set(first.text) or set(part.extra) != set(first.extra):
            raise ShapeError(
                f"{part.source} has the columns {[*part.names, *part.text, *part.extra]}, "
                f"{first.source} has {[*first.names, *first.text, *first.extra]}: they must agree."
            )
    masked = any("mask" in part.extra or lacks_some(part.x) for part in parts)
    splits = []
    for part in parts:
        narrow = part.precision == "float32" or part.image_shape is not None
        x = part.x.astype(np.float32) if narrow else part.x
        tensors: dict[str, Array] = {"x": x, **part.extra}
        if masked:
            given = part.extra.get("mask", np.ones(part.x.shape, dtype=np.bool_))
            if given.shape != part.x.shape:
                raise ShapeError(
                    f"{part.source}: 'mask' has shape {given.shape}; expected that of 'x', {part.x.shape}."
                )
            known = given & ~np.isnan(part.x)
            if fit and part is first and not known.any(axis=0).all():
                name = part.names[int((~known.any(axis=0)).argmax())]
                raise DataError(f"{part.source}: column {name!r} has no known entry. Leave it out with columns=(...).")
            tensors |= {"x": np.where(known, x, x.dtype.type(0)), "mask": known}
        for name, values in labels.items():
            code = {label: i for i, label in enumerate(values)}
            tensors[name] = np.array([-1 if v is None else code[v] for v in part.text[name]], dtype=np.int64)
        try:
            # targets called y are numbers, labels of that name stay codes
            splits.append(Split(tensors, columns=part.names, double={"x", "y"} - labels.keys()))
        except DataError as error:
            raise DataError(f"{part.source}: {error}") from error
    return splits


def _count(share: float, rows: int, what: str) -> int:
    """Turn a share (below 1) or a number of rows (1 and more) into a number of rows."""
    if not share >= 0 or (share >= 1 and share != int(share)):
        raise DataError(f"{what} is {share}; expected a share below 1 or a whole number of rows.")
    return int(share) if share >= 1 else round(share * rows)


def _names(value: Sequence[str]) -> tuple[str, ...]:
    """Let a single name stand for a sequence of one."""
    return (value,) if isinstance(value, str) else tuple(value)
