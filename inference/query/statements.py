"""Statements about named columns, read from left to right by a small parser; nothing is ever executed.

A name is the longest one of the data that stands at a position, so that `sepal length (cm) >= 2` needs no quotes. What
could be read in two ways is refused with both of them; backquotes settle it.
"""

from __future__ import annotations

import datetime
import re
import unicodedata
from typing import Literal, NoReturn

from phlogiston.errors import EvidenceError
from phlogiston.inference.query.book import Book, Linear, finite
from phlogiston.inference.query.evidence import unknown_message

_SIGNS = (("≥", ">="), ("≤", "<="), ("≠", "!="), ("±", "+-"), ("−", "-"), ("·", "*"), ("×", "*"), ("∈", "in"))
_NUMBER = re.compile(r"(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?(?!\w)")
_DATE = re.compile(r"\d{4}-\d{1,2}-\d{1,2}(?:[T ]\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?)?(?![\w:-])")
_RELATION = re.compile(r"<=|>=|==|!=|<>|=|<|>|~|(?:not\s+in|in|is)(?![^\W])")
_QUOTED = re.compile(r"'([^']*)'|\"([^\"]*)\"")
_MISSING = re.compile(r"(?:missing|unknown|NA|\?)(?![^\W])")
_AND = re.compile(r"(?:and|&&|,)(?=[\s`]|$)")
_OPERATORS = set("<>=!~+-*/()[]{},;`'\"\n")
RESERVED = frozenset({"in", "is", "not", "and", "or"})
DEEPEST = 100
"""Brackets within brackets."""
EPOCH = datetime.datetime(1970, 1, 1)


def read_statements(book: Book, text: str) -> None:
    """Read statements separated by `;`, line ends, commas or `and`, and note them in the book.

    Raises:
        EvidenceError: what cannot be read, with the statement, what is wrong and, for names, the nearest valid one.
    """
    reader = _Reader(book, text)
    while reader.separators():
        start = reader.at
        try:
            reader.statement()
        except EvidenceError as error:
            said = re.split(r"[;\n]", reader.text[start:], maxsplit=1)[0].strip()
            raise EvidenceError(f"in {said!r}: {error}") from error


