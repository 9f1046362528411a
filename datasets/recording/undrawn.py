"""Environments that draw a picture at every step, drawn no more than needs be.

CarRacing spends nine tenths of its time on pictures. Where actions are repeated, only the last one is seen, and what
happens is the same without the others (`undrawn`). Nine tenths of the polygons of a picture are outside of it, and it
is the same without them, too (`Hastened`).
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from phlogiston.datasets.base import Array

DRAWS = {"gymnasium.envs.box2d.car_racing": "CarRacing"}
"""Modules -> classes whose method `_render("state_pixels")` makes the observation of every step, kept as `state`."""
OBSERVED = "state_pixels"
MARGIN = 8.0  # pixels around the picture within which everything is drawn


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


class Hastened:
    """A context for steps and resets in which polygons outside of the picture are left out; it is the same to the bit.

    Grass and road are what takes long: hundreds of polygons, one by one. Those outside of the picture are found all at
    once here. The first picture is drawn in both ways; if the environment's own is another one, that is kept to.

    Args:
        env: any environment; others than those known are left alone.
    """

    def __init__(self, env: Any) -> None:
        inner = getattr(env, "unwrapped", env)
        self._env = inner if _known(inner) else None
        self._checked = False
        self._track: Any = None  # the road whose corners are kept
        self._corners: Array = np.zeros((0, 4, 2))

    def __enter__(self) -> None:
        if self._env is not None and "_render_road" not in vars(self._env):
            self._env._render_road = self._road

    def __exit__(self, *_: object) -> None:
        if self._env is not None:
            vars(self._env).pop("_render_road", None)

    def _road(self, zoom: float, translation: Any, angle: float) -> None:
        """What `CarRacing._render_road` does."""
        env = self._env
        assert env is not None
        self._seen(zoom, translation, angle)
        if self._checked:
            return
        ours = env.surf.get_buffer().raw
        env.surf.fill((0, 0, 0))
        type(env)._render_road(env, zoom, translation, angle)
        self._checked = True
        if env.surf.get_buffer().raw != ours:
            self.__exit__()
            self._env = None

    def _seen(self, zoom: float, translation: Any, angle: float) -> None:
        """Draw the playing field, the grass on it and the road, as far as they may be seen."""
        env = self._env
        assert env is not None
        module = sys.modules[type(env).__module__]
        whole, unit = module.PLAYFIELD, module.GRASS_DIM
        if self._track is not env.road_poly:
            left = [(unit * x, unit * x + unit) for x in range(-20, 20, 2)]  # rounded as the environment does
            grass = np.array([[(d, e), (c, e), (c, f), (d, f)] for c, d in left for e, f in left])
            road = np.array([poly for poly, _ in env.road_poly]).reshape(-1, 4, 2)
            self._track, self._corners = env.road_poly, np.concatenate([grass, road])
        cos, sin = np.cos(angle), np.sin(angle)
        x, y = self._corners[..., 0], self._corners[..., 1]
        across, along = (cos * x - sin * y) * zoom + translation[0], (sin * x + cos * y) * zoom + translation[1]
        within = (
            (across.max(1) >= -MARGIN) & (across.min(1) <= module.WINDOW_W + MARGIN)
            & (along.max(1) >= -MARGIN) & (along.min(1) <= module.WINDOW_H + MARGIN)
        )  # fmt: skip
        field = [(whole, whole), (whole, -whole), (-whole, -whole), (-whole, whole)]
        env._draw_colored_polygon(env.surf, field, env.bg_color, zoom, translation, angle, clip=False)
        first = len(self._corners) - len(env.road_poly)
        for number in np.flatnonzero(within).tolist():
            # a tile's colour changes when it is driven on
            colour = env.grass_color if number < first else [int(part) for part in env.road_poly[number - first][1]]
            corners = self._corners[number].tolist()
            env._draw_colored_polygon(env.surf, corners, colour, zoom, translation, angle)


def _known(inner: Any) -> bool:
    return DRAWS.get(type(inner).__module__) == type(inner).__name__


def _drawing(env: Any) -> Any:
    """The environment within its wrappers if its pictures can be left out, or None."""
    inner = getattr(env, "unwrapped", env)
    # what a wrapper makes of pictures may depend on all of them
    plain = _known(inner) and getattr(env, "observation_space", None) == getattr(inner, "observation_space", None)
    return inner if plain and "_render" not in vars(inner) else None
