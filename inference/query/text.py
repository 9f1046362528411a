"""Evidence as a person would write it: statements about named columns, read by a small parser of our own.

    x = 2.5                    known              label = 3, label = cat      a known category
    x ~ 2.5 +- 0.1             soft               label in {3, 8}             one of several
    0.1 <= x <= 0.4            a box              label != 3, not in {..}     any but these
    2*x - y >= 0.3             a half-space       x[7] <= 1                   the entry number 7 of site x

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
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from phlogiston.errors import EvidenceError
from phlogiston.inference.query.evidence import (
    FORMAT,
    HalfSpace,
    Known,
    Near,
    OneOf,
    Piece,
    Within,
    from_json,
    unknown_message,
)

Columns = Mapping[str, Sequence[str]]
_FLIP: dict[type, type] = {ast.GtE: ast.LtE, ast.Gt: ast.LtE, ast.LtE: ast.GtE, ast.Lt: ast.GtE}


def parse(
    data: str | Sequence[str] | Mapping[str, Any], columns: Columns, categories: Columns | None = None
) -> dict[str, tuple[Piece, ...]]:
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
        self.known: dict[tuple[str, int], float] = {}
        self.near: dict[tuple[str, int], list[tuple[float, float]]] = {}
        self.limits: dict[tuple[str, int], tuple[float, float]] = {}
        self.halves: dict[str, list[tuple[Tensor, float]]] = {}
        self.allowed: dict[str, set[int]] = {}

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

    def fix(self, at: tuple[str, int], value: float) -> None:
        if self.known.setdefault(at, value) != value:
            name = self.columns[at[0]][at[1]]
            raise EvidenceError(f"{name!r} is said to be both {self.known[at]:g} and {value:g}")

    def bound(self, at: tuple[str, int], low: float, high: float) -> None:
        old = self.limits.get(at, (-math.inf, math.inf))
        low, high = max(low, old[0]), min(high, old[1])
        if low > high:
            raise EvidenceError(f"{self.columns[at[0]][at[1]]!r} would lie between {low:g} and {high:g}: impossible")
        self.limits[at] = (low, high)

    def allow(self, site: str, values: set[int]) -> None:
        left = self.allowed.get(site, set(range(len(self.categories[site])))) & values
        if not left:
            raise EvidenceError(f"no value is left for {site!r}: the statements about it contradict each other")
        self.allowed[site] = left

    def pieces(self) -> dict[str, tuple[Piece, ...]]:
        result: dict[str, list[Piece]] = {}
        for site, names in self.columns.items():
            found: list[Piece] = []
            d = len(names)
            known = {i: v for (s, i), v in self.known.items() if s == site}
            if known:
                value, mask = torch.zeros(d, dtype=torch.float64), torch.zeros(d, dtype=torch.bool)
                for i, v in known.items():
                    value[i], mask[i] = v, True
                found.append(Known(value, mask))
            near = {i: v for (s, i), v in self.near.items() if s == site}
            for turn in range(max(map(len, near.values()), default=0)):
                mean, sd = torch.zeros(d, dtype=torch.float64), torch.full((d,), math.inf, dtype=torch.float64)
                for i, pairs in near.items():
                    if turn < len(pairs):
                        mean[i], sd[i] = pairs[turn]
                found.append(Near(mean, sd))
            limits = {i: v for (s, i), v in self.limits.items() if s == site}
            if limits:
                low, high = torch.full((d,), -math.inf).double(), torch.full((d,), math.inf).double()
                for i, (start, end) in limits.items():
                    low[i], high[i] = start, end
                found.append(Within(low, high))
            if site in self.halves:
                found.append(
                    HalfSpace(torch.stack([a for a, _ in self.halves[site]]), [b for _, b in self.halves[site]])
                )
            if found:
                result[site] = found
        for site, values in self.allowed.items():
            result[site] = [Known(next(iter(values))) if len(values) == 1 else OneOf(values)]
        return {site: tuple(p) for site, p in result.items()}


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
        at, form = self._single(self._linear(self._tree(left)))
        centre, width = self._linear(self._tree(mean)), self._linear(self._tree(sd))
        if centre.terms or width.terms:
            raise EvidenceError("mean and sd must be numbers")
        if width.constant <= 0:
            raise EvidenceError(f"the standard deviation must be positive; got {width.constant:g}")
        slope = form.terms[at]
        value = (centre.constant - form.constant) / slope
        self.book.near.setdefault(at, []).append((value, width.constant / abs(slope)))

    @staticmethod
    def _single(form: _Linear) -> tuple[tuple[str, int], _Linear]:
        if len(form.terms) != 1:
            raise EvidenceError("exactly one column can be known or soft at a time; inequalities may combine several")
        return next(iter(form.terms)), form

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
            at, form = self._single(self._linear(left).plus(self._linear(right), -1.0))
            self.book.fix(at, -form.constant / form.terms[at] + 0.0)
        elif type(op) in _FLIP:
            above = isinstance(op, ast.GtE | ast.Gt)
            form = self._linear(left).plus(self._linear(right), -1.0).times(1.0 if above else -1.0)
            self._inequality(form)
        else:
            raise EvidenceError("only =, <=, >= (and, for categories, in, not in, !=) mean anything here")

    def _inequality(self, form: _Linear) -> None:
        """Record form >= 0."""
        if not form.terms:
            raise EvidenceError("no column appears on either side")
        if len(form.terms) == 1:
            at, slope = next(iter(form.terms.items()))
            limit = -form.constant / slope + 0.0
            self.book.bound(at, *((limit, math.inf) if slope > 0 else (-math.inf, limit)))
            return
        sites = {site for site, _ in form.terms}
        if len(sites) > 1:
            raise EvidenceError(f"an inequality cannot combine columns of different sites ({', '.join(sorted(sites))})")
        site = sites.pop()
        a = torch.zeros(len(self.book.columns[site]), dtype=torch.float64)
        for (_, i), v in form.terms.items():
            a[i] = v
        self.book.halves.setdefault(site, []).append((a, form.constant))

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
        book.allow(name, {book.category(name, v) for v in values})
        return
    if name in book.columns and name not in book.where and isinstance(value, list):
        _read_row(book, name, value)
        return
    at = book.entry(name)
    if isinstance(value, bool):
        raise EvidenceError(f"expected a number, [lower, upper] or an object; got {value!r}")
    if isinstance(value, int | float):
        book.fix(at, _number(value))
    elif isinstance(value, list) and len(value) == 2:
        low, high = (_number(v, default) for v, default in zip(value, (-math.inf, math.inf), strict=True))
        book.bound(at, low, high)
    elif isinstance(value, Mapping):
        _read_details(book, at, value)
    else:
        raise EvidenceError(f"expected a number, [lower, upper] or an object; got {value!r}")


def _read_row(book: _Book, site: str, value: list[Any]) -> None:
    if len(value) != len(book.columns[site]):
        raise EvidenceError(f"{len(value)} values for {len(book.columns[site])} columns; write null where unknown")
    for i, v in enumerate(value):
        if v is not None:
            book.fix((site, i), _number(v))


def _read_details(book: _Book, at: tuple[str, int], value: Mapping[str, Any]) -> None:
    allowed = ("known", "near", "sd", "min", "max")
    for key in value:
        if key not in allowed:
            raise EvidenceError(unknown_message("key", key, allowed))
    if "known" in value:
        book.fix(at, _number(value["known"]))
    if ("near" in value) != ("sd" in value):
        raise EvidenceError("soft evidence needs both near and sd")
    if "near" in value:
        sd = _number(value["sd"])
        if sd <= 0:
            raise EvidenceError(f"sd must be positive; got {sd:g}")
        book.near.setdefault(at, []).append((_number(value["near"]), sd))
    if "min" in value or "max" in value:
        book.bound(at, _number(value.get("min"), -math.inf), _number(value.get("max"), math.inf))


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
