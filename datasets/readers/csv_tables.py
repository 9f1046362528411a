"""Text tables: which line holds names, and what each column is made of."""

from __future__ import annotations

import csv
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from phlogiston.datasets.base import Array, Decision
from phlogiston.datasets.containers import MISSING
from phlogiston.datasets.readers.csv_fields import Fields
from phlogiston.datasets.readers.csv_layout import DELIMITERS, LEGACY, Layout, is_header, layout_of
from phlogiston.datasets.readers.number_text import bare, decimal_marks, number, read_dates, read_numbers
from phlogiston.errors import DataError

SHOWN = 8
"""Columns that are named where many are told alike."""


@dataclass
class Columns:
    """The columns of a text table.

    Attributes:
        rows: how many.
        numeric: name -> float64 (rows,), NaN where missing.
        text: name -> entries, None where missing.
        units: name -> unit of numbers that were dates.
        aside: name -> why the column says nothing about rows and is left out.
        decisions: what was decided.
    """

    rows: int
    numeric: dict[str, Array] = field(default_factory=dict)
    text: dict[str, list[str | None]] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)
    aside: dict[str, str] = field(default_factory=dict)
    decisions: list[Decision] = field(default_factory=list)


def read_csv(
    path: Path,
    *,
    header: bool | None = None,
    delimiter: str | None = None,
    decimal: str | None = None,
    encoding: str | None = None,
    categorical: Collection[str] = (),
    columns: Collection[str] | None = None,
    raw: dict[str, list[str]] | None = None,
) -> Columns:
    """Read text separated by commas, semicolons, tabs, bars or blanks, compressed or not.

    Numbers may have decimal commas, thousands apart, per cent or a currency; dates become days since 1970-01-01. With
    `columns`, text is checked for slips only there, because the others will not be used. `raw` takes every column as
    it is written.

    Raises:
        DataError: a file that cannot be read, lines of different lengths, or a column in doubt; with line and column.
    """
    if decimal not in (None, ".", ","):
        raise DataError(f"decimal is {decimal!r}; expected '.' or ','.")
    options: dict[str, Any] = {
        "header": header,
        "delimiter": delimiter,
        "decimal": decimal,
        "categorical": categorical,
        "columns": columns,
        "raw": raw,
    }
    try:
        try:
            return _read(path, encoding=encoding, **options)
        except UnicodeDecodeError:
            if encoding is not None:
                raise
            return _read(path, encoding=LEGACY, guessed=True, **options)
    except (OSError, EOFError, UnicodeError, csv.Error) as error:
        raise DataError(f"{str(path)!r} cannot be read as text: {error}") from error


def _read(
    path: Path,
    *,
    header: bool | None,
    delimiter: str | None,
    decimal: str | None,
    encoding: str | None,
    categorical: Collection[str],
    columns: Collection[str] | None,
    raw: dict[str, list[str]] | None,
    guessed: bool = False,
) -> Columns:
    layout = layout_of(path, delimiter, encoding)
    decisions = [
        Decision("fields", f"separated by {DELIMITERS.get(layout.delimiter, layout.delimiter)}", "delimiter=|")
    ]
    if guessed or layout.encoding not in ("utf-8", "utf-8-sig"):
        doubt = ", for it is no Unicode; other letters mean another encoding" if guessed else ""
        decisions.append(Decision("encoding", f"{layout.encoding}{doubt}", "encoding=latin-1"))
    named = is_header(layout.first, layout.sample) if header is None else header
    fields = Fields(layout, named, _common_decimal(layout, decimal), settled=header is not None)
    named = fields.header if header is None else header
    if header is None:
        words = "the first line holds names" if named else "no line of names"
        decisions.append(Decision("header", words, f"header={'false' if named else 'true'}"))
    names = [entry or f"x{j}" for j, entry in enumerate(layout.first)] if named else _numbered(layout.width)
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{str(path)!r}: column {twice!r} appears {names.count(twice)} times. Names must differ.")
    if raw is not None:
        raw |= {names[j]: entries for j, entries in fields.texts(range(layout.width)).items()}
    result = Columns(fields.rows, decisions=decisions)
    _Sorter(result, fields, names, decimal, frozenset(categorical), columns).sort()
    return result


def raw_columns(path: Path, **options: Any) -> dict[str, list[str]]:
    """All columns of a text table as they are written, by name.

    Args:
        path: of the file.
        options: `header`, `delimiter`, `decimal` and `encoding`, as for `read_csv`.
    """
    raw: dict[str, list[str]] = {}
    read_csv(path, **options, columns=(), raw=raw)
    return raw


def _numbered(width: int) -> list[str]:
    return [f"x{j}" for j in range(width)]


def _common_decimal(layout: Layout, decimal: str | None) -> str:
    """The decimal mark of nearly all numbers, as far as the first lines tell and the delimiter allows."""
    if layout.delimiter == "," or not any("," in entry for entries in layout.sample for entry in entries):
        return "."
    marks = decimal_marks(
        cell.digits
        for entries in layout.sample
        for cell in map(bare, entries)
        if cell is not None and ("," in cell.digits or "." in cell.digits)
    )
    return decimal or ("," if marks == {","} else ".")


