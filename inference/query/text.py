"""Evidence as a person would write it: statements about named columns, or an object of columns.

    age >= 40                          a bound             label = 3, label = cat      a known category
    25 <= age <= 30, age in [25, 30]   an interval         label in {3, 8}             one of several
    height = 1.8                       known               label != 3, not in {..}     any but these
    bmi ~ 27 +- 2                      soft                2*x - y >= 0.3              a half-space
    height = missing                   to be filled in     2*x - y = 0.3               a sum
    day >= 2024-01-31                  a date              x[7] <= 1                   the entry number 7 of site x

Statements stand in a list, or in one text separated by `;`, line ends, or `and`. A JSON object names columns instead,
with statements under `where`:

    {"height": 1.8, "weight": [60, 80], "age": {"near": 40, "sd": 5}, "label": ["cat", "dog"], "where": ["2*x >= y"]}

Names need quotes only where they could mean something else: a column called `2*x` beside one called `x`, or one called
2020 goes between backquotes. Only linear expressions mean anything; see `inference.query.statements`.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from phlogiston.datasets.containers import frame_columns, is_frame, plain
from phlogiston.datasets.moments import is_date, rebased, unit_of, wall_clock
from phlogiston.errors import DataError, EvidenceError
from phlogiston.inference.query.book import Book, Columns, Grids, finite
from phlogiston.inference.query.evidence import FORMAT, Evidence, as_evidence, from_json, unknown_message
from phlogiston.inference.query.kinds.base import Statement
from phlogiston.inference.query.kinds.known import Known
from phlogiston.inference.query.statements import days, read_statements


def parse(
    data: str | Sequence[str] | Mapping[str, Any],
    columns: Columns,
    categories: Columns | None = None,
    dates: Collection[str] = (),
    grids: Grids | None = None,
) -> dict[str, tuple[Evidence, ...]]:
    """Read statements, an object of columns, or saved evidence.

    Args:
        data: see the module's description.
        columns: site -> names of its entries, in order.
        categories: categorical site -> names of its values, in order.
        dates: names of columns that hold days since 1970-01-01 (a mapping tells their time zones); they may be
            compared with dates.
        grids: name of a column whose values lie on a grid -> one of them, and the step: `>` then means from the next.

    Returns:
        Site -> evidence, ready for `query`.

    Raises:
        EvidenceError: what cannot be read, with the statement, what is wrong and, for names, the nearest valid one.

    Example:
        >>> found = parse(["0.1 <= u <= 0.4", "2*u - v >= 0.3"], {"x": ["u", "v"]})
        >>> [evidence.kind for evidence in found["x"]]
        ['within', 'halfspace']
    """
    book = Book(columns, categories or {}, dates, grids)
    if isinstance(data, Mapping):
        if data.get("format") == FORMAT:
            return from_json(data)
        _read_object(book, data)
    elif isinstance(data, str):
        read_statements(book, data)
    elif isinstance(data, Sequence):
        for statement in data:
            if not isinstance(statement, str):
                raise EvidenceError(f'a statement must be text like "x >= 0.3"; got {statement!r}')
            read_statements(book, statement)
    else:
        raise EvidenceError(f"evidence must be statements or an object; got {type(data).__name__}")
    return book.evidence()


def question(
    given: Sequence[Any],
    columns: Columns,
    categories: Columns | None = None,
    dates: Collection[str] = (),
    grids: Grids | None = None,
) -> dict[str, Any]:
    """Read a question as Python puts it: statements, and mappings of sites or columns, any number of them.

    A mapping's keys are sites, as in `evidence.normalise`, or columns. Of a column may be said what a JSON object says
    of it, `Known`, `Near` and `Within` with single numbers, or an array with one value per row of evidence.

    Args:
        given: texts, lists of texts, mappings, data frames (one question per row; gaps are unknown); None says nothing.
        columns, categories, dates, grids: see `parse`.

    Returns:
        Site -> evidence, ready for `query`.

    Raises:
        EvidenceError: what cannot be read.
    """
    book = Book(columns, categories or {}, dates, grids)
    direct: dict[str, list[Any]] = {}
    rows: dict[str, Any] = {}
    for item in given:
        if isinstance(item, Mapping) and item.get("format") == FORMAT:
            item = from_json(item)
        if is_frame(item):
            rows |= frame_columns(item)
        elif isinstance(item, Mapping):
            for name, value in item.items():
                if name == "where" and not book.knows("where"):
                    _read_words(book, value)
                elif _about_site(book, name, value):
                    direct.setdefault(name, []).extend(as_evidence(name, value))
                elif _is_column(value):
                    rows[name] = value
                else:
                    _within(name, _read_member, book, name, value)
        elif item is not None:
            _read_words(book, item)
    for site, evidence in _rows(book, rows).items():
        direct.setdefault(site, []).append(evidence)
    for site, told in book.evidence().items():
        direct.setdefault(site, []).extend(told)
    return {site: tuple(evidence) for site, evidence in direct.items()}


def _is_column(value: Any) -> bool:
    """Whether a value is an array with one entry per row; a pandas Timestamp, which has `to_numpy`, is none."""
    if isinstance(value, np.ndarray | Tensor):
        return bool(value.ndim)
    return hasattr(value, "to_numpy") and not isinstance(value, datetime.date | datetime.timedelta)


def _read_words(book: Book, words: Any) -> None:
    for text in [words] if isinstance(words, str) else words if isinstance(words, list | tuple) else [words]:
        if not isinstance(text, str):
            raise EvidenceError(
                f'evidence is text like "x >= 0.3", or a mapping of names to evidence; got {type(text).__name__}'
            )
        read_statements(book, text)


def _has_axes(value: Any) -> bool:
    """Say whether a value is a list or an array, also one whose entries differ in length."""
    try:
        return bool(np.ndim(value))
    except ValueError:
        return True


def _about_site(book: Book, name: str, value: Any) -> bool:
    """Whether what is said under a name is evidence about a whole site."""
    if not book.knows(book.find(name)):
        return True  # a site that has no named entries, or none at all: `query` knows them all
    if name in book.categories:
        plain = isinstance(value, str | int | float | bool | np.generic | set | frozenset | None)
        listed = isinstance(value, list | tuple) and not any(isinstance(v, Evidence) for v in value)
        words = not isinstance(value, Evidence | list | tuple) and np.asarray(value).dtype.kind in "OU"
        return not plain and not listed and not words
    if name not in book.columns:
        return False
    size = len(book.columns[name])
    if name not in book.where:
        return not (isinstance(value, list | tuple) and len(value) == size and any(v is None for v in value))
    if size == 1:
        pair = isinstance(value, list | tuple) and len(value) == 2 and not any(map(_has_axes, value))
        return not (pair or isinstance(value, Mapping | str | None))
    if _is_evidence(value):
        several = value if isinstance(value, list | tuple) else [value]
        return max((array.ndim for piece in several for array in piece.arrays().values()), default=0) > 0
    if isinstance(value, list) and len(value) == size == 2:
        raise EvidenceError(
            f"{name!r} is a site and a column: for the site write Known({value}), for the column Within(...)"
        )
    return isinstance(value, list | tuple | np.ndarray | Tensor) and np.shape(value)[-1:] == (size,)


def _is_evidence(value: Any) -> bool:
    """An object of evidence, or several in a list."""
    if isinstance(value, list | tuple):
        return len(value) > 0 and all(isinstance(piece, Evidence) for piece in value)
    return isinstance(value, Evidence)


def _rows(book: Book, given: Mapping[str, Any]) -> dict[str, Evidence]:
    """Evidence of columns that are given row by row."""
    found: dict[str, tuple[Tensor, Tensor]] = {}
    labels: dict[str, Evidence] = {}
    for name, value in given.items():
        values = _column(book, name, value)
        if values.ndim != 1:
            raise EvidenceError(f"{name!r}: expected one value per row of evidence; got shape {values.shape}")
        if name in book.categories:
            codes = [-1 if _absent(v) else book.category(name, v) for v in values.tolist()]
            labels[name] = Known(codes, [code >= 0 for code in codes])
            continue
        site, entry = book.entry(name)
        size = len(book.columns[site])
        try:
            numbers = torch.as_tensor([math.nan if _absent(v) else float(v) for v in values.tolist()]).double()
        except (TypeError, ValueError) as error:
            raise EvidenceError(f"{name!r} holds something that is no number: {error}") from error
        x, mask = found.setdefault(
            site, (torch.zeros(len(values), size).double(), torch.zeros(len(values), size, dtype=torch.bool))
        )
        if len(x) != len(values):
            raise EvidenceError(f"{name!r} has {len(values)} rows of evidence, the columns before it {len(x)}")
        mask[:, entry] = ~numbers.isnan()
        x[:, entry] = numbers.nan_to_num()
    return {**{site: Known(x, mask) for site, (x, mask) in found.items()}, **labels}


def _column(book: Book, name: str, value: Any) -> Any:
    """A column of evidence as an array; dates as days, by the wall clock of the column's time zone."""
    values = np.asarray(value.to_numpy() if hasattr(value, "to_numpy") else value)
    first = next((v for v in values.ravel().tolist() if not _absent(v)), None) if values.dtype.kind in "OUT" else None
    if isinstance(first, str) and name in book.dates:
        return np.array([math.nan if _absent(v) else _number(v, zone="") for v in values.tolist()])
    if values.dtype.kind not in "mM" and not isinstance(first, datetime.date | datetime.timedelta):
        return values
    try:
        found = plain(name, value, "the evidence")
        if is_date(found.unit) and name not in book.dates:
            raise EvidenceError(f"{name!r} holds numbers, no dates")
        return rebased(found.numbers(name, "the evidence"), found.unit, unit_of(book.dates.get(name, "")))
    except DataError as error:
        raise EvidenceError(str(error)) from error