class _Reader:
    """Text, a position in it, and the names it may hold."""

    def __init__(self, book: Book, text: str) -> None:
        self.book, self.text, self.at = book, unicodedata.normalize("NFC", text), 0
        self.operand, self.depth = 0, 0  # where the last operand begins; brackets open
        names = [name for name in (*book.names(), *book.columns) if name and name not in RESERVED]
        self.known = {unicodedata.normalize("NFC", name): name for name in names}
        self.lengths = sorted({len(name) for name in self.known}, reverse=True)

    # -- characters

    def blanks(self) -> None:
        while self.at < len(self.text) and self.text[self.at] in " \t\r\u00a0":
            self.at += 1

    def match(self, pattern: re.Pattern[str]) -> str | None:
        """Take what the pattern finds here."""
        self.blanks()
        for sign, plain in _SIGNS:
            if self.text.startswith(sign, self.at):
                self.text = self.text[: self.at] + plain + self.text[self.at + 1 :]
        if self.text.startswith("+/-", self.at):
            self.text = self.text[: self.at] + "+-" + self.text[self.at + 3 :]
        found = pattern.match(self.text, self.at)
        if found is None:
            return None
        self.at = found.end()
        return found.group()

    def take(self, sign: str) -> bool:
        return self.match(re.compile(re.escape(sign))) is not None

    def ended(self) -> bool:
        """Whether the statement ends here."""
        self.blanks()
        return self.at >= len(self.text) or self.text[self.at] in ";\n" or _AND.match(self.text, self.at) is not None

    def separators(self) -> bool:
        """Skip what stands between statements; whether another one follows."""
        while True:
            self.blanks()
            if self.at >= len(self.text):
                return False
            if self.text[self.at] in ";\n,":
                self.at += 1
            elif (found := _AND.match(self.text, self.at)) is not None and "and" not in self.known:
                self.at = found.end()
            else:
                return True

    # -- names

    def name(self) -> str | None:
        """Take a name that stands here, in backquotes or as it is; None where there is none."""
        self.blanks()
        quoted = re.compile(r"`([^`]*)`").match(self.text, self.at)
        if quoted is not None:
            name = self.book.find(quoted.group(1))
            if not self.book.knows(name):
                raise EvidenceError(unknown_message("column", name, self.book.names()))
            self.at = quoted.end()
            return name
        for length in self.lengths:
            name = self.text[self.at : self.at + length]
            if name not in self.known or _NUMBER.fullmatch(name) or self._goes_on(name) or self._compares(name):
                continue
            self._refuse_ambiguous(name)
            self.at += length
            return self.known[name]
        return None

    def _goes_on(self, name: str) -> bool:
        """Whether the word that begins like a name is longer than it."""
        end = self.at + len(name)
        return _letter(name[-1]) and end < len(self.text) and _letter(self.text[end])

    def _compares(self, name: str) -> bool:
        """Whether a name reads as a statement about another one, as `grade=A` beside `grade` does."""
        head = re.split("[<>=~!]", name)[0].strip()
        return head != name and head in self.known

    def _refuse_ambiguous(self, name: str) -> None:
        """Refuse a name that is also an expression of other names."""
        if not _OPERATORS & set(name):
            return
        inner = _Reader(self.book, name)
        inner.known = {n: own for n, own in self.known.items() if n != name}
        inner.lengths = sorted({len(n) for n in inner.known}, reverse=True)
        try:
            form = inner.sum()
        except EvidenceError:
            return
        if inner.ended() and form.terms and form.terms != {self.book.where.get(name, ("", 0)): 1.0}:
            raise EvidenceError(f"{name!r} is a column and an expression of others; write the column as `{name}`")

    def word(self) -> str:
        """The run of characters here that are no operators and no blanks."""
        end = self.at
        while end < len(self.text) and self.text[end] not in _OPERATORS and not self.text[end].isspace():
            end += 1
        return self.text[self.at : end]

    def phrase(self, start: int) -> str:
        """The words from a position to the next operator: most likely a name, wrongly spelt."""
        end = start
        while end < len(self.text) and self.text[end] not in _OPERATORS - set("()[]-"):
            end += 1
        words = re.split(r"\s(?:in|is|not|and)\s", self.text[start:end])[0]
        return words.strip(" -()")

    # -- statements

    def statement(self) -> None:
        """Read one statement."""
        start = self.at
        if self._categorical():
            return
        self.at = start
        left = self.sum()
        if self.ended():
            raise EvidenceError("expected a comparison such as x = 1, x >= 0.3, 0 <= x <= 1 or label in {3, 8}")
        while not self.ended():
            relation = self.match(_RELATION)
            if relation is None:
                self._refuse()
            if relation in ("=", "==", "is") and self._missing(left):
                break
            if relation == "in":
                self._interval(left)
                break
            if relation not in ("=", "==", "<=", "<", ">=", ">", "~"):
                raise EvidenceError("only =, <=, >= (and, for categories, in, not in, !=) mean anything here")
            left = self._related(left, str(relation))
        if not self.ended():
            self._refuse()

    def _refuse(self) -> NoReturn:
        """Say what cannot be read; it is an unknown name where words stand together."""
        phrase = self.phrase(self.operand)
        if re.search(r"\s", phrase) and _letter(phrase[0]) and not self.book.knows(phrase):
            raise EvidenceError(unknown_message("column", phrase, self.book.names()))
        self.blanks()
        rest = re.split(r"[;\n]", self.text[self.at :])[0]
        raise EvidenceError(f"this cannot be read from {rest[:20]!r} on; write comparisons of linear expressions")

    def _related(self, left: Linear, relation: str) -> Linear:
        """Read the right side of a comparison, note what it says, and return it."""
        right = self.sum()
        form = left.plus(right, -1.0)
        soft = self.take("+-")
        if soft or relation == "~":
            if not soft or relation in ("<=", ">=", "<", ">"):
                raise EvidenceError("soft evidence is written  name ~ mean +- sd")
            width = self.sum()
            if right.terms or width.terms or width.dated:
                raise EvidenceError("mean and sd must be numbers")
            if width.constant <= 0:
                raise EvidenceError(f"the standard deviation must be positive; got {width.constant:g}")
            self.book.compare(form, "~", width.constant)
        elif relation in ("=", "=="):
            self.book.compare(form, "=")
        else:
            strict: Literal[">", ">="] = ">" if len(relation) == 1 else ">="
            self.book.compare(form.times(1.0 if relation[0] == ">" else -1.0), strict)
        return right

    def _interval(self, left: Linear) -> None:
        """Read `[low, high]` after `in`."""
        if self.take("{"):
            raise EvidenceError("only =, <=, >= and in [low, high] mean anything for a column of numbers")
        if not (self.take("[") or self.take("(")):
            raise EvidenceError("write the interval in brackets: x in [25, 30]")
        low = self.sum()
        comma = self.take(",")
        high = self.sum() if comma else low
        if not comma or not (self.take("]") or self.take(")")):
            raise EvidenceError("an interval has two limits: x in [25, 30]")
        if not low.terms and not high.terms and low.constant > high.constant:
            raise EvidenceError(f"the interval [{low.constant:g}, {high.constant:g}] is empty")
        self.book.compare(left.plus(low, -1.0), ">=")
        self.book.compare(high.plus(left, -1.0), ">=")

    def _missing(self, left: Linear) -> bool:
        """Read `missing` after `=` and note that a column is unknown; False where something else stands there."""
        self.blanks()
        found = _MISSING.match(self.text, self.at)
        if found is None or found.group() in self.known:
            return False
        if len(left.terms) != 1 or left.constant or set(left.terms.values()) != {1.0}:
            raise EvidenceError("only a column can be missing")
        self.at = found.end()
        ((site, entry),) = left.terms
        self.book.forget(self.book.columns[site][entry])
        return True

    # -- categories

    def _categorical(self) -> bool:
        """Read a statement about a categorical column; False where the statement is of another kind."""
        name = self.name()
        if name is None or name not in self.book.categories:
            return self._category_first()
        relation = self.match(_RELATION)
        if relation is None:
            if self.ended():
                raise EvidenceError("expected a comparison such as x = 1, x >= 0.3, 0 <= x <= 1 or label in {3, 8}")
            raise EvidenceError(f"{name!r} is categorical: use =, != or in")
        relation = " ".join(relation.split())
        if relation in ("in", "not in"):
            values = self._labels(name)
        elif relation in ("=", "==", "!=", "<>", "is"):
            self.blanks()
            gone = _MISSING.match(self.text, self.at)
            if gone is not None and gone.group() not in self.book.categories[name]:
                self.at = gone.end()
                self.book.forget(name)
                return True
            values = {self._label(name, "")}
        else:
            raise EvidenceError(f"{name!r} is categorical: use =, != or in")
        if not self.ended():
            raise EvidenceError(f"one value stands after {relation}; several go in braces: {name} in {{3, 8}}")
        everything = set(range(len(self.book.categories[name])))
        self.book.allow(name, everything - values if relation in ("not in", "!=", "<>") else values)
        return True

    def _category_first(self) -> bool:
        """Read `3 = label`, the category before its column."""
        start = self.at
        found = re.compile(r"\s*([^=<>!~;\n]+?)\s*==?\s*").match(self.text, start)
        if found is None:
            return False
        self.at = found.end()
        name = self.name() if self.at < len(self.text) else None
        if name is None or name not in self.book.categories or not self.ended():
            self.at = start
            return False
        self.book.allow(name, {self.book.category(name, _unquoted(found.group(1)))})
        return True

    def _labels(self, name: str) -> set[int]:
        """Read categories in braces."""
        close = next((end for sign, end in (("{", "}"), ("[", "]"), ("(", ")")) if self.take(sign)), None)
        if close is None:
            raise EvidenceError(f"write the values in braces: {name} in {{3, 8}}")
        values = {self._label(name, close)}
        while not self.take(close):
            if not self.take(","):
                raise EvidenceError(f"the values of {name!r} are not closed by {close}")
            if self.take(close):
                break
            values.add(self._label(name, close))
        return values

    def _label(self, name: str, close: str) -> int:
        """Read one category: a label of the data as it is, or what stands up to the next comma or end."""
        self.blanks()
        labels = self.book.categories[name]
        for label in sorted(labels, key=len, reverse=True):
            if label and self.text.startswith(label, self.at) and self._closes(self.at + len(label), close):
                self.at += len(label)
                return labels.index(label)
        quoted = _QUOTED.match(self.text, self.at)
        if quoted is None:
            quoted = re.compile(r"`([^`]*)`()").match(self.text, self.at)
        if quoted is not None:
            self.at = quoted.end()
            return self.book.category(name, quoted.group(1) or quoted.group(2) or "")
        stop = re.compile(rf"[,;\n{re.escape(close)}]|\sand\s" if close else r"[,;\n]|\sand\s")
        found = stop.search(self.text, self.at)
        end = len(self.text) if found is None else found.start()
        given = self.text[self.at : end].strip()
        if not given:
            raise EvidenceError("a category is a number or a name")
        self.at = end
        return self.book.category(name, given)

    def _closes(self, end: int, close: str) -> bool:
        """Whether nothing but an end follows a label."""
        rest = self.text[end:].lstrip(" \t")
        return not rest or rest[0] in ",;\n" + close or re.match(r"and\s", rest) is not None

    # -- linear expressions

    def sum(self) -> Linear:
        """Read terms with + and - between them."""
        total = self.product()
        while True:
            self.blanks()
            if self.text[self.at : self.at + 2] in ("+-", "+/"):
                return total
            sign = self.match(re.compile(r"[-+]"))
            if sign is None:
                return total
            if self.text[self.at - 1 : self.at + 1] == "+-":
                self.at -= 1
                return total
            total = total.plus(self.product(), 1.0 if sign == "+" else -1.0)

    def product(self) -> Linear:
        """Read factors with * and / between them."""
        total = self.factor()
        while (sign := self.match(re.compile(r"\*\*|[*/]"))) is not None:
            if sign == "**":
                raise EvidenceError("the expression is not linear in the columns; only numbers, columns, + - * / do")
            right = self.factor()
            if sign == "*" and not (total.terms and right.terms):
                total = total.times(right.constant) if total.terms else right.times(total.constant)
            elif sign == "/" and not right.terms:
                if right.constant == 0:
                    raise EvidenceError("division by zero")
                total = total.times(1 / right.constant)
            else:
                raise EvidenceError("the expression is not linear in the columns")
        return total

    def factor(self) -> Linear:
        """Read a number, a date, a column, or an expression in brackets."""
        sign = 1.0
        while (found := self.match(re.compile(r"[-+]"))) is not None:
            sign = -sign if found == "-" else sign
        self.blanks()
        self.operand = self.at
        name = self.name()
        if name is not None:
            return self._column(name).times(sign)
        date = self.match(_DATE)
        if date is not None:
            return Linear({}, sign * days(date), dated=True)
        number = self.match(_NUMBER)
        if number is not None:
            return Linear({}, sign * finite(float(number)))
        if self.take("("):
            self.depth += 1
            if self.depth > DEEPEST:
                raise EvidenceError("this cannot be read: too many brackets")
            inner = self.sum()
            self.depth -= 1
            if not self.take(")"):
                raise EvidenceError("a bracket is not closed; this cannot be read")
            return inner.times(sign)
        return self._no_factor()

    def _no_factor(self) -> Linear:
        self.blanks()
        if self.at >= len(self.text) or self.text[self.at] in ";\n":
            raise EvidenceError("this cannot be read: something is lacking at its end")
        quoted = _QUOTED.match(self.text, self.at)
        if quoted is not None:
            raise EvidenceError(f"{quoted.group()} is text; only numbers and columns may appear (names in backquotes)")
        word = self.word()
        phrase = self.phrase(self.at) if word and _letter(word[0]) else word
        follows = self.text[self.at + len(word) : self.at + len(word) + 1]
        if not word or word in ("True", "False", "None") or follows in ("(", "'", '"'):
            raise EvidenceError("only numbers, columns, + - * / and brackets may appear")
        if word in RESERVED and self.book.knows(word):
            raise EvidenceError(f"{word!r} means something here; write the column as `{word}`")
        if follows == "[" and word not in self.book.columns:
            raise EvidenceError(unknown_message("site", word, self.book.columns))
        raise EvidenceError(unknown_message("column", phrase or word, self.book.names()))

    def _column(self, name: str) -> Linear:
        if name in self.book.categories:
            raise EvidenceError(f"{name!r} is categorical: use =, != or in")
        if name in self.book.columns and self.text[self.at : self.at + 1] == "[":
            index = self.match(re.compile(r"\[\s*(-?\d+)\s*\]"))
            if index is None:
                raise EvidenceError(f"write the entry's number: {name}[0]")
            number, size = int(index.strip("[] ")), len(self.book.columns[name])
            if not 0 <= number < size:
                raise EvidenceError(f"{name} has entries 0 to {size - 1}; got {number}")
            return Linear({(name, number): 1.0}, 0.0)
        return Linear({self.book.entry(name): 1.0}, 0.0)


def _letter(character: str) -> bool:
    return character.isalnum() or character == "_"


def _unquoted(text: str) -> str:
    found = _QUOTED.fullmatch(text.strip())
    return text.strip() if found is None else found.group(1) or found.group(2) or ""


def days(text: str) -> float:
    """A date, written 2024-05-01 or 2024-05-01 18:30, as days since 1970-01-01.

    Raises:
        EvidenceError: text that is no date.
    """
    if _DATE.fullmatch(text) is None:
        raise EvidenceError(f"{text!r} is no date, which is written 2024-05-01 or 2024-05-01 18:30")
    date, *time = re.split("[T ]", text, maxsplit=1)
    year, month, day = map(int, date.split("-"))
    try:
        moment = datetime.datetime(year, month, day)
        if time:
            clock = datetime.time.fromisoformat(time[0].zfill(5) if time[0].count(":") == 1 else time[0])
            moment = datetime.datetime.combine(moment.date(), clock)
    except ValueError as error:
        raise EvidenceError(f"{text!r} is no date: {error}") from error
    return (moment - EPOCH) / datetime.timedelta(days=1)
