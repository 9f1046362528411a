"""Control: what a musician did with the knobs of a small instrument, event by event.

A step is (dt, control_1, ...): seconds since the event before, then the positions of the controls in [0, 1], on the
grid of 1/128 of MIDI. Recordings are long (hundreds to thousands of events): models train on windows and carry their
state from one to the next.

Origin: C. P. Martin, *imps*, training-dataset-4d.npz, MIT; C. P. Martin and J. Torresen, "An interactive musical
prediction system with mixture density recurrent neural networks", NIME 2019. Logs of the same program (`*.log`: lines
`2019-01-17T12:37:26.480,interface,0.1,0.2`) are read from a folder, too.
"""

from __future__ import annotations

from datetime import datetime
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from phlogiston.datasets.base import PARTS, Array, Dataset, Decision, Info, stream
from phlogiston.datasets.readers import object_arrays, sequences
from phlogiston.datasets.skipped import Skipped
from phlogiston.datasets.untrusted import arrays
from phlogiston.errors import DataError

INFO = Info(
    name="control",
    title="recordings of a musical controller: time and positions of its knobs",
    kind="yours",
    licence="MIT (Charles Martin, imps)",
    rows="22 / 5 / by file",
    shape="107 to 21,260 steps of dt and 3 controls",
    notes="Bring train.npz and valid.npz (values, lengths), the published training-dataset-4d.npz, or *.log files.",
)

PUBLISHED = "training-dataset-*d.npz"  # one per number of columns


def accepts(data: Any) -> bool:
    """Say whether a file of the user's is one of imps, with an array `perfs`."""
    if not isinstance(data, str | PathLike) or Path(data).suffix.lower() != ".npz":
        return False
    return list(arrays.headers(Path(data).expanduser())) == ["perfs"]


def load(
    root: str | PathLike[str] | None = None,
    *,
    data: Any = None,
    max_length: int = 0,
    min_length: int = 2,
    seed: int = 0,
) -> Dataset:
    """Load the recordings.

    Args:
        root: folder with the files; `control` in the cache folder if not given.
        data: the published file itself, wherever it is.
        max_length: cut recordings into pieces of at most this many events; 0 keeps them whole.
        min_length: leave out shorter recordings.
        seed: of the division into parts, where the published file or logs are read (80 / 20 %, at least one each).

    Returns:
        `x` float32 (rows, steps, 1 + controls): dt in [0, 5] s, then controls in [0, 1]; `length` int64 (rows,).

    Raises:
        DataError: the files are missing or damaged.
    """
    options: dict[str, Any] = {"max_length": max_length, "min_length": min_length, "seed": seed}
    options["data"] = None if data is None else str(data)
    if max_length < 0 or min_length < 1:
        raise DataError(f"max_length={max_length}, min_length={min_length}: at least 0 and 1 are expected.")
    folder = sequences.folder_of("control", root)
    logs = sorted(folder.glob("*.log")) if folder.is_dir() else []
    published = sorted(folder.glob(PUBLISHED)) if folder.is_dir() else []
    if data is not None:
        published = [Path(root or ".").expanduser() / Path(data).expanduser()]
    decisions: tuple[Decision, ...] = ()
    if published and (data is not None or not (folder / "train.npz").is_file()):
        if len(published) > 1:
            raise DataError(f"{str(folder)!r} holds {', '.join(p.name for p in published)}. Keep one.")
        parts = _divided(_read_published(published[0]), seed)
    elif logs and not (folder / "train.npz").is_file():
        skipped = Skipped("logs")
        rows = [row for path in logs if (row := skipped.read(path.name, _read_log, path)) is not None]
        decisions = skipped.decisions()
        parts = _divided(rows, seed)
    elif (folder / "train.npz").is_file():
        parts = {
            part: sequences.read_flat(folder / f"{part}.npz") for part in PARTS if (folder / f"{part}.npz").is_file()
        }
    else:
        raise DataError(
            f"there is neither train.npz nor a *.log in {str(folder)!r}. Get training-dataset-4d.npz from the "
            "repository imps of cpmpercussion, or record logs with it, and put them there."
        )
    width = {row.shape[1] for rows in parts.values() for row in rows}
    if len(width) != 1:
        raise DataError(f"recordings in {str(folder)!r} differ in their number of controls: {sorted(width)}.")
    columns = ("dt", *(f"control_{i}" for i in range(1, width.pop())))
    cut = {}
    for part, rows in parts.items():
        kept = [np.clip(row, 0.0, [5.0] + [1.0] * (row.shape[1] - 1)) for row in rows if len(row) >= min_length]
        cut[part] = [piece for row in kept for piece in _pieces(row, max_length) if len(piece) >= min_length]
    return sequences.dataset(INFO, cut, columns, options, decisions=decisions)


def _divided(rows: list[Array], seed: int) -> dict[str, list[Array]]:
    order = stream(seed, "control").permutation(len(rows))
    held = max(1, round(0.2 * len(rows))) if len(rows) > 1 else 0
    return {"valid": [rows[i] for i in order[:held]], "train": [rows[i] for i in order[held:]]}


def _read_published(path: Path) -> list[Array]:
    """The performances of the published file: an array of arrays `perfs`, each (steps, dt and controls)."""
    content = object_arrays.read(path)
    rows = content.get("perfs", next(iter(content.values())) if len(content) == 1 else None)
    if rows is None:
        raise DataError(f"{str(path)!r} holds {', '.join(content) or 'nothing'}; expected an array of arrays 'perfs'.")
    out = [np.asarray(row, dtype=np.float64) for row in rows]
    for i, row in enumerate(out):
        if len(row) and (row.ndim != 2 or row.shape[1] < 2 or not np.isfinite(row).all()):
            raise DataError(f"{str(path)!r}: performance {i} has shape {row.shape}; expected (steps, dt and controls).")
    return [row for row in out if len(row)]


def _pieces(row: Array, most: int) -> list[Array]:
    return np.split(row, range(most, len(row), most)) if most else [row]


def _read_log(path: Path) -> Array:
    """Read lines `time,source,value,...`; keep what the musician did, not what the program answered."""
    times, values = [], []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        fields = line.strip().split(",")
        if len(fields) < 3 or fields[1] != "interface":
            continue
        try:
            times.append(datetime.fromisoformat(fields[0]).timestamp())
            values.append([float(value) for value in fields[2:]])
        except (ValueError, OverflowError) as error:
            raise DataError(f"{str(path)!r}, line {number}: {error}.") from error
    if not times:
        raise DataError(f"{str(path)!r} holds no event of the interface.")
    if len({len(value) for value in values}) > 1:
        raise DataError(f"{str(path)!r}: events differ in their number of controls.")
    return np.column_stack([np.diff(times, prepend=times[:1]), np.array(values)])


def state() -> str:
    """Say whether the files are in the cache folder."""
    return sequences.present("control")
