"""Quick, Draw!: things drawn in twenty seconds by players of a game, 75,000 drawings per category.

One sketch-rnn file per category, such as cat.npz, with 70,000 / 2,500 / 2,500 drawings. Offsets are whole numbers on a
canvas of 256 x 256, y growing downwards.

Origin: D. Ha and D. Eck, "A neural representation of sketch drawings", ICLR 2018; data by Google, CC BY 4.0,
https://storage.googleapis.com/quickdraw_dataset/sketchrnn/CATEGORY.npz.
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike

import numpy as np

from phlogiston.datasets import sequences
from phlogiston.datasets.base import PARTS, Array, Dataset, Info
from phlogiston.errors import DataError

INFO = Info(
    name="quickdraw",
    title="drawings of a game, by category, as pen strokes",
    kind="yours",
    licence="CC BY 4.0 (Google)",
    rows="70,000 / 2,500 / 2,500 per category",
    shape="up to 250 points of dx, dy, pen; category",
    notes="Bring CATEGORY.npz files as published; categories=cat,sheep chooses.",
)


def load(
    root: str | PathLike[str] | None = None,
    *,
    categories: Sequence[str] = (),
    max_length: int = 250,
    limit: int = 0,
) -> Dataset:
    """Load drawings of one or more categories.

    Args:
        root: folder with the files; `quickdraw` in the cache folder if not given.
        categories: names of the files, without `.npz`; all there are by default.
        max_length: leave out drawings of more points; 0 keeps all.
        limit: at most this many training drawings per category; 0 keeps all.

    Returns:
        `x` float32 (rows, points, 3): dx, dy, pen; `length` int64 (rows,); `label` int64 (rows,).

    Raises:
        DataError: a file is missing, damaged or of another layout. Nothing inside a file is ever executed.
    """
    if max_length < 0 or limit < 0:
        raise DataError(f"max_length={max_length}, limit={limit}: neither may be negative.")
    folder = sequences.folder_of("quickdraw", root)
    names = tuple([categories] if isinstance(categories, str) else categories)
    names = names or tuple(sorted(path.stem for path in folder.glob("*.npz")))
    if not names:
        raise DataError(f"there is no .npz in {str(folder)!r}. Put the published CATEGORY.npz files there.")
    change = sequences.stroke_change(1.0, max_length)
    parts: dict[str, list[Array]] = {part: [] for part in PARTS}
    labels: dict[str, list[int]] = {part: [] for part in PARTS}
    for code, name in enumerate(names):
        path = folder / f"{name}.npz"
        if not path.is_file():
            there = ", ".join(sorted(p.stem for p in folder.glob("*.npz"))) or "none"
            raise DataError(f"there is no {name}.npz in {str(folder)!r}; there are: {there}.")
        for part, rows in sequences.read_parts(path).items():
            kept = [row for row in (change(row) for row in rows if len(row)) if row is not None]
            kept = kept[: limit or None] if part == "train" else kept
            parts[part] += kept
            labels[part] += [code] * len(kept)
    return sequences.dataset(
        INFO,
        parts,
        sequences.STROKES,
        {"categories": names, "max_length": max_length, "limit": limit},
        extra={part: {"label": np.array(codes, dtype=np.int64)} for part, codes in labels.items()},
        categorical={"label": names},
        title=f"Quick, Draw!: {', '.join(names)}",
    )


def state() -> str:
    """Say whether there is any file in the cache folder."""
    return "cached" if any(sequences.folder_of("quickdraw", None).glob("*.npz")) else "yours"
