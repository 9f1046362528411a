"""Rewrite the tables of README.md and docs/ from the recorded results, so that no figure is ever typed by hand.

A table stands between two lines of a Markdown page:

    <!-- table: drmm/density columns=title,configuration,mean,baselines,must -->
    <!-- end table -->

The first word chooses the entries: `drmm` takes all of docs/results/drmm.json, `drmm/density` the entry of that name
and those whose name begins with `density/`. Options:

    columns=a,b     fields of the entries, in order; `field:Heading` sets the heading (quote it when it holds spaces:
                    columns="title:Data set,mean:ours"); `baselines.NAME` and `published.NAME` pick one of several
    digits=3        decimals; by default two significant digits of the standard error, or three decimals
    note=no         leave out the line that says which command, machine and versions made the figures

A single figure stands inside a line, in a sentence or in a cell of a table written by hand:

    <!-- figure: drmm/classify/digits percent=yes -->96.7 %<!-- end figure -->

    field=NAME      another number of the entry than its mean: `must`, `steps`, `baselines.NAME`
    digits=3        as above; without an error bar there is no `±`, and `error=no` leaves it out
    percent=yes     a share, times 100

A figure nobody has recorded yet reads "not measured yet": its recipe under tests/learn puts it there.

README.md is made as a whole from docs/readme.md.jinja, so that its source is as clean as what readers see. There a
figure is `{{ figure("drmm/classify/digits percent=yes") }}`, and `{{ missed() }}` lists the entries below their bars.
The same text with whole addresses, for package indexes, is docs/description.txt.

Markers inside fenced code blocks are left alone. docs/results/README.md describes the fields.

    python docs/tables.py            rewrite every page that is out of date
    python docs/tables.py --check    change nothing; exit with 1 and a list when a page is out of date
"""

from __future__ import annotations

import argparse
import difflib
import json
import math
import os
import re
import shlex
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_COLUMNS = "title,configuration,mean,baselines,must"
HEADINGS = {
    "title": "task",
    "mean": "ours",
    "n_test": "test rows",
    "cpu_seconds": "CPU time",
    "seeds": "seeds",
    "verdict": "verdict",
}
NAMED = 3  # missed marks of a system that the README names
SPOKEN = {"drmm": "DRMM", "drmm_queries": "DRMM", "mdn": "MDN", "sqair": "SQAIR", "vdsm": "VDSM", "bench": "speed"}
TEMPLATE = "readme.md.jinja"  # in docs/
TABLE = re.compile(r"^\s*<!-- table: (?P<what>.+?) -->\s*$")
END = re.compile(r"^\s*<!-- end table -->\s*$")
FIGURE = re.compile(r"<!-- figure: (?P<what>[^>]+?) -->.*?<!-- end figure -->")
MISSING = "not measured yet"
FENCE = re.compile(r"^\s*(```|~~~)")

Entry = Mapping[str, Any]


class TableError(Exception):
    """A marker that cannot be understood, or results that are not there."""


# ---------------------------------------------------------------------------------------------- entries


def load(system: str, folder: Path) -> list[Entry] | None:
    """Return the entries recorded for a system, or None when nothing has been recorded yet."""
    try:
        text = (folder / f"{system}.json").read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    try:
        return json.loads(text)["entries"]
    except (json.JSONDecodeError, KeyError) as error:
        raise TableError(f"{folder / f'{system}.json'} is not a results file: {error!r}") from error


def choose(entries: Iterable[Entry], group: str) -> list[Entry]:
    """Return the entries of a group, in the order they were recorded; all of them for an empty group."""
    return [e for e in entries if not group or e["name"] == group or e["name"].startswith(f"{group}/")]


# ---------------------------------------------------------------------------------------------- cells


