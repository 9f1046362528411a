"""Other data than a system was trained on, brought into its columns and categories: by name, never by position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from phlogiston.datasets import moments
from phlogiston.datasets.base import Dataset, Meta, Split, row_shapes
from phlogiston.errors import DataError


def aligned(schema: Mapping[str, Any], data: Dataset) -> Dataset:
    """Put the columns of a table of the user's in the order of training, and number categories as training did.

    Args:
        schema: of the fitted system.
        data: any; returned as it is where it fits, or where it is no table of the user's.

    Raises:
        DataError: a column that is lacking, or a category that was not in training.
    """
    meta = data.meta
    columns = list(schema.get("columns") or ())
    known: Mapping[str, Sequence[str]] = schema.get("categorical") or {}
    x = data.train.tensors.get("x") if isinstance(data.train, Split) else None  # rows on disk keep their order
    if meta.kind != "yours" or meta.image_shape is not None or x is None or x.ndim != 2:
        return data
    order = _order(columns, meta.columns, meta.name) if len(meta.columns) == x.shape[1] and columns else None
    codes = {
        name: _codes(name, meta.categorical[name], labels, meta.name)
        for name, labels in known.items()
        if name in meta.categorical and list(meta.categorical[name]) != list(labels)
    }
    units: Mapping[str, str] = schema.get("units") or {}
    clocks = any(meta.units.get(name) != unit for name, unit in units.items() if name in meta.units)
    if order is None and not codes and not clocks:
        return data
    train, valid, test = (_rearranged(split, order, codes) for split in (data.train, data.valid, data.test))
    if clocks:
        stand = meta.columns if order is None else columns
        train, valid, test = (_by_clock(split, stand, meta, units) for split in (train, valid, test))
    names = meta.columns if order is None else tuple(columns)
    categorical = {**meta.categorical, **{name: tuple(known[name]) for name in codes}}
    return Dataset(train, valid, test, replace(meta, columns=names, categorical=categorical, shapes=row_shapes(train)))


def _by_clock(split: Split, names: Sequence[str], meta: Meta, units: Mapping[str, str]) -> Split:
    """Dates by the wall clocks of the time zones of training."""
    x = moments.alike(split.tensors["x"].numpy(), names, meta.units, units, meta.name)
    return Split({**split.tensors, "x": torch.from_numpy(x)}, split.sequences, double=split.double)


def _order(columns: Sequence[str], own: Sequence[str], source: str) -> list[int] | None:
    """Where the columns of training stand; None where they stand as they did, or have no names to go by."""
    if list(own) == list(columns):
        return None
    unnamed = list(own) == [f"x{i}" for i in range(len(own))] and len(own) == len(columns)
    if unnamed:
        return None
    lacking = [name for name in columns if name not in own]
    if lacking:
        raise DataError(f"{source} lacks the column {lacking[0]!r}; it has {', '.join(own[:20])}.")
    return [list(own).index(name) for name in columns]


def _codes(name: str, own: Sequence[str], labels: Sequence[str], source: str) -> torch.Tensor:
    """Code in the data -> code of training."""
    new = [label for label in own if label not in labels]
    if new:
        shown = ", ".join(labels[:8]) + ", ..." * (len(labels) > 8)
        raise DataError(f"{source}: {name!r} has the category {new[0]!r}, which was not in training; known: {shown}.")
    return torch.tensor([list(labels).index(label) for label in own] + [-1])


def _rearranged(split: Split, order: Sequence[int] | None, codes: Mapping[str, torch.Tensor]) -> Split:
    tensors = dict(split.tensors)
    for name in ("x", "mask") if order is not None else ():
        if name in tensors:
            tensors[name] = tensors[name][:, list(order or ())]
    for name, code in codes.items():
        tensors[name] = code[tensors[name].long()]  # -1, missing, is the last
    return Split(tensors, split.sequences, double=split.double)
