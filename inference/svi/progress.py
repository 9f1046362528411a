"""Progress: a bar on a terminal, JSON lines for machines, nothing otherwise. Always on stderr."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from phlogiston.errors import unknown_name

STYLES = ("auto", "bar", "json", "off")


def make(style: str, total: int) -> Progress:
    """Make the progress display.

    Args:
        style: `"bar"`, `"json"` (one line per logging interval), `"off"`, or `"auto"`: a bar if both stdout and stderr
            are terminals, else off.
        total: number of steps.

    Raises:
        UnknownNameError: for any other style.
    """
    if style not in STYLES:
        raise unknown_name("progress style", style, STYLES)
    if style == "auto":
        style = "bar" if sys.stdout.isatty() and sys.stderr.isatty() else "off"
    if style == "json":
        return _Lines()
    return _Bar(total) if style == "bar" else Progress()


class Progress:
    """Shows nothing; base of the displays that do.

    Attributes:
        every: least seconds between two updates; infinite where updates are not wanted.
    """

    every = float("inf")

    def update(self, step: int, stage: str, loss: float) -> None:
        """Show where training is; called at most once per `every` seconds."""

    def record(self, record: dict[str, Any]) -> None:
        """Show a record of the metrics file."""

    def say(self, text: str) -> None:
        """Show one line of text, even where nothing else is shown."""
        print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Take the display away."""


class _Lines(Progress):
    def record(self, record: dict[str, Any]) -> None:
        print(json.dumps(record), file=sys.stderr, flush=True)


class _Bar(Progress):
    every = 0.1

    def __init__(self, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self._bar = RichProgress(
            TextColumn("[bold]{task.fields[stage]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.4g}"),
            TextColumn("{task.fields[rate]:.1f} steps/s"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=False,
        )
        self._task = self._bar.add_task("", total=total, stage="", loss=float("nan"), rate=0.0)
        self._smooth: float | None = None
        self._rate: float | None = None
        self._last: tuple[int, float] | None = None
        self._bar.start()

    def update(self, step: int, stage: str, loss: float) -> None:
        now = time.perf_counter()
        if self._last is not None and step > self._last[0]:
            rate = (step - self._last[0]) / max(1e-9, now - self._last[1])
            self._rate = rate if self._rate is None else 0.9 * self._rate + 0.1 * rate
        self._last = (step, now)
        self._smooth = loss if self._smooth is None or self._smooth != self._smooth else 0.9 * self._smooth + 0.1 * loss
        self._bar.update(self._task, completed=step, stage=stage, loss=self._smooth, rate=self._rate or 0.0)

    def say(self, text: str) -> None:
        self._bar.console.print(text)

    def close(self) -> None:
        self._bar.stop()
