"""What has been said about a system's columns so far: statement by statement in, evidence by site out."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from phlogiston.errors import EvidenceError
from phlogiston.inference.query.evidence import KINDS, Evidence, unknown_message
from phlogiston.inference.query.kinds.base import Statement

Columns = Mapping[str, Sequence[str]]
Grids = Mapping[str, tuple[float, float]]


ON_GRID = 1e-6
"""Share of a step within which a number counts as one of a grid."""


class Linear:
    """A linear expression: coefficients by entry (site, number), a constant, and whether a date stood in it."""

    def __init__(self, terms: Mapping[tuple[str, int], float], constant: float, dated: bool = False) -> None:
        self.terms = {k: v for k, v in terms.items() if v != 0}
        self.constant = constant
        self.dated = dated

    def plus(self, other: Linear, factor: float = 1.0) -> Linear:
        """This and another, the other times a factor."""
        terms = dict(self.terms)
        for k, v in other.terms.items():
            terms[k] = terms.get(k, 0.0) + factor * v
        return Linear(terms, self.constant + factor * other.constant, self.dated or other.dated)

    def times(self, factor: float) -> Linear:
        """This times a number."""
        return Linear({k: v * factor for k, v in self.terms.items()}, self.constant * factor, self.dated)


class Book:
    """Names of columns and categories, and what has been said about them.

    Args:
        columns: site -> names of its entries, in order.
        categories: categorical site -> names of its values, in order.
        dates: names of columns that hold days since 1970-01-01, which may be compared with dates; with their time zones
            ("" for none), if it is a mapping.
        grids: name of a column whose values lie on a grid -> one of them, and the step.
    """

    def __init__(
        self, columns: Columns, categories: Columns, dates: Collection[str] = (), grids: Grids | None = None
    ) -> None:
        self.columns = {site: [str(n) for n in names] for site, names in columns.items()}
        self.categories = {site: [str(n) for n in names] for site, names in categories.items()}
        self.dates: dict[str, str] = dict(dates) if isinstance(dates, Mapping) else dict.fromkeys(dates, "")
        self.grids = dict(grids or {})
        self.where: dict[str, tuple[str, int]] = {}
        for site, names in self.columns.items():
            for i, name in enumerate(names):
                self.where.setdefault(name, (site, i))
        self.said: dict[str, dict[type[Evidence], list[Statement]]] = {}
        self.missing: dict[str, set[int]] = {}

    def names(self) -> list[str]:
        """Every name a statement may use, sites apart."""
        return [*self.where, *self.categories]

    def knows(self, name: str) -> bool:
        """Whether a name is that of a column, a categorical column or a site."""
        return name in self.where or name in self.categories or name in self.columns

    def find(self, name: str) -> str:
        """The name as the data spell it, where only the Unicode form of its letters differs."""
        if not isinstance(name, str):
            raise EvidenceError(f"evidence for {name!r}; sites and columns go by their names")
        if self.knows(name):
            return name
        plain = unicodedata.normalize("NFC", name)
        near = [n for n in (*self.names(), *self.columns) if unicodedata.normalize("NFC", n) == plain]
        return near[0] if len(near) == 1 else name

    def entry(self, name: str) -> tuple[str, int]:
        """Site and number of a column.

        Raises:
            EvidenceError: no column has that name, or it is that of several.
        """
        name = self.find(name)
        if name in self.where:
            return self.where[name]
        if name in self.columns and len(self.columns[name]) == 1:
            return name, 0
        if name in self.columns:
            raise EvidenceError(f"{name!r} has {len(self.columns[name])} entries; name one of them, or write {name}[0]")
        raise EvidenceError(unknown_message("column", name, self.names()))

    def category(self, site: str, value: Any) -> int:
        """The number of a category, given by its label; labels that are words may be counted from 0 instead."""
        labels = self.categories[site]
        if isinstance(value, bool) or type(value).__name__ == "bool_":
            value = str(bool(value))
        written = f"{value:.15g}" if isinstance(value, float) else str(value)
        for label in (str(value), written, written.title() if {*labels} <= {"True", "False"} else written):
            if label in labels:
                return labels.index(label)
        number = _whole(value)
        if number is not None and 0 <= number < len(labels) and not all(_is_number(label) for label in labels):
            return number
        raise EvidenceError(unknown_message(f"value of {site!r}", value, labels))

    def add(self, site: str, *statements: Statement) -> None:
        """Note statements about one site; refuses those that contradict what was said before."""
        names = self.columns.get(site) or self.categories[site]
        kinds = set()
        for statement in statements:
            kind = next((kind for kind in KINDS.values() if kind.claims(statement)), None)
            if kind is None:
                raise EvidenceError("soft evidence is about exactly one column; equalities and inequalities about any")
            self.said.setdefault(site, {}).setdefault(kind, []).append(replace(statement, names=names))
            kinds.add(kind)
            entries = {-1} if statement.relation == "in" else set(statement.terms)
            if len(entries) == 1:
                self._check_missing(site, entries)
        for kind in kinds:
            kind.from_statements(self.said[site][kind])

    def compare(self, form: Linear, relation: Literal["=", ">", ">=", "~"], sd: float = 0.0) -> None:
        """Note that a linear expression is zero, positive, not negative, or zero up to noise."""
        if relation == ">":
            form, relation = self._beyond(form), ">="
        if not form.terms:
            raise EvidenceError("no column appears on either side")
        sites = sorted({site for site, _ in form.terms})
        if len(sites) > 1:
            raise EvidenceError(f"a statement cannot combine columns of different sites ({', '.join(sites)})")
        self._check_dates(form)
        if relation == "=":
            self._on_grid(form)
        terms = {i: v for (_, i), v in form.terms.items()}
        self.add(sites[0], Statement(sites[0], (), relation, terms, form.constant, sd))

    def _check_dates(self, form: Linear) -> None:
        """Refuse what compares dates with other than dates, or spans between dates with other than numbers of days.

        Otherwise `day >= 2024-05` would be about the number 2019, and true of every day since 1975.
        """
        slopes = {self.columns[site][i]: slope for (site, i), slope in form.terms.items()}
        dates = [name for name in slopes if name in self.dates]
        for name in slopes:
            if form.dated and name not in dates:
                raise EvidenceError(f"{name!r} holds numbers, no dates")
        moves = abs(sum(slopes[name] for name in dates)) > 1e-9 * sum(abs(slopes[name]) for name in dates)
        if moves and not form.dated:
            raise EvidenceError(
                f"{dates[0]!r} holds dates: compare it with one, written 2024-05-01 or 2024-05-01 18:30"
            )
        if dates and form.dated and not moves:
            raise EvidenceError(f"{' and '.join(map(repr, dates))} are dates a number of days apart, not a date")

    def _cell(self, form: Linear) -> float | None:
        """Where on its grid the value lies at which an expression of one column is zero, in steps; None off a grid."""
        (((site, i), slope),) = form.terms.items()
        centre, step = self.grids.get(self.columns[site][i], (0.0, 0.0))
        return (-form.constant / slope - centre) / step if step else None

    def _on_grid(self, form: Linear) -> None:
        """Refuse a value that a column of numbers on a grid, such as counts, never has."""
        cell = self._cell(form) if len(form.terms) == 1 else None
        if cell is None or abs(cell - round(cell)) <= ON_GRID:
            return
        (((site, i), slope),) = form.terms.items()
        name = self.columns[site][i]
        centre, step = self.grids[name]
        low, high = (centre + step * edge for edge in (math.floor(cell), math.ceil(cell)))
        raise EvidenceError(
            f"{name!r} holds values a step of {step:g} apart, and never {-form.constant / slope:g}; "
            f"ask for {low:g}, for {high:g}, or for {low:g} <= {name} <= {high:g}"
        )

    def _beyond(self, form: Linear) -> Linear:
        """An expression that is not negative where another is positive: of numbers on a grid, from the next one on.

        Of other columns zero has no probability, and nothing needs to be done.
        """
        names = [self.columns[site][i] for site, i in form.terms]
        if not names or any(name not in self.grids for name in names):
            return form
        if len(names) > 1:
            raise EvidenceError(
                f"{' and '.join(map(repr, names))} hold numbers on a grid: write >= or <= with the first value meant"
            )
        cell = self._cell(form)
        if cell is None or abs(cell - round(cell)) > ON_GRID:
            return form
        (slope,), (_, step) = form.terms.values(), self.grids[names[0]]
        return Linear(form.terms, form.constant - 0.5 * step * abs(slope), form.dated)

    def allow(self, site: str, values: Iterable[int]) -> None:
        """Note that a categorical site has one of some values."""
        self.add(site, Statement(site, (), "in", values=frozenset(values)))

    def forget(self, name: str) -> None:
        """Note that nothing is known of a column: it is to be filled in."""
        site, entry = (name, -1) if name in self.categories else self.entry(name)
        self.missing.setdefault(site, set()).add(entry)
        for statements in self.said.get(site, {}).values():
            for statement in statements:
                about = {-1} if statement.relation == "in" else set(statement.terms)
                if about == {entry}:
                    self._check_missing(site, about)

    def _check_missing(self, site: str, entries: set[int]) -> None:
        both = entries & self.missing.get(site, set())
        if both:
            (entry,) = both
            name = site if entry < 0 else self.columns[site][entry]
            raise EvidenceError(f"{name!r} is said to be missing, and something else")

    def told(self, name: str, slope: float, constant: float) -> Linear:
        """A column times a slope, and a constant; beside a column of dates it is one, given in days."""
        site, i = self.entry(name)
        return Linear({(site, i): slope}, constant, self.columns[site][i] in self.dates)

    def fix(self, name: str, value: float) -> None:
        """Note the value of a column."""
        self.compare(self.told(name, 1.0, -value), "=")

    def bound(self, name: str, low: float, high: float) -> None:
        """Note limits of a column; infinite ones say nothing."""
        if low > high:
            raise EvidenceError(f"the interval [{low:g}, {high:g}] is empty")
        if low > -math.inf:
            self.compare(self.told(name, 1.0, -low), ">=")
        if high < math.inf:
            self.compare(self.told(name, -1.0, high), ">=")

    def evidence(self) -> dict[str, tuple[Evidence, ...]]:
        """Everything said, as evidence by site."""
        sites = [site for site in (*self.columns, *self.categories) if site in self.said]
        return {
            site: tuple(
                evidence
                for kind in KINDS.values()
                if kind in self.said[site]
                for evidence in kind.from_statements(self.said[site][kind])
            )
            for site in sites
        }


def finite(value: int | float) -> float:
    """A number as a float.

    Raises:
        EvidenceError: it is infinite or NaN.
    """
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise EvidenceError("numbers must be finite")
    return number


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _whole(value: Any) -> int | None:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return int(number) if number.is_integer() else None
