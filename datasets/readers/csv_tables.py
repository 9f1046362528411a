"""Text tables: which lines and fields there are, which line holds names, and what each column is made of."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from phlogiston.datasets.base import Array, Decision
from phlogiston.datasets.containers import EPOCH, MISSING
from phlogiston.datasets.readers.number_text import bare, decimal_marks, number, read_dates, read_numbers
from phlogiston.errors import DataError

DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar", " ": "blanks"}
SNIFFED = 50
"""Lines by which the delimiter is decided."""
SAMPLED = 500
"""Entries of a column by which it is decided what stands above it, and what ordinary numbers say of the others."""


@dataclass
class Columns:
    """The columns of a text table.

    Attributes:
        rows: how many.
        numeric: name -> float64 (rows,), NaN where missing.
        text: name -> entries, None where missing.
        units: name -> unit of numbers that were dates.
        told: what was decided.
    """

    rows: int
    numeric: dict[str, Array] = field(default_factory=dict)
    text: dict[str, list[str | None]] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)
    told: list[Decision] = field(default_factory=list)


def read_csv(
    path: Path,
    *,
    header: bool | None = None,
    delimiter: str | None = None,
    decimal: str | None = None,
    categorical: Collection[str] = (),
    columns: Collection[str] | None = None,
) -> Columns:
    """Read text separated by commas, semicolons, tabs, bars or blanks.

    Numbers may have decimal commas, thousands apart, per cent or a currency; dates become days since 1970-01-01. With
    `columns`, text is checked for slips only there, because the others will not be used.

    Raises:
        DataError: a file that cannot be read, lines of different lengths, or a column in doubt; with line and column.
    """
    if decimal not in (None, ".", ","):
        raise DataError(f"decimal is {decimal!r}; expected '.' or ','.")
    lines, used = _lines(path, delimiter)
    if not lines:
        raise DataError(f"{str(path)!r} is empty. Expected a header line and rows of numbers.")
    found = Columns(0)
    found.told.append(Decision("fields", f"separated by {DELIMITERS.get(used, repr(used))}", "delimiter=|"))
    width = len(lines[0][1])
    for line, row in lines:
        if len(row) != width:
            raise DataError(f"{str(path)!r}, line {line}: {len(row)} fields, expected {width} as in the first line.")
    first, body = [entry.strip() for entry in lines[0][1]], lines[1:]
    by_column = [list(map(str.strip, entries)) for entries in zip(*(row for _, row in body), strict=True)]
    by_column = by_column or [[] for _ in first]
    if header is None:
        header = _is_header(first, by_column)
        names = "the first line holds names" if header else "no line of names"
        found.told.append(Decision("header", names, f"header={'false' if header else 'true'}"))
    if header and not body:
        raise DataError(f"{str(path)!r} has a header and no rows.")
    if not header:
        by_column, body = [[entry, *rest] for entry, rest in zip(first, by_column, strict=True)], lines
    names_ = [entry or f"x{j}" for j, entry in enumerate(first)] if header else [f"x{j}" for j in range(width)]
    twice = next((name for name in names_ if names_.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{str(path)!r}: column {twice!r} appears {names_.count(twice)} times. Names must differ.")
    found.rows = len(body)
    _sort(found, path, names_, by_column, [line for line, _ in body], decimal, categorical, columns)
    return found


def _sort(
    found: Columns,
    path: Path,
    names: Sequence[str],
    by_column: Sequence[list[str]],
    lines: Sequence[int],
    decimal: str | None,
    categorical: Collection[str],
    columns: Collection[str] | None,
) -> None:
    """Read every column as what it is."""
    wanted = [name not in categorical and (columns is None or name in columns) for name in names]
    values = [None if name in categorical else _read(entries) for name, entries in zip(names, by_column, strict=True)]
    plain = all(read is None or None not in read for read in values)
    witness = {decimal} if decimal else {"."} if plain else _witness(by_column, values)
    for name, entries, read, want in zip(names, by_column, values, wanted, strict=True):
        where = f"{str(path)!r}, column {name!r}"
        point = witness != {","} or not any("." in entry for entry in entries)
        if read is not None and point and None not in read:
            found.numeric[name] = np.array(read, dtype=np.float64)
            continue
        special = None
        if want:
            special = read_numbers(where, entries, lines, decimal, witness) or read_dates(where, entries)
        if special is not None:
            found.numeric[name], said = special
            topic = "dates" if said.startswith("dates") else "numbers"
            if topic == "dates":
                found.units[name] = EPOCH
            marks = {"decimal mark ','": "decimal=.", "decimal mark '.'": "decimal=,"}
            option = next((o for words, o in marks.items() if words in said), f"categorical={name}")
            found.told.append(Decision(topic, f"column {name!r}: {said}", option))
            continue
        if want and read is not None:
            _check_text(path, name, entries, read, lines)
        found.text[name] = [None if entry in MISSING else entry for entry in entries]
        if want:
            known = set(found.text[name]) - {None}
            found.told.append(
                Decision("labels", f"column {name!r}: text, {len(known)} categories", "columns=" + (names[0] or "..."))
            )


def _read(entries: Sequence[str]) -> list[float | None]:
    """The entries as Python's own numbers, NaN where missing, None for everything else."""
    try:
        plain: list[float | None] = list(map(float, entries))
    except ValueError:
        return [number(entry) for entry in entries]
    return plain if not any("_" in entry for entry in entries) else [number(entry) for entry in entries]