def number(value: float, digits: int) -> str:
    """Format a figure; a minus sign that can be told from a hyphen."""
    return f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def digits_of(entry: Entry, given: int | None) -> int:
    """Return the decimals for an entry's figures: those asked for, or what its standard error justifies."""
    error = entry.get("std_error")
    if given is not None:
        return given
    if not error:
        return 3
    return min(max(1 - math.floor(math.log10(error)), 0), 4)


def duration(seconds: float) -> str:
    """Format CPU seconds as a reader would say them."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def verdict(entry: Entry) -> str:
    """Say whether the mean reaches what it must and what it aims for."""
    sign = 1 if entry.get("higher_is_better", True) else -1

    def reached(bar: str) -> bool:
        return entry.get(bar) is not None and sign * (entry["mean"] - entry[bar]) >= 0

    if entry.get("must") is None:
        return "aim reached" if reached("aim") else ""
    return ("aim reached" if reached("aim") else "reached") if reached("must") else "**missed**"


def cell(entry: Entry, column: str, digits: int) -> str:
    """Return the text of one cell; empty where the entry has no such field."""
    head, _, key = column.partition(".")
    value: Any = entry.get(head)
    if key:
        value = value.get(key) if isinstance(value, Mapping) else None
    match head, value:
        case "verdict", _:
            text = verdict(entry)
        case "seeds", _:
            text = str(len(entry.get("values", {})))
        case _, None:
            text = ""
        case "mean", float() | int():
            text = number(value, digits)
            if entry.get("std_error") is not None and len(entry.get("values", {})) > 1:
                text += f" ± {number(entry['std_error'], digits)}"
        case "cpu_seconds", float() | int():
            text = duration(value)
        case _, bool():
            text = "yes" if value else "no"
        case _, int():
            text = f"{value:,}"
        case _, float():
            text = number(value, digits)
        case _, Mapping():
            text = "; ".join(f"{k} {number(v, digits) if isinstance(v, int | float) else v}" for k, v in value.items())
        case _:
            text = str(value)
    return text.replace("|", r"\|").replace("\n", " ")


# ---------------------------------------------------------------------------------------------- tables


def read_marker(kind: str, text: str, name: str, allowed: tuple[str, ...]) -> tuple[str, dict[str, str], int | None]:
    """Split the words of a marker into its name, its options, and the number of digits among them."""
    try:
        chosen, *words = shlex.split(text)
        options = dict(word.split("=", 1) for word in words)
        digits = int(options.pop("digits")) if "digits" in options else None
    except ValueError as error:
        raise TableError(f"cannot read the {kind} marker {text!r}: write {name} option=value ...") from error
    if unknown := sorted(set(options) - set(allowed)):
        raise TableError(f"unknown option {unknown[0]!r} in the {kind} marker {text!r}: choose {', '.join(allowed)}")
    return chosen, options, digits


@dataclass(frozen=True)
class Marker:
    """What a page asks for: a system, a group of its entries, the columns and how to print them."""

    system: str
    group: str
    columns: list[tuple[str, str]]
    digits: int | None
    note: bool

    @classmethod
    def parse(cls, text: str) -> Marker:
        """Read the words between `table:` and the end of the comment."""
        name, options, digits = read_marker("table", text, "NAME", ("columns", "digits", "note"))
        system, _, group = name.partition("/")
        columns = [column.partition(":") for column in options.get("columns", DEFAULT_COLUMNS).split(",")]
        named = [
            (field, heading or HEADINGS.get(field, field.split(".")[-1].replace("_", " ")))
            for field, _, heading in columns
        ]
        return cls(system, group, named, digits, options.get("note", "yes") != "no")


def note(entries: list[Entry]) -> str:
    """Say in one line which command made the figures, where and with what."""
    lines = []
    for entry in entries:
        versions = entry.get("versions", {})
        shown = ", ".join(f"{name} {versions[name]}" for name in ("torch", "pyro-ppl") if name in versions)
        where = ", ".join(part for part in (entry.get("machine"), shown, entry.get("date")) if part)
        line = f"`{entry['command']}` on {where}." if where and entry.get("command") else ""
        if line and line not in lines:
            lines.append(line)
    return f"<sub>{' '.join(lines)}</sub>" if lines else ""


def render(marker: Marker, folder: Path) -> list[str]:
    """Return the lines of a table."""
    entries = load(marker.system, folder)
    if entries is None:
        return [f"*No results recorded yet; `make learn SYSTEM={marker.system}` makes them.*"]
    chosen = choose(entries, marker.group)
    if not chosen:
        names = ", ".join(entry["name"] for entry in entries)
        raise TableError(f"no results named {marker.group!r} for {marker.system}; there are: {names or 'none'}")
    rows = [[cell(entry, field, digits_of(entry, marker.digits)) for field, _ in marker.columns] for entry in chosen]
    for position, (field, _) in enumerate(marker.columns):
        if field != "verdict" and not any(row[position] for row in rows):
            raise TableError(f"no entry of {marker.system}/{marker.group} has the field {field!r}")
    lines = [
        f"| {' | '.join(heading for _, heading in marker.columns)} |",
        f"|{'|'.join('---' for _ in marker.columns)}|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    figures = {entry["figure"] for entry in chosen if entry.get("figure")}
    shared = f"<sub>Figures: {figures.pop()}.</sub>" if len(figures) == 1 else ""
    below = [line for line in (shared, note(chosen)) if line and marker.note]
    return [*lines, *([""] if below else []), *below]


def figure(text: str, folder: Path) -> str:
    """Return one figure as it stands in a line.

    Raises:
        TableError: for a marker that cannot be read, or a field the entry does not have.
    """
    name, options, digits = read_marker("figure", text, "SYSTEM/ENTRY", ("field", "digits", "percent", "error"))
    options.setdefault("field", "mean")
    system, _, group = name.partition("/")
    entry = next((dict(e) for e in load(system, folder) or [] if e["name"] == group), None)
    if entry is None:
        return MISSING
    percent = options.get("percent") == "yes"
    if percent:
        parts = {"mean", "std_error", "must", "aim", options["field"]}
        entry |= {part: 100 * entry[part] for part in parts if isinstance(entry.get(part), int | float)}
        head, _, key = options["field"].partition(".")
        if key and isinstance(entry.get(head), Mapping) and key in entry[head]:
            entry[head] = {key: 100 * entry[head][key]}
    if options.get("error") == "no":
        entry.pop("std_error", None)
    shown = cell(entry, options["field"], digits_of(entry, digits))
    if not shown:
        raise TableError(f"{name} has no field {options['field']!r}")
    return f"{shown} %" if percent else shown


def missed(folder: Path) -> str:
    """Count the entries that do not reach what they must, by system, and name the first, in words for a sentence."""
    lines = []
    for path in sorted(folder.glob("*.json")):
        bars = [e for e in load(path.stem, folder) or [] if verdict(e)]
        titles = [e["title"].replace("`", "") for e in bars if "missed" in verdict(e)]
        if titles:
            more = f"; {len(titles) - NAMED} more" if len(titles) > NAMED else ""
            share = f"{len(titles)} of {len(bars)}"
            lines.append(f"{SPOKEN.get(path.stem, path.stem)} {share} ({'; '.join(titles[:NAMED])}{more})")
    return " · ".join(lines) or "none"


def fill(template: str, folder: Path) -> str:
    """Return the README made from its template.

    Raises:
        TableError: for a figure that cannot be read, or a template that is wrong.
    """
    import jinja2

    known = {"figure": lambda words: figure(words, folder), "missed": lambda: missed(folder)}
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)
    try:
        return environment.from_string(template).render(known)
    except jinja2.TemplateError as error:
        raise TableError(f"the template is wrong: {error}") from error


def repository(root: Path) -> str:
    """Return the address of the repository, as pyproject.toml has it."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return str(project["urls"]["Repository"])


