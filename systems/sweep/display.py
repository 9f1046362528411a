"""How far a search is: a bar on a terminal, otherwise a line per trial, or JSON for machines. Always on stderr."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Mapping
from typing import Any

from phlogiston.console import is_terminal, tell, terminal, visible
from phlogiston.errors import unknown_name

STYLES = ("auto", "json", "off")


class Display:
    """Shows a search.

    Args:
        style: one of `STYLES`.
        total: trials in all.
        done: trials that ended before, by how.
    """

    def __init__(self, style: str, total: int, done: Mapping[str, int]) -> None:
        if style not in STYLES:
            raise unknown_name("progress style", style, STYLES)
        self._style, self._total, self._done = style, total, sum(done.values())
        self._running: dict[int, int] = {}
        self._bar: Any = None
        self._best = ""
        if style == "auto" and is_terminal(sys.stdout) and is_terminal(sys.stderr):
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn("{task.fields[done]} of {task.fields[all]} trials", markup=False),
                BarColumn(),
                TextColumn("{task.fields[best]}", markup=False),
                TimeRemainingColumn(),
                console=terminal(),
            )
            self._task = self._bar.add_task("", total=1000 * total, done=self._done, all=total, best="")
            self._bar.start()
            self._show()

    def at(self, number: int, thousandths: int) -> None:
        """Take note of how far a trial is."""
        self._running[number] = thousandths
        self._show()

    def ended(self, trial: Any, value: float, pruned: bool, best: Any) -> None:
        """Tell how a trial ended, and which one is the best so far."""
        self._best = "" if best is None else f"best {best.value:.6g} (trial {best.number})"
        how = "pruned at" if pruned else "loss"
        self._tell(trial, f"{how} {value:.6g}", {"value": value, "pruned": pruned})

    def failed(self, trial: Any, error: str) -> None:
        """Tell why a trial failed."""
        self._tell(trial, f"failed: {error}", {"error": error})

    def _tell(self, trial: Any, text: str, content: dict[str, Any]) -> None:
        self._running.pop(trial.number, None)
        self._done += 1
        if self._style == "json":
            finite = {k: None if isinstance(v, float) and v - v != 0 else v for k, v in content.items()}
            tell(json.dumps({"trial": trial.number, "options": trial.params, **finite}))
        elif self._style == "auto":
            options = ", ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in trial.params.items())
            line = f"trial {trial.number}: {text}; {options}{f'; {self._best}' if self._best else ''}"
            if self._bar is None:
                tell(line)
            else:
                with contextlib.suppress(OSError, ValueError):
                    self._bar.console.print(visible(line), markup=False, highlight=False)
        self._show()

    def _show(self) -> None:
        if self._bar is not None:
            far = 1000 * self._done + sum(self._running.values())
            with contextlib.suppress(OSError, ValueError):
                self._bar.update(self._task, completed=far, done=self._done, best=self._best)

    def close(self) -> None:
        """Take the display away."""
        if self._bar is not None:
            with contextlib.suppress(OSError, ValueError):
                self._bar.stop()
