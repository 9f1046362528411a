"""What the verbs print: one JSON object for machines, aligned text for people; files written whole or not at all."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from phlogiston.console import release_streams, tell, terminal, visible, write_line
from phlogiston.errors import ConfigError, RunError
from phlogiston.files import check_writable


def emit(as_json: bool, content: dict[str, Any], text: str, *, kept: bool = False) -> None:
    """Print `content` as one JSON object, or `text`.

    Args:
        as_json: which of the two.
        content: for machines.
        text: for people.
        kept: True where the result is in a file already: then a reader that has left makes no failure of it.

    Raises:
        OSError: stdout takes nothing, and the result is nowhere else.
    """
    shown = json.dumps(plain(content), allow_nan=False) if as_json else visible(text)
    if not kept:
        print(shown)
    elif sys.stdout is not None and not write_line(sys.stdout, shown):
        release_streams()
        say(f"warning: stdout takes nothing; the work is done all the same: {text.splitlines()[-1]}")


def plain(value: Any) -> Any:
    """Turn a value into what JSON can hold; numbers that are not finite become null."""
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | None) else str(value)


def columns(rows: Sequence[Sequence[Any]], header: Sequence[str] = ()) -> str:
    """Align rows of text in columns, two spaces apart; the last column may be of any width."""
    table = [[str(entry) for entry in row] for row in ([header] if header else []) + list(rows)]
    widths = [max((len(row[i]) for row in table), default=0) for i in range(len(table[0]) if table else 0)]
    return "\n".join("  ".join(e.ljust(w) for e, w in zip(row, widths, strict=True)).rstrip() for row in table)


def say(text: str) -> None:
    """Tell a person something that is no result, on stderr."""
    tell(text)


def pairs(options: Sequence[str] | None, flag: str = "--set") -> dict[str, str]:
    """Take `key=value` options apart.

    Raises:
        ConfigError: an entry has no `=`, no key, or repeats one.
    """
    found: dict[str, str] = {}
    for option in options or ():
        key, equals, value = option.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"{flag} {option!r}: expected key=value.")
        if key.strip() in found:
            raise ConfigError(f"{flag} {key.strip()} is given twice.")
        found[key.strip()] = value.strip()
    return found


def refuse_existing(path: Path, force: bool) -> None:
    """Refuse to overwrite a file, or one that could not be written, before any work is done for it.

    Raises:
        ConfigError: the file exists and `force` is False, it is a folder, or its folder does not exist.
        RunError: its folder takes no files.
    """
    if path.is_dir():
        raise ConfigError(f"{str(path)!r} is a folder; give the name of a file.")
    if path.exists() and not force:
        raise ConfigError(f"{str(path)!r} exists already. Choose another --out, or overwrite it with --force.")
    if not path.parent.is_dir():
        raise ConfigError(f"there is no folder {str(path.parent)!r} to write {path.name!r} into.")
    try:
        check_writable(path.parent)
    except OSError as error:
        raise RunError(f"{str(path)!r} cannot be written ({error.strerror}); nothing was computed.") from error


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to disk, and only then give it its name."""
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")  # writers go by the suffix
    try:
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on stderr, where that is a terminal; yields what is told how much is done."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = terminal()
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(visible(title), total=total)
        yield lambda done: bar.update(task, completed=done)
