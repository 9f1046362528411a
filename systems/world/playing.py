"""Letting agents play games outside: many games in groups, and with another game before their eyes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from phlogiston.errors import ConfigError
from phlogiston.models.dreaming import Agent, Linear, Rollouts, play
from phlogiston.models.world import World


def play_all(
    world: World,
    encode: Any,
    agent: Agent,
    game: Any,
    games: Tensor,
    steps: int,
    *,
    seed: int = 0,
    keep: bool = False,
    blindfold: bool = False,
    patience: int = 0,
    frames: bool = True,
) -> Rollouts:
    """Act in games outside; arguments as those of `models.dreaming.play`.

    A game that says how many of it can be played `at_once` is played in groups of so many.

    Args:
        blindfold: give every game's agent the frames of the game beside it, as the agent left alone would play that
            one; the last frame stays.

    Raises:
        ConfigError: a blindfold for a single game.
    """
    groups = torch.arange(len(games)).split(getattr(game, "at_once", len(games)))
    generator = torch.Generator().manual_seed(seed)
    if blindfold:
        if len(games) < 2:
            raise ConfigError("a blindfold needs two games at least: each agent sees another one than it plays")
        shown = play_all(world, encode, agent, game, games, steps, seed=seed, keep=True, frames=False)
        assert shown.code is not None
        codes, lengths = shown.code.roll(1, 0), shown.length.roll(1)
    parts = []
    for index in groups:
        some = agent if len(groups) == 1 else _part(agent, index, len(games))
        sees = _Elsewhere(codes[index], lengths[index]) if blindfold else encode
        parts.append(
            play(
                world, sees, some, game, games[index], steps, seed=seed, keep=keep or blindfold, generator=generator,
                patience=patience, frames=frames and keep,
            )
        )  # fmt: skip
    return parts[0] if len(parts) == 1 else joined(parts)


def _part(agent: Agent, index: Tensor, rows: int) -> Agent:
    """The agent of some rows of so many."""
    return (agent.spread(rows) if isinstance(agent, Linear) else agent).select(index)


class _Elsewhere:
    """In place of an encoder: codes of other games, step by step, whatever the frames are; the last one stays.

    Args:
        code: (rows, T, Z).
        length: frames of each.
    """

    def __init__(self, code: Tensor, length: Tensor) -> None:
        self.code, self.length, self._time = code, length, 0

    def __call__(self, frames: Tensor) -> tuple[Tensor, None]:
        seen = self.code[torch.arange(len(self.code)), (self.length - 1).clamp_max(self._time)]
        self._time += 1
        return seen, None


def joined(parts: list[Rollouts]) -> Rollouts:
    """Rollouts one after another; what was kept is filled up with zeros behind the end."""
    found: dict[str, Any] = {
        name: torch.cat([getattr(p, name) for p in parts]) for name in ("score", "ended", "length")
    }
    whole = Rollouts(**found)
    for name in ("code", "action", "frames", "reward"):
        values = [getattr(part, name) for part in parts]
        if values[0] is not None:
            longest = max(value.shape[1] for value in values)
            filled = [torch.cat([v, v.new_zeros(len(v), longest - v.shape[1], *v.shape[2:])], 1) for v in values]
            whole = replace(whole, **{name: torch.cat(filled)})
    return whole
