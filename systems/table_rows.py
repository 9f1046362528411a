"""Rows that a fitted table system is asked about, in any container, as tensors that fit what it was trained on."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from phlogiston.datasets.base import Dataset, Meta, Split
from phlogiston.datasets.readers import array, stream
from phlogiston.datasets.readers.tables import RESERVED
from phlogiston.errors import DataError, DataWarning, ShapeError
from phlogiston.systems.inputs import held_in_memory, rows_of
from phlogiston.systems.tables.alignment import aligned

if TYPE_CHECKING:
    from phlogiston.systems.base import System


def fitting_rows(system: System, data: Any, mask: Any = None, optional: Collection[str] = ()) -> dict[str, Tensor]:
    """Read rows: a dataset or split as it is, anything else like training data, with the categories of training.

    Args:
        system: fitted.
        data: a dataset (its held-out rows), split, mapping of arrays, data frame, or one array.
        mask: bool like `x`, True where known; other entries count as missing, too.
        optional: columns that rows with column names may lack, all of them together.

    Raises:
        DataError, ShapeError: the data cannot be used, lack a column, or hold a category that was not in training.
    """
    schema = system.schema
    on_disk = isinstance(data, np.memmap) and stream.accepts(data)
    held_in_memory(stream.whole(data) if on_disk else data)
    if isinstance(data, Dataset):
        data = aligned(schema, data)
    if isinstance(data, Dataset | Split):
        tensors = _checked(rows_of(data, double=system.DOUBLE), schema["categorical"])
    else:
        numeric = {"y"} & set(system.DOUBLE)
        units = schema.get("units")
        tensors = array.fitting(data, schema["columns"], schema["categorical"], numeric, optional, units)
        numbers = {"x", "y"} - set(schema["categorical"])  # labels may be called y
        tensors = dict(Split(tensors, double=numbers).narrowed(system.DOUBLE).tensors)
    if mask is not None:
        given = torch.as_tensor(mask, dtype=torch.bool)
        if given.shape != tensors["x"].shape:
            raise ShapeError(f"mask has shape {tuple(given.shape)}; expected that of x, {tuple(tensors['x'].shape)}")
        tensors["mask"] = given & tensors["mask"] if "mask" in tensors else given
    return tensors


def categories(
    tensors: Mapping[str, Tensor], meta: Meta | None, name: str, numbers: Collection[str] = ()
) -> dict[str, list[str]]:
    """Categories by label among training tensors: codes are int64, uint8 or bool, (rows,), -1 where missing.

    What is neither a category nor anything else the system takes is told.

    Args:
        tensors: training rows.
        meta: names of categories, where they are known.
        name: of the system, for messages.
        numbers: tensors that the system takes as numbers, unless they are int64 (rows,).

    Raises:
        DataError: codes below -1, or beyond the names.
    """
    found: dict[str, list[str]] = {}
    for key, tensor in tensors.items():
        if key in RESERVED or (key in numbers and not (tensor.ndim == 1 and tensor.dtype == torch.int64)):
            continue
        if tensor.ndim != 1 or tensor.is_floating_point():
            if meta is not None and meta.kind == "yours" and meta.image_shape is None:
                kind = f"{str(tensor.dtype)[6:]} {tuple(tensor.shape)}"
                warnings.warn(
                    f"{name} does not use {key!r} ({kind}): it is neither a column of x nor one label per row.",
                    DataWarning,
                    stacklevel=3,
                )
            continue
        labels = list(meta.categorical.get(key, ())) if meta is not None else []
        if tensor.dtype == torch.bool:
            labels = labels or ["False", "True"]
        found[key] = labels or [str(v) for v in range(int(tensor.max()) + 1)]
        if not found[key]:
            raise DataError(f"label {key!r} is missing (-1) in every row; leave it out")
    _checked(tensors, found)
    return found


def _checked(tensors: Mapping[str, Tensor], known: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors with codes as int64, each of them within the categories."""
    out = dict(tensors)
    for key, labels in known.items():
        if key not in out:
            continue
        codes = out[key] = out[key].to(torch.int64)
        wrong = (codes < -1) | (codes >= len(labels))
        if bool(wrong.any()):
            row = int(wrong.nonzero()[0])
            raise DataError(
                f"label {key!r} has the code {int(codes[row])} in row {row}; expected 0 to {len(labels) - 1}, or -1 "
                "where it is missing. Pass labels of other values in a mapping of arrays instead of a Split."
            )
    return out


def copies(rows: Tensor) -> Tensor:
    """Number rows (N, ...) in order of appearance, equal ones alike: int64 (N,)."""
    flat = np.ascontiguousarray(rows.numpy()).view(np.uint8).reshape(len(rows), -1)
    _, first, which = np.unique(flat, axis=0, return_index=True, return_inverse=True)
    return torch.from_numpy(first.argsort().argsort()[which.reshape(-1)])
