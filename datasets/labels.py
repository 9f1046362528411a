"""Which companions of `x` are labels, and what their categories are called: decided for the whole array at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from phlogiston.datasets.base import Array, Decision
from phlogiston.datasets.containers import Plain
from phlogiston.errors import DataError

MOST = 100
"""Whole numbers in a float array are categories up to so many different ones."""


def as_labels(name: str, given: Plain) -> tuple[list[str | None], Decision] | None:
    """Read an array as one label per row.

    Labels are text, bools, or whole numbers of any type, in one column or as one-hot rows. -1 marks a missing label
    where the other labels are numbered from 0, or go beyond 1: next to 1 alone, or to other negative numbers, it is a
    category of its own.

    Args:
        name: of the array.
        given: (rows,), (rows, 1), or one-hot (rows, categories).

    Returns:
        The labels, None where missing, and what was decided; None for an array that holds no labels.
    """
    values = given.values
    if values.ndim == 2 and values.shape[1] == 1:
        column = Plain(values[:, 0], None if given.missing is None else given.missing[:, 0])
        labels = as_labels(name, column)
        return labels if labels is None else (labels[0], Decision("labels", f"{labels[1].found}; it is one column", ""))
    if values.ndim == 2 and not given.text:
        return _one_hot(name, given)
    if values.ndim != 1:
        return None
    if values.dtype.kind == "f" and not _whole(given):
        return None
    entries = given.entries()
    what = {"O": "text", "b": "bool", "f": "whole numbers in a float array"}.get(values.dtype.kind, "whole numbers")
    if values.dtype.kind in "fi":
        known = {int(entry) for entry in entries if entry is not None}
        if marks_missing(known):
            count = sum(entry == "-1" for entry in entries)
            entries = [None if entry == "-1" else entry for entry in entries]
            return entries, Decision("labels", f"{name!r}: {what}; -1 counts as missing, in {count} rows")
    known_text = {entry for entry in entries if entry is not None}
    return entries, Decision("labels", f"{name!r}: {what}, {len(known_text)} categories")


def marks_missing(known: set[int]) -> bool:
    """Whether -1 among whole-number labels says that the label is missing."""
    others = known - {-1}
    return -1 in known and bool(others) and min(others) >= 0 and others not in ({1}, {0})


def _whole(given: Plain) -> bool:
    """Whether floats are few different whole numbers."""
    values = given.values.astype(np.float64)
    known = values[~np.isnan(values) if given.missing is None else ~(np.isnan(values) | given.missing)]
    if not len(known) or not np.isfinite(known).all() or (known != np.round(known)).any():
        return False
    different = len(np.unique(known))
    return different <= MOST and different <= max(10, len(known) // 2)


def _one_hot(name: str, given: Plain) -> tuple[list[str | None], Decision] | None:
    values = given.numbers(name, "labels")
    known = ~np.isnan(values).any(1)
    rows = values[known]
    if not len(rows) or not np.isin(rows, (0.0, 1.0)).all() or not (rows.sum(1) == 1).all():
        return None
    codes = np.where(known, np.nan_to_num(values).argmax(1), -1)
    entries = [None if code < 0 else str(code) for code in codes.tolist()]
    return entries, Decision("labels", f"{name!r}: one-hot rows, categories 0 to {values.shape[1] - 1}")


def codes_of(name: str, entries: Sequence[str | None], labels: Sequence[str], whole: bool, source: str) -> Array:
    """Codes of labels among the categories of a model, -1 where missing.

    Args:
        name: of the labels.
        entries: one per row, None where missing.
        labels: the categories, in the order of their codes.
        whole: whether the labels came as whole numbers; these may be codes where the categories are words.
        source: where they came from, for messages.

    Raises:
        DataError: a category that is not known.
    """
    code = {label: i for i, label in enumerate(labels)}
    if set(labels) <= {"0", "1"}:
        code |= {"False": code.get("0", -1), "True": code.get("1", -1)}
    words = not any(label.lstrip("+-").replace(".", "", 1).isdigit() for label in labels)
    if whole and words:
        code |= {str(i): i for i in range(len(labels))}
    if "-1" not in code:
        code["-1"] = -1
    for row, entry in enumerate(entries):
        if entry is not None and entry not in code:
            shown = ", ".join(labels[:8]) + ", ..." * (len(labels) > 8)
            raise DataError(
                f"{source}: {name!r} is {entry!r} in row {row}, a category that was not in training; known: {shown}."
            )
    return np.array([-1 if entry is None else code[entry] for entry in entries], dtype=np.int64)
