"""Telling people things on stderr, where nobody may be listening: a reader that has left ends no work."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console


def tell(text: str) -> bool:
    """Write a line to stderr, in which nothing is left that a terminal would obey (see `visible`).

    Returns:
        False where that is not possible: stderr is closed, its reader has left, or the disk that keeps it is full.
    """
    return write_line(sys.stderr, visible(text))


def write_line(stream: TextIO | None, text: str) -> bool:
    """Write a line to a stream at once; return whether it took it. A program started without the stream has None."""
    if stream is None:
        return False
    try:
        print(text, file=stream, flush=True)
    except (OSError, ValueError):  # ValueError: the stream object was closed
        return False
    return True


def is_terminal(stream: TextIO | None) -> bool:
    """Say whether a stream is a terminal; one that is closed or was never there is none."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:
        return False


def in_notebook() -> bool:
    """Say whether what is shown goes to a notebook: this process is the kernel of one."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


def terminal() -> Console:
    """Return a rich console on stderr that goes quiet where its reader has left; rich's own would end the process."""
    from rich.console import Console

    class Quiet(Console):
        def _write_buffer(self) -> None:
            try:
                super()._write_buffer()
            except (OSError, ValueError):
                self.quiet = True

        def on_broken_pipe(self) -> None:
            self.quiet = True

    return Quiet(stderr=True)


def release_streams() -> None:
    """Let go of what stdout and stderr could not take, so that Python does not fail over it when the process ends."""
    for stream in (sys.stdout, sys.stderr):
        if stream is None:
            continue
        try:
            stream.flush()
        except OSError:
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        except ValueError:
            pass


def visible(text: str) -> str:
    r"""Show what a terminal would obey: control and direction characters become escapes such as `\x1b`.

    Names of columns, files and labels come from files of others; printed as they are, they could move the cursor,
    rename the window or hide a part of a line. Line breaks and tabs stay.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c in "\n\t" or not _acts(c) else c.encode("unicode_escape").decode("ascii") for c in text)


def _acts(character: str) -> bool:
    code = ord(character)
    return (
        code < 32
        or 127 <= code < 160
        or 0xD800 <= code < 0xE000  # half a character, of a file name that is no UTF-8
        or character in "\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
    )
