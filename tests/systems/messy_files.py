"""Files as people have them: text tables of several countries, spreadsheets, frames, folders of pictures and videos.

    python -P tests/systems/messy_files.py FOLDER

writes them. All tables say the same: `ROWS` rows of a height, a count, a day and a grade; what is missing differs.
"""

from __future__ import annotations

import datetime
import gzip
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import numpy as np
import pandas
import polars

ROWS = 40
_RNG = np.random.default_rng(7)
HEIGHT = np.round(1500 + 400 * _RNG.random(ROWS), 2)
COUNT = _RNG.integers(1, 9, ROWS)
DAY = [datetime.date(2024, 1, 1) + datetime.timedelta(days=int(d)) for d in _RNG.integers(0, 300, ROWS)]
GRADE = np.where(HEIGHT > 1700, "gut", "naß")
DAYS = np.array([(day - datetime.date(1970, 1, 1)).days for day in DAY], dtype=float)


def amount(value: float, thousands: str, decimal: str) -> str:
    return f"{value:,.2f}".replace(",", "T").replace(".", decimal).replace("T", thousands)


def table(separator: str, thousands: str, decimal: str, day: str, names: tuple[str, ...], **more: Any) -> str:
    rows = []
    for i in range(ROWS):
        height = more.get("height", "{}").format(amount(HEIGHT[i], thousands, decimal))
        cells = [height, str(COUNT[i]), DAY[i].strftime(day), GRADE[i]]
        for j, spelling in more.get("gaps", {}).get(i, {}).items():
            cells[j] = spelling
        rows.append(separator.join(f'"{c}"' if separator in c else c for c in cells))
    return "\n".join([separator.join(names), *rows]) + more.get("end", "\n")


DE = ("Höhe (mm)", "Anzahl", "Tag", "Güte")
EN = ("height", "count", "day", "grade")
FR = ("taille, mm", "nombre", "jour", "qualité")
GAPS = {3: {0: "NA"}, 5: {1: ""}, 8: {2: "n/a"}, 9: {3: "?"}, 39: {3: ""}}


def frame(nullable: bool = False) -> pandas.DataFrame:
    made = pandas.DataFrame({"height": HEIGHT, "count": COUNT, "day": pandas.to_datetime(DAY), "grade": GRADE})
    if nullable:
        made = made.astype({"count": "Int64", "grade": "category", "height": "Float64"})
        made["ok"] = pandas.array(made["height"] > 1700, dtype="boolean")
        made.loc[3, "height"], made.loc[5, "count"], made.loc[8, "day"] = pandas.NA, pandas.NA, pandas.NaT
        made.loc[[9, 39], "grade"] = None
        made.loc[2, "ok"] = pandas.NA
    return made


def write_parts(path: Path) -> None:
    path.mkdir()
    for name, rows in (("train", slice(0, 30)), ("valid", slice(30, 34)), ("test", slice(34, 40))):
        frame().iloc[rows].to_csv(path / f"{name}.csv", index=False)


def write_pictures(path: Path) -> None:
    for i in range(ROWS):
        image = np.zeros((6, 6, 3), dtype=np.uint8)
        image[: 1 + i % 6] = _RNG.integers(0, 255, 3)
        file = path / ("hell" if i % 2 else "dunkel") / f"bild {i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        imageio.imwrite(file, image)
    (path / "Thumbs.db").write_bytes(b"no picture")


def write_videos(path: Path) -> None:
    path.mkdir()
    for i in range(8):
        video = np.zeros((4, 16, 16, 3), dtype=np.uint8)
        for t in range(4):
            video[t, 4 : 8 + i % 3, 2 * t : 2 * t + 4] = 255
        imageio.imwrite(path / f"clip {i}.gif", video, loop=0)


def write_arrays(path: Path) -> None:
    x = np.stack([HEIGHT, COUNT, DAYS], 1)
    np.savez(path, x=x, columns=np.array(EN[:3]), grade=GRADE.astype("U"))


def write_ids(path: Path) -> None:
    made = frame()
    made.insert(0, "patient_id", np.arange(ROWS) + 10_000)
    made["note"] = [f'remark {i}, "quoted"\nin two lines' for i in range(ROWS)]
    made["always"], made["never"] = 5, None
    pandas.concat([made, made.assign(patient_id=made.patient_id + ROWS, note=made.note + " again")]).to_csv(
        path, index=False
    )


def text(encoding: str, *arguments: Any, **more: Any) -> Callable[[Path], Any]:
    return lambda path: path.write_bytes(table(*arguments, **more).encode(encoding))


FILES: dict[str, Callable[[Path], Any]] = {
    "english.csv": text("utf-8", ",", "", ".", "%Y-%m-%d", EN),
    "german.csv": text("cp1252", ";", ".", ",", "%d.%m.%Y", DE),
    "french.csv": text("utf-8-sig", ";", "\u202f", ",", "%d/%m/%Y", FR),
    "swiss.csv": text("utf-8", ";", "'", ".", "%Y-%m-%d", DE),
    "american.csv": text("utf-8", ",", ",", ".", "%m/%d/%Y", EN, height="${}"),
    "british money.csv": text("utf-8", ",", ",", ".", "%Y-%m-%d", EN, height="{} GBP", end=""),
    "tabs.tsv": text("utf-8", "\t", ",", ".", "%Y-%m-%d %H:%M", EN),
    "bars.txt": text("utf-8", "|", "", ".", "%Y/%m/%d", EN),
    "wide.csv": text("utf-16", "\t", ".", ",", "%d.%m.%Y", DE),
    "missing.csv": text("utf-8", ",", "", ".", "%Y-%m-%d", EN, gaps=GAPS),
    "missing german.csv": text("cp1252", ";", ".", ",", "%d.%m.%Y", DE, gaps=GAPS),
    "windows.csv": lambda path: path.write_bytes(table(",", "", ".", "%Y-%m-%d", EN).replace("\n", "\r\n").encode()),
    "packed.csv.gz": lambda path: path.write_bytes(gzip.compress(table(",", "", ".", "%Y-%m-%d", EN).encode())),
    "identifiers.csv": write_ids,
    "frame.parquet": lambda path: frame().to_parquet(path),
    "nullable.parquet": lambda path: frame(nullable=True).to_parquet(path),
    "polars.parquet": lambda path: polars.from_pandas(frame()).write_parquet(path),
    "sheet.xlsx": lambda path: frame().to_excel(path, index=False),
    "arrays.npz": write_arrays,
    "parts": write_parts,
    "pictures": write_pictures,
    "videos": write_videos,
}


def write_all(folder: Path) -> None:
    """Write every file into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, write in FILES.items():
        write(folder / name)


if __name__ == "__main__":
    write_all(Path(sys.argv[1]))
