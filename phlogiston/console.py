"""Telling people things on stderr, where nobody may be listening: a reader that has left ends no work."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console


def tell(text: str) -> bool:
    """Write a line to stderr.

    Returns:
        False where that is not possible: stderr is closed, its reader has left, or the disk that keeps it is full.
    """
    return write_line(sys.stderr, text)


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
