"""Games to record and learn in tests, and how a small model learns them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

gymnasium = pytest.importorskip("gymnasium", reason="games need phlogiston[games]")
from gymnasium import spaces  # noqa: E402

SMALL: dict[str, Any] = {
    "features": 16, "code": 4, "hidden": 12, "frame_steps": 20, "steps": 10, "frame_batch": 4, "batch_size": 8,
    "generations": 2, "population": 4, "rollouts": 2, "noise": 0.1,
}  # fmt: skip


class Catch(gymnasium.Env):  # type: ignore[misc,name-defined]
    """A bright column moves as told; being on the right is worth a point, and the game is over after some steps."""

    def __init__(self, lasts: int = 12) -> None:
        self.observation_space = spaces.Box(0, 255, (8, 8, 3), np.uint8)
        self.action_space = spaces.Discrete(2)
        self.lasts = lasts

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time, self.at = 0, int(self.np_random.integers(8))
        return self._frame(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.time += 1
        self.at = min(7, max(0, self.at + 2 * int(action) - 1))
        return self._frame(), float(self.at >= 4), self.time >= self.lasts, False, {}

    def _frame(self) -> Any:
        frame = np.zeros((8, 8, 3), np.uint8)
        frame[:, self.at] = 255
        return frame


class Endless(gymnasium.Env):  # type: ignore[misc,name-defined]
    """Looks like CartPole and never ends."""

    observation_space = spaces.Box(-4.0, 4.0, (4,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        return np.zeros(4, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return np.zeros(4, np.float32), 1.0, False, False, {}