def _absent(value: Any) -> bool:
    """None, NaN and their like in data frames."""
    try:
        return value is None or bool(value != value)
    except (TypeError, ValueError):
        return True


# -- objects --------------------------------------------------------------------------------------------------------


def _read_object(book: Book, data: Mapping[str, Any]) -> None:
    for name, value in data.items():
        if name == "where" and name not in book.names():
            _read_words(book, value)
        else:
            _within(name, _read_member, book, name, value)


def _within(name: str, read: Any, *arguments: Any) -> None:
    try:
        read(*arguments)
    except EvidenceError as error:
        raise EvidenceError(f"in {name!r}: {error}") from error


def _read_member(book: Book, name: str, value: Any) -> None:
    name = book.find(name)
    if isinstance(value, np.generic):
        value = value.item()
    if name in book.categories:
        _read_category(book, name, value)
        return
    if name in book.columns and name not in book.where and isinstance(value, list | tuple):
        _read_row(book, name, value)
        return
    at, zone = book.entry(name), book.dates.get(name)
    if _absent(value):
        book.forget(name)
    elif isinstance(value, bool):
        raise EvidenceError(f"expected a number, [lower, upper] or an object; got {value!r}")
    elif isinstance(value, int | float | datetime.date | datetime.timedelta) or (
        isinstance(value, str) and zone is not None
    ):
        book.fix(name, _number(value, zone=zone))
    elif _is_evidence(value):
        site, entry = at
        for piece in value if isinstance(value, list | tuple) else [value]:
            book.add(site, *piece.about_entry(site, entry))
    elif isinstance(value, list | tuple) and len(value) == 2:
        low, high = (_number(v, default, zone) for v, default in zip(value, (-math.inf, math.inf), strict=True))
        book.bound(name, low, high)
    elif isinstance(value, Mapping):
        _read_details(book, name, value)
    elif isinstance(value, Tensor) and value.ndim == 0:
        book.fix(name, _number(value.item()))
    else:
        raise EvidenceError(f"expected a number, [lower, upper] or an object; got {value!r}")


