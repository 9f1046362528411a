"""What was understood of a question, in words: one statement a line, and what is sampled given them."""

from __future__ import annotations

import datetime
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from phlogiston.inference.query.book import Columns
from phlogiston.inference.query.compilation import count_rows
from phlogiston.inference.query.evidence import Evidence, normalise
from phlogiston.inference.query.statements import RESERVED
from phlogiston.inference.query.text import question

SHOWN = 12
"""Statements of a site, and names in a list, that are written out."""
_SAFE = re.compile(r"[^\W\d](?:[\w ]*\w)?")
_WORDS = re.compile(r"`([^`]+)`|([^\W\d](?:\w|[ ](?!(?:in|is|not|and)\b)(?=[^\W\d]))*)")


def explain(*evidence: Any) -> None:
    """Print what a question is understood to say, where no system is at hand that knows the names.

    Names are taken as they stand: what is compared with words, or restricted to a set, counts as categorical.
    `System.explain` reads them as the system does.

    Args:
        evidence: statements, or mappings, as `System.query` takes them.

    Raises:
        EvidenceError: what cannot be read.

    Example:
        >>> explain("age >= 40", "label in {3, 8}", "2*height - 3*weight >= 0.3")
        age >= 40
        2*height - 3*weight >= 0.3
        label in {3, 8}
    """
    columns, categories = _names_in(evidence)
    print("\n".join(explained(question(evidence, {"x": columns}, categories), {"x": columns}, categories)))


def explained(
    given: Mapping[str, Any], columns: Columns, categories: Columns, dates: Collection[str] = ()
) -> list[str]:
    """Write evidence as statements, one per line.

    Args:
        given: site -> evidence.
        columns, categories, dates: see `text.parse`.
    """
    evidence = normalise(given)
    rows = count_rows(evidence, [name for name in evidence if name not in categories])
    lines = []
    for row in range(min(rows or 1, 3)):
        said = [
            text
            for name, told in evidence.items()
            for text in (
                _category(name, told, categories[name], row)
                if name in categories
                else _vector(name, told, columns.get(name, ()), dates, row)
            )
        ]
        lines += [f"row {row}: {text}" for text in said] if rows else said
    if rows and rows > 3:
        lines.append(f"... and {rows - 3} more rows of evidence, {rows} questions in all")
    return lines or ["nothing is known"]


def unmentioned(given: Mapping[str, Any], columns: Columns, categories: Columns) -> list[str]:
    """Names of the columns that no value is known of, which an answer samples."""
    evidence = normalise(given)
    known = {
        text.split(" = ")[0]
        for name, told in evidence.items()
        if name not in categories
        for text in _vector(name, told, columns.get(name, ()), (), 0, shown=None)
        if " = " in text and "*" not in text
    }
    entries = [name for names in columns.values() for name in names if quoted(name) not in known]
    return entries + [name for name in categories if name not in evidence]


def quoted(name: str) -> str:
    """A name as a statement writes it, in backquotes where it could mean something else."""
    plain = _SAFE.fullmatch(name) and not RESERVED & set(name.split())
    return name if plain else f"`{name}`"


def listed(names: Sequence[str]) -> str:
    """A list of names that fits a line."""
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _vector(
    site: str,
    told: Sequence[Evidence],
    names: Sequence[str],
    dates: Collection[str],
    row: int,
    shown: int | None = SHOWN,
) -> list[str]:
    if not names:
        return [f"{site}: {evidence.kind}" for evidence in told]
    said = []
    for evidence in told:
        texts = evidence.sentences([quoted(name) for name in names], row)
        said += texts[:shown]
        if shown is not None and len(texts) > shown:
            said.append(f"and {len(texts) - shown} more columns of {site} in the same way")
    return [dated(text, dates) for text in said]


def dated(text: str, dates: Collection[str]) -> str:
    """Write the numbers of a statement about one column of dates as dates; other statements are as they are."""
    name = next((d for d in dates if quoted(d) in text), None)
    if name is None or "*" in text or "~" in text or text.count(" + ") or text.count(" - "):
        return text

    def date(match: re.Match[str]) -> str:
        moment = datetime.datetime(1970, 1, 1) + datetime.timedelta(days=float(match.group()))
        return moment.isoformat(" ", "minutes") if moment.time() != datetime.time() else moment.date().isoformat()

    head, found, tail = text.partition(quoted(name))
    return re.sub(r"-?\d+(\.\d+)?", date, head) + found + re.sub(r"-?\d+(\.\d+)?", date, tail)


def _category(name: str, told: Sequence[Evidence], labels: Sequence[str], row: int) -> list[str]:
    said = []
    for evidence in told:
        left = evidence.restrict_category(name, labels, row)
        if left is None:
            continue
        words = [labels[code] for code in left]
        said.append(f"{quoted(name)} = {words[0]}" if len(words) == 1 else f"{quoted(name)} in {{{', '.join(words)}}}")
    return said


def _names_in(evidence: Sequence[Any]) -> tuple[list[str], dict[str, list[str]]]:
    """The names a question uses, sorted into columns of numbers and categorical columns with the values it names."""
    columns: dict[str, None] = {}
    categories: dict[str, list[str]] = {}
    texts = [item for item in evidence if isinstance(item, str)]
    texts += [text for item in evidence if isinstance(item, list | tuple) for text in item if isinstance(text, str)]
    for item in evidence:
        if isinstance(item, Mapping):
            words = item.get("where", ())
            texts += [words] if isinstance(words, str) else list(words)
            for name, value in item.items():
                _sort(name, value, columns, categories)
    for text in re.split(r"[;\n]", "\n".join(texts)):
        match = re.match(r"\s*(.+?)\s*(?:not\s+in\b|\bin\b|!=|<>|(?<![<>=])==?)\s*(.+?)\s*$", text)
        if match is not None and _category_values(match.group(2)) is not None and _WORDS.fullmatch(match.group(1)):
            name = match.group(1).strip("`")
            known = categories.setdefault(name, [])
            known += [v for v in _category_values(match.group(2)) or () if v not in known]
        else:
            columns |= {a or b: None for a, b in _WORDS.findall(re.sub(r"\b(in|is|not|and|missing)\b", ";", text))}
    return [name for name in columns if name not in categories], categories


def _sort(name: str, value: Any, columns: dict[str, None], categories: dict[str, list[str]]) -> None:
    if name == "where":
        return
    values = list(value) if isinstance(value, set | frozenset | list | tuple) else [value]
    if isinstance(value, set | frozenset) or any(isinstance(v, str) for v in values):
        categories.setdefault(name, []).extend(str(v) for v in values)
    else:
        columns[name] = None


def _category_values(text: str) -> list[str] | None:
    """The values a categorical column is compared with; None where the text is a number or an expression."""
    braces = re.fullmatch(r"\{(.*)\}", text)
    if braces is not None:
        return [part.strip(" '\"") for part in braces.group(1).split(",")]
    quotes = re.fullmatch(r"'([^']*)'|\"([^\"]*)\"", text)
    if quotes is not None:
        return [quotes.group(1) or quotes.group(2) or ""]
    if re.fullmatch(r"[^\W\d][\w ]*", text) and text != "missing":
        return [text]
    return None
