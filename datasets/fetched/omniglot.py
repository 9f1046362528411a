"""Omniglot as strokes: 1,623 characters of 50 alphabets, each drawn by twenty people, as pen movements.

Offsets are in pixels of the 105 x 105 canvas, y growing downwards, on a grid of 1: add uniform noise of one pixel
before you fit densities.

Origin: B. Lake, R. Salakhutdinov, J. Tenenbaum, "Human-level concept learning through probabilistic program
induction", Science 350, 2015 (MIT); simplified strokes in hardmaru/sketch-rnn-datasets, omniglot.npz.
"""

from __future__ import annotations

from os import PathLike

from phlogiston.datasets.base import PARTS, Dataset, Info
from phlogiston.datasets.readers import sequences
from phlogiston.errors import DataError

INFO = Info(
    name="omniglot",
    title="hand-drawn characters of 50 alphabets, as pen strokes",
    kind="yours",
    licence="MIT (Brenden Lake); cite Lake, Salakhutdinov and Tenenbaum 2015",
    rows="30,000 / 1,000 / by file",
    shape="2 to 157 points of dx, dy, pen",
    notes="Bring train.npz and valid.npz (values, lengths), or omniglot.npz of sketch-rnn-datasets.",
)


def load(root: str | PathLike[str] | None = None, *, max_length: int = 0, limit: int = 0) -> Dataset:
    """Load the drawings.

    Args:
        root: folder with the files; `omniglot` in the cache folder if not given.
        max_length: leave out drawings of more points; 0 keeps all.
        limit: at most this many training drawings; 0 keeps all.

    Returns:
        `x` float32 (rows, points, 3): dx, dy in pixels, pen; `length` int64 (rows,).

    Raises:
        DataError: the files are missing or damaged.
    """
    if max_length < 0 or limit < 0:
        raise DataError(f"max_length={max_length}, limit={limit}: neither may be negative.")
    return load_strokes(INFO, root, 1.0, {"max_length": max_length, "limit": limit})


def load_strokes(info: Info, root: str | PathLike[str] | None, scale: float, options: dict[str, int]) -> Dataset:
    """Load a source of drawings that comes as flat parts or as one sketch-rnn file.

    Args:
        info: of the source.
        root: folder with the files.
        scale: what stored offsets are divided by, in the flat files.
        options: `max_length` and `limit`.
    """
    folder = sequences.folder_of(info.name, root)
    whole = next(iter(sorted(folder.glob(f"{info.name}*.npz"))), None) if folder.is_dir() else None
    if (folder / "train.npz").is_file():
        parts = {
            part: sequences.read_flat(folder / f"{part}.npz") for part in PARTS if (folder / f"{part}.npz").is_file()
        }
        change = sequences.stroke_change(scale, options["max_length"])
    elif whole is not None:
        parts, change = sequences.read_parts(whole), sequences.stroke_change(1.0, options["max_length"])
    else:
        raise DataError(
            f"there is no train.npz in {str(folder)!r}. Get the {info.name} file of hardmaru/sketch-rnn-datasets and "
            f"put it there as {info.name}.npz, or put train.npz and valid.npz there: npz files with values "
            "(points, 3: dx, dy, pen lifted) and lengths (drawings)."
        )
    if options["limit"]:
        kept = [row for row in parts["train"] if change(row) is not None]
        parts = {**parts, "train": kept[: options["limit"]]}
    return sequences.dataset(info, parts, sequences.STROKES, options, change)


def state() -> str:
    """Say whether the files are in the cache folder."""
    return sequences.present("omniglot")
