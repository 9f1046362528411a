"""The process that answers the questions of one page.

A process of its own, because a question that takes long must be stopped at once, wherever it is, and because seeds of
two pages must not mix: stopping is killing, and the next question goes to a fresh process. On POSIX it is forked from
a server that has loaded torch and Pyro before.
"""

from __future__ import annotations

import signal
import sys
import traceback
import warnings
from multiprocessing.connection import Connection
from typing import Any

from phlogiston.errors import PhlogistonError, PhlogistonWarning
from phlogiston.systems import registry
from phlogiston.systems.explore.panels import panel


def main(connection: Connection) -> None:
    """Answer messages (run, panel, what, payload) with what can be written as JSON, until the other end closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which closes the connection
    loaded: dict[str, Any] = {}
    while True:
        try:
            message = connection.recv()
        except (EOFError, OSError):
            return
        connection.send(_answer(loaded, *message))


def _answer(loaded: dict[str, Any], run: str, name: str, what: str, payload: dict[str, Any]) -> dict[str, Any]:
    """One answer; whatever goes wrong is told in it."""
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        try:
            if run not in loaded:
                loaded[run] = registry.load(run)
            module = panel(name)
            if what == "describe":
                content = module.describe(loaded[run], run)
            else:
                content = module.ask(loaded[run], run, payload)
        except PhlogistonError as error:
            content = {"error": " ".join(str(error).split())}
        except (KeyError, TypeError, ValueError, IndexError) as error:
            traceback.print_exc(file=sys.stderr)
            content = {"error": f"this question could not be read or answered ({type(error).__name__}: {error})"}
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            content = {"error": f"unexpected {type(error).__name__}: {error} (this is a fault of phlogiston)"}
    said = dict.fromkeys(" ".join(str(w.message).split()) for w in heard if issubclass(w.category, PhlogistonWarning))
    return {**content, "warnings": list(said)}
