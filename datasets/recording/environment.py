"""One game of a Gymnasium environment as a model plays and records it: frames in, numbered actions out.

What differs between environments is settled here: repeated actions, limits of length, pictures of any form, actions of
any kind, ends that are none, and screens that go black with the last breath.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from phlogiston.datasets.base import Array
from phlogiston.datasets.recording.actions import Action, as_action, list_actions
from phlogiston.datasets.recording.undrawn import Hastened, drawn, undrawn
from phlogiston.datasets.recording.views import View, view_of
from phlogiston.errors import ConfigError

BRINGS = {"Vizdoom": "vizdoom.gymnasium_wrapper"}
"""Beginnings of ids -> the module that registers them; those of other packages have it in front: "package:Name-v1"."""
INSTALL = "pip install 'phlogiston[games]'"


@dataclass(frozen=True)
class GameSpec:
    """All there is to know to play a game again as it was recorded.

    Attributes:
        env: id of the environment; "" where it was an object.
        options: with which it was made.
        view: how observations become frames.
        actions: as the environment takes them; a move is a number of this list.
        skip: how often each is repeated.
        cap: steps of the environment after which a game is cut off; 0 leaves that to it.
        scale: lowest and highest value of every entry of a vector observation, (2, entries); empty for pictures.
    """

    env: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    view: View = field(default_factory=View)
    actions: list[Action] = field(default_factory=list)
    skip: int = 1
    cap: int = 0
    scale: list[list[float]] = field(default_factory=list)

    def describe(self) -> dict[str, Any]:
        """The same as JSON-able data."""
        return asdict(self)

    def scaled(self, frames: Array) -> Array:
        """Frames as models take them: pictures as they are; vectors (n, entries) as (n, 1, 1, entries) in [0, 1]."""
        if not self.view.vector:
            return frames
        low, high = np.asarray(self.scale, dtype=np.float32)
        return np.clip((frames - low) / (high - low), 0.0, 1.0)[:, None, None]

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> GameSpec:
        """Read what `describe` gave.

        Raises:
            TypeError, ValueError, KeyError: it is something else.
        """
        known = {name: content[name] for name in cls.__dataclass_fields__}
        view = dict(known["view"])
        for name in ("crop", "values"):
            view[name] = None if view[name] is None else tuple(view[name])
        spec = cls(**{**known, "view": View(**view)})
        if not (isinstance(spec.env, str) and isinstance(spec.options, dict) and isinstance(spec.actions, list)):
            raise ValueError("env, options or actions of another kind")
        if not (spec.skip >= 1 and spec.cap >= 0 and len(spec.actions) >= 1):
            raise ValueError("skip, cap or actions out of range")
        return spec


class Environment:
    """An environment that gives frames and takes the numbers of actions.

    Args:
        env: a Gymnasium environment, not a vector of them.
        spec: how it is played.

    Attributes:
        over: whether the present game is.
    """

    def __init__(self, env: Any, spec: GameSpec) -> None:
        self.env, self.spec, self.over = env, spec, False
        self._ticks, self._last = 0, np.zeros(0, dtype=np.uint8)
        self._hastened = Hastened(env)

    def reset(self, seed: int) -> Array:
        """Begin a game; return its first frame."""
        with self._hastened:
            observation, _ = self.env.reset(seed=seed)
        self._ticks, self.over = 0, False
        self._last = self.spec.view.frame(observation, self.env)
        return self._last

    def step(self, action: int) -> tuple[Array, float, bool, bool]:
        """Do something, `skip` times.

        Returns:
            The frame, the sum of rewards, whether that was the game's end, and whether it is over, be it that it was
            cut off at a limit.
        """
        chosen = as_action(self.env.action_space, self.spec.actions[action])
        total, terminated, truncated = 0.0, False, False
        observation: Any = None
        for left in reversed(range(self.spec.skip)):
            with undrawn(self.env) if left else self._hastened:
                observation, reward, terminated, truncated, _ = self.env.step(chosen)
            total += float(reward)
            self._ticks += 1
            truncated = truncated or (self._ticks == self.spec.cap and not terminated)
            if terminated or truncated:
                with self._hastened:
                    observation = drawn(self.env, observation) if left else observation
                break
        self.over = over = bool(terminated or truncated)
        frame = self.spec.view.frame(observation, self.env)
        # with the game its picture may be gone: the last one is what there was to see
        if over and not self.spec.view.vector and not frame.any() and self._last.any():
            frame = self._last
        self._last = frame
        # some environments say terminated at their limit of time, too (VizDoom does)
        return frame, total, bool(terminated and not truncated), over

    def close(self) -> None:
        """Free what the environment holds."""
        self.env.close()


def make(env: Any, options: Mapping[str, Any] | None = None) -> Any:
    """Return a Gymnasium environment.

    Args:
        env: the environment, an id, or a function that makes one.
        options: of the environment, where it is made here.

    Raises:
        ConfigError: there is no such environment, or what it needs is not installed.
    """
    if not isinstance(env, type) and hasattr(env, "reset") and hasattr(env, "step"):
        if options:
            raise ConfigError("options are for environments that are made here; this one is made already")
        return env
    if callable(env):
        return env(**(options or {}))
    if not isinstance(env, str) or not env:
        raise ConfigError(f"env is {env!r}; expected an environment, the id of one, or a function that makes one")
    gymnasium = _gymnasium()
    for beginning, module in BRINGS.items():
        if env.startswith(beginning):
            try:
                importlib.import_module(module)
            except ImportError as error:
                raise ConfigError(f"{env} needs {module.partition('.')[0]}: {INSTALL}") from error
    try:
        return gymnasium.make(env, **(options or {}))
    except (gymnasium.error.Error, ImportError, TypeError) as error:
        raise ConfigError(f"the environment {env!r} cannot be made: {error}") from error


def again(spec: GameSpec) -> Callable[[], Environment]:
    """Return a function that makes the game of a recording again.

    A recording may come from anybody: a package that an id names is not imported for its sake.

    Raises:
        ConfigError: the recording does not say which game it is, or its package is not there.
    """
    module = spec.env.rpartition(":")[0]
    if not spec.env:
        raise ConfigError("the recording was made of an object and does not name its environment; pass one: env=...")
    if module and module not in sys.modules:
        raise ConfigError(f"the game {spec.env!r} is of the package {module!r}; import it first, if you trust it")
    return lambda: Environment(make(spec.env, spec.options), spec)


def game_spec(
    env: Any,
    made: Any,
    options: Mapping[str, Any] | None = None,
    *,
    key: str = "",
    crop: Sequence[int] | None = None,
    size: int = 64,
    grey: bool = False,
    render: bool = False,
    skip: int = 1,
    cap: int = 0,
    bins: int = 3,
    actions: Sequence[Any] | None = None,
) -> GameSpec:
    """Describe how a game is played; arguments as those of `record`.

    Args:
        env: as it was given, an id or something else.
        made: the environment.
    """
    if skip < 1 or cap < 0:
        raise ConfigError(f"skip={skip}, cap={cap}; expected 1 or more, and 0 or more")
    if crop is not None and len(crop) != 4:
        raise ConfigError(f"crop is {crop!r}; expected four numbers: rows from, to, columns from, to")
    edges = None if crop is None else (int(crop[0]), int(crop[1]), int(crop[2]), int(crop[3]))
    space = getattr(made, "single_observation_space", made.observation_space)
    view = view_of(space, key, edges, size, grey, render)
    listed = list_actions(getattr(made, "single_action_space", made.action_space), bins, actions)
    name = env if isinstance(env, str) else ""
    return GameSpec(name, dict(options or {}) if name else {}, view, listed, skip, cap)


def rescaled(spec: GameSpec, low: Array, high: Array) -> GameSpec:
    """The same game with a scale for its vectors: from the lowest to the highest value, and a tenth on either side."""
    wide = np.maximum(high - low, 1e-6)
    return replace(spec, scale=[(low - 0.1 * wide).tolist(), (high + 0.1 * wide).tolist()])


def _gymnasium() -> Any:
    try:
        return importlib.import_module("gymnasium")
    except ImportError as error:
        raise ConfigError(f"games need gymnasium: {INSTALL}") from error
