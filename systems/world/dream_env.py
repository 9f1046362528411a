"""Dreams as Gymnasium environments. This module needs gymnasium, the extra phlogiston[games]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from phlogiston.datasets.base import Array
from phlogiston.errors import ConfigError, unknown_name
from phlogiston.models.dream_game import DreamGame, Moment, pick
from phlogiston.systems.world.dream_pictures import as_picture, bytes_of

try:
    import gymnasium
    from gymnasium import spaces
    from gymnasium.vector import AutoresetMode, VectorEnv
    from gymnasium.vector.utils import batch_space
except ImportError as error:
    raise ConfigError("dreams as environments need gymnasium: pip install 'phlogiston[games]'") from error

OBSERVE = ("state", "frames")


class Dreams:
    """Any number of dreams, their observations and limits: what the two environments share.

    Args:
        game: the dream.
        observe: "state" or "frames".
        max_steps: after which a dream is cut off.
    """

    def __init__(self, game: DreamGame, observe: str, max_steps: int) -> None:
        if observe not in OBSERVE:
            raise unknown_name("observation of dreams", observe, OBSERVE)
        if max_steps < 1:
            raise ConfigError(f"max_steps is {max_steps}; expected 1 or more")
        self.game, self.observe, self.max_steps = game, observe, max_steps
        world = game.world
        self.action_space = spaces.Discrete(world.actions)
        self.observation_space: Any
        if observe == "state":
            self.observation_space = spaces.Box(-np.inf, np.inf, (world.code + world.hidden,), np.float32)
        elif world.vector:
            self.observation_space = spaces.Box(0.0, 1.0, (world.vector,), np.float32)
        else:
            self.observation_space = spaces.Box(0, 255, (world.channels, world.size, world.size), np.uint8)

    def begin(self, seeds: Sequence[int], numbers: Sequence[int]) -> Moment:
        """Begin dreams: the number-th of each seed."""
        return self.game.reset(torch.tensor(numbers), torch.tensor(seeds))

    def seen(self, state: Moment) -> Array:
        """Observations (rows, ...)."""
        if self.observe == "state":
            found: Array = torch.cat([state.code, state.memory.out], 1).float().numpy()
            return found
        frames = self.game.render(state)
        if self.game.world.vector:
            return frames[:, 0, 0].clamp(0, 1).numpy()
        return bytes_of(frames)

    def step(self, state: Moment, action: Any) -> tuple[Moment, Array, Array, Array]:
        """The next state, rewards, ends, and which dreams are cut off."""
        state, reward, over = self.game.step(state, torch.as_tensor(np.asarray(action), dtype=torch.long))
        cut = (state.time >= self.max_steps) & ~over
        return state, reward.double().numpy(), over.numpy(), cut.numpy()


class DreamEnv(gymnasium.Env):  # type: ignore[type-arg]
    """A dream as an environment. All there is to it is `state`: set it to an earlier one, and the dream goes on there.

    Args:
        game: the dream.
        observe: "state", the code of the frame and the memory; or "frames".
        max_steps: after which it is truncated.
        render_mode: "rgb_array" or None.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 8}  # noqa: RUF012
    state: Moment

    def __init__(self, game: DreamGame, observe: str = "state", max_steps: int = 1000, render_mode: str | None = None):
        if render_mode not in (None, "rgb_array"):
            raise unknown_name("render mode", render_mode, ("rgb_array",))
        self._dreams = Dreams(game, observe, max_steps)
        self.observation_space = self._dreams.observation_space
        self.action_space = self._dreams.action_space
        self.render_mode = render_mode
        self._seed, self._number = -1, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Array, dict[str, Any]]:
        """Begin a dream: the first one of a seed, or the next."""
        super().reset(seed=seed)
        self._seed, self._number = _next(self._seed, self._number, seed)
        self.state = self._dreams.begin([self._seed], [self._number])
        return self._dreams.seen(self.state)[0], {}

    def step(self, action: Any) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """See `gymnasium.Env.step`."""
        self.state, reward, over, cut = self._dreams.step(self.state, [action])
        return self._dreams.seen(self.state)[0], float(reward[0]), bool(over[0]), bool(cut[0]), {}

    def render(self) -> Array | None:  # type: ignore[override]
        """The picture of the present frame, (height, width, 3)."""
        if self.render_mode is None:
            return None
        return as_picture(self._dreams.game.render(self.state)[0])


class DreamVectorEnv(VectorEnv):  # type: ignore[type-arg]
    """Dreams side by side in one batch; one that is over begins anew at the next step, whose action does not count.

    `reset(options={"reset_mask": mask})` begins some of them anew and leaves the others.

    Args:
        game: the dream.
        num_envs: how many.
        observe: as in `DreamEnv`.
        max_steps: after which a dream is truncated.
    """

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012
    state: Moment

    def __init__(self, game: DreamGame, num_envs: int, observe: str = "state", max_steps: int = 1000) -> None:
        self._dreams = Dreams(game, observe, max_steps)
        self.num_envs = num_envs
        self.single_observation_space = self._dreams.observation_space
        self.single_action_space = self._dreams.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._seeds, self._numbers = [-1] * num_envs, [0] * num_envs
        self._fresh = np.zeros(num_envs, dtype=np.bool_)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: Any = None
    ) -> tuple[Array, dict[str, Any]]:
        """Begin all dreams, or those of the mask; row i of an integer seed has the seed + i."""
        super().reset(seed=seed if isinstance(seed, int) else None)
        mask = np.ones(self.num_envs, dtype=np.bool_)
        if options and "reset_mask" in options:
            mask = np.asarray(options["reset_mask"], dtype=np.bool_)
            if mask.shape != (self.num_envs,) or not (mask.all() or hasattr(self, "state")):
                raise ConfigError(
                    f"reset_mask has shape {mask.shape}; expected ({self.num_envs},), after a whole reset"
                )
        seeds = [seed + i for i in range(self.num_envs)] if isinstance(seed, int) else seed or [None] * self.num_envs
        self._begin(mask, list(seeds))
        self._fresh &= ~mask
        return self._dreams.seen(self.state), {}

    def step(self, actions: Any) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """See `gymnasium.vector.VectorEnv.step`."""
        begins = self._fresh.copy()
        self.state, reward, over, cut = self._dreams.step(self.state, actions)
        if begins.any():
            self._begin(begins, [None] * self.num_envs)
            reward[begins], over, cut = 0.0, over & ~begins, cut & ~begins
        self._fresh = over | cut
        return self._dreams.seen(self.state), reward, over, cut, {}

    def _begin(self, mask: Array, seeds: list[int | None]) -> None:
        for i in np.flatnonzero(mask).tolist():
            self._seeds[i], self._numbers[i] = _next(self._seeds[i], self._numbers[i], seeds[i])
        new = self._dreams.begin(self._seeds, self._numbers)
        self.state = new if mask.all() else pick(torch.from_numpy(mask), new, self.state)


def _next(seed: int, number: int, given: int | None) -> tuple[int, int]:
    """Seed and number of the next dream: the first one of a given seed; of a first seed by chance, where none is."""
    if given is not None:
        return given, 0
    return (seed, number + 1) if seed >= 0 else (int(torch.randint(2**31, ())), 0)
