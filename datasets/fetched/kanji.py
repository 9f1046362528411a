"""Kanji as strokes: eleven thousand Japanese characters in the order and direction they are written.

Offsets are in units of the 109 x 109 canvas of KanjiVG, y growing downwards.

Origin: Ulrich Apel, KanjiVG, CC BY-SA 3.0; simplified by Ramer-Douglas-Peucker in hardmaru/sketch-rnn-datasets.
"""

from __future__ import annotations

from os import PathLike

from phlogiston.datasets.base import Dataset, Info
from phlogiston.datasets.fetched.omniglot import load_strokes
from phlogiston.datasets.readers import sequences
from phlogiston.errors import DataError

INFO = Info(
    name="kanji",
    title="Japanese characters as pen strokes, in writing order",
    kind="yours",
    licence="CC BY-SA 3.0 (Ulrich Apel, KanjiVG)",
    rows="10,358 / 600 / by file",
    shape="2 to 80 points of dx, dy, pen",
    notes="Bring train.npz and valid.npz (values in 1/64, lengths), or kanji.npz of sketch-rnn-datasets.",
)


def load(root: str | PathLike[str] | None = None, *, max_length: int = 0, limit: int = 0) -> Dataset:
    """Load the characters.

    Args:
        root: folder with the files; `kanji` in the cache folder if not given. Offsets in train.npz and its companions
            are 64 times too large, whole numbers; those of kanji.npz are as they are.
        max_length: leave out characters of more points; 0 keeps all.
        limit: at most this many training characters; 0 keeps all.

    Returns:
        `x` float32 (rows, points, 3): dx, dy in units of the source, pen; `length` int64 (rows,).

    Raises:
        DataError: the files are missing or damaged.
    """
    if max_length < 0 or limit < 0:
        raise DataError(f"max_length={max_length}, limit={limit}: neither may be negative.")
    return load_strokes(INFO, root, 64.0, {"max_length": max_length, "limit": limit})


def state() -> str:
    """Say whether the files are in the cache folder."""
    return sequences.present("kanji")
