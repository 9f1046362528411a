"""Tinyperf: five-second performances on a phone's touch screen, recorded by the MicroJam app.

A step is (x, y, dt): where the finger is, as a fraction of the screen, and the seconds since the touch before; 0 for
the first. A `dt` above 0.1 s is a new tap, a shorter one continues a swipe. Coordinates lie on the devices' grids
(about 1/600 to 1/700), and 15 % of the steps repeat x exactly: compare models by the probability of cells of 1/1000,
not by densities, which have no upper bound here.

Origin: C. P. Martin, *creative-prediction-datasets*, TinyPerformanceArrays.npz, CC0 1.0; C. P. Martin and J. Torresen,
"RoboJam: a musical mixture density network for collaborative touchscreen interaction", EvoMUSART 2018.
"""

from __future__ import annotations

from os import PathLike

import numpy as np

from phlogiston.datasets.base import PARTS, Array, Dataset, Info, stream
from phlogiston.datasets.readers import object_arrays, sequences
from phlogiston.errors import DataError

COLUMNS = ("x", "y", "dt")
ORIGINAL = "TinyPerformanceArrays.npz"
INFO = Info(
    name="tinyperf",
    title="touch-screen performances of about five seconds: x, y and time",
    kind="yours",
    licence="CC0 1.0 (Charles Martin, creative-prediction-datasets)",
    rows="1,106 / 237 / by file",
    shape="8 to 2,831 steps of x, y, dt",
    notes="Bring train.npz and valid.npz (values, lengths), or the original TinyPerformanceArrays.npz.",
)


def load(
    root: str | PathLike[str] | None = None, *, max_length: int = 0, min_length: int = 8, seed: int = 0
) -> Dataset:
    """Load the performances.

    Args:
        root: folder with the files; `tinyperf` in the cache folder if not given.
        max_length: cut performances after this many touches; 0 keeps them whole.
        min_length: leave out shorter ones.
        seed: of the division by performance, where the original file is read (70 / 15 / 15 %).

    Returns:
        `x` float32 (rows, steps, 3): x, y in [0, 1], dt in [0, 5] s; `length` int64 (rows,).

    Raises:
        DataError: the files are missing or damaged.
    """
    options = {"max_length": max_length, "min_length": min_length, "seed": seed}
    if max_length < 0 or min_length < 1:
        raise DataError(f"max_length={max_length}, min_length={min_length}: at least 0 and 1 are expected.")

    def change(row: Array) -> Array | None:
        if len(row) < min_length:
            return None
        return np.clip(row[: max_length or None], 0.0, [1.0, 1.0, 5.0])

    folder = sequences.folder_of("tinyperf", root)
    if (folder / ORIGINAL).is_file() and not (folder / "train.npz").is_file():
        content = object_arrays.read(folder / ORIGINAL)
        rows = next((value for value in content.values() if isinstance(value, list)), None)
        if rows is None:
            raise DataError(f"{str(folder / ORIGINAL)!r} holds no list of performances.")
        order = stream(seed, "tinyperf").permutation(len(rows))
        cut = np.cumsum([round(0.7 * len(rows)), round(0.15 * len(rows))])
        parts = {
            part: [np.asarray(rows[i], dtype=np.float64) for i in np.sort(chosen)]
            for part, chosen in zip(PARTS, np.split(order, cut), strict=True)
        }
        return sequences.dataset(INFO, parts, COLUMNS, options, change)
    origin = f"Get {ORIGINAL} from the repository creative-prediction-datasets of cpmpercussion."
    return sequences.load_flat(INFO, root, COLUMNS, options, origin, change)


def state() -> str:
    """Say whether the files are in the cache folder."""
    return "cached" if sequences.present("tinyperf", ORIGINAL) == "cached" else sequences.present("tinyperf")