def described(readme: str, repository: str) -> str:
    """Return the README with whole addresses, for where it is read without the files beside it."""
    raw = repository.replace("https://github.com/", "https://raw.githubusercontent.com/")
    text = re.sub(r"(!\[[^\]]*\]\()(?!https?:)", rf"\1{raw}/main/", readme)
    return re.sub(r"((?<!!)\[[^\]]*\]\()(?!https?:|#)", rf"\1{repository}/blob/main/", text)


def rewrite(text: str, folder: Path) -> str:
    """Return a page with the contents of its tables and the figures in its lines renewed.

    Everything outside the markers stays as it is.

    Raises:
        TableError: for a marker that cannot be read or has no end, or that asks for what is not there.
    """

    def lines() -> Iterator[str]:
        fence, open_marker = "", ""
        for line in text.splitlines(keepends=True):
            if open_marker:
                if TABLE.match(line):
                    raise TableError(f"the table {open_marker!r} has no `<!-- end table -->` before the next one")
                if END.match(line):
                    open_marker = ""
                    yield line
                continue
            if mark := FENCE.match(line):
                fence = "" if mark[1] == fence else fence or mark[1]
            if not fence:
                line = FIGURE.sub(
                    lambda m: f"<!-- figure: {m['what']} -->{figure(m['what'], folder)}<!-- end figure -->", line
                )
            yield line
            if not fence and (found := TABLE.match(line)):
                open_marker = found["what"]
                yield from (f"{row}\n" for row in render(Marker.parse(open_marker), folder))
        if open_marker:
            raise TableError(f"the table {open_marker!r} has no `<!-- end table -->`")

    return "".join(lines())


