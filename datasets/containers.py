"""Arrays as people have them, made plain: masked and structured arrays, tensors, lists, data frames, object columns.

A container that says which entries are missing (a mask, NaN, None, NA, NaT) is believed. Dates become numbers with a
unit. What cannot be held is refused by name; nothing is dropped without a word.
"""

from __future__ import annotations

import datetime
import decimal
import numbers
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from phlogiston.arrays import tensor_of
from phlogiston.datasets import moments
from phlogiston.datasets.base import Array, Decision
from phlogiston.errors import DataError, ShapeError

EXACT = 2**53
"""Integers up to here are numbers of float64; beyond, neighbours become one."""


@dataclass(frozen=True)
class Plain:
    """One array as plain numpy.

    Attributes:
        values: of numbers, bools, or text (object arrays of `str`).
        missing: bool, like `values`: True where the container marks an entry as missing; None where it marks none.
            `values` holds anything there.
        decision: what was decided about it, or None.
        unit: of numbers that were dates or spans of time, else "".
        labels: whether the container says that the entries are categories, whatever they look like.
        numbered: whether text in `values` was written from numbers.
    """

    values: Array
    missing: Array | None = None
    decision: Decision | None = None
    unit: str = ""
    labels: bool = False
    numbered: bool = False

    @property
    def text(self) -> bool:
        """Whether it holds text."""
        return self.values.dtype.kind == "O"

    def numbers(self, name: str, source: str) -> Array:
        """The entries as float64, NaN where missing.

        Raises:
            DataError: text, or integers that float64 cannot hold.
        """
        if self.text:
            raise DataError(f"{source}: {name!r} holds text; expected numbers.")
        out = self.values.astype(np.float64)
        if self.values.dtype.kind in "iu" and self.values.size:
            large = max(abs(int(self.values.min())), abs(int(self.values.max())))
            if large > EXACT and (out.astype(object) != self.values.astype(object)).any():
                raise DataError(
                    f"{source}: {name!r} holds the integer {large}, beyond 2**53: float64 cannot hold it beside its "
                    "neighbours. Leave it out, subtract an offset, or make it a category."
                )
        if self.missing is not None:
            out[self.missing] = np.nan
        return out

    def entries(self) -> list[str | None]:
        """The entries as text, None where missing; whole numbers without a fraction."""
        missing = np.zeros(len(self.values), dtype=np.bool_) if self.missing is None else self.missing
        if self.values.dtype.kind == "f":
            missing = missing | np.isnan(self.values)
            shown = [f"{value:.15g}" for value in self.values.tolist()]
        else:
            shown = [str(value) for value in self.values.tolist()]
        return [None if gone else value for gone, value in zip(missing.tolist(), shown, strict=True)]


def is_frame(data: Any) -> bool:
    """Whether data have columns with names: a data frame of pandas, polars or Arrow, or a structured array."""
    if isinstance(data, np.ndarray):
        return data.dtype.names is not None
    if isinstance(data, Mapping | str) or type(data).__module__.startswith("torch"):
        return False
    return (hasattr(data, "columns") or hasattr(data, "column_names")) and hasattr(data, "__getitem__")


def frame_kind(data: Any) -> str:
    """The library of a data frame: "pandas", "polars", "pyarrow" or another; "" for other containers."""
    return "" if isinstance(data, np.ndarray) or not is_frame(data) else type(data).__module__.split(".")[0]


def frame_columns(data: Any) -> dict[str, Any]:
    """The columns of a data frame or structured array, by name.

    Raises:
        DataError: two columns of one name.
    """
    if isinstance(data, np.ndarray):
        assert data.dtype.names is not None
        return {name: data[name] for name in data.dtype.names}
    names = [str(name) for name in (data.column_names if hasattr(data, "column_names") else data.columns)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"the data frame: column {twice!r} appears {names.count(twice)} times. Names must differ.")
    if hasattr(data, "column_names"):
        return {name: data.column(name) if hasattr(data, "column") else data[name][:] for name in names}
    return {name: data[key] for name, key in zip(names, data.columns, strict=True)}


