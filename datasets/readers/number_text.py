"""Columns of text that are numbers or dates as people write them: 1.234,5 and 1,234.5; 12 %; 3 EUR; 2024-01-31.

A column is decided as a whole, with the rest of its file as a witness where it could be read in two ways; what stays
in doubt is refused with the option that decides it.
"""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from phlogiston.datasets.base import Array
from phlogiston.datasets.containers import MISSING
from phlogiston.datasets.moments import unit_of
from phlogiston.errors import DataError

_SPACES = " \u00a0\u202f\u2009'\u2019"  # what stands between thousands beside point and comma
_CURRENCY = re.compile(r"(?:[$€£¥₹]|USD|EUR|GBP|JPY|CHF|INR|CNY|CAD|AUD|SEK|NOK|DKK|PLN|BRL)")
_NUMBER = re.compile(rf"[-+]?(?:\d[\d.,{_SPACES}]*|[.,]\d+)(?:[eE][-+]?\d+)?")
_DOTS = re.compile(r"\d{1,3}(\.\d{3})+")
_COMMAS = re.compile(r"\d{1,3}(,\d{3})+")
_YEAR_FIRST = re.compile(r"\d{4}([-/.])\d{1,2}\1\d{1,2}([T ].*)?")
_YEAR_LAST = re.compile(r"(\d{1,2})([-/.])(\d{1,2})\2(\d{4})(?:[T ](.*))?")


@dataclass(frozen=True)
class Bare:
    """One entry without sign of money or share: its digits, and what stood around them."""

    digits: str
    negative: bool
    percent: bool
    currency: str


def bare(entry: str) -> Bare | None:
    """Take currency, per cent and brackets off a number; None for what is no number."""
    text = entry.replace("\u2212", "-").strip()
    negative = text.startswith("(") and text.endswith(")")
    text = text[1:-1].strip() if negative else text
    percent = text.endswith("%")
    text = text[:-1].rstrip() if percent else text
    symbol = _CURRENCY.search(text)
    if symbol is not None:
        text = (text[: symbol.start()].rstrip() + text[symbol.end() :].lstrip()).strip()
    if not _NUMBER.fullmatch(text) or (value(text, ".") is None and value(text, ",") is None):
        return None
    return Bare(text, negative, percent, "" if symbol is None else symbol.group())


def like_date(entry: str) -> bool:
    """Whether an entry is written like a date."""
    return bool(_YEAR_FIRST.fullmatch(entry) or _YEAR_LAST.fullmatch(entry))


def number(entry: str) -> float | None:
    """Return a number as Python writes it, NaN where missing, None for everything else."""
    entry = entry.strip()
    if entry in MISSING:
        return float("nan")
    if "_" in entry:  # Python reads 1_000 as a number; in a table it is text
        return None
    try:
        return float(entry)
    except ValueError:
        return None


def all_numbers(entries: Sequence[str]) -> bool:
    """Whether all entries are numbers as Python writes them, looked at at once; `number` may find some where not."""
    try:
        return "_" not in "".join(entries) and all(map(math.isfinite, map(float, entries)))
    except ValueError:
        return False


def decimal_marks(digits: Iterable[str]) -> set[str]:
    """What numbers say about their decimal mark: a set of `"."` and `","`, empty where they say nothing."""
    marks: set[str] = set()
    for text in digits:
        plain = re.sub(f"[{_SPACES}]", "", text).lstrip("+-")
        plain = re.split("[eE]", plain)[0]
        points, commas = plain.count("."), plain.count(",")
        if points and commas:
            marks.add(max(".,", key=plain.rfind))
        elif commas > 1 or (points == 1 and not _DOTS.fullmatch(plain)):  # several of one kind stand between thousands
            marks.add(".")
        elif points > 1 or (commas == 1 and not _COMMAS.fullmatch(plain)):
            marks.add(",")
    return marks


def value(text: str, decimal: str) -> float | None:
    """The number that digits with this decimal mark stand for; None where thousands are not three digits each."""
    other = "," if decimal == "." else "."
    sign = -1.0 if text.startswith("-") else 1.0
    mantissa, *power = re.split("[eE]", text.lstrip("+-"))
    whole, *fraction = mantissa.split(decimal)
    if len(fraction) > 1 or (fraction and not (fraction[0].isdigit() or fraction[0] == "")):
        return None
    groups = re.split(f"[{re.escape(other)}{_SPACES}]", whole)
    if len(groups) > 1 and (not 1 <= len(groups[0]) <= 3 or any(len(group) != 3 for group in groups[1:])):
        return None
    joined = "".join(groups) + "." + (fraction[0] if fraction else "")
    try:
        return sign * float(joined + ("e" + power[0] if power else ""))
    except ValueError:
        return None


