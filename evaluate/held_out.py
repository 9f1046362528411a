"""Which rows a trained model is scored on: rows it has not learned from, in one place for every system."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from phlogiston.datasets.base import Dataset, Split
from phlogiston.datasets.streamed import in_memory
from phlogiston.errors import DataError, unknown_name


def held_out(data: Dataset) -> Split:
    """Return the rows to score on: test rows, or where there are none validation rows.

    Raises:
        DataError: neither; training rows are never taken for held-out ones.
    """
    return data.test if held_out_part(data) == "test" else data.valid


SPLITS = ("train", "valid", "test", "all")


def scored_on(data: Dataset, split: str) -> Dataset:
    """Return the data with a part of them, or all of them, in the place of the test rows.

    Args:
        data: any.
        split: "train", "valid", "test" or "all".

    Raises:
        UnknownNameError: no such part.
        DataError: the part is empty.
    """
    if split not in SPLITS:
        raise unknown_name("split", split, SPLITS)
    parts = [in_memory(data.train), data.valid, data.test]  # of rows that stay on disk a sample
    if split != "all":
        chosen = parts[SPLITS.index(split)]
        if not len(chosen):
            raise DataError(f"data {data.meta.name!r} have no {split} rows.")
        return replace(data, test=chosen)
    import torch

    tensors = {name: torch.cat([part.tensors[name] for part in parts]) for name in parts[0].tensors}
    return replace(data, test=Split(tensors, data.train.sequences, double=data.train.double))


def held_out_part(data: Dataset) -> Literal["test", "validation"]:
    """Say which rows `held_out` returns; validation rows may have chosen the checkpoint, and flatter a little.

    Raises:
        DataError: neither test nor validation rows.
    """
    if len(data.test):
        return "test"
    if len(data.valid):
        return "validation"
    raise DataError(
        f"data {data.meta.name!r} have no held-out rows: all {len(data.train):,} are training rows. Load them with "
        "test=0.2 (--data-set test=0.2), give other data, or score training rows as such: evaluate(data.train), "
        "--split train."
    )
