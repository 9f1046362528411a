"""Quick, Draw!: things drawn in twenty seconds by players of a game, 75,000 drawings per category.

One sketch-rnn file per category, such as cat.npz, with 70,000 / 2,500 / 2,500 drawings, or one file of lines in JSON,
such as cat.ndjson (raw or simplified), which is divided here. Offsets are whole numbers on a canvas of 256 x 256, y
growing downwards.

    datasets.load("quickdraw", root="folder")          all categories of a folder
    datasets.load("cat.ndjson")                        one file

Origin: D. Ha and D. Eck, "A neural representation of sketch drawings", ICLR 2018; data by Google, CC BY 4.0,
https://storage.googleapis.com/quickdraw_dataset/sketchrnn/CATEGORY.npz.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from phlogiston.datasets.base import PARTS, Array, Dataset, Decision, Info, stream
from phlogiston.datasets.readers import sequences
from phlogiston.datasets.skipped import Skipped
from phlogiston.datasets.untrusted.documents import lines
from phlogiston.datasets.untrusted.guard import reading
from phlogiston.errors import DataError

INFO = Info(
    name="quickdraw",
    title="drawings of a game, by category, as pen strokes",
    kind="yours",
    licence="CC BY 4.0 (Google)",
    rows="70,000 / 2,500 / 2,500 per category",
    shape="up to 250 points of dx, dy, pen; category",
    notes="Bring CATEGORY.npz or CATEGORY.ndjson files as published; categories=cat,sheep chooses.",
)

SUFFIXES = (".npz", ".ndjson")


def accepts(data: Any) -> bool:
    """Say whether data of the user's are drawings in JSON: a file, or a folder of such files."""
    if not isinstance(data, str | PathLike):
        return False
    path = Path(data).expanduser()
    return any(path.glob("*.ndjson")) if path.is_dir() else path.suffix.lower() == ".ndjson"


def load(
    root: str | PathLike[str] | None = None,
    *,
    data: Any = None,
    categories: Sequence[str] = (),
    max_length: int = 250,
    limit: int = 0,
    valid: float = 1 / 30,
    test: float = 1 / 30,
    seed: int = 0,
) -> Dataset:
    """Load drawings of one or more categories.

    Args:
        root: folder with the files; `quickdraw` in the cache folder if not given.
        data: one file, or another folder.
        categories: names of the files, without their endings; all there are by default.
        max_length: leave out drawings of more points; 0 keeps all.
        limit: at most this many training drawings per category; 0 keeps all.
        valid: share of the drawings for validation, where files bring no parts (.ndjson).
        test: the same for testing.
        seed: of that division.

    Returns:
        `x` float32 (rows, points, 3): dx, dy, pen; `length` int64 (rows,); `label` int64 (rows,).

    Raises:
        DataError: a file is missing, damaged or of another layout. Nothing inside a file is ever executed.
    """
    if max_length < 0 or limit < 0 or min(valid, test) < 0 or valid + test >= 1:
        raise DataError(f"max_length={max_length}, limit={limit}, valid={valid}, test={test}: out of range.")
    files = _files(data, root, tuple([categories] if isinstance(categories, str) else categories))
    change = sequences.stroke_change(1.0, max_length)
    parts: dict[str, list[Array]] = {part: [] for part in PARTS}
    labels: dict[str, list[int]] = {part: [] for part in PARTS}
    decisions: list[Decision] = []
    too_long = 0
    for code, path in enumerate(files.values()):
        content = (
            sequences.read_parts(path) if path.suffix == ".npz" else _read_lines(path, valid, test, seed, decisions)
        )
        for part, rows in content.items():
            kept = [row for row in (change(row) for row in rows if len(row)) if row is not None]
            too_long += len(rows) - len(kept)
            kept = kept[: limit or None] if part == "train" else kept
            parts[part] += kept
            labels[part] += [code] * len(kept)
    if too_long:
        decisions.append(
            Decision("left out", f"{too_long:,} drawings without a point or beyond {max_length}", "max_length=0")
        )
    names = tuple(files)
    options = {"categories": names, "max_length": max_length, "limit": limit}
    options |= {"valid": valid, "test": test, "seed": seed, "data": None if data is None else str(data)}
    return sequences.dataset(
        INFO,
        parts,
        sequences.STROKES,
        options,
        extra={part: {"label": np.array(codes, dtype=np.int64)} for part, codes in labels.items()},
        categorical={"label": names},
        title=f"Quick, Draw!: {', '.join(names)}",
        decisions=tuple(decisions),
    )


def _files(data: Any, root: str | PathLike[str] | None, categories: tuple[str, ...]) -> dict[str, Path]:
    """The file of each category."""
    if data is not None:
        path = Path(root or ".").expanduser() / Path(data).expanduser()
        if path.is_file():
            if categories not in ((), (path.stem,)):
                raise DataError(f"categories={','.join(categories)}; {str(path)!r} holds {path.stem} alone.")
            return {path.stem: path}
        folder = path
    else:
        folder = sequences.folder_of("quickdraw", root)
    there = {path.stem: path for path in sorted(folder.glob("*")) if path.suffix in SUFFIXES}
    if not there:
        raise DataError(
            f"there is no .npz or .ndjson in {str(folder)!r}. Put the published CATEGORY.npz or CATEGORY.ndjson there."
        )
    for name in categories:
        if name not in there:
            raise DataError(
                f"there is no {name}.npz or {name}.ndjson in {str(folder)!r}; there are: {', '.join(there)}."
            )
    return {name: there[name] for name in categories or there}


def _read_lines(path: Path, valid: float, test: float, seed: int, decisions: list[Decision]) -> dict[str, list[Array]]:
    """Drawings of a file of JSON lines, divided at random; lines that hold no drawing are left out and reported."""
    skipped = Skipped(f"lines of {path.name}")
    rows = []
    with reading(path, "a file of JSON lines"):
        for number, line in enumerate(lines(path), 1):
            row = skipped.read(f"line {number}", _drawing, line) if line.strip() else None
            if row is not None:
                rows.append(row)
    decisions += skipped.decisions()
    if not rows:
        raise DataError(f"{str(path)!r} holds no drawing.")
    order = stream(seed, "quickdraw", path.stem).permutation(len(rows))
    cut = [round(test * len(rows)), round(test * len(rows)) + round(valid * len(rows))]
    testing, validation, train = (np.sort(chosen) for chosen in np.split(order, cut))
    shares = f"{len(train):,} / {len(validation):,} / {len(testing):,}"
    decisions.append(Decision("parts", f"{path.name} brings none; divided at random: {shares}", "valid=0.1, test=0.1"))
    chosen = {"train": train, "valid": validation, "test": testing}
    return {part: [rows[i] for i in indices] for part, indices in chosen.items()}


def _drawing(line: str) -> Array:
    """A line `{"drawing": [[[x, ...], [y, ...], ...], ...]}` as (points, 3)."""
    with reading("line", "a drawing", name="it"):
        strokes = json.loads(line)["drawing"]
        points = [np.array([stroke[0], stroke[1]], dtype=np.float64).T for stroke in strokes]
    if any(stroke.ndim != 2 or stroke.shape[1] != 2 or not np.isfinite(stroke).all() for stroke in points):
        raise DataError("its strokes are not two lists of equal length, x and y.")
    return sequences.offsets_of(points)


def state() -> str:
    """Say whether there is any file in the cache folder."""
    there = sequences.folder_of("quickdraw", None).glob("*")
    return "cached" if any(path.suffix in SUFFIXES for path in there) else "yours"