def read_numbers(
    where: str, entries: Sequence[str], line_of: Callable[[int], int], decimal: str | None, witness: set[str]
) -> tuple[Array, str] | None:
    """Read a column of numbers that Python's own notation does not cover.

    Args:
        where: file and column, for messages.
        entries: as they stand in the file.
        line_of: row -> the number of its line.
        decimal: the decimal mark, where it was given.
        witness: what the rest of the file says about it.

    Returns:
        The values, NaN where missing, and in words how they were read; None for a column of other things.

    Raises:
        DataError: notations that contradict each other, or stay in doubt.
    """
    read = {entry: bare(entry) for entry in set(entries) if entry not in MISSING}
    if not read or None in read.values():
        return None
    cells = [(i, cell) for i, entry in enumerate(entries) if (cell := read.get(entry)) is not None]
    for what, marks in (
        ("per cent", {"%" if cell.percent else "no %" for _, cell in cells}),
        ("currency", {cell.currency or "none" for _, cell in cells}),
    ):
        if len(marks) > 1:
            first, second = sorted(marks)[:2]
            raise DataError(f"{where}: the notation of {what} changes, {first!r} and {second!r}. Make it one.")
    own = decimal_marks(cell.digits for _, cell in cells)
    mark = decimal or _decided(where, own, witness, [cell.digits for _, cell in cells])
    out = np.full(len(entries), np.nan)
    for i, cell in cells:
        amount = value(cell.digits, mark)
        if amount is None:
            raise DataError(
                f"{where}, line {line_of(i)}: {entries[i]!r} is no number with the decimal mark {mark!r}. Correct it, "
                "or pass decimal=."
            )
        out[i] = (-amount if cell.negative else amount) / (100.0 if cell.percent else 1.0)
    sample = cells[0][1]
    said = [f"decimal mark {mark!r}"] if any(c in cell.digits for _, cell in cells for c in ".,") else []
    said += ["per cent, divided by 100"] if sample.percent else []
    said += [f"currency {sample.currency}, left out"] if sample.currency else []
    return out, ", ".join(said) or "thousands apart"


def _decided(where: str, own: set[str], witness: set[str], digits: Sequence[str]) -> str:
    if len(own) == 1:
        return next(iter(own))
    if len(own) > 1:
        raise DataError(f"{where}: commas and points are both decimal marks there. Make it one.")
    if len(witness) == 1:
        return next(iter(witness))
    doubtful = next((text for text in digits if "," in text), None)
    if doubtful is not None:
        raise DataError(
            f"{where}: {doubtful!r} may be {value(doubtful, '.'):g} or {value(doubtful, ','):g}, and nothing in the "
            "file decides. Pass decimal=',' or decimal='.'."
        )
    return "."


def read_dates(where: str, entries: Sequence[str]) -> tuple[Array, str, str] | None:
    """Read a column of dates as days since 1970-01-01, in UTC where they have a time zone; NaN where missing.

    Returns:
        The days, in words how they were read, and their unit; None for a column of other things.

    Raises:
        DataError: dates whose day and month cannot be distinguished, or with time zones in some rows only.
    """
    known = [(i, entry) for i, entry in enumerate(entries) if entry not in MISSING]
    if not known:
        return None
    order = "year first"
    last = [_YEAR_LAST.fullmatch(entry) for _, entry in known]
    if all(last):
        order = _day_or_month(where, [m for m in last if m is not None])
    elif not all(_YEAR_FIRST.fullmatch(entry) for _, entry in known):
        return None
    moments = []
    for _, entry in known:
        try:
            moments.append(datetime.datetime.fromisoformat(_iso(entry, order)))
        except ValueError:
            return None
    zoned = {moment.tzinfo is not None for moment in moments}
    if len(zoned) > 1:
        raise DataError(f"{where}: some times have a time zone and some have none. Make it one.")
    start = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC if zoned == {True} else None)
    out = np.full(len(entries), np.nan)
    for (i, _), moment in zip(known, moments, strict=True):
        out[i] = (moment - start) / datetime.timedelta(days=1)
    unit = unit_of("UTC" if zoned == {True} else "")
    return out, f"dates, {order}: {unit}", unit


def _day_or_month(where: str, matches: Sequence[re.Match[str]]) -> str:
    first, second = (max(int(match.group(g)) for match in matches) for g in (1, 3))
    point = any(match.group(2) == "." for match in matches)  # 31.01.2024 puts the day first everywhere
    if first > 12 and second > 12:
        return "year last"  # no calendar's; fromisoformat will refuse one
    if first > 12 or point:
        return "day first"
    if second > 12:
        return "month first"
    raise DataError(
        f"{where}: {matches[0].group()!r} may be day/month or month/day, and no row decides. Write dates as 2024-01-31."
    )


def _iso(entry: str, order: str) -> str:
    match = _YEAR_LAST.fullmatch(entry)
    if match is None:
        date, *time = re.split("[T ]", entry, maxsplit=1)
        year, month, day = re.split("[-/.]", date)
    else:
        a, b, year = match.group(1), match.group(3), match.group(4)
        time = [match.group(5)] if match.group(5) else []
        day, month = (a, b) if order == "day first" else (b, a)
    return f"{year}-{int(month):02d}-{int(day):02d}" + (f"T{time[0].strip()}" if time else "")
