"""Data as a notebook shows them: parts, tensors, columns with their ranges, categories, and what was decided."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from phlogiston import cards

if TYPE_CHECKING:
    from torch import Tensor

COLUMNS, LABELS = 20, 12
"""Columns and categories that are shown."""
ENOUGH = 100_000
"""Rows that a column is summarised by."""


def of_split(split: Any) -> str:
    """The card of a `Split`."""
    return cards.card("Split", f"{len(split):,} rows", _tensors(split.tensors))


def of_dataset(data: Any) -> str:
    """The card of a `Dataset`; training rows that stay on disk are described, not read."""
    meta = data.meta
    told = [("rows", f"{len(data.train):,} to train, {len(data.valid):,} for validation, {len(data.test):,} to test")]
    told += [(name, text) for name, text in (("licence", meta.licence), ("notes", meta.notes)) if text]
    in_memory = hasattr(data.train, "tensors")
    tensors = data.train.tensors if in_memory else {}
    blocks = [cards.facts(told)]
    blocks.append(_tensors(tensors) if in_memory else cards.facts([("train", repr(data.train))]))
    x = tensors.get("x")
    if x is not None and x.ndim == 2 and meta.image_shape is None and len(meta.columns) == x.shape[1]:
        blocks.append(_columns(x[:ENOUGH], tensors.get("mask"), meta))
    blocks += [_categories(name, labels, tensors[name]) for name, labels in meta.categorical.items() if name in tensors]
    decided = [[d.topic, d.found, d.option] for d in meta.decisions if d.topic != "range"]
    if decided:
        blocks.append(cards.table(["decided", "what was found", "option"], decided))
    return cards.card(meta.title or meta.name, "" if meta.title == meta.name else meta.name, *blocks)


def _tensors(tensors: Mapping[str, Tensor]) -> str:
    rows = [[name, str(tuple(t.shape)), str(t.dtype).removeprefix("torch.")] for name, t in tensors.items()]
    return cards.table(["tensor", "shape", "type"], rows)


def _columns(x: Tensor, mask: Tensor | None, meta: Any) -> str:
    """Range, median and shape of each column, missing entries left out."""
    rows = []
    for j, name in enumerate(meta.columns[:COLUMNS]):
        values = x[:, j].double().numpy()
        known = np.ones(len(values), dtype=bool) if mask is None else mask[: len(values), j].numpy()
        values = values[known]
        if not len(values):
            rows.append([name, meta.units.get(name, ""), "", "", "", f"{len(known):,}", ""])
            continue
        shown = cards.levels(np.quantile(values, (0.0, 0.5, 1.0)).tolist(), meta.units.get(name, ""))
        picture = cards.histogram(values, label=f"{name}: from {shown[0]} to {shown[2]}")
        rows.append([name, meta.units.get(name, ""), *shown, f"{int((~known).sum()):,}", picture])
    more = len(meta.columns) - COLUMNS
    caption = "Training rows" + (f", the first {ENOUGH:,}" if len(x) == ENOUGH else "")
    caption += f"; {more:,} more columns are not shown" if more > 0 else ""
    head = ["column", "unit", "least", "median", "most", "missing", "distribution"]
    return cards.table(head, rows, head[2:6], caption)


def _categories(name: str, labels: Any, codes: Tensor) -> str:
    counts = np.bincount(codes.numpy()[codes.numpy() >= 0], minlength=len(labels))
    shown = [
        [label, f"{n:,}", cards.share(n / max(1, len(codes)), f"{label}: {n}")]
        for label, n in zip(labels, counts, strict=True)
    ]
    rest = int(counts[LABELS:].sum())
    rows = shown[:LABELS] + ([[f"{len(labels) - LABELS} others", f"{rest:,}", ""]] if len(labels) > LABELS else [])
    missing = int((codes < 0).sum())
    rows += [["missing", f"{missing:,}", ""]] if missing else []
    return cards.table([name, "rows", ""], rows, ["rows"])
