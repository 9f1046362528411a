"""Dodge: balls fall, a player on the bottom row steps aside or is hit.

A frame is grey, `size` x `size`. Lengths are in units of `size / 16` pixels. Each ball, 3 x 3 units and bright, enters
from above at a random column, falls one unit per step, drifts sideways by a random amount per step that is constant
until it is gone, and bounces off the walls; once below the frame it waits for a random time and enters again. The
player, 3 x 1 units and grey, stands on the bottom row and moves one unit to the left or right, or stays. The game ends
when a ball touches the player, or after `limit` steps; every step is worth a reward of 1.

A single frame shows where a ball is; only several show where it drifts.

Random numbers come from a counter, not from a stream: game number i depends on the seed, i and the actions alone, not
on the games that are played beside it, nor on when each of them began.

The game is in the spirit of *DoomTakeCover*, which Ha and Schmidhuber, "World models", 2018, dreamt of.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from phlogiston.errors import ConfigError, ShapeError

ACTIONS: tuple[str, ...] = ("left", "stay", "right")
BALL, PLAYER = 3.0, 3.0  # widths in units
WAIT = 4.0  # longest, steps a ball is away
GREY = 0.6  # of the player
_GOLDEN = -7046029254386353131  # 2^64 / golden ratio, as a signed number
_FACTORS = (-4658895280553007687, -7723592293110705685)  # of splitmix64, signed
_KINDS = 8  # quantities drawn per ball and appearance, at most


class Games(NamedTuple):
    """States of games.

    Attributes:
        key: int64 (n,), of the random numbers.
        time: int64 (n,), steps taken.
        player: float64 (n,), left edge of the player, units.
        x: float64 (n, balls), left edges of the balls, units.
        y: float64 (n, balls), their upper edges; negative above the frame.
        drift: float64 (n, balls), units per step.
        visits: int64 (n, balls), how often each ball has entered.
        hit: bool (n,), whether a ball has touched the player.
    """

    key: Tensor
    time: Tensor
    player: Tensor
    x: Tensor
    y: Tensor
    drift: Tensor
    visits: Tensor
    hit: Tensor


class DodgeEnv:
    """The game, for any number of games at once; states are values, nothing is kept inside.

    Args:
        size: of a frame, a multiple of 16.
        balls: 1 to 3.
        limit: steps after which a game ends without a hit.
        drift: largest drift of a ball to either side, units per step. The larger, the more an agent gains from several
            frames.
        hidden: rows of units above the player's in which balls cannot be seen, so that an agent has to remember where
            they were and how they drifted.

    Example:
        >>> game = DodgeEnv()
        >>> state = game.reset(torch.arange(4), seed=0)
        >>> state, reward, done = game.step(state, torch.tensor([0, 1, 2, 1]))
        >>> tuple(game.render(state).shape), reward.tolist(), done.tolist()
        ((4, 1, 16, 16), [1.0, 1.0, 1.0, 1.0], [False, False, False, False])

    Raises:
        ConfigError: sizes out of range.
    """

    actions = ACTIONS

    def __init__(self, size: int = 16, balls: int = 1, limit: int = 200, drift: float = 0.5, hidden: int = 0) -> None:
        if size < 16 or size % 16:
            raise ConfigError(f"size is {size}; a frame's side must be a multiple of 16")
        if not 1 <= balls <= 3:
            raise ConfigError(f"balls is {balls}; there may be 1, 2 or 3")
        if limit < 1:
            raise ConfigError(f"limit is {limit}; a game needs at least 1 step")
        if not 0 <= drift <= 1:
            raise ConfigError(f"drift is {drift}; it must lie between 0 and 1")
        if not 0 <= hidden <= 12:
            raise ConfigError(f"hidden is {hidden}; it must lie between 0 and 12 rows, so that balls are seen at all")
        self.size, self.balls, self.limit, self.drift, self.hidden = size, balls, limit, drift, hidden

    def reset(self, games: Tensor | int, seed: int = 0) -> Games:
        """Begin games.

        Args:
            games: int64 (n,), their numbers; or how many, numbered from 0.
            seed: of all of them.
        """
        number = torch.arange(games) if isinstance(games, int) else games.long()
        if number.dim() != 1 or not len(number):
            raise ShapeError(f"games has shape {tuple(number.shape)}; expected the numbers of at least one game, (n,)")
        key = _mix(_mix(torch.full_like(number, seed) * _GOLDEN + 1) + (number + 1) * _GOLDEN)
        n, balls = len(number), self.balls
        nowhere = torch.zeros(n, balls, dtype=torch.float64)
        state = Games(
            key=key,
            time=torch.zeros_like(number),
            player=torch.full((n,), float(round((16 - PLAYER) / 2)), dtype=torch.float64),
            x=nowhere,
            y=nowhere,
            drift=nowhere,
            visits=torch.zeros(n, balls, dtype=torch.long),
            hit=torch.zeros(n, dtype=torch.bool),
        )
        state = self._enter(state, torch.ones(n, balls, dtype=torch.bool))
        apart = (16.0 + WAIT) / balls  # so that balls do not all enter at once
        return state._replace(y=state.y - (apart * torch.arange(balls)).floor())

    def step(self, state: Games, action: Tensor) -> tuple[Games, Tensor, Tensor]:
        """Take one step in every game; games that are over stay as they are.

        Args:
            state: of the games.
            action: int64 (n,), 0 left, 1 stay, 2 right.

        Returns:
            The next state, reward (n,) and whether they are over, bool (n,).

        Raises:
            ShapeError: not one action per game.
            ConfigError: an unknown action.
        """
        if action.shape != state.time.shape:
            raise ShapeError(f"action has shape {tuple(action.shape)}; expected {tuple(state.time.shape)}")
        if bool(((action < 0) | (action > 2)).any()):
            raise ConfigError(f"action holds {action[(action < 0) | (action > 2)][0].item()}; expected 0, 1 or 2")
        going = ~self.over(state)
        player = (state.player + action.double() - 1.0).clamp(0.0, 16.0 - PLAYER)
        x = state.x + state.drift
        widest = 16.0 - BALL
        bounced = (x < 0) | (x > widest)
        x = torch.where(x < 0, -x, torch.where(x > widest, 2 * widest - x, x))
        drift = torch.where(bounced, -state.drift, state.drift)
        moved = state._replace(time=state.time + 1, player=player, x=x, y=state.y + 1.0, drift=drift)
        moved = self._enter(moved, moved.y >= 16.0)
        low = (moved.y + BALL > 15.0) & (moved.y < 16.0)
        beside = (moved.x + BALL > player.unsqueeze(1)) & (moved.x < player.unsqueeze(1) + PLAYER)
        moved = moved._replace(hit=(low & beside).any(1))
        after = Games(*(_where(going, new, old) for new, old in zip(moved, state, strict=True)))
        return after, going.float(), self.over(after)

    def over(self, state: Games) -> Tensor:
        """Which games have ended, bool (n,)."""
        return state.hit | (state.time >= self.limit)

    def render(self, state: Games) -> Tensor:
        """Frames (n, 1, size, size) in [0, 1]; a pixel is as bright as much of it is covered."""
        ball = _covered(state.y, BALL, self.size).unsqueeze(-1) * _covered(state.x, BALL, self.size).unsqueeze(-2)
        if self.hidden:
            rows = torch.arange(self.size) * 16 // self.size
            ball = torch.where(((rows >= 15 - self.hidden) & (rows < 15)).unsqueeze(-1), 0.0, ball)
        bottom = torch.full_like(state.player, 15.0)
        player = _covered(bottom, 1.0, self.size).unsqueeze(-1) * _covered(state.player, PLAYER, self.size).unsqueeze(
            -2
        )
        return torch.maximum(ball.amax(1), GREY * player).float().unsqueeze(1)

    def _enter(self, state: Games, which: Tensor) -> Games:
        """Let balls enter (again): a new column, drift and time to wait."""
        ball = torch.arange(self.balls)
        turn = (state.visits * self.balls + ball) * _KINDS
        column, drift, wait = (uniform(state.key.unsqueeze(1), turn + kind) for kind in range(3))
        return state._replace(
            x=torch.where(which, (16.0 - BALL) * column, state.x),
            y=torch.where(which, -BALL - (WAIT * wait).floor(), state.y),
            drift=torch.where(which, self.drift * (2 * drift - 1), state.drift),
            visits=state.visits + which,
        )


def random_actions(state: Games, steps: int, keep: float = 0.7) -> Tensor:
    """Actions at random, int64 (n, steps): the last one again, or any of the three.

    Args:
        state: of the games; the actions depend on their seed and number alone.
        steps: how many.
        keep: probability of repeating the last action. If every action is drawn independently, the player hardly leaves
            the middle.
    """
    turn = (torch.arange(steps) + (1 << 40)) * _KINDS
    key = state.key.unsqueeze(1)
    fresh = uniform(key, turn) >= keep
    fresh[:, 0] = True
    choice = (3 * uniform(key, turn + 1)).long()
    latest = torch.where(fresh, torch.arange(steps), 0).cummax(1).values
    return choice.gather(1, latest)


def uniform(key: Tensor, turn: Tensor) -> Tensor:
    """Numbers in [0, 1), float64: the hash of a key and a counter (Steele et al., splitmix64, OOPSLA 2014)."""
    return ((_mix(key + (turn + 1) * _GOLDEN) >> 11) & ((1 << 53) - 1)).double() * 2.0**-53


def _mix(x: Tensor) -> Tensor:
    """Scramble 64 bits; torch's shift keeps the sign, so the bits it brings in are masked away."""
    for shift, factor in zip((30, 27), _FACTORS, strict=True):
        x = (x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return x ^ ((x >> 31) & ((1 << 33) - 1))


def _covered(start: Tensor, width: float, size: int) -> Tensor:
    """How much of each of `size` pixels a bar covers that begins at `start` (...) and is `width` units long."""
    scale = size / 16.0
    edge = torch.arange(size, dtype=start.dtype)
    low, high = (start * scale).unsqueeze(-1), ((start + width) * scale).unsqueeze(-1)
    return (torch.minimum(high, edge + 1) - torch.maximum(low, edge)).clamp(0.0, 1.0)


def _where(mask: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(mask.reshape(-1, *[1] * (new.dim() - 1)), new, old)
