"""The dream as a game, whose states are values: the same state and action lead to the same next state.

Random numbers come from a counter, as in `datasets.generated.games.dodge`: what a dream draws depends on its seed, its
number and its time alone, not on the dreams beside it nor on when each of them began.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from phlogiston.datasets.generated.games.dodge import uniform
from phlogiston.errors import ConfigError, unknown_name
from phlogiston.models.dreaming import ENDS, Ends
from phlogiston.models.world import State, World


class Moment(NamedTuple):
    """State of dreams.

    Attributes:
        memory: the state before the present frame.
        code: (rows, Z), of the present frame.
        over: bool (rows,), whether it is the end.
        key: int64 (rows,), of the random numbers.
        time: int64 (rows,), steps taken.
    """

    memory: State
    code: Tensor
    over: Tensor
    key: Tensor
    time: Tensor


class DreamGame:
    """The dream as a game, with the verbs of a game outside.

    Args:
        world: whose memory.
        tau: as in `dreaming.dream`.
        ends: as in `dreaming.dream`.
    """

    def __init__(self, world: World, tau: float = 1.0, ends: Ends = "sampled") -> None:
        if ends not in ENDS:
            raise unknown_name("rule for the end", ends, ENDS)
        if not tau > 0:
            raise ConfigError(f"tau is {tau}; it must be positive")
        self.world, self.tau, self.ends = world, tau, ends

    @torch.no_grad()
    def reset(self, games: Tensor | int, seed: int | Tensor = 0) -> Moment:
        """Begin dreams.

        Args:
            games: int64 (n,), their numbers; or how many, numbered from 0.
            seed: of all of them, or int64 (n,) of each.
        """
        number = torch.arange(games) if isinstance(games, int) else games.long()
        key = (uniform(torch.as_tensor(seed).expand_as(number), number) * 2.0**53).long()
        time = torch.zeros_like(number)
        memory = self.world.start(len(number))
        code, _ = self._draw(memory, key, time)
        return Moment(memory, code, torch.zeros(len(number), dtype=torch.bool), key, time)

    @torch.no_grad()
    def step(self, state: Moment, action: Tensor) -> tuple[Moment, Tensor, Tensor]:
        """Take one step in every dream; those that are over stay as they are."""
        going = ~state.over
        memory = self.world.observe(state.memory, state.code, action)
        code, end = self._draw(memory, state.key, state.time + 1)
        gain = self.world.gained(memory, code)
        after = pick(going, Moment(memory, code, state.over | end, state.key, state.time + 1), state)
        return after, torch.where(going, gain, 0.0), after.over

    @torch.no_grad()
    def render(self, state: Moment) -> Tensor:
        """Frames (rows, C, H, W) in [0, 1]."""
        return self.world.picture(state.code)

    def _draw(self, state: State, key: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """The next code (rows, Z), and whether it is the end."""
        prediction = self.world.predict(state)
        size = self.world.code
        turn = time.unsqueeze(1) * (2 * size + 1) + torch.arange(2 * size + 1)
        chance = uniform(key.unsqueeze(1), turn).to(state.out.dtype).clamp(1e-7, 1 - 1e-7)
        which, normal = chance[:, :size], torch.special.ndtri(chance[:, size : 2 * size])
        mixture = prediction.code
        levels = (mixture.logits / self.tau).softmax(-1).cumsum(-1)
        last = levels.shape[-1] - 1
        if self.world.kind == "factorised":
            index = (which.unsqueeze(-1) > levels).sum(-1).clamp_max(last).unsqueeze(-1)
            loc, scale = (part.gather(-1, index).squeeze(-1) for part in (mixture.loc, mixture.scale))  # type: ignore[attr-defined]
        else:
            index = (which[:, :1] > levels).sum(-1).clamp_max(last)[:, None, None].expand(-1, 1, size)
            loc, scale = (part.gather(-2, index).squeeze(-2) for part in (mixture.loc, mixture.scale))  # type: ignore[attr-defined]
        code = loc + self.tau**0.5 * scale * normal
        if self.ends == "sampled":
            return code, chance[:, -1] < prediction.end.sigmoid()
        return code, prediction.end + torch.tensor(self.world.end_weight).log() > 0


def pick(mask: Tensor, new: Moment, old: Moment) -> Moment:
    """Row by row the new state where `mask` (rows,) says so, else the old one."""
    memory = State(*(_where(mask, a, b) for a, b in zip(new.memory, old.memory, strict=True)))
    rest = (_where(mask, a, b) for a, b in zip(new[1:], old[1:], strict=True))
    return Moment(memory, *rest)


def _where(mask: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(mask.reshape(-1, *[1] * (new.dim() - 1)), new, old)
