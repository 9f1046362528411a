"""What a text table looks like before it is read: coding of its letters, what separates fields, what stands above."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TextIO

from phlogiston.datasets.containers import MISSING
from phlogiston.datasets.readers.number_text import all_numbers, bare, like_date, number
from phlogiston.datasets.untrusted.packed import BoundedGzip
from phlogiston.errors import DataError

DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar", " ": "blanks"}
SNIFFED = 50
"""Lines by which the delimiter is decided."""
SAMPLED = 500
"""Lines by which it is decided what stands above the columns, and which of them are looked at entry by entry."""
LEGACY = "cp1252"
"""How a file is read that is no Unicode."""
HEAD = 1 << 16
"""Characters by which the delimiter is decided."""


@dataclass(frozen=True)
class Layout:
    """How the fields of a file are found.

    Attributes:
        path: of the file; `.gz` is unpacked.
        encoding: of its letters.
        delimiter: one character; a blank stands for any number of blanks.
        first: fields of the first line.
        sample: entries of the next lines, column by column.
    """

    path: Path
    encoding: str
    delimiter: str
    first: list[str]
    sample: list[list[str]]

    @property
    def width(self) -> int:
        """How many fields a line has."""
        return len(self.first)

    def open(self) -> TextIO:
        """Open the file for reading, line ends as they are."""
        return open_text(self.path, self.encoding)

    def records(self, file: TextIO) -> Iterator[tuple[int, list[str]]]:
        """Fields of every line that is not blank, with the number of its last line."""
        if self.delimiter == " ":
            for number, line in enumerate(file, 1):
                if fields := line.split():
                    yield number, fields
            return
        reader = csv.reader(file, delimiter=self.delimiter, strict=True)
        for fields in reader:
            if fields:
                yield reader.line_num, fields

    def line_of(self, row: int, header: bool) -> int:
        """The line number of a row below the names."""
        with self.open() as file:
            return next(islice(self.records(file), row + header, None))[0]

    def check_width(self) -> None:
        """Refuse a line with more or fewer fields than the first one.

        Raises:
            DataError: with its number.
        """
        with self.open() as file:
            for line, fields in self.records(file):
                if len(fields) != self.width:
                    raise DataError(
                        f"{str(self.path)!r}, line {line}: {len(fields)} fields, expected {self.width} as in the first "
                        "line."
                    )


def open_text(path: Path, encoding: str) -> TextIO:
    """Open a text file, unpacked where it is compressed, line ends as they are."""
    if path.suffix == ".gz":
        return io.TextIOWrapper(BoundedGzip(path), encoding=encoding, newline="")
    return path.open(encoding=encoding, newline="")


def layout_of(path: Path, delimiter: str | None, encoding: str | None) -> Layout:
    """Find out how a file is laid out.

    Args:
        path: of the file.
        delimiter: where it is given; else what cuts all of the first lines into equally many fields.
        encoding: where it is given; else UTF-8 or UTF-16.

    Raises:
        DataError: an unknown encoding, or an empty file.
        UnicodeDecodeError: the first lines are coded otherwise.
        OSError, csv.Error: it cannot be read.
    """
    encoding = _encoding(path) if encoding is None else encoding
    try:
        codecs.lookup(encoding)
    except LookupError as error:
        raise DataError(f"encoding is {encoding!r}; expected one that Python knows, like utf-8 or cp1252.") from error
    with open_text(path, encoding) as file:
        used = delimiter or _sniff(file.read(HEAD))
    found = Layout(path, encoding, used, [], [])
    with found.open() as file:
        lines = [fields for _, fields in islice(found.records(file), SAMPLED + 1)]
    if not lines:
        raise DataError(f"{str(path)!r} is empty. Expected a header line and rows of numbers.")
    first = [entry.strip() for entry in lines[0]]
    if any(len(line) != len(first) for line in lines):
        Layout(path, encoding, used, first, []).check_width()
    sample = [[line[j].strip() for line in lines[1:]] for j in range(len(first))]
    return Layout(path, encoding, used, first, sample)


def _encoding(path: Path) -> str:
    """UTF-16 where the first bytes say so, else UTF-8."""
    with BoundedGzip(path) if path.suffix == ".gz" else path.open("rb") as file:
        head = file.read(512)
    if head.startswith(codecs.BOM_UTF8):
        return "utf-8-sig"
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if len(head) > 3 and not any(head[1:64:2]):  # letters below 256 have a zero for their second byte
        return "utf-16-le"
    return "utf-8"


def _sniff(head: str) -> str:
    """The delimiter that cuts all lines into equally many fields, most of them numbers; a comma where none does."""
    best, most = "", 0.0
    lines = head.splitlines()[: SNIFFED + 1]
    lines = lines[:-1] if len(lines) > SNIFFED or (len(head) == HEAD and len(lines) > 1) else lines
    for delimiter in DELIMITERS:
        rows = [line.split() for line in lines] if delimiter == " " else list(_rows(lines, delimiter))
        rows = [row for row in rows if row]
        if not rows or len({len(row) for row in rows}) > 1 or len(rows[0]) < 2:
            continue
        fields = [entry.strip() for row in rows for entry in row]
        plain = sum(entry in MISSING or like_number(entry) or like_date(entry) for entry in fields)
        score = 1e-9 + plain / len(fields)
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


def is_header(first: Sequence[str], by_column: Sequence[Sequence[str]]) -> bool:
    """Whether the first line names the columns.

    It does where it has text above numbers. Numbers may be names, too: years above other numbers, or 0, 1, 2, ...
    above fractions, as data frames without names are written.

    Args:
        first: fields of the first line.
        by_column: entries of the lines below, column by column.
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
    if counts_from_zero(first):
        return any(not entry.lstrip("-").isdigit() for _, rest in above for entry in rest if entry not in MISSING)
    return all(_is_year(entry) and sum(map(_is_year, rest)) < len(rest) / 2 for entry, rest in above)


def counts_from_zero(first: Sequence[str]) -> bool:
    """Whether a line reads 0, 1, 2, ..."""
    return len(first) > 1 and list(first) == [str(j) for j in range(len(first))]


def _mostly_numbers(entries: Sequence[str]) -> bool:
    known = [entry for entry in entries if entry not in MISSING]
    if all_numbers(known):
        return True
    half = len(known) // 2
    # no further than it takes: a majority is certain after half of them and one
    return not known or next(islice(filter(like_number, known), half, None), None) is not None


def like_number(entry: str) -> bool:
    """Whether an entry is a number in some notation."""
    return number(entry) is not None or bare(entry) is not None


def _is_year(entry: str) -> bool:
    return entry.isdigit() and 1500 <= int(entry) <= 2500
