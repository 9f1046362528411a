"""Games of Gymnasium environments as agents of a world model play them: several at once, as frames the model knows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from phlogiston.datasets.base import Array
from phlogiston.datasets.recording.environment import Environment, GameSpec, again, make
from phlogiston.datasets.recording.record import seed_of
from phlogiston.errors import ConfigError, ShapeError

AT_ONCE = 16
MANY = 256
"""Environments that are open at a time, of pictures and of vectors; more games are played one such group after another.
An environment that draws pictures may hold a process and a screen; one of a few numbers costs nothing."""


class Playing(NamedTuple):
    """State of games: which environment each is in, and what there is to see.

    Attributes:
        slot: int64 (n,).
        frame: (n, C, H, W), in [0, 1].
    """

    slot: Tensor
    frame: Tensor


class EnvironmentGame:
    """Environments side by side, with the verbs of `models.dreaming.Game`; what happens in them stays in them.

    Args:
        opens: makes one.
        spec: how they are played.
        at_once: how many may be open at a time.
        own: whether they are closed in the end.
    """

    def __init__(
        self, opens: Callable[[], Environment], spec: GameSpec, at_once: int = AT_ONCE, own: bool = True
    ) -> None:
        self._opens, self.spec, self.at_once, self._own = opens, spec, at_once, own
        self._games: list[Environment] = []

    def reset(self, games: Tensor, seed: int = 0) -> Playing:
        """Begin games of these numbers."""
        while len(self._games) < len(games):
            self._games.append(self._opens())
        frames = [g.reset(seed_of(seed, n)) for g, n in zip(self._games, games.tolist(), strict=False)]
        return Playing(torch.arange(len(games)), self._seen(frames))

    def step(self, state: Playing, action: Tensor) -> tuple[Playing, Tensor, Tensor]:
        """Take one step in the games of a state; those that were over must have left it, or are left alone."""
        frames: list[Array | None] = []
        rewards, over = [], []
        for slot, number in zip(state.slot.tolist(), action.tolist(), strict=True):
            game = self._games[slot]
            if game.over:
                frames.append(None)
                rewards.append(0.0)
                over.append(True)
                continue
            frame, reward, _, ended = game.step(number)
            frames.append(frame)
            rewards.append(reward)
            over.append(ended)
        new = state.frame.clone()
        alive = [i for i, frame in enumerate(frames) if frame is not None]
        if alive:
            new[alive] = self._seen([frame for frame in frames if frame is not None])
        return Playing(state.slot, new), torch.tensor(rewards), torch.tensor(over)

    def render(self, state: Playing) -> Tensor:
        """Frames (n, C, H, W) in [0, 1]."""
        return state.frame

    def close(self) -> None:
        """Close all environments."""
        while self._own and self._games:
            self._games.pop().close()

    def _seen(self, frames: list[Array]) -> Tensor:
        found = torch.from_numpy(self.spec.scaled(np.stack(frames)))
        return found.float() if self.spec.view.vector else found.float() / 255.0


def as_game(env: Any, schema: Mapping[str, Any]) -> Any:
    """Return what a system's agents can play.

    Args:
        env: an environment, the id of one, a function that makes one; something with `reset`, `step` and `render` of
            `models.dreaming.Game`; or None for the game of the recording.
        schema: of the system, trained on a recording.

    Raises:
        ConfigError: the system does not know how frames come from this environment.
        ShapeError: other frames than those it was trained on.
    """
    if env is not None and hasattr(env, "render") and not hasattr(env, "action_space") and not isinstance(env, type):
        return env  # a game of its own kind
    kept = schema.get("env")
    if kept is None:
        raise ConfigError("the data did not come from datasets.record, so how frames are made of this environment is "
                          "not known; pass an object with reset, step and render of tensors")  # fmt: skip
    spec = GameSpec.read(kept)
    at_once = MANY if spec.view.vector else AT_ONCE
    if env is None:
        found = EnvironmentGame(again(spec), spec, at_once)
    elif isinstance(env, str) or callable(env):
        options = spec.options if env == spec.env else None
        found = EnvironmentGame(lambda: Environment(make(env, options), spec), spec, at_once)
    else:
        found = EnvironmentGame(lambda: Environment(make(env), spec), spec, at_once=1, own=False)
    state = found.reset(torch.zeros(1, dtype=torch.long))
    want = tuple(schema.get("shape") or (schema["channels"], schema["size"], schema["size"]))
    if tuple(state.frame.shape[1:]) != want:
        raise ShapeError(
            f"the environment's frames are {tuple(state.frame.shape[1:])}; the model was trained on {want}"
        )
    return found
