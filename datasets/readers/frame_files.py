"""Files that hold data frames: Parquet and spreadsheets read, Parquet and csv written. What reads them is optional."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from phlogiston.datasets.untrusted.guard import reading
from phlogiston.datasets.untrusted.limits import check_unpacked
from phlogiston.datasets.untrusted.packed import check_zip, open_zip, read_member
from phlogiston.errors import DataError

FRAMES = (".parquet", ".xlsx")
WRITTEN = (".csv", ".parquet")
EXTRA = 'pip install "phlogiston[tables]"'


def read_frame(path: Path) -> Any:
    """Read a file as a data frame.

    Raises:
        DataError: it cannot be read, or what reads it is not installed.
    """
    return _read_parquet(path) if path.suffix.lower() == ".parquet" else _read_excel(path)


def _read_parquet(path: Path) -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError(f"{str(path)!r}: reading Parquet needs pyarrow, which is an extra: {EXTRA}") from None
    with reading(path, "Parquet"), pyarrow.parquet.ParquetFile(path) as file:
        # what repeats is packed as a number of repetitions: a kilobyte may hold a thousand million rows
        size = 8 * file.metadata.num_rows * file.metadata.num_columns
        check_unpacked(size, path.stat().st_size, repr(str(path)))
        return file.read()


def _check_rows(path: Path) -> None:
    """Refuse a sheet whose cells say that they stand far below its rows: those between would be made, one by one.

    Raises:
        DataError: it is such a sheet.
    """
    with open_zip(path) as archive:
        for name in archive.namelist():
            if name.startswith("xl/worksheets/"):
                sheet = read_member(archive, name, repr(str(path)))
                last = max(map(int, re.findall(rb'\br="[A-Z]*(\d{1,18})"', sheet)), default=0)
                if last > 1000 + 100 * len(re.findall(rb"<(?:\w+:)?row\b", sheet)):
                    raise DataError(f"{str(path)!r}: {name} has a cell in row {last:,}, far below its other rows.")


def _read_excel(path: Path) -> Any:
    try:
        import openpyxl  # noqa: F401
    except ImportError:
        raise DataError(f"{str(path)!r}: reading spreadsheets needs openpyxl, which is an extra: {EXTRA}") from None
    import pandas

    with reading(path, "a spreadsheet"):
        check_zip(path)
        _check_rows(path)
        return pandas.read_excel(path, engine="openpyxl")  # its first sheet


def check_written(path: Path) -> None:
    """Refuse a name that no table is written to, before work is done for it.

    Raises:
        DataError: another suffix, or a package that is not installed.
    """
    if path.suffix not in WRITTEN:
        raise DataError(f"{str(path)!r}: tables are written as {' or '.join(WRITTEN)}.")
    if path.suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError:
            raise DataError(f"{str(path)!r}: writing Parquet needs pyarrow, which is an extra: {EXTRA}") from None


def write_table(path: Path, frame: Any) -> None:
    """Write a data frame of pandas, by the suffix; spans of time go to text as numbers of days."""
    check_written(path)
    if path.suffix == ".parquet":
        frame.to_parquet(path, index=False)
    else:
        spans = {name: frame[name].dt.total_seconds() / 86_400 for name in frame.select_dtypes("timedelta").columns}
        frame.assign(**spans).to_csv(path, index=False)
