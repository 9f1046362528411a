"""The net around every reader of foreign files: what goes wrong inside becomes an error of ours with the file's name.

Readers of formats raise what they like: `struct.error`, `zlib.error`, `KeyError`, `OverflowError`, `RecursionError`, an
error class of their own. To the user all of them say the same: this file is not what it should be.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path

from phlogiston.errors import DataError, PhlogistonError

LONGEST = 400
"""Characters of a foreign error's message that are shown."""


@contextmanager
def reading(
    path: str | PathLike[str], expected: str, error: type[PhlogistonError] = DataError, name: str | None = None
) -> Iterator[None]:
    """Turn what a reader raises into an error of ours.

    Errors of ours pass, with the file's name put in front where they lack it.

    Args:
        path: the file or folder.
        expected: what it should be, as in `"an npz file"`.
        error: the class to raise.
        name: what messages call the file; the path by default.

    Raises:
        PhlogistonError: of the class `error`, whatever was raised inside.
    """
    shown = repr(str(path)) if name is None else name
    try:
        yield
    except PhlogistonError as problem:
        text = str(problem)
        if Path(path).name in text or repr(Path(path).name)[1:-1] in text:
            raise
        raise type(problem)(f"{shown}: {text}") from problem
    except FileNotFoundError as problem:
        raise error(f"{shown} does not exist; expected {expected}.") from problem
    except (NameError, ImportError):  # never a file's fault
        raise
    except Exception as problem:  # each format has errors of its own; all mean the same to the user
        if isinstance(problem, OSError) and problem.errno is not None:
            raise error(f"{shown} cannot be read: {problem.strerror}.") from problem
        why = "it is incomplete, damaged or something else"
        raise error(f"{shown} cannot be read as {expected}; {why} ({reason(problem)}).") from problem


def reason(problem: BaseException) -> str:
    """Say in a few words what a reader complained about."""
    if isinstance(problem, MemoryError):
        return "there is not enough memory for it"
    if isinstance(problem, RecursionError):
        return "it is nested too deeply"
    text = short(str(problem))
    return f"{type(problem).__name__}: {text}" if text else type(problem).__name__


def short(text: str) -> str:
    """One line of a message, without a full stop, cut where it is too long."""
    line = " ".join(text.split()).rstrip(".")
    return line if len(line) <= LONGEST else line[:LONGEST] + " ..."
