"""The fields of a text table, column by column: numbers in Python's own notation at once, everything else as text.

pandas cuts and converts, in C and block by block; what a column means is decided in `csv_tables`.
"""

from __future__ import annotations

import csv
from collections.abc import Collection, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from phlogiston.datasets.base import Array
from phlogiston.datasets.containers import EXACT, MISSING
from phlogiston.datasets.readers.csv_layout import Layout, counts_from_zero
from phlogiston.datasets.readers.number_text import all_numbers, number
from phlogiston.errors import DataError

if TYPE_CHECKING:
    from pandas import DataFrame


GLANCE = 100
"""Entries by which a column is expected to be numbers; where it turns out otherwise, it is read again."""


class Fields:
    """All rows of a file.

    Args:
        layout: of the file.
        header: whether its first line holds names.
        decimal: mark of the numbers that are read at once.
        settled: whether `header` is sure; else a line 0, 1, 2, ... turns out to be one where fractions come below.

    Attributes:
        numbers: column -> float64 (rows,), NaN where missing; only the columns that hold numbers and nothing else.
        large: columns of whole numbers too large for float64 to tell them apart.
        rows: how many.

    Raises:
        DataError: lines of different lengths, a quote that is not closed, or no rows.
        UnicodeDecodeError: the file is coded otherwise.
    """

    def __init__(self, layout: Layout, header: bool, decimal: str = ".", settled: bool = True) -> None:
        self.layout, self.header = layout, header
        text = {
            j
            for j, entries in enumerate(layout.sample)
            if not (decimal == "." and all_numbers(entries[:GLANCE]))
            and not all(_simple(entry, decimal) for entry in entries[:GLANCE])
        }
        if not header:
            text |= {j for j, entry in enumerate(layout.first) if not _simple(entry, decimal)}
        frame = self._read_all(text, decimal)
        self.rows = len(frame)
        if frame.shape[1] != layout.width or bool(frame.iloc[:, -1].isna().any()):
            self._check_short()  # a line that ends too early shows as missing entries
        self.numbers: dict[int, Array] = {}
        self.large: set[int] = set()
        self._texts: dict[int, list[str]] = {}
        columns = dict(frame.items())
        del frame
        for j in range(layout.width):
            column = columns.pop(j)  # its memory is given up once it is read
            if column.dtype.kind in "iu":
                values = column.to_numpy()
                if len(values) and max(abs(int(values.min())), abs(int(values.max()))) > EXACT:
                    self.large.add(j)
            if j in text:
                self._texts[j] = _stripped(column.tolist())
            elif column.dtype.kind in "fiu":
                self.numbers[j] = column.to_numpy(dtype=np.float64)
        if not (header or settled) and counts_from_zero(layout.first) and self._names_fractions():
            self._drop_first()

    @cached_property
    def width(self) -> int:
        """How many columns there are."""
        return self.layout.width

    def texts(self, columns: Collection[int]) -> dict[int, list[str]]:
        """Columns as text, entry by entry, without blanks around; a missing entry may have become empty."""
        lacking = [j for j in columns if j not in self._texts]
        if lacking:
            frame = self._read(lacking, set(lacking), ".")
            for j in lacking:
                self._texts[j] = _stripped(frame[j].tolist())
        return {j: self._texts[j] for j in columns}

    def line_of(self, row: int) -> int:
        """The number of the line where a row stands."""
        return self.layout.line_of(row, self.header)

    def _read_all(self, text: set[int], decimal: str) -> DataFrame:
        """Read all columns. Looking for blanks before entries takes a sixth more; numbers do without."""
        if not text:
            try:
                frame = self._read(range(self.layout.width), text, decimal, padded=False)
            except DataError:  # a quote after a blank, for one
                frame = None
            if frame is not None and all(kind.kind in "fiu" for kind in frame.dtypes):
                return frame
            del frame
        return self._read(range(self.layout.width), text, decimal)

    def _read(self, columns: Sequence[int], text: set[int], decimal: str, padded: bool = True) -> DataFrame:
        import pandas

        blanks = self.layout.delimiter == " "
        with self.layout.open() as file:
            if self.header:
                next(self.layout.records(file))
            try:
                return pandas.read_csv(
                    file,
                    sep=r"\s+" if blanks else self.layout.delimiter,
                    header=None,
                    names=None,
                    usecols=None if len(columns) == self.layout.width else list(columns),
                    index_col=False,
                    dtype=dict.fromkeys(text, str),
                    na_values=list(MISSING),
                    keep_default_na=False,
                    skipinitialspace=padded and not blanks,
                    quoting=csv.QUOTE_NONE if blanks else csv.QUOTE_MINIMAL,
                    decimal=decimal,
                    low_memory=True,
                )
            except pandas.errors.EmptyDataError:
                raise DataError(f"{str(self.layout.path)!r} has a header and no rows.") from None
            except pandas.errors.ParserError as error:
                self.layout.check_width()
                raise DataError(f"{str(self.layout.path)!r} cannot be read as text: {error}") from error

    def _check_short(self) -> None:
        """Look for lines with too few fields, line by line; with quotes field by field."""
        mark = self.layout.delimiter
        with self.layout.open() as file:
            for line in file:
                count = len(line.split()) if mark == " " else line.count(mark) + 1
                if '"' in line or (count != self.layout.width and line.strip("\r\n")):
                    break
            else:
                return
        self.layout.check_width()

    def _names_fractions(self) -> bool:
        """Whether the line 0, 1, 2, ... stands above fractions, and so names columns."""
        return any(bool((values[1:] % 1 > 0).any()) for values in self.numbers.values())

    def _drop_first(self) -> None:
        self.header, self.rows = True, self.rows - 1
        self.numbers = {j: values[1:] for j, values in self.numbers.items()}
        self._texts = {j: values[1:] for j, values in self._texts.items()}


def _simple(entry: str, decimal: str) -> bool:
    """Whether an entry is missing, or a number that is read at once."""
    if decimal != "." and "." in entry:
        return False
    return number(entry.replace(decimal, ".")) is not None


def _stripped(entries: Sequence[Any]) -> list[str]:
    return [entry.strip() if isinstance(entry, str) else "" for entry in entries]