# ---------------------------------------------------------------------------------------------- pages


def pages(root: Path) -> list[Path]:
    """Return the pages that may hold tables."""
    return [path for path in [root / "README.md", *sorted((root / "docs").rglob("*.md"))] if path.is_file()]


def write(path: Path, text: str) -> None:
    """Replace a file as a whole: a reader, or a power cut, sees the old text or the new one."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, path.stat().st_mode & 0o777 if path.exists() else 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def main(arguments: list[str] | None = None) -> int:
    """Rewrite or check the pages; return the exit code: 0 in order, 1 out of date, 2 for a marker that is wrong."""
    parser = argparse.ArgumentParser(description="Rewrite the tables of README.md and docs/ from docs/results.")
    parser.add_argument("--check", action="store_true", help="change nothing; fail when a page is out of date")
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)

    renewed: dict[Path, tuple[str, str]] = {}
    for path in pages(options.root):
        with path.open(encoding="utf-8", newline="") as file:
            old = file.read()
        template = options.root / "docs" / TEMPLATE
        results = options.root / "docs" / "results"
        try:
            if path == options.root / "README.md" and template.is_file():
                new = fill(template.read_text(encoding="utf-8"), results)
            else:
                new = rewrite(old, results)
        except TableError as error:
            print(f"{path.relative_to(options.root)}: {error}", file=sys.stderr)
            return 2
        if new != old:
            renewed[path] = (old, new)
        if path == options.root / "README.md" and template.is_file():
            copy = options.root / "docs" / "description.txt"
            told = copy.read_text(encoding="utf-8") if copy.is_file() else ""
            if told != (text := described(new, repository(options.root))):
                renewed[copy] = (told, text)
    # nothing is written unless every page could be made
    for path, (old, new) in renewed.items():
        name = str(path.relative_to(options.root))
        if options.check:
            print(f"{name} is out of date; run `make tables`")
            sys.stdout.writelines(difflib.unified_diff(old.splitlines(True), new.splitlines(True), name, name, n=0))
        else:
            write(path, new)
            print(f"rewrote the tables of {name}")
    return 1 if options.check and renewed else 0


if __name__ == "__main__":
    sys.exit(main())
