"""UCI regression: five small tables on which regressors with error bars are compared, with the usual twenty splits.

The tables belong to the UCI Machine Learning Repository. Bring them as `NAME.npz` (arrays `x` and `y`) or `NAME.csv`
(the target in the last column), in a folder that `root` names or in `uci` inside the cache folder.

| name          | rows  | inputs | target                          | donors                                  |
|---------------|-------|--------|---------------------------------|-----------------------------------------|
| `yacht`       | 308   | 6      | residuary resistance            | Gerritsma, Onnink, Versluis             |
| `energy`      | 768   | 8      | heating load                    | Tsanas, Xifara                          |
| `concrete`    | 1,030 | 8      | compressive strength, MPa       | I-Cheng Yeh                             |
| `wine_red`    | 1,599 | 11     | quality, whole numbers 3 ... 8  | Cortez, Cerdeira, Almeida, Matos, Reis  |
| `power_plant` | 9,568 | 4      | net hourly output, MW           | Tufekci, Kaya                           |

The splits are those of Hernandez-Lobato and Adams, "Probabilistic Backpropagation", ICML 2015: NumPy's legacy generator
seeded with 1, a permutation per split, the first 90 % of it for training.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np

from phlogiston.datasets.base import Array, Dataset, Info, Split, part_rows, recorded, stream
from phlogiston.datasets.fetch import cache_folder
from phlogiston.datasets.readers import tables
from phlogiston.datasets.untrusted import arrays
from phlogiston.errors import DataError, unknown_name

INFO = Info(
    name="uci",
    title="yacht, energy, concrete, red wine, power plant: regression with the usual splits",
    kind="yours",
    licence="CC BY 4.0 (UCI Machine Learning Repository); cite the donors",
    rows="by table: 308 to 9,568",
    shape="4 to 11 inputs, 1 target",
    notes="Bring the tables as npz (x, y) or csv (target last). table='yacht' and split=0 ... 19 choose.",
)

SPLITS = 20


class Known(NamedTuple):
    """What is known about a table: its size, its columns, and under which name the repository lists it."""

    rows: int
    columns: tuple[str, ...]
    target: str
    listed: str


TABLES: dict[str, Known] = {
    "yacht": Known(
        308,
        ("buoyancy", "prismatic", "length_displacement", "beam_draught", "length_beam", "froude"),
        "resistance",
        "Yacht Hydrodynamics",
    ),
    "energy": Known(
        768,
        ("compactness", "surface", "wall", "roof", "height", "orientation", "glazing", "glazing_distribution"),
        "heating",
        "Energy Efficiency",
    ),
    "concrete": Known(
        1030,
        ("cement", "slag", "fly_ash", "water", "superplasticiser", "coarse", "fine", "age"),
        "strength",
        "Concrete Compressive Strength",
    ),
    "wine_red": Known(
        1599,
        (
            "fixed_acidity", "volatile_acidity", "citric_acid", "sugar", "chlorides", "free_so2", "total_so2",
            "density", "ph", "sulphates", "alcohol",
        ),
        "quality",
        "Wine Quality (red)",
    ),
    "power_plant": Known(
        9568, ("temperature", "vacuum", "pressure", "humidity"), "output", "Combined Cycle Power Plant"
    ),
}  # fmt: skip


@recorded()
def load(
    root: str | PathLike[str] | None = None,
    *,
    table: str = "yacht",
    split: int = 0,
    valid: float = 0.1,
    seed: int = 0,
) -> Dataset:
    """Load one table, divided by one of the usual splits.

    Args:
        root: folder that holds the tables; `uci` in the cache folder if not given.
        table: one of `TABLES`.
        split: 0 ... 19.
        valid: share of the training rows set aside for validation, drawn at random by `seed` and `split`.
        seed: of that draw.

    Returns:
        `x` float64 (rows, inputs) and `y` float64 (rows, 1), in the tables' own units.

    Raises:
        UnknownNameError: no such table.
        DataError: no such split, or a file that is missing or of another size.
    """
    if table not in TABLES:
        raise unknown_name("UCI table", table, TABLES)
    if not 0 <= split < SPLITS:
        raise DataError(f"split is {split}; choose one of 0 ... {SPLITS - 1}.")
    if not 0 <= valid < 1:
        raise DataError(f"valid is {valid}; expected a share of the training rows, at least 0 and below 1.")
    about = TABLES[table]
    x, y = _read(_folder(root), table)
    train_rows, test_rows = split_rows(len(x), split)
    count = round(valid * len(train_rows))
    part_rows(len(train_rows), valid=count, test=0, what=f"the training part of {table}")
    order = stream(seed, "uci", table, str(split)).permutation(len(train_rows))
    chosen = {
        "valid": np.sort(train_rows[order[:count]]),
        "train": np.sort(train_rows[order[count:]]),
        "test": test_rows,
    }
    parts = {
        name: Split({"x": x[rows], "y": y[rows]}, columns=about.columns, double=("x", "y"))
        for name, rows in chosen.items()
    }
    return Dataset.of(
        INFO,
        (parts["train"], parts["valid"], parts["test"]),
        title=f"{about.listed}, split {split}",
        columns=about.columns,
    )


def split_rows(rows: int, split: int) -> tuple[Array, Array]:
    """Return the row numbers of training and test part of one of the usual splits."""
    random = np.random.RandomState(1)  # legacy on purpose: the splits are defined by it
    order = np.arange(rows)
    for _ in range(split + 1):
        order = random.choice(range(rows), rows, replace=False)
    end = round(rows * 0.9)
    return order[:end], order[end:]


def state() -> str:
    """Say whether the tables are in the cache folder."""
    return "cached" if all(_find(_folder(None), name) for name in TABLES) else "yours"


def _folder(root: str | PathLike[str] | None) -> Path:
    return Path(root).expanduser() if root is not None else cache_folder() / "uci"


def _find(folder: Path, table: str) -> Path | None:
    return next((p for p in (folder / f"{table}.npz", folder / f"{table}.csv") if p.is_file()), None)


def _read(folder: Path, table: str) -> tuple[Array, Array]:
    about, path = TABLES[table], _find(folder, table)
    if path is None:
        raise DataError(
            f"there is no {table}.npz or {table}.csv in {str(folder)!r}. Get {about.listed!r} from the UCI Machine "
            f"Learning Repository and put it there: {about.rows} rows, npz with arrays x (rows, {len(about.columns)}) "
            f"and y (rows, 1), or csv with the target {about.target!r} in the last column."
        )
    if path.suffix == ".npz":
        loaded = arrays.load(path)
        content = loaded if isinstance(loaded, dict) else {}
        lacking = {"x", "y"} - set(content)
        if lacking:
            raise DataError(f"{str(path)!r} has no array {min(lacking)!r}; it holds {', '.join(content) or 'none'}.")
        x, y = content["x"], content["y"]
    else:
        values = tables.read(path).x
        x, y = values[:, :-1], values[:, -1:]
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64).reshape(len(y), -1)
    want = ((about.rows, len(about.columns)), (about.rows, 1))
    if (x.shape, y.shape) != want:
        raise DataError(f"{str(path)!r} has shapes {x.shape}, {y.shape}; {about.listed} has {want[0]}, {want[1]}.")
    return x, y
