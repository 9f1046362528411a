"""An agent that gets better by playing: rounds of games, and after each a regression of what was gained.

    1. The agent plays some games, and now and then does what the recording's policy would.
    2. For every action a linear regression tells what is gained from there on if it is taken, given what is seen.
    3. From now on the agent takes the action that promises most.

This is policy iteration with a linear value, from whole games (Sutton and Barto, Reinforcement learning, 2018, sections
5.4 and 9.3): every step of every game teaches, where evolution learns one number from a game. The first games are those
of the recording's policy. See `improvement`, whose regression this is, round after round.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from phlogiston.errors import ConfigError
from phlogiston.models.dreaming import Agent, Ends, Linear, Rollouts, dream, inputs_of, num_weights
from phlogiston.models.world import World
from phlogiston.systems.world.improvement import Moments, returns
from phlogiston.systems.world.playing import play_all
from phlogiston.systems.world.training import Search

AT_FIRST = 4  # times as many games of the recording's policy as of a later round
REMEMBERED = 0.8  # weight of earlier rounds, per round
FINALISTS = 3  # agents of the best rounds that play once more, undisturbed, with the last one
FINAL = 16  # games of each
MOST = 1 << 12  # games of a round, at most
CHUNK = 32  # games whose inputs are made at once


class Roll(Protocol):
    """Plays games of a round."""

    def __call__(self, agent: Agent, games: int, number: int, keep: bool, agents: int = 1) -> Rollouts:
        """Let agents play so many games of round `number` each, the same ones; those of the first agent come first."""


def rolls(
    world: World, encode: Any, game: Any, first: int, steps: int, seed: int, tau: float, ends: Ends, patience: int
) -> Roll:
    """What is played by `practise`, in a game or the dream.

    Args:
        world: where it dreams, or whose memory sees the game.
        encode: frames -> location and scale of their codes.
        game: as `play_all` takes it; None for the dream.
        first: number of the first game.
        steps: of the longest game.
        seed: of the games.
        tau: temperature of the dream.
        ends: how dreams end.
        patience: when games are given up, see `models.dreaming.play`.
    """

    def roll(agent: Agent, games: int, number: int, keep: bool, agents: int = 1) -> Rollouts:
        own = seed * 1_000_003 + number
        if game is None:
            return dream(world, agent, games * agents, steps, tau=tau, ends=ends, seed=own, keep=keep)
        numbers = (first + own * MOST + torch.arange(games)).repeat(agents)
        return play_all(
            world, encode, agent, game, numbers, steps, seed=own, keep=keep, patience=patience, frames=False
        )

    return roll


class Exploring:
    """Acts as an agent does, and now and then as another one.

    Args:
        agent: whose actions these mostly are.
        other: whose they are now and then.
        share: (rows,), how often.
    """

    def __init__(self, agent: Agent, other: Agent, share: Tensor) -> None:
        self.agent, self.other, self.share = agent, other, share

    def act(self, code: Tensor, out: Tensor, generator: torch.Generator) -> Tensor:
        """See `models.dreaming.Agent.act`."""
        own, others = (agent.act(code, out, generator) for agent in (self.agent, self.other))
        return torch.where(torch.rand(len(code), generator=generator) < self.share, others, own)

    def select(self, index: Tensor) -> Exploring:
        """See `models.dreaming.Agent.select`."""
        return Exploring(self.agent.select(index), self.other.select(index), self.share[index])


def practise(
    world: World,
    roll: Roll,
    policy: Callable[[], Agent],
    looks: str,
    rounds: int,
    games: int,
    *,
    explore: float,
    discount: float,
    count: int = 0,
    start: Tensor | None = None,
) -> Search:
    """Let an agent get better by playing.

    Args:
        world: whose codes and memory the agent sees.
        roll: plays games.
        policy: makes the policy of the recording.
        looks: inputs of the agent, see `models.dreaming.Linear`.
        rounds: how many.
        games: in each.
        explore: how often the recording's policy acts instead, on average over the games of a round.
        discount: of a reward, per step that it lies ahead.
        count: main directions of the inputs that the agent looks along, see `directions`; 0 for all inputs.
        start: (F,), weights to begin with; by default the recording's policy plays first.

    Returns:
        The best agent of all rounds, and for every round the mean and the best score of its games, explored ones.
        Weights are 0 where games never differ in what is gained.

    Raises:
        ConfigError: `explore` or `discount` out of range.
    """
    if not (0 <= explore <= 0.5 and 0 < discount < 1):
        raise ConfigError(f"explore={explore}, discount={discount}; expected 0 to 0.5, and between 0 and 1")
    weights, curve = start, []
    moments: Moments | None = None
    tried: list[tuple[float, Tensor]] = []
    for number in range(rounds):
        agent, rows = policy(), games * AT_FIRST
        if weights is not None:
            rows = games
            share = 2 * explore * (torch.arange(rows) + 0.5) / rows  # some games are hardly disturbed
            agent = Exploring(Linear(weights.unsqueeze(0), world, looks).spread(rows), agent, share)
        found = roll(agent, rows, number, True)
        score = float(found.score.mean())
        curve.append((score, float(found.score.max())))
        if weights is not None:
            tried.append((score, weights))
        moments = _add(moments, world, found, looks, discount)
        better = moments.advantages(count)
        weights = weights if better is None else better
    if weights is None:
        return Search(torch.zeros(num_weights(world, looks)), curve)
    tried.sort(key=lambda pair: -pair[0])
    last = torch.stack([weights, *(agent for _, agent in tried[:FINALISTS])])
    found = roll(Linear(last, world, looks), FINAL, rounds, False, len(last))
    best = int(found.score.unflatten(0, (len(last), FINAL)).mean(1).argmax())
    return Search(last[best], curve)


def _add(moments: Moments | None, world: World, found: Rollouts, looks: str, discount: float) -> Moments:
    """Take in what was seen, done and gained in games that were kept."""
    assert found.code is not None
    assert found.action is not None
    assert found.reward is not None
    steps = found.reward.shape[1]
    gain, step = returns(found.reward, discount), torch.arange(steps)
    last = (found.length - 1).unsqueeze(1)
    # of games that were cut off, the last returns lack what would have come
    counts = (step < last) & (found.ended.unsqueeze(1) | (step < last - 1 / (1 - discount)))
    for index in torch.arange(len(gain)).split(CHUNK):
        code, action = found.code[index, :steps], found.action[index, :steps]
        with torch.no_grad():
            out = world.predict_all(code, action)[1]
        inputs, own = inputs_of(code, out, looks), counts[index]
        if moments is None:
            moments = Moments(world.actions, inputs.shape[-1])
        if not int(index[0]):
            moments.fade(REMEMBERED)
        moments.add(inputs[own], action[own], gain[index][own])
    assert moments is not None
    return moments
