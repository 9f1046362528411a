"""One trial of a search: a training in a run folder of its own, in this process or in one that does nothing else.

A worker process reads one JSON object per line from stdin, first the settings of the search, then a trial each, and
answers on stdout: `{"at": ..., "value": ...}` at every checkpoint, to which it is told to go on or not, and at the end
`{"value": ..., "pruned": ...}` or `{"error": ...}`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from phlogiston import datasets, systems
from phlogiston.datasets.base import Dataset
from phlogiston.errors import ConfigError, PhlogistonError, RunError
from phlogiston.inference.svi.checkpoints import find, read_state
from phlogiston.inference.svi.run_folder.lock import Lock
from phlogiston.inference.svi.run_folder.readers import standing
from phlogiston.systems.run_setup import configured_system

Report = Callable[[int, float], bool]
"""Told how far a trial is, in thousandths, and its validation loss; returns whether to stop it."""
PATIENCE = 60.0
"""Seconds that a trial waits for a process of an earlier search to leave its run folder."""


class Reporter:
    """The engine's callback that tells validation losses and stops a training that is not worth going on with."""

    def __init__(self, report: Report) -> None:
        self._report, self._parent = report, os.getppid()

    def on_step(self, state: Any) -> None:
        """Leave, with a checkpoint, if the search that wanted this training has gone."""
        if os.getppid() != self._parent:
            os.kill(os.getpid(), signal.SIGTERM)

    def on_checkpoint(self, state: Any) -> None:
        """Tell the loss."""
        if state.valid_loss is not None and self._report(int(1000 * state.progress), state.valid_loss):
            state.request_stop()


def load_rows(settings: Mapping[str, Any]) -> Dataset:
    """Load the data of a search.

    Raises:
        ConfigError: they have no validation rows to compare trials by.
    """
    rows = datasets.load(settings["data"]["name"], **settings["data"]["options"])
    if not len(rows.valid):
        raise ConfigError(
            f"data {rows.meta.name!r} have no validation rows, by which trials are compared. Set some aside, for "
            "example by --data-set valid=0.1."
        )
    return rows


def run_trial(
    settings: Mapping[str, Any], rows: Dataset, options: Mapping[str, Any], folder: Path, report: Report
) -> tuple[float, bool]:
    """Train a system, or go on where its run folder says it was.

    Args:
        settings: of the search.
        rows: the data.
        options: of the system.
        folder: the run folder.
        report: see `Report`.

    Returns:
        The validation loss at the end, nats per row, and whether training was ended before its last step.

    Raises:
        PhlogistonError: options or data that cannot be used, or a training that failed.
    """
    kind = systems.get(settings["system"])
    system = configured_system(kind, options, settings["steps"], told=False)
    _wait_for(folder)
    system.fit(
        rows,
        out=folder,
        seed=settings["seed"],
        threads=settings["threads"],
        callbacks=[Reporter(report)],
        progress="off",
        tensorboard=False,
    )
    state = read_state(find(folder))
    far = standing(folder, state)
    loss = state["valid_loss"]
    return float("nan") if loss is None else float(loss), far.steps is not None and far.step < far.steps


def _wait_for(folder: Path) -> None:
    """Give a process that was left behind by a killed search the time to notice."""
    until = time.monotonic() + PATIENCE
    while folder.is_dir():
        try:
            Lock(folder).release()
        except RunError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)
        else:
            return


def work() -> None:
    """Do trials until there are no more; see the head of this file."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # nothing else may write among the answers

    def tell(**content: Any) -> None:
        print(json.dumps(content), file=answers)

    def report(at: int, value: float) -> bool:
        try:
            tell(at=at, value=value)
        except BrokenPipeError:
            os.kill(os.getpid(), signal.SIGTERM)  # the search has gone: leave, with a checkpoint
            return False
        return bool(json.loads(sys.stdin.readline() or '{"stop": false}')["stop"])

    settings = json.loads(sys.stdin.readline())
    rows: Dataset | None = None
    for line in sys.stdin:
        trial = json.loads(line)
        try:
            rows = load_rows(settings) if rows is None else rows
            value, pruned = run_trial(settings, rows, trial["options"], Path(trial["folder"]), report)
            tell(value=value, pruned=pruned)
        except PhlogistonError as error:
            tell(error=str(error))
        except Exception as error:
            traceback.print_exc()
            tell(error=f"unexpected {type(error).__name__}: {error}")


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        work()