def _read_category(book: Book, name: str, value: Any) -> None:
    values = list(value) if isinstance(value, list | tuple | set | frozenset) else [value]
    if len(values) == 1 and _absent(values[0]):
        book.forget(name)
    else:
        book.allow(name, (book.category(name, v) for v in values))


def _read_row(book: Book, site: str, value: Sequence[Any]) -> None:
    if len(value) != len(book.columns[site]):
        raise EvidenceError(f"{len(value)} values for {len(book.columns[site])} columns; write null where unknown")
    zones = [book.dates.get(name) for name in book.columns[site]]
    told = [
        Statement(site, (), "=", {i: 1.0}, -_number(v, zone=zones[i])) for i, v in enumerate(value) if v is not None
    ]
    book.add(site, *told)


def _read_details(book: Book, name: str, value: Mapping[str, Any]) -> None:
    allowed = ("known", "near", "sd", "min", "max")
    for key in value:
        if key not in allowed:
            raise EvidenceError(unknown_message("key", key, allowed))
    zone = book.dates.get(name)
    if "known" in value:
        book.fix(name, _number(value["known"], zone=zone))
    if ("near" in value) != ("sd" in value):
        raise EvidenceError("soft evidence needs both near and sd")
    if "near" in value:
        sd = _number(value["sd"])
        if sd <= 0:
            raise EvidenceError(f"sd must be positive; got {sd:g}")
        book.compare(book.told(name, 1.0, -_number(value["near"], zone=zone)), "~", sd)
    if "min" in value or "max" in value:
        low, high = _number(value.get("min"), -math.inf, zone), _number(value.get("max"), math.inf, zone)
        book.bound(name, low, high)


def _number(value: Any, default: float | None = None, zone: str | None = None) -> float:
    """A number, or a date as days by the wall clock of a time zone; without a zone ("" is none) dates are refused."""
    if value is None and default is not None:
        return default
    if isinstance(value, datetime.timedelta):
        return finite(value / datetime.timedelta(days=1))
    if zone is None and isinstance(value, datetime.date):
        raise EvidenceError(f"the column holds numbers, no dates; got {value!r}")
    if zone is not None and isinstance(value, str):
        return days(value.strip())
    if isinstance(value, datetime.date):
        try:
            moment = np.datetime64(
                wall_clock(value, zone or "") if isinstance(value, datetime.datetime) else value, "us"
            )
        except DataError as error:
            raise EvidenceError(str(error)) from error
        return float((moment - np.datetime64(0, "us")) / np.timedelta64(1, "D"))
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise EvidenceError(f"expected a finite number; got {value!r}")
    return finite(value)