def plain(name: str, value: Any, source: str) -> Plain:
    """Make one array plain.

    Raises:
        DataError: entries that are neither numbers, dates nor text, or all of these at once.
        ShapeError: a single value, or a ragged list.
    """
    if type(value).__module__.startswith("torch"):
        value = tensor_of(name, value).cpu()
        if str(value.dtype) == "torch.bfloat16":
            value = value.float()
        value = value.numpy()
    missing = None
    if _is_categories(value):
        return _categories(name, value, source)
    zone = _zone(value)
    if isinstance(value, np.ma.MaskedArray):
        missing = np.array(np.ma.getmaskarray(value))
        value = np.asarray(value.data)
    elif not isinstance(value, np.ndarray) and hasattr(value, "isna") and hasattr(value, "to_numpy"):
        missing = np.asarray(value.isna())  # a pandas Series: its own NA marks say more than its numpy form
        value = _from_series(value)
    elif not isinstance(value, np.ndarray) and hasattr(value, "is_null"):
        missing = np.asarray(
            value.is_null().to_numpy(zero_copy_only=False) if hasattr(value, "chunks") else value.is_null()
        )
        value = value.to_numpy()
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ShapeError(f"{source}: {name!r} is ragged: {error}") from error
    if array.ndim == 0:
        raise ShapeError(f"{source}: {name!r} is a single value; expected one entry per row.")
    if missing is not None and not missing.any():
        missing = None
    return _typed(name, array, missing, source, zone)


def _is_categories(value: Any) -> bool:
    """Whether a pandas or Arrow column says that it holds categories; those of polars are text anyway."""
    dtype = getattr(value, "dtype", None) if hasattr(value, "isna") else getattr(value, "type", None)
    return type(dtype).__name__ in ("CategoricalDtype", "DictionaryType")


def _categories(name: str, value: Any, source: str) -> Plain:
    """Categories as labels: numbers, dates and intervals among them are names, not amounts."""
    flat = value.to_pylist() if hasattr(value, "to_pylist") else value.to_numpy(dtype=object).tolist()
    gone = np.array([_absent(v) for v in flat], dtype=np.bool_)
    known = [v for v, absent in zip(flat, gone.tolist(), strict=True) if not absent]
    if known and all(isinstance(v, bool | np.bool_) for v in known):
        return _objects(name, np.array(flat, dtype=object), gone, source)
    text = [v if isinstance(v, str) else f"{v:.15g}" if isinstance(v, float) else str(v) for v in flat]
    numbered = not any(isinstance(v, str) for v in known)
    return Plain(np.array(text, dtype=object), gone if gone.any() else None, labels=True, numbered=numbered)


def _zone(value: Any) -> str:
    """The time zone of a column of dates of pandas, polars or Arrow, "" for none."""
    dtype = getattr(value, "dtype", None) or getattr(value, "type", None)
    zone = next((z for a in ("tz", "time_zone") if (z := getattr(dtype, a, None)) is not None), None)
    return "" if zone is None else str(zone)


def _from_series(value: Any) -> Array:
    """A pandas Series as numpy: numbers as they are, everything else as objects."""
    kind = getattr(value.dtype, "kind", "O")
    if isinstance(value.dtype, np.dtype):
        return np.asarray(value)
    if kind == "M" and _zone(value):
        return np.asarray(value.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy())
    if kind in "fiub" and not bool(value.isna().any()):
        return np.asarray(value.to_numpy(dtype={"f": "float64", "i": "int64", "u": "uint64", "b": "bool"}[kind]))
    return np.asarray(value.to_numpy(dtype=object))


def _typed(name: str, array: Array, missing: Array | None, source: str, zone: str = "") -> Plain:
    """Sort an array by what it holds."""
    kind = array.dtype.kind
    if kind in "fiub":
        if kind == "f" and array.dtype.itemsize > 8:
            array = array.astype(np.float64)
        return Plain(array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("=")), missing)
    if kind in "Mm":
        return _dates(name, array, missing, zone)
    if kind in "US":
        text = np.char.decode(array, "utf-8") if kind == "S" else array
        return _text(text.astype(object), missing)
    if kind == "O":
        return _objects(name, array, missing, source)
    raise DataError(f"{source}: {name!r} holds {array.dtype} values; expected numbers, dates or text.")


def _dates(name: str, array: Array, missing: Array | None, zone: str = "") -> Plain:
    """Dates, in UTC where they have a time zone, or spans of time."""
    gone = np.isnat(array) if missing is None else missing | np.isnat(array)
    days = np.where(gone, np.zeros((), array.dtype), array)
    unit = moments.SPAN if array.dtype.kind == "m" else moments.unit_of(zone)
    span = days if array.dtype.kind == "m" else days - np.datetime64("1970-01-01", "D")
    values = span.astype("timedelta64[us]").astype(np.int64) / moments.DAY
    if zone:
        values = moments.rebased(values.ravel(), moments.unit_of("UTC"), unit).reshape(values.shape)
    decision = Decision("dates", f"{name!r}: numbers, {unit}", f"categorical={name}")
    return Plain(values, gone if gone.any() else None, decision, unit)


