"""Which rows a trained model is scored on: rows it has not learned from, in one place for every system."""

from __future__ import annotations

from typing import Literal

from phlogiston.datasets.base import Dataset, Split
from phlogiston.errors import DataError


def held_out(data: Dataset) -> Split:
    """Return the rows to score on: test rows, or where there are none validation rows.

    Raises:
        DataError: neither; training rows are never taken for held-out ones.
    """
    return data.test if held_out_part(data) == "test" else data.valid


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
        "test=0.2 (--data-set test=0.2), give other data, or score training rows as such: evaluate(data.train)."
    )
