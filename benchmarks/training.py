"""The systems with pictures at their default sizes, and what a step of their training takes."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from phlogiston import datasets, systems

SIZES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "scene": ("courts", {"sizes": (64, 1, 1)}, {"draft_steps": 1}),
    "vdsm": ("figures", {"characters": (8, 1, 1), "size": 32}, {}),
    "sqair": ("moving_digits", {"sizes": (64, 1, 1)}, {"lengths": (3,), "shares": (1.0,), "decay_to": 1.0}),
}
"""System -> data, its options, options on top of the defaults: early stages cut short."""


class _Enough(Exception):
    """As many steps as are wanted are done."""


class _Clock:
    """A callback that times the steps of the last stage it is told of, the first ones left out."""

    def __init__(self, now: Callable[[], float], steps: int) -> None:
        self.now, self.most = now, steps + 2
        self.on_stage(None)

    def on_stage(self, state: Any) -> None:
        """Begin anew."""
        self.marks: list[float] = []

    def on_step(self, state: Any) -> None:
        """Mark the time; end the fit where there are enough."""
        self.marks.append(self.now())
        if len(self.marks) > self.most:
            raise _Enough


def seconds(
    name: str, ways: Sequence[dict[str, Any]], now: Callable[[], float], steps: int = 8, rounds: int = 3
) -> list[float]:
    """Median seconds of a training step, for several ways to train the same system in turn.

    Args:
        name: of the system.
        ways: arguments of `fit`, those of each way.
        now: the clock.
        steps: that a round times.
        rounds: of all ways.
    """
    data, loading, options = SIZES[name]
    rows = datasets.load(data, **loading)
    taken: list[list[float]] = [[] for _ in ways]
    for _ in range(rounds):
        for times, way in zip(taken, ways, strict=True):
            clock = _Clock(now, steps)
            with contextlib.suppress(_Enough):
                systems.get(name)(**options).fit(rows, seed=0, progress="off", callbacks=[clock], **way)
            times += [b - a for a, b in zip(clock.marks[2:], clock.marks[3:], strict=False)]
    return [statistics.median(times) for times in taken]