class _Sorter:
    """Reads every column as what it is."""

    def __init__(
        self,
        result: Columns,
        fields: Fields,
        names: Sequence[str],
        decimal: str | None,
        categorical: Collection[str],
        columns: Collection[str] | None,
    ) -> None:
        self.result, self.fields, self.names, self.decimal = result, fields, names, decimal
        self.categorical, self.columns = categorical, columns
        self.path = str(fields.layout.path)
        text = [j for j, name in enumerate(names) if j not in fields.numbers or name in categorical]
        self.texts: dict[int, list[str]] = fields.texts(text)
        self.values = {j: _values(entries) for j, entries in self.texts.items() if names[j] not in categorical}
        plain = all(None not in values for values in self.values.values())
        self.witness = {decimal} if decimal else {"."} if plain and not self._commas() else self._witness()

    def _commas(self) -> list[int]:
        """Columns that were read at once, with a decimal comma."""
        return [j for j in self.fields.numbers if "," in "".join(self.fields.layout.sample[j])]

    def _witness(self) -> set[str]:
        """What columns of numbers say about the decimal mark of the file."""
        result: set[str] = set()
        for j, name in enumerate(self.names):
            if name in self.categorical:
                continue
            entries: Collection[str] = self.fields.layout.sample[j]
            if j in self.values and None in self.values[j]:
                entries = set(self.texts[j])
            cells = [bare(entry) for entry in entries if entry not in MISSING]
            if cells and all(cell is not None for cell in cells):
                result |= decimal_marks(cell.digits for cell in cells if cell is not None)
        return result

    def sort(self) -> None:
        """Put every column where it belongs."""
        commas = set(self._commas())
        for j, name in enumerate(self.names):
            as_numbers = name not in self.categorical and (self.columns is None or name in self.columns)
            if j in self.fields.numbers and name not in self.categorical:
                if j not in commas and self.witness == {","} and any("." in e for e in self.fields.layout.sample[j]):
                    self.texts |= self.fields.texts([j])  # 1.234 is a thousand and more in such a file
                    self.values[j] = _values(self.texts[j])
                else:
                    self.result.numeric[name] = self.fields.numbers[j]
                    if as_numbers and j in self.fields.large and self.columns is None:
                        self.result.aside[name] = "whole numbers beyond 2**53, which float64 cannot tell apart"
                    if j in commas:
                        self._tell_numbers(name, "decimal mark ','")
                    continue
            self._sort_text(j, name, as_numbers)

    def _sort_text(self, j: int, name: str, as_numbers: bool) -> None:
        entries, values = self.texts[j], self.values.get(j)
        point = self.witness != {","} or not any("." in entry for entry in entries)
        if values is not None and point and None not in values:
            self.result.numeric[name] = _array(values)
            return
        where = f"{self.path!r}, column {name!r}"
        if as_numbers:
            numbers = read_numbers(where, entries, self.fields.line_of, self.decimal, self.witness)
            if numbers is not None:
                self.result.numeric[name], said = numbers
                self._tell_numbers(name, said)
                return
            dates = read_dates(where, entries)
            if dates is not None:
                self.result.numeric[name], said, self.result.units[name] = dates
                self.result.decisions.append(Decision("dates", f"column {name!r}: {said}", f"categorical={name}"))
                return
        if as_numbers and values is not None:
            self._check_slips(name, entries, values)
        self.result.text[name] = [None if entry in MISSING else entry for entry in entries]
        if as_numbers:
            self._tell_text(name)

    def _tell_numbers(self, name: str, said: str) -> None:
        marks = {"decimal mark ','": "decimal=.", "decimal mark '.'": "decimal=,"}
        option = next((o for words, o in marks.items() if words in said), f"categorical={name}")
        self.result.decisions.append(Decision("numbers", f"column {name!r}: {said}", option))

    def _tell_text(self, name: str) -> None:
        known = [entry for entry in self.result.text[name] if entry is not None]
        different = len(set(known))
        if self.columns is None and different > 50 and different > len(known) / 2:
            self.result.aside[name] = f"text, {different} different ones in {self.result.rows} rows"
            return
        self.result.decisions.append(
            Decision("labels", f"column {name!r}: text, {different} categories", "columns=" + (self.names[0] or "..."))
        )

    def _check_slips(self, name: str, entries: Sequence[str], values: Sequence[float | None]) -> None:
        """Distinguish a column of categories from a column of numbers with a slip in it, and from free text."""
        known = [entry for entry in entries if entry not in MISSING]
        odd = {entry for entry in set(known) if number(entry) is None and bare(entry) is None}
        slips = [i for i, entry in enumerate(entries) if entry in odd]
        if slips and len(slips) < len(known) / 2:
            line, entry = self.fields.line_of(slips[0]), entries[slips[0]]
            raise DataError(
                f"{self.path!r}, line {line}, column {name!r}: {entry!r} is no number while most entries are. "
                f"Correct it, or pass categorical=({name!r},)."
            )
        if self.columns is not None and len(set(known)) > 50 and len(set(known)) > len(known) / 2:
            raise DataError(
                f"{self.path!r}, column {name!r}: {len(set(known))} different texts in {len(entries)} rows. "
                f"Leave it out with columns=(...), or pass categorical=({name!r},)."
            )


def _values(entries: Sequence[str]) -> list[float | None]:
    """The entries as Python's own numbers, NaN where missing, None for everything else."""
    read = {entry: number(entry) for entry in set(entries)}
    return [read[entry] for entry in entries]


def _array(values: Sequence[float | None]) -> Array:
    import numpy as np

    return np.array(values, dtype=np.float64)