def _witness(by_column: Sequence[list[str]], values: Sequence[list[float | None] | None]) -> set[str]:
    """What columns of numbers say about the decimal mark of the file."""
    found: set[str] = set()
    for entries, read in zip(by_column, values, strict=True):
        if read is None:
            continue
        some = entries if None in read else entries[:SAMPLED]
        cells = [bare(entry) for entry in some if entry not in MISSING]
        if cells and all(cell is not None for cell in cells):
            found |= decimal_marks(cell.digits for cell in cells if cell is not None)
    return found


def _is_header(first: Sequence[str], by_column: Sequence[list[str]]) -> bool:
    """Whether the first line names the columns.

    It does where it has text above numbers. Numbers may be names, too: years above other numbers, or 0, 1, 2, ...
    above fractions, as data frames without names are written.
    """
    if all(entry in MISSING for entry in first):
        return False
    if not by_column[0]:
        return all(bare(entry) is None or entry in MISSING for entry in first)
    numeric = [_mostly_numbers(entries) for entries in by_column]
    marks = [bare(entry) is not None for entry in first]
    if any(
        column and not mark and entry not in MISSING for entry, column, mark in zip(first, numeric, marks, strict=True)
    ):
        return True
    above = [(entry, by_column[j]) for j, entry in enumerate(first) if numeric[j] and marks[j]]
    if not above:
        # nothing but text: a header where it is no number and does not come again
        return not any(marks) and any(
            entry not in MISSING and entry not in rest for entry, rest in zip(first, by_column, strict=True)
        )
    if len({entry for entry, _ in above}) < len(above):
        return False
    if [entry for entry, _ in above] == [str(j) for j in range(len(first))] and len(first) > 1:
        return any(not entry.lstrip("-").isdigit() for _, rest in above for entry in rest if entry not in MISSING)
    return all(_is_year(entry) and sum(map(_is_year, rest)) < len(rest) / 2 for entry, rest in above)


def _mostly_numbers(entries: Sequence[str]) -> bool:
    known = [entry for entry in entries[:SAMPLED] if entry not in MISSING]
    return not known or sum(bare(entry) is not None for entry in known) > len(known) / 2


def _is_year(entry: str) -> bool:
    return entry.isdigit() and 1500 <= int(entry) <= 2500


def _lines(path: Path, delimiter: str | None) -> tuple[list[tuple[int, list[str]]], str]:
    """Return (line number, fields) of every line that is not blank, and the delimiter."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if delimiter is None:
                delimiter = _sniff(file.read(1 << 16))
                file.seek(0)
            if delimiter == " ":
                rows = ((number, line.split()) for number, line in enumerate(file, 1))
                return [(line, row) for line, row in rows if row], delimiter
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            return [(reader.line_num, row) for row in reader if row], delimiter
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{str(path)!r} cannot be read as text: {error}") from error


def _sniff(head: str) -> str:
    """The delimiter that cuts all lines into equally many fields, most of them numbers; a comma where none does."""
    best, most = "", 0.0
    lines = head.splitlines()[: SNIFFED + 1]
    lines = lines[:-1] if len(lines) > SNIFFED or (len(head) == 1 << 16 and len(lines) > 1) else lines
    for delimiter in DELIMITERS:
        rows = [line.split() for line in lines] if delimiter == " " else list(_rows(lines, delimiter))
        rows = [row for row in rows if row]
        if not rows or len({len(row) for row in rows}) > 1 or len(rows[0]) < 2:
            continue
        fields = [entry.strip() for row in rows for entry in row]
        score = 1e-9 + sum(entry in MISSING or bare(entry) is not None for entry in fields) / len(fields)
        if delimiter == " " and (best or score < 0.5):
            continue  # blanks stand inside numbers and names, too
        if score > most:
            best, most = delimiter, score
    if best:
        return best
    first = lines[0] if lines else ""
    return max((",", ";", "\t", "|"), key=first.count)


def _rows(lines: Sequence[str], delimiter: str) -> Iterator[list[str]]:
    try:
        yield from islice(csv.reader(lines, delimiter=delimiter), SNIFFED)
    except csv.Error:
        return


def _check_text(
    path: Path, name: str, entries: Sequence[str], values: Sequence[float | None], numbers: Sequence[int]
) -> None:
    """Tell a column of categories from a column of numbers with a slip in it, and from free text."""
    known = [entry for entry in entries if entry not in MISSING]
    slips = [i for i, (v, entry) in enumerate(zip(values, entries, strict=True)) if v is None and bare(entry) is None]
    if slips and len(slips) < len(known) / 2:
        line, entry = numbers[slips[0]], entries[slips[0]]
        raise DataError(
            f"{str(path)!r}, line {line}, column {name!r}: {entry!r} is no number while most entries are. "
            f"Correct it, or pass categorical=({name!r},)."
        )
    if len(set(known)) > 50 and len(set(known)) > len(known) / 2:
        raise DataError(
            f"{str(path)!r}, column {name!r}: {len(set(known))} different texts in {len(entries)} rows. "
            f"Leave it out with columns=(...), or pass categorical=({name!r},)."
        )
