"""Rows of the one table of speed: work, ours, the alternative, their ratio, the bar.

A row is a test that gives two ways to do the same work:

    def test_a_step(row):
        row("drmm/step", work="a step of ...", ours=lambda: ..., alternative=lambda: ..., against="by hand", bar=1.25)

They are timed in turn, in CPU time of this process, as often as it takes; the ratio is that of the least times, which
other work on the same cores only adds to. The row is written to docs/results/bench.json, printed at the end of the run,
and fails its test above the bar. A figure of another kind is written by `row.figure`.
"""

from __future__ import annotations

import datetime
import importlib.util
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = 0.02
"""Seconds of CPU time that one sample lasts at least: calls that are shorter are repeated."""


def _recorder() -> ModuleType:
    """The recorder of the full recipes, whose files have the same form."""
    name = "phlogiston_recorder"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, ROOT / "tests" / "learn" / "recorder.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def cpu_seconds(calls: Sequence[Callable[[], Any]], rounds: int) -> list[float]:
    """Least CPU time of each call, measured in turn after one call each that does not count."""
    repeats = []
    for call in calls:
        call()
        began = time.process_time()
        call()
        repeats.append(max(1, math.ceil(SAMPLE / max(time.process_time() - began, 1e-6))))
    least = [math.inf] * len(calls)
    for _ in range(rounds):
        for i, call in enumerate(calls):
            began = time.process_time()
            for _ in range(repeats[i]):
                call()
            least[i] = min(least[i], (time.process_time() - began) / repeats[i])
    return least


def shown(seconds: float) -> str:
    """Write a time with three digits and the unit that suits it."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


class Rows:
    """What the fixture `row` is: measures, records and judges.

    Args:
        path: the results file; None records nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.entries: list[dict[str, Any]] = []

    def __call__(
        self,
        name: str,
        *,
        work: str,
        ours: Callable[[], Any],
        alternative: Callable[[], Any],
        against: str,
        bar: float,
        rounds: int = 15,
    ) -> float:
        """Time two ways to do the same work.

        Args:
            name: of the row, `GROUP/ROW`.
            work: what is done, in words.
            ours: does it once.
            alternative: does it once, the other way.
            against: what the other way is, in words.
            bar: the largest ratio of the CPU times, ours over the alternative's, that passes.
            rounds: samples of each.

        Returns:
            The ratio.
        """
        mine, theirs = cpu_seconds((ours, alternative), rounds)
        return self.figure(name, work, mine / theirs, bar, shown(mine), f"{against}: {shown(theirs)}")

    def figure(
        self,
        name: str,
        work: str,
        ratio: float,
        bar: float,
        ours: str,
        alternative: str,
        figure: str = "CPU time, ours over the alternative",
    ) -> float:
        """Record a row that was measured otherwise; lower is better. Arguments as above, times as text."""
        recorder = _recorder()
        entry = {
            "name": name,
            "title": work,
            "figure": figure,
            "ours": ours,
            "alternative": alternative,
            "higher_is_better": False,
            "must": bar,
            "values": {"0": ratio},
            "mean": ratio,
            "versions": recorder.versions(),
            "machine": recorder.machine(),
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "command": "make bench",
        }
        self.entries.append(entry)
        if self.path is not None:
            recorder.merge(self.path, "bench", entry)
        assert ratio <= bar, f"{work}: {ours} against {alternative}, {ratio:.3g}, is above the bar of {bar:.3g}"
        return ratio

    def table(self) -> list[str]:
        """The rows of this run as lines of text."""
        cells = [("work", "ours", "alternative", "ratio", "bar")]
        for e in self.entries:
            cells.append((e["title"], e["ours"], e["alternative"], f"{e['mean']:.3g}", f"{e['must']:.3g}"))
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        return ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) for line in cells]
