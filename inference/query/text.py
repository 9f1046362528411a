"""Evidence as a person would write it: statements about named columns, read by a small parser of our own.

    x = 2.5                    known              label = 3, label = cat      a known category
    x ~ 2.5 +- 0.1             soft               label in {3, 8}             one of several
    0.1 <= x <= 0.4            a box              label != 3, not in {..}     any but these
    2*x - y >= 0.3             a half-space       x[7] <= 1                   the entry number 7 of site x
    2*x - y = 0.3              a sum

Statements stand in a list, or in one text separated by `;` or line ends. A JSON object names columns instead, with
statements under `where`:

    {"height": 1.8, "weight": [60, 80], "age": {"near": 40, "sd": 5}, "label": ["cat", "dog"], "where": ["2*x >= y"]}

Names that are no Python identifiers go between backquotes (sepal length >= 2, with backquotes around the two words).
Only linear expressions mean anything; they are read from the syntax tree and never executed.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from phlogiston.errors import EvidenceError
from phlogiston.inference.query.evidence import FORMAT, KINDS, Evidence, from_json, unknown_message
from phlogiston.inference.query.kinds.base import Statement

Columns = Mapping[str, Sequence[str]]
_FLIP: dict[type, type] = {ast.GtE: ast.LtE, ast.Gt: ast.LtE, ast.LtE: ast.GtE, ast.Lt: ast.GtE}


def parse(
    data: str | Sequence[str] | Mapping[str, Any], columns: Columns, categories: Columns | None = None
) -> dict[str, tuple[Evidence, ...]]:
    """Read statements, an object of columns, or saved evidence.

    Args:
        data: see the module's description.
        columns: site -> names of its entries, in order.
        categories: categorical site -> names of its values, in order.

    Returns:
        Site -> pieces, ready for `query`.

    Raises:
        EvidenceError: what cannot be read, with the statement, what is wrong and, for names, the nearest valid one.

    Example:
        >>> found = parse(["0.1 <= u <= 0.4", "2*u - v >= 0.3"], {"x": ["u", "v"]})
        >>> [piece.kind for piece in found["x"]]
        ['within', 'halfspace']
    """
    book = _Book(columns, categories or {})
    if isinstance(data, Mapping):
        if data.get("format") == FORMAT:
            return from_json(data)
        _read_object(book, data)
    elif isinstance(data, str):
        _read_statements(book, re.split(r"[;\n]", data))
    elif isinstance(data, Sequence):
        _read_statements(book, data)
    else:
        raise EvidenceError(f"evidence must be statements or an object; got {type(data).__name__}")
    return book.pieces()


class _Book:
    """What has been said so far, entry by entry."""

    def __init__(self, columns: Columns, categories: Columns) -> None:
        self.columns = {site: [str(n) for n in names] for site, names in columns.items()}
        self.categories = {site: [str(n) for n in names] for site, names in categories.items()}
        self.where: dict[str, tuple[str, int]] = {}
        for site, names in self.columns.items():
            for i, name in enumerate(names):
                self.where.setdefault(name, (site, i))
        self.said: dict[str, dict[type[Evidence], list[Statement]]] = {}

    def names(self) -> list[str]:
        return [*self.where, *self.categories]

    def entry(self, name: str) -> tuple[str, int]:
        if name in self.where:
            return self.where[name]
        if name in self.columns and len(self.columns[name]) == 1:
            return name, 0
        if name in self.columns:
            raise EvidenceError(f"{name!r} has {len(self.columns[name])} entries; name one of them, or write {name}[0]")
        raise EvidenceError(unknown_message("column", name, self.names()))

    def category(self, site: str, value: Any) -> int:
        labels = self.categories[site]
        if isinstance(value, str) and value in labels:
            return labels.index(value)
        if str(value) in labels and not isinstance(value, bool):  # "3" and 3 name the label "3"
            return labels.index(str(value))
        if isinstance(value, int | float) and float(value).is_integer() and 0 <= value < len(labels):
            return int(value)
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
        for kind in kinds:
            kind.from_statements(self.said[site][kind])

    def compare(self, form: _Linear, relation: Literal["=", ">=", "~"], sd: float = 0.0) -> None:
        """Note that a linear expression is zero, not negative, or zero up to noise."""
        if not form.terms:
            raise EvidenceError("no column appears on either side")
        sites = sorted({site for site, _ in form.terms})
        if len(sites) > 1:
            raise EvidenceError(f"a statement cannot combine columns of different sites ({', '.join(sites)})")
        terms = {i: v for (_, i), v in form.terms.items()}
        self.add(sites[0], Statement(sites[0], (), relation, terms, form.constant, sd))

    def allow(self, site: str, values: Iterable[int]) -> None:
        """Note that a categorical site has one of some values."""
        self.add(site, Statement(site, (), "in", values=frozenset(values)))

    def pieces(self) -> dict[str, tuple[Evidence, ...]]:
        """Everything said, as evidence."""
        sites = [site for site in (*self.columns, *self.categories) if site in self.said]
        return {
            site: tuple(
                piece
                for kind in KINDS.values()
                if kind in self.said[site]
                for piece in kind.from_statements(self.said[site][kind])
            )
            for site in sites
        }


# -- statements -----------------------------------------------------------------------------------------------------


def _read_statements(book: _Book, statements: Sequence[Any]) -> None:
    for statement in statements:
        if not isinstance(statement, str):
            raise EvidenceError(f'a statement must be text like "x >= 0.3"; got {statement!r}')
        if statement.strip():
            try:
                _Statement(book, statement).read()
            except EvidenceError as error:
                raise EvidenceError(f"in {statement.strip()!r}: {error}") from error


class _Linear:
    """A linear expression: coefficients by entry, and a constant."""

    def __init__(self, terms: Mapping[tuple[str, int], float], constant: float) -> None:
        self.terms = {k: v for k, v in terms.items() if v != 0}
        self.constant = constant

    def plus(self, other: _Linear, factor: float = 1.0) -> _Linear:
        terms = dict(self.terms)
        for k, v in other.terms.items():
            terms[k] = terms.get(k, 0.0) + factor * v
        return _Linear(terms, self.constant + factor * other.constant)

    def times(self, factor: float) -> _Linear:
        return _Linear({k: v * factor for k, v in self.terms.items()}, self.constant * factor)


class _Statement:
    def __init__(self, book: _Book, text: str) -> None:
        self.book = book
        self.quoted: dict[str, str] = {}

        def hide(match: re.Match[str]) -> str:
            key = f"_quoted{len(self.quoted)}_"
            self.quoted[key] = match.group(1)
            return key

        text = re.sub(r"`([^`]*)`", hide, text.strip())
        text = text.replace("≥", ">=").replace("≤", "<=").replace("≠", "!=").replace("±", "+-").replace("−", "-")
        text = re.sub(r"\+/-", "+-", text)
        self.text = re.sub(r"(?<![<>=!])=(?!=)", "==", text)

    def read(self) -> None:
        if "~" in self.text:
            self._read_soft()
            return
        tree = self._tree(self.text)
        if not isinstance(tree, ast.Compare):
            raise EvidenceError("expected a comparison such as x = 1, x >= 0.3, 0 <= x <= 1 or label in {3, 8}")
        parts = [tree.left, *tree.comparators]
        for left, op, right in zip(parts, tree.ops, parts[1:], strict=False):
            self._compare(left, op, right)

    def _tree(self, text: str) -> ast.expr:
        try:
            return ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
            raise EvidenceError("this cannot be read; write comparisons of linear expressions") from error

    def _read_soft(self) -> None:
        left, _, right = self.text.partition("~")
        mean, found, sd = right.partition("+-")
        if not found:
            raise EvidenceError("soft evidence is written  name ~ mean +- sd")
        form = self._linear(self._tree(left))
        centre, width = self._linear(self._tree(mean)), self._linear(self._tree(sd))
        if centre.terms or width.terms:
            raise EvidenceError("mean and sd must be numbers")
        if width.constant <= 0:
            raise EvidenceError(f"the standard deviation must be positive; got {width.constant:g}")
        self.book.compare(form.plus(centre, -1.0), "~", width.constant)

    def _categorical(self, node: ast.expr) -> str | None:
        name = self._name(node)
        return name if name in self.book.categories else None

    def _name(self, node: ast.expr) -> str | None:
        if isinstance(node, ast.Name):
            return self.quoted.get(node.id, node.id)
        return None

    def _compare(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> None:
        site = self._categorical(left)
        if site is None and self._categorical(right) and not isinstance(op, ast.In | ast.NotIn):
            site, right = self._categorical(right), left
        if site is not None:
            self._restrict(site, op, right)
        elif isinstance(op, ast.Eq):
            self.book.compare(self._linear(left).plus(self._linear(right), -1.0), "=")
        elif type(op) in _FLIP:
            above = isinstance(op, ast.GtE | ast.Gt)
            form = self._linear(left).plus(self._linear(right), -1.0).times(1.0 if above else -1.0)
            self.book.compare(form, ">=")
        else:
            raise EvidenceError("only =, <=, >= (and, for categories, in, not in, !=) mean anything here")

    def _restrict(self, site: str, op: ast.cmpop, right: ast.expr) -> None:
        everything = set(range(len(self.book.categories[site])))
        if isinstance(op, ast.In | ast.NotIn):
            if not isinstance(right, ast.Set | ast.List | ast.Tuple):
                raise EvidenceError(f"write the values in braces: {site} in {{3, 8}}")
            values = {self.book.category(site, self._value(v)) for v in right.elts}
        elif isinstance(op, ast.Eq | ast.NotEq):
            values = {self.book.category(site, self._value(right))}
        else:
            raise EvidenceError(f"{site!r} is categorical: use =, != or in")
        self.book.allow(site, everything - values if isinstance(op, ast.NotIn | ast.NotEq) else values)

    def _value(self, node: ast.expr) -> Any:
        name = self._name(node)
        if name is not None:
            return name
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float | str):
            return node.value
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -self._linear(node.operand).constant
        raise EvidenceError("a category is a number or a name")

    def _linear(self, node: ast.expr) -> _Linear:
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
            return _Linear({}, _finite(node.value))
        name = self._name(node)
        if name is not None:
            if name in self.book.categories:
                raise EvidenceError(f"{name!r} is categorical: use =, != or in")
            return _Linear({self.book.entry(name): 1.0}, 0.0)
        if isinstance(node, ast.Subscript):
            return _Linear({self._entry(node): 1.0}, 0.0)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
            return self._linear(node.operand).times(-1.0 if isinstance(node.op, ast.USub) else 1.0)
        if isinstance(node, ast.BinOp):
            return self._binary(node)
        raise EvidenceError("only numbers, columns, + - * / and brackets may appear")

    def _binary(self, node: ast.BinOp) -> _Linear:
        left, right = self._linear(node.left), self._linear(node.right)
        if isinstance(node.op, ast.Add | ast.Sub):
            return left.plus(right, 1.0 if isinstance(node.op, ast.Add) else -1.0)
        if isinstance(node.op, ast.Mult) and not (left.terms and right.terms):
            return left.times(right.constant) if left.terms else right.times(left.constant)
        if isinstance(node.op, ast.Div) and not right.terms:
            if right.constant == 0:
                raise EvidenceError("division by zero")
            return left.times(1 / right.constant)
        raise EvidenceError("the expression is not linear in the columns")

    def _entry(self, node: ast.Subscript) -> tuple[str, int]:
        site, index = self._name(node.value), node.slice
        if site not in self.book.columns:
            raise EvidenceError(unknown_message("site", site, self.book.columns))
        if not (isinstance(index, ast.Constant) and isinstance(index.value, int)):
            raise EvidenceError(f"write the entry's number: {site}[0]")
        if not 0 <= index.value < len(self.book.columns[site]):
            raise EvidenceError(f"{site} has entries 0 to {len(self.book.columns[site]) - 1}; got {index.value}")
        return site, index.value


# -- objects --------------------------------------------------------------------------------------------------------


def _read_object(book: _Book, data: Mapping[str, Any]) -> None:
    for name, value in data.items():
        if name == "where" and name not in book.names():
            _read_statements(book, [value] if isinstance(value, str) else value)
            continue
        try:
            _read_member(book, name, value)
        except EvidenceError as error:
            raise EvidenceError(f"in {name!r}: {error}") from error


def _read_member(book: _Book, name: str, value: Any) -> None:
    if name in book.categories:
        values = value if isinstance(value, list) else [value]
        book.allow(name, (book.category(name, v) for v in values))
        return
    if name in book.columns and name not in book.where and isinstance(value, list):
        _read_row(book, name, value)
        return
    at = book.entry(name)
    if isinstance(value, bool):
        raise EvidenceError(f"expected a number, [lower, upper] or an object; got {value!r}")
    if isinstance(value, int | float):
        _fix(book, at, _number(value))
    elif isinstance(value, list) and len(value) == 2:
        low, high = (_number(v, default) for v, default in zip(value, (-math.inf, math.inf), strict=True))
        _bound(book, at, low, high)
    elif isinstance(value, Mapping):
        _read_details(book, at, value)
    else:
        raise EvidenceError(f"expected a number, [lower, upper] or an object; got {value!r}")


def _read_row(book: _Book, site: str, value: list[Any]) -> None:
    if len(value) != len(book.columns[site]):
        raise EvidenceError(f"{len(value)} values for {len(book.columns[site])} columns; write null where unknown")
    told = [Statement(site, (), "=", {i: 1.0}, -_number(v)) for i, v in enumerate(value) if v is not None]
    book.add(site, *told)


def _fix(book: _Book, at: tuple[str, int], value: float) -> None:
    book.compare(_Linear({at: 1.0}, -value), "=")


def _bound(book: _Book, at: tuple[str, int], low: float, high: float) -> None:
    if low > -math.inf:
        book.compare(_Linear({at: 1.0}, -low), ">=")
    if high < math.inf:
        book.compare(_Linear({at: -1.0}, high), ">=")


def _read_details(book: _Book, at: tuple[str, int], value: Mapping[str, Any]) -> None:
    allowed = ("known", "near", "sd", "min", "max")
    for key in value:
        if key not in allowed:
            raise EvidenceError(unknown_message("key", key, allowed))
    if "known" in value:
        _fix(book, at, _number(value["known"]))
    if ("near" in value) != ("sd" in value):
        raise EvidenceError("soft evidence needs both near and sd")
    if "near" in value:
        sd = _number(value["sd"])
        if sd <= 0:
            raise EvidenceError(f"sd must be positive; got {sd:g}")
        book.compare(_Linear({at: 1.0}, -_number(value["near"])), "~", sd)
    if "min" in value or "max" in value:
        _bound(book, at, _number(value.get("min"), -math.inf), _number(value.get("max"), math.inf))


def _finite(value: int | float) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise EvidenceError("numbers must be finite")
    return number


def _number(value: Any, default: float | None = None) -> float:
    if value is None and default is not None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise EvidenceError(f"expected a finite number; got {value!r}")
    return _finite(value)
