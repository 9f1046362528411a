"""Steps that nobody looks at, of environments that draw a picture at every step.

CarRacing spends nine tenths of its time on pictures. Where actions are repeated, only the last one is seen, and what
happens is the same without the others.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

DRAWS = {"gymnasium.envs.box2d.car_racing": "CarRacing"}
"""Modules -> classes whose method `_render("state_pixels")` makes the observation of every step, kept as `state`."""
OBSERVED = "state_pixels"


@contextlib.contextmanager
def undrawn(env: Any) -> Iterator[None]:
    """Take steps of an environment without a picture: observations are those of the last step that had one."""
    inner = _drawing(env)
    if inner is None:
        yield
        return
    draw = inner._render

    def instead(mode: str) -> Any:
        return inner.state.copy() if mode == OBSERVED and inner.state is not None else draw(mode)

    inner._render = instead
    try:
        yield
    finally:
        del inner._render


def drawn(env: Any, observation: Any) -> Any:
    """Return the observation of a step taken `undrawn`."""
    inner = _drawing(env)
    return observation if inner is None else inner._render(OBSERVED)


def _drawing(env: Any) -> Any:
    """The environment within its wrappers if its pictures can be left out, or None."""
    inner = getattr(env, "unwrapped", env)
    known = DRAWS.get(type(inner).__module__) == type(inner).__name__
    # what a wrapper makes of pictures may depend on all of them
    plain = known and getattr(env, "observation_space", None) == getattr(inner, "observation_space", None)
    return inner if plain and "_render" not in vars(inner) else None
