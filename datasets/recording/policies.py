"""Who plays while a game is recorded: chance, chance that persists, or a function of yours."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from phlogiston.datasets.base import Array
from phlogiston.errors import ConfigError

NAMES = "random, sticky:0.7, sticky:0.7:1,1,2 (weights of the actions) or module:function"


class Policy(Protocol):
    """Chooses actions in one game after another."""

    def __call__(self, frame: Array, generator: np.random.Generator) -> int:
        """Return the number of an action, given a frame as it is recorded."""


class Sticky:
    """The last action again with some probability, or any.

    Args:
        actions: how many there are.
        keep: probability of the last one.
        weights: how often each is chosen otherwise, relative to the others; all alike by default.

    Raises:
        ConfigError: other weights than one for each action, or negative ones.
    """

    def __init__(self, actions: int, keep: float = 0.0, weights: Sequence[float] = ()) -> None:
        self.actions, self.keep, self._last = actions, keep, -1
        self._levels = np.cumsum(weights)
        if len(weights) and not (len(weights) == actions and min(weights) >= 0 and 0 < self._levels[-1] < np.inf):
            raise ConfigError(
                f"policy gives weights {', '.join(f'{w:g}' for w in weights)}; expected one for each of {actions} "
                "actions, none negative, not all 0"
            )

    def reset(self) -> None:
        """Forget the last game."""
        self._last = -1

    def __call__(self, frame: Array, generator: np.random.Generator) -> int:
        """See `Policy`."""
        again = generator.random()
        if len(self._levels):
            fresh = int(np.searchsorted(self._levels, generator.random() * self._levels[-1], side="right"))
        else:
            fresh = int(generator.integers(self.actions))
        self._last = self._last if self._last >= 0 and again < self.keep else fresh
        return self._last


def keeps(policy: Any) -> float | None:
    """How often a named policy keeps its last action, all others being alike: 0 for "random"; else None.

    Raises:
        ConfigError: a share that is none, or weights that are not numbers.
    """
    named = _sticky(policy)
    return None if named is None or named[1] else named[0]


def _sticky(policy: Any) -> tuple[float, list[float]] | None:
    """How often a named policy keeps its last action, and weights of the others; None for a function."""
    if policy == "random":
        return 0.0, []
    if not isinstance(policy, str) or policy.partition(":")[0] != "sticky":
        return None
    share, _, weights = policy.partition(":")[2].partition(":")
    try:
        keep = float(share or 0.7)
        found = [float(weight) for weight in weights.split(",")] if weights else []
    except ValueError:
        keep = -1.0
    if not 0 <= keep < 1:
        raise ConfigError(
            f"policy is {policy!r}; sticky takes a probability below 1, as in sticky:0.7, and perhaps a weight for "
            "every action, as in sticky:0.7:1,1,2"
        )
    return keep, found


def as_policy(policy: Any, actions: int) -> Policy:
    """Return what chooses actions.

    Args:
        policy: "random"; "sticky:0.7", or "sticky:0.7:1,1,2" with a weight for every action; "module:function", or a
            function `(frame, generator) -> action`; a class is called once for a policy of its own, and one that has a
            method `reset` is told when a game begins.
        actions: how many there are.

    Raises:
        ConfigError: none of these.
    """
    named = _sticky(policy)
    if named is not None:
        return Sticky(actions, *named)
    made = _imported(policy) if isinstance(policy, str) else policy
    if isinstance(made, type):
        made = made()
    if not callable(made):
        raise ConfigError(f"policy is {policy!r}; expected {NAMES}, or a function (frame, generator) -> action")
    chosen: Policy = made
    return chosen


def begin(policy: Any) -> None:
    """Tell a policy that a game begins, if it wants to know."""
    reset: Callable[[], None] | None = getattr(policy, "reset", None)
    if reset is not None:
        reset()


def _imported(text: str) -> Any:
    where, _, name = text.partition(":")
    if not where or not name:
        raise ConfigError(f"policy is {text!r}; expected {NAMES}")
    here = os.getcwd()
    sys.path.append(here)  # a module beside the recording; behind everything installed
    try:
        return getattr(importlib.import_module(where), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"policy {text!r} cannot be imported: {error}") from error
    finally:
        sys.path.remove(here)
