"""Recording from a vector of environments, whose games begin anew by themselves, each library in its own manner."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from phlogiston.datasets.base import Array
from phlogiston.datasets.recording.actions import as_action
from phlogiston.datasets.recording.environment import GameSpec
from phlogiston.datasets.recording.policies import as_policy, begin
from phlogiston.datasets.recording.store import PlayedGames
from phlogiston.errors import ConfigError


def play_vector(env: Any, spec: GameSpec, policy: Any, episodes: int, seed: int) -> Iterator[tuple[Array, PlayedGames]]:
    """Play so many games in a vector of environments, and hand over each as it ends.

    A vector resets an environment whose game is over in the next step, whose action counts for nothing (NEXT_STEP), in
    the same step, with the last observation beside the first one (SAME_STEP), or when it is told to (DISABLED): in
    none of them does the first frame of a game become the last one of the game before.

    Of games that begin together the short ones end first. So that these are not preferred, every environment plays an
    equal number of games, as far as the numbers allow.

    Raises:
        ConfigError: options that a vector cannot be played with.
    """
    if spec.skip > 1 or spec.cap or spec.view.render:
        raise ConfigError("skip, cap and render are for single environments; wrap those of the vector instead")
    mode = getattr(env.metadata.get("autoreset_mode"), "name", "NEXT_STEP")
    tracks = [_Track(spec, policy, seed, i, episodes // env.num_envs + (i < episodes % env.num_envs))
              for i in range(env.num_envs)]  # fmt: skip
    observations, _ = env.reset(seed=seed)
    for i, track in enumerate(tracks):
        track.start(_row(observations, i))
    fresh = np.zeros(env.num_envs, dtype=bool)  # begins in the step to come
    while any(track.left for track in tracks):
        actions = np.stack([np.asarray(as_action(env.single_action_space, spec.actions[t.choose()])) for t in tracks])
        observations, rewards, terminated, truncated, infos = env.step(actions)
        over = (terminated | truncated) & ~fresh
        for i, track in enumerate(tracks):
            if fresh[i]:
                track.start(_row(observations, i))
                continue
            last = infos["final_obs"][i] if over[i] and mode == "SAME_STEP" else _row(observations, i)
            track.add(last, float(rewards[i]), bool(over[i]))
            if over[i]:
                if track.left:
                    yield track.finish(bool(terminated[i] and not truncated[i]))
                if mode == "SAME_STEP":
                    track.start(_row(observations, i))
        fresh = over & (mode == "NEXT_STEP")
        if mode == "DISABLED" and over.any():
            observations, _ = env.reset(options={"reset_mask": over})
            for i in np.flatnonzero(over).tolist():
                tracks[i].start(_row(observations, i))


class _Track:
    """One environment of a vector, game after game."""

    def __init__(self, spec: GameSpec, policy: Any, seed: int, number: int, games: int) -> None:
        self._view, self._actions = spec.view, len(spec.actions)
        self._policy = as_policy(policy, self._actions) if isinstance(policy, str | type) else policy
        self._generator = np.random.default_rng(np.random.SeedSequence([seed, number, 1]))
        self.left = games

    def start(self, observation: Any) -> None:
        begin(self._policy)
        self._frames = [self._view.frame(observation)]
        self._chosen: list[int] = []
        self._rewards = [0.0]

    def choose(self) -> int:
        action = int(self._policy(self._frames[-1], self._generator))
        if not 0 <= action < self._actions:
            raise ConfigError(f"the policy chose action {action}; expected 0 to {self._actions - 1}")
        self._chosen.append(action)
        return action

    def add(self, observation: Any, reward: float, over: bool) -> None:
        frame = self._view.frame(observation)
        if over and not self._view.vector and not frame.any() and self._frames[-1].any():
            frame = self._frames[-1]
        self._frames.append(frame)
        self._rewards.append(reward)

    def finish(self, ended: bool) -> tuple[Array, PlayedGames]:
        self.left -= 1
        played = PlayedGames([len(self._frames)], [ended], [*self._chosen, 0], self._rewards)
        return np.stack(self._frames), played


def _row(observations: Any, i: int) -> Any:
    if isinstance(observations, dict):
        return {name: _row(value, i) for name, value in observations.items()}
    return observations[i]
