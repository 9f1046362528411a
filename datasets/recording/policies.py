"""Who plays while a game is recorded: chance, chance that persists, or a function of yours."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from phlogiston.datasets.base import Array
from phlogiston.errors import ConfigError

NAMES = "random, sticky:0.7 or module:function"


class Policy(Protocol):
    """Chooses actions in one game after another."""

    def __call__(self, frame: Array, generator: np.random.Generator) -> int:
        """Return the number of an action, given a frame as it is recorded."""


class Sticky:
    """The last action again with some probability, or any.

    Args:
        actions: how many there are.
        keep: probability of the last one.
    """

    def __init__(self, actions: int, keep: float = 0.0) -> None:
        self.actions, self.keep, self._last = actions, keep, -1

    def reset(self) -> None:
        """Forget the last game."""
        self._last = -1

    def __call__(self, frame: Array, generator: np.random.Generator) -> int:
        """See `Policy`."""
        again, fresh = generator.random(), int(generator.integers(self.actions))
        self._last = self._last if self._last >= 0 and again < self.keep else fresh
        return self._last


def keeps(policy: Any) -> float | None:
    """How often a named policy keeps its last action: 0 for "random"; None for a function.

    Raises:
        ConfigError: a share that is none.
    """
    if policy == "random":
        return 0.0
    if not isinstance(policy, str) or not policy.startswith("sticky"):
        return None
    try:
        keep = float(policy.removeprefix("sticky").removeprefix(":") or 0.7)
    except ValueError:
        keep = -1.0
    if not 0 <= keep < 1:
        raise ConfigError(f"policy is {policy!r}; sticky takes a probability below 1, as in sticky:0.7")
    return keep


def as_policy(policy: Any, actions: int) -> Policy:
    """Return what chooses actions.

    Args:
        policy: "random", "sticky:0.7", "module:function", or a function `(frame, generator) -> action`; a class is
            called once for a policy of its own, and one that has a method `reset` is told when a game begins.
        actions: how many there are.

    Raises:
        ConfigError: none of these.
    """
    keep = keeps(policy)
    if keep is not None:
        return Sticky(actions, keep)
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
