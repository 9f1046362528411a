"""Data in every form that users have them, as splits and tensors."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from phlogiston.arrays import tensor_of
from phlogiston.datasets.base import Dataset, Meta, Split
from phlogiston.datasets.readers import array, stream
from phlogiston.datasets.streamed import Streamed
from phlogiston.errors import ConfigError, DataError, ShapeError
from phlogiston.evaluate.held_out import held_out


def coerce(data: Any, double: Collection[str] = (), array_name: str = "x") -> tuple[Any, Split | None, Meta | None]:
    """Take data in any accepted form apart: training rows, validation rows or None, description or None.

    Training rows are a `Split`, or `Streamed` where they stay on disk.

    Args:
        data: see `System.fit`.
        double: names of the tensors that keep float64; the others are rounded to float32.
        array_name: the tensor that one bare array stands for; `"x"` is a table of rows.

    Raises:
        ShapeError: not an array with rows and columns.
        ConfigError: not data at all.
    """
    if isinstance(data, Dataset):
        return data.train.narrowed(double), data.valid.narrowed(double), data.meta
    if isinstance(data, Split | Streamed):
        return data.narrowed(double), None, None
    if stream.accepts(data) and not isinstance(data, str | os.PathLike):
        return stream.whole(data).narrowed(double), None, None
    if double and not isinstance(data, str | os.PathLike):
        rows, meta = array.whole(data, {"y"} & set(double))
        return rows.narrowed(double), None, meta
    if isinstance(data, Mapping):
        return Split(data), None, None
    if isinstance(data, str | os.PathLike):
        raise ConfigError(f"data is the text {str(data)!r}; load it first: phlogiston.datasets.load({str(data)!r})")
    return Split({array_name: as_rows(data) if array_name == "x" else data}), None, None


def held_in_memory(rows: Any) -> Any:
    """Return rows that are needed all at once.

    Raises:
        ConfigError: they stay on disk.
    """
    if not isinstance(rows, Streamed):
        return rows
    raise ConfigError(f"{rows!r} stays on disk; score rows in memory, for example part.sample(100_000).")


def as_rows(x: Any) -> Any:
    """An array of rows, (n, features).

    Raises:
        ShapeError: anything else.
    """
    rows = tensor_of("x", x)
    if rows.ndim != 2:
        raise ShapeError(f"x has shape {tuple(rows.shape)}; expected two axes, (rows, features)")
    return rows


def check_heeded(system: Any, tensors: Mapping[str, Any]) -> None:
    """Refuse what a system would not heed: entries marked as missing, rows that count more than others, or end early.

    Args:
        system: its `HEEDS` names those of "mask", "weight" and "length" that it takes into account.
        tensors: rows to train on or to score.

    Raises:
        DataError: a mask that is not all True, or weights or lengths that differ, and the system knows no such thing.
    """
    given = ("mask", "weight", "length")
    mask, weight, length = (None if name in system.HEEDS else tensors.get(name) for name in given)
    if mask is not None and not bool(np.asarray(mask).all()):
        raise DataError(
            f"'mask' marks {int((~np.asarray(mask, dtype=np.bool_)).sum()):,} entries as missing; {system.name} trains "
            "on and scores complete rows alone. Leave the others out, or fill them in; questions may leave gaps"
        )
    if weight is not None and np.ptp(np.asarray(weight, dtype=np.float64)) > 0:
        raise DataError(f"'weight' weighs rows differently; {system.name} counts all rows alike. Leave it out")
    if length is not None and np.ptp(np.asarray(length, dtype=np.float64)) > 0:
        instead = "mark the frames there are in a bool 'mask'" if "mask" in system.HEEDS else "cut all to one length"
        raise DataError(f"'length' says that rows end early; {system.name} does not read it: {instead}")


def check_alike(train: Split, held: Split) -> None:
    """Refuse validation rows that are not like those trained on.

    Raises:
        DataError: something that the training rows have is missing; marks of what counts are not asked for.
        ShapeError: of other sizes. Of sequences, videos and views there may be more or fewer, on the second axis.
    """
    for name, value in train.tensors.items():
        if name in ("mask", "weight", "length", "group"):
            continue
        if name not in held.tensors:
            raise DataError(f"validation rows have {sorted(held.tensors)}; training rows have {name!r} besides")
        ours, theirs = list(value.shape[1:]), list(held.tensors[name].shape[1:])
        varies = value.ndim > 2 or name not in ("x", "y")
        if len(ours) != len(theirs) or ours[varies:] != theirs[varies:]:
            raise ShapeError(f"validation rows have {name!r} of shape {theirs} in each row, training rows {ours}")


def rows_of(x: Any, *, double: Collection[str] = (), **extra: Any) -> dict[str, Tensor]:
    """Held-out rows in any accepted form, checked like training rows, as one dict of tensors.

    Args:
        x: a dataset (its test rows, else its validation rows), split, mapping of arrays, or one array.
        double: names of the tensors that keep float64; the others are rounded to float32.
        **extra: tensors to add, or to put in the place of others.
    """
    if isinstance(x, Dataset):
        x = held_out(x)
    if isinstance(held_in_memory(x), Split):
        return {**x.narrowed(double).tensors, **extra}
    if isinstance(x, Mapping):
        return Split({**x, **extra}, double=double).tensors
    extra = {name: value for name, value in extra.items() if value is not None}
    return Split({"x": as_rows(x), **extra}, double=double).tensors


def number_held_out(rows: int, few: int) -> int:
    """A tenth of the rows; where that is less than `few`, so many, but no more than a fifth."""
    return max(rows // 10, min(few, rows // 5))


def held_rows(rows: int, few: int = 20) -> Tensor:
    """Which of so many rows are set aside, the same ones each time: bool (rows,); none of fewer than five."""
    return torch.randperm(rows, generator=torch.Generator().manual_seed(0)) < number_held_out(rows, few)


def apart(rows: Split, held: Tensor) -> tuple[Split, Split | None]:
    """Training rows, and those set aside, if any are."""
    return (rows.select(~held), rows.select(held)) if bool(held.any()) else (rows, None)
