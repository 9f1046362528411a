"""Progress: a bar on a terminal or in a notebook, JSON lines for machines, nothing otherwise. Always on stderr.

Whoever reads it may leave, and the disk that keeps it may be full: then nothing more is shown, and training goes on.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
import time
from typing import Any

from phlogiston.console import in_notebook, is_terminal, tell, terminal, visible
from phlogiston.errors import unknown_name

STYLES = ("auto", "bar", "json", "off")


def make(style: str, total: int) -> Progress:
    """Make the progress display.

    Args:
        style: `"bar"`, `"json"` (one line per logging interval), `"off"`, or `"auto"`: a bar in a notebook, and
            where both stdout and stderr are terminals, else off.
        total: number of steps.

    Raises:
        UnknownNameError: for any other style.
    """
    if style not in STYLES:
        raise unknown_name("progress style", style, STYLES)
    if style == "auto":
        style = "bar" if in_notebook() or (is_terminal(sys.stdout) and is_terminal(sys.stderr)) else "off"
    if style == "json":
        return _Lines()
    if style == "off":
        return Progress()
    return _Cell(total) if in_notebook() else _Bar(total)


class Progress:
    """Shows nothing; base of the displays that do.

    Attributes:
        every: least seconds between two updates; infinite for no updates.
    """

    every = float("inf")

    def update(self, step: int, stage: str, loss: float) -> None:
        """Show where training is; called at most once per `every` seconds."""

    def record(self, record: dict[str, Any]) -> None:
        """Show a record of the metrics file."""

    def say(self, text: str) -> None:
        """Show one line of text, even where nothing else is shown."""
        tell(text)

    def close(self) -> None:
        """Take the display away."""


class _Lines(Progress):
    def record(self, record: dict[str, Any]) -> None:
        tell(json.dumps(record))


class _Bar(Progress):
    every = 0.1

    def __init__(self, total: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self._bar = RichProgress(
            TextColumn("{task.fields[stage]}", style="bold", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.4g}"),
            TextColumn("{task.fields[rate]:.1f} steps/s"),
            TimeRemainingColumn(),
            console=terminal(),
            transient=False,
        )
        self._task = self._bar.add_task("", total=total, stage="", loss=float("nan"), rate=0.0)
        self._smooth: float | None = None
        self._rate: float | None = None
        self._last: tuple[int, float] | None = None
        with _unheard():
            self._begin()

    def _begin(self) -> None:
        self._bar.start()

    def update(self, step: int, stage: str, loss: float) -> None:
        now = time.perf_counter()
        if self._last is not None and step > self._last[0]:
            rate = (step - self._last[0]) / max(1e-9, now - self._last[1])
            self._rate = rate if self._rate is None else 0.9 * self._rate + 0.1 * rate
        self._last = (step, now)
        self._smooth = loss if self._smooth is None or self._smooth != self._smooth else 0.9 * self._smooth + 0.1 * loss
        with _unheard():
            self._bar.update(self._task, completed=step, stage=stage, loss=self._smooth, rate=self._rate or 0.0)

    def say(self, text: str) -> None:
        with _unheard():
            self._bar.console.print(visible(text), markup=False, highlight=False)

    def close(self) -> None:
        with _unheard():
            self._bar.stop()


class _Cell(_Bar):
    """The bar in the output of a notebook's cell, drawn anew in its place: rich's own way needs ipywidgets."""

    every = 0.25

    def _begin(self) -> None:
        self._handle: Any = None

    def update(self, step: int, stage: str, loss: float) -> None:
        super().update(step, stage, loss)
        if self._handle is None:  # not before there is something to tell: what is refused at once needs no bar
            show = importlib.import_module("IPython.display").display  # there, where this is the kernel of a notebook
            self._handle = show(self._bar, display_id=True)
        else:
            self._handle.update(self._bar)

    def say(self, text: str) -> None:
        tell(text)

    def close(self) -> None:
        pass


def _unheard() -> contextlib.AbstractContextManager[None]:
    """Show something, or not: the terminal may have gone."""
    return contextlib.suppress(OSError, ValueError)
