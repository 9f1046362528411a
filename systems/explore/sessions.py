"""Pages that are open, each with a process of its own that answers it, and the stopping of a question."""

from __future__ import annotations

import multiprocessing
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from phlogiston.errors import RunError

MOST = 6
"""Pages that have a process at the same time; the one idle for longest gives its own up for a new page."""
STOPPED = {"stopped": True, "error": "the question was stopped"}
PRELOAD = [
    "phlogiston.systems.explore.worker",
    "phlogiston.systems.base",
    "phlogiston.inference.query.ask",
    "torch.fx.experimental.symbolic_shapes",  # half a second that torch.broadcast_shapes takes at its first call
]


class Session:
    """One page: questions are answered one after the other, in a process that is started when there is one."""

    def __init__(self, context: Any) -> None:
        self._context = context
        self._turn = threading.Lock()  # whose turn it is
        self._state = threading.Lock()  # of the three below
        self._process: Any = None
        self._connection: Any = None
        self._job: str | None = None
        self._dropped: set[str] = set()

    @property
    def busy(self) -> bool:
        """Whether a question is being answered."""
        return self._turn.locked()

    def start(self) -> None:
        """Have a process ready."""
        with self._state:
            if self._process is None or not self._process.is_alive():
                if self._connection is not None:
                    self._connection.close()
                from phlogiston.systems.explore.worker import main

                self._connection, other = self._context.Pipe()
                self._process = self._context.Process(target=main, args=(other,), daemon=True)
                self._process.start()
                other.close()

    def ask(self, job: str, message: tuple[str, str, str, Mapping[str, Any]]) -> dict[str, Any]:
        """Answer one question.

        Args:
            job: the page's name for the question, by which it can be stopped.
            message: run, panel, `"describe"` or `"ask"`, and the question.
        """
        with self._turn:
            self.start()
            with self._state:
                if job in self._dropped:
                    self._dropped.discard(job)
                    return dict(STOPPED)
                self._job = job
                connection = self._connection
            try:
                connection.send(message)
                answer: dict[str, Any] = connection.recv()
            except (EOFError, OSError):
                with self._state:
                    stopped = self._job is None
                    if not stopped:
                        self._process = None
                return dict(STOPPED) if stopped else {"error": "the process that answers has died; ask again"}
            finally:
                with self._state:
                    self._job = None
            return answer

    def stop(self, job: str) -> bool:
        """Stop a question, if it is being answered; one that still waits its turn is dropped when that comes."""
        with self._state:
            if self._job != job:
                if self.busy:
                    self._dropped.add(job)
                return False
            self._job = None
            process, self._process = self._process, None
        process.kill()
        process.join()
        return True

    def close(self) -> None:
        """End the process."""
        with self._state:
            if self._process is not None:
                self._process.kill()
                self._process.join()
                self._connection.close()
                self._process = None


class Sessions:
    """All pages that are open.

    Args:
        most: that have a process at the same time.
    """

    def __init__(self, most: int = MOST) -> None:
        methods = multiprocessing.get_all_start_methods()
        self._context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
        self._context.set_forkserver_preload(PRELOAD)
        self._open: OrderedDict[str, Session] = OrderedDict()
        self._lock = threading.Lock()
        self._spare = Session(self._context)
        self._most = most

    def warm(self) -> None:
        """Start a first process, so that the first question need not wait for it."""
        self._spare.start()

    def of(self, name: str) -> Session:
        """The session of a page.

        Raises:
            RunError: too many pages are busy at once.
        """
        with self._lock:
            if name in self._open:
                self._open.move_to_end(name)
                return self._open[name]
            if len(self._open) >= self._most:
                idle = next((key for key, session in self._open.items() if not session.busy), None)
                if idle is None:
                    raise RunError(f"{self._most} pages are waiting for answers already; close one, or try again")
                self._open.pop(idle).close()
            session, self._spare = self._spare, Session(self._context)
            self._open[name] = session
            return session

    def close(self) -> None:
        """End all processes."""
        with self._lock:
            for session in [*self._open.values(), self._spare]:
                session.close()
            self._open.clear()
