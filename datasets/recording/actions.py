"""The actions of an environment as a finite list: what a model of the game chooses from.

Spaces of numbered actions are listed as they are, combinations (several buttons, several axes) as all of theirs. A box
is taken apart into evenly spaced values along each axis, or its actions are given one by one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from phlogiston.datasets.base import Array
from phlogiston.errors import ConfigError

MOST = 256
"""Actions in a list, at most: a controller has weights for each of them."""

Action = int | list[int] | list[float]


def list_actions(space: Any, bins: int = 3, chosen: Sequence[Any] | None = None) -> list[Action]:
    """List the actions of a Gymnasium space.

    Args:
        space: `Discrete`, `MultiDiscrete`, `MultiBinary` or `Box`.
        bins: values along each axis of a box, its borders included.
        chosen: the actions to choose from instead, as the space takes them.

    Raises:
        ConfigError: another kind of space, too many actions, a box without borders, or a chosen action outside.
    """
    if chosen is not None:
        return _checked(space, chosen)
    kind = type(space).__name__
    if kind == "Discrete":
        if space.n > MOST:
            raise _too_many(int(space.n))
        return [int(space.start) + i for i in range(int(space.n))]
    if kind == "MultiDiscrete":
        starts = np.broadcast_to(getattr(space, "start", 0), space.nvec.shape).ravel().tolist()
        axes: list[list[Any]] = [
            [start + i for i in range(n)] for start, n in zip(starts, space.nvec.ravel().tolist(), strict=True)
        ]
    elif kind == "MultiBinary":
        axes = [[0, 1]] * math.prod(np.atleast_1d(space.n).tolist())
    elif kind == "Box":
        axes = _binned(space, bins)
    else:
        raise ConfigError(
            f"actions are a {kind} space; expected Discrete, MultiDiscrete, MultiBinary or Box. Wrap the environment "
            "so that it takes one of these."
        )
    count = math.prod(map(len, axes))
    if count > MOST:
        raise _too_many(count)
    return [list(combination) for combination in itertools.product(*axes)]


def as_action(space: Any, action: Action) -> Any:
    """Return a listed action as the space takes it: a number, or an array of its shape and type."""
    if isinstance(action, int):
        return action
    return np.asarray(action, dtype=space.dtype).reshape(space.shape)


def _binned(space: Any, bins: int) -> list[list[float]]:
    if bins < 2:
        raise ConfigError(f"bins is {bins}; an axis of a box is taken apart into at least 2 values")
    low, high = space.low.ravel(), space.high.ravel()
    # a box without borders is written with the largest numbers of its type
    if not (np.isfinite(low).all() and np.isfinite(high).all() and float((high - low).max()) < 1e30):
        raise ConfigError("actions are a box without borders; list those to choose from: actions=[[...], [...]]")
    return [np.linspace(a, b, bins).tolist() for a, b in zip(low.tolist(), high.tolist(), strict=True)]


def _checked(space: Any, chosen: Sequence[Any]) -> list[Action]:
    if not 0 < len(chosen) <= MOST:
        raise ConfigError(f"actions lists {len(chosen)} actions; 1 to {MOST} are expected")
    found: list[Action] = []
    for action in chosen:
        entry: Array = np.asarray(action)
        listed = int(entry) if entry.ndim == 0 else entry.ravel().tolist()
        if entry.dtype.kind not in "iufb" or not _inside(space, listed):
            raise ConfigError(f"actions lists {action!r}, which is not in the environment's {space}")
        found.append(listed)
    return found


def _inside(space: Any, action: Any) -> bool:
    try:
        return bool(space.contains(as_action(space, action)))
    except ValueError:  # another number of entries
        return False


def _too_many(count: int) -> ConfigError:
    return ConfigError(f"the environment has {count:,} actions; up to {MOST} are taken. List some: actions=[...]")