def _text(array: Array, missing: Array | None) -> Plain:
    flat = np.array([isinstance(v, str) and v.strip() in MISSING for v in array.ravel()], dtype=np.bool_)
    gone = flat.reshape(array.shape) if missing is None else missing | flat.reshape(array.shape)
    return Plain(array, gone if gone.any() else None)


MISSING = frozenset({"", "?", "NA", "N/A", "n/a", "NaN", "nan", "NAN", "null", "NULL"})


def _absent(value: Any) -> bool:
    """None, NaN, NaT and NA: the first says so, the others differ from themselves (or will not say)."""
    if value is None:
        return True
    try:
        return bool(value != value)
    except (TypeError, ValueError):
        return True  # pandas.NA refuses to be compared


def _objects(name: str, array: Array, missing: Array | None, source: str) -> Plain:
    """Sort an object array by the types of its entries."""
    flat = list(array.ravel())
    if any(isinstance(v, list | tuple | np.ndarray | dict) for v in flat):
        raise ShapeError(f"{source}: {name!r} is ragged: its entries are lists or arrays themselves.")
    gone = np.array([_absent(v) for v in flat], dtype=np.bool_).reshape(array.shape)
    gone = gone if missing is None else gone | missing
    known = [v for v, absent in zip(flat, gone.ravel().tolist(), strict=True) if not absent]
    marks = gone if gone.any() else None
    if not known:
        return Plain(np.full(array.shape, np.nan), np.ones(array.shape, dtype=np.bool_))
    if all(isinstance(v, str | bytes) for v in known):
        text = [v.decode() if isinstance(v, bytes) else v for v in flat]
        return _text(np.array(text, dtype=object).reshape(array.shape), marks)
    if all(isinstance(v, bool | np.bool_) for v in known):
        return Plain(np.array(_filled(flat, gone, False), dtype=np.bool_).reshape(array.shape), marks)
    if all(isinstance(v, numbers.Integral) for v in known):
        small = all(-(2**63) <= int(v) < 2**63 for v in known)
        if not small:
            raise DataError(f"{source}: {name!r} holds integers beyond 64 bits. Leave it out, or pass it as text.")
        return Plain(np.array(_filled(flat, gone, 0), dtype=np.int64).reshape(array.shape), marks)
    if all(isinstance(v, numbers.Real | decimal.Decimal) for v in known):
        return Plain(np.array([float(v) for v in _filled(flat, gone, 0)]).reshape(array.shape), marks)
    if all(isinstance(v, datetime.date | np.datetime64) for v in known):
        return _single_dates(name, flat, gone, marks, source)
    if all(isinstance(v, datetime.timedelta | np.timedelta64) for v in known):
        spans = np.array([np.timedelta64(v, "us") for v in _filled(flat, gone, np.timedelta64(0, "us"))])
        return _dates(name, spans.reshape(array.shape), marks)
    kinds = sorted({type(v).__name__ for v in known})
    raise DataError(
        f"{source}: {name!r} holds object values of several or unknown kinds ({', '.join(kinds[:4])}); expected "
        "numbers, dates or text. Convert it first."
    )


def _single_dates(name: str, flat: list[Any], gone: Array, marks: Array | None, source: str) -> Plain:
    """Dates that came one by one."""
    known = [v for v, absent in zip(flat, gone.ravel().tolist(), strict=True) if not absent]
    zones = {str(getattr(v, "tzinfo", None) or "") for v in known}
    zone = zones.pop() if len(zones) == 1 else "UTC"  # times of several zones are told in UTC
    if "" in zones:
        raise DataError(f"{source}: {name!r} holds times with a time zone and times without one. Make it one.")
    entries = [v.astimezone(datetime.UTC).replace(tzinfo=None) if getattr(v, "tzinfo", None) else v for v in flat]
    try:
        days = np.array([np.datetime64(v, "us") for v in _filled(entries, gone, np.datetime64(0, "us"))])
    except (TypeError, ValueError) as error:
        raise DataError(f"{source}: {name!r} holds dates that cannot be read: {error}") from error
    return _dates(name, days.reshape(gone.shape), marks, zone)


def _filled(values: list[Any], gone: Array, filler: Any) -> list[Any]:
    return [filler if absent else v for v, absent in zip(values, gone.ravel().tolist(), strict=True)]
