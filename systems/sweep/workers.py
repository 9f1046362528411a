"""Trials side by side: processes that train, and the one that draws options and keeps the journal."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
from typing import Any, Protocol

from phlogiston.systems.sweep.display import Display

LEAVE = 60.0
"""Seconds in which a worker that is asked to end writes its checkpoint."""


class Search(Protocol):
    """What workers need of a `Study`."""

    folder: Any
    settings: dict[str, Any]
    study: Any

    def left(self) -> list[Any]: ...
    def options(self, trial: Any) -> dict[str, Any]: ...
    def path(self, number: int) -> Any: ...
    def report(self, trial: Any, at: int, value: float) -> bool: ...
    def finish(self, trial: Any, value: float, pruned: bool) -> None: ...
    def fail(self, trial: Any, error: str) -> None: ...
    def best(self) -> Any: ...


class Worker:
    """A process that trains one trial after another; see `trials.work`.

    Args:
        search: whose trials they are.
        number: of the worker; what it says on stderr goes to a file with it.
        threads: it computes on.
    """

    def __init__(self, search: Search, number: int, threads: int) -> None:
        self.trial: Any = None
        self.log = search.folder / f"worker-{number}.log"
        environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-W", "ignore", "-m", "phlogiston.systems.sweep.trials"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
            )
        self.tell(search.settings)

    def tell(self, content: Any) -> None:
        """Send a line; one that has gone is noticed when it is read."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(content), file=self.process.stdin, flush=True)

    def begin(self, search: Search, trial: Any) -> None:
        """Let it train a trial."""
        self.trial = trial
        folder = str(search.path(trial.number).absolute())
        self.tell({"options": search.options(trial), "folder": folder})

    def end(self) -> None:
        """Let it go: without a trial at once, with one behind a checkpoint."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        if self.trial is not None:
            self.process.terminate()
        try:
            self.process.wait(LEAVE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        if self.log.is_file() and not self.log.stat().st_size:
            self.log.unlink()


class Workers:
    """Several workers of one search.

    Args:
        search: its trials.
        display: is told what comes of them.
        jobs: how many.
    """

    def __init__(self, search: Search, display: Display, jobs: int) -> None:
        self.search, self.display, self.jobs = search, display, jobs
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.threads = search.settings["threads"] or max(1, cores // jobs)
        self.workers: dict[int, Worker] = {}
        self.left = search.left()

    def run(self, trials: int) -> None:
        """Train until there are so many trials in all."""
        selector = selectors.DefaultSelector()
        try:
            for number in range(self.jobs):
                if not self._start(selector, number, trials):
                    break
            while self.workers:
                for key, _ in selector.select():
                    number = key.data
                    line = key.fileobj.readline()  # type: ignore[union-attr]
                    if not self._answer(number, line) or not self._next(self.workers[number], trials):
                        selector.unregister(key.fileobj)
                        self.workers.pop(number).end()
                        self._start(selector, number, trials)
        finally:
            for worker in self.workers.values():
                worker.end()
            selector.close()

    def _start(self, selector: selectors.BaseSelector, number: int, trials: int) -> bool:
        """Start a worker if there is something left to do."""
        if not self.left and len(self.search.study.trials) >= trials:
            return False
        worker = self.workers[number] = Worker(self.search, number, self.threads)
        assert worker.process.stdout is not None
        selector.register(worker.process.stdout, selectors.EVENT_READ, number)
        return self._next(worker, trials)

    def _next(self, worker: Worker, trials: int) -> bool:
        """Give a worker that has none a trial; return False where there is no more."""
        if worker.trial is None:
            if not self.left and len(self.search.study.trials) >= trials:
                return False
            worker.begin(self.search, self.left.pop(0) if self.left else self.search.study.ask())
        return True

    def _answer(self, number: int, line: str) -> bool:
        """Take what a worker says; return False where it has gone."""
        worker, search = self.workers[number], self.search
        trial = worker.trial
        if not line:
            code, worker.trial = worker.process.wait(), None
            error = f"its process ended with {f'signal {-code}' if code < 0 else f'code {code}'}; see {worker.log}"
            search.fail(trial, error)
            self.display.failed(trial, error)
            return False
        said = json.loads(line)
        if "at" in said:
            self.display.at(trial.number, said["at"])
            worker.tell({"stop": search.report(trial, said["at"], said["value"])})
            return True
        worker.trial = None
        if "error" in said:
            search.fail(trial, said["error"])
            self.display.failed(trial, said["error"])
        else:
            search.finish(trial, said["value"], said["pruned"])
            self.display.ended(trial, said["value"], said["pruned"], search.best())
        return True
