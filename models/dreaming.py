"""Agents, and where they act: in dreams, which are rollouts of the memory, or in a game outside.

    a_t = argmax W [z_t, h_t] + b                                      C of Ha and Schmidhuber, "World models", 2018

Everything runs side by side: P agents in n rollouts each are the P * n rows of one batch, step after step. A rollout's
score is the sum of its rewards, by default the number of steps it lasted.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from phlogiston.errors import ConfigError, ShapeError, unknown_name
from phlogiston.models.world import State, World

Looks = Literal["zh", "z", "h"]
LOOKS: tuple[str, ...] = ("zh", "z", "h")
Ends = Literal["sampled", "rule"]
ENDS: tuple[str, ...] = ("sampled", "rule")
SHARE = 0.8  # of rows that must still be going for the others to be taken along


class Agent(Protocol):
    """Chooses actions."""

    def act(self, code: Tensor, out: Tensor, generator: torch.Generator) -> Tensor:
        """Choose actions, int64 (rows,), from codes (rows, Z) and the memory's outputs (rows, hidden)."""

    def select(self, index: Tensor) -> Agent:
        """The agent of some of the rows, given by their indices."""


class Game(Protocol):
    """A game outside: states are named tuples of tensors with a row per game, any number of them."""

    def reset(self, games: Any, seed: int = 0) -> Any:
        """Begin games of these numbers."""

    def step(self, state: Any, action: Tensor) -> tuple[Any, Tensor, Tensor]:
        """State, reward (n,) and whether games are over, bool (n,)."""

    def render(self, state: Any) -> Tensor:
        """Frames (n, C, H, W) in [0, 1]."""


class Linear:
    """P linear controllers, each in charge of as many rows as the others, in order.

    Args:
        weights: (P, actions * (inputs + 1)): for every action its weights, then its bias.
        world: whose codes and outputs they take.
        looks: their inputs: `"z"` the code, `"h"` the memory, `"zh"` both.

    Raises:
        ShapeError: another number of weights.
    """

    def __init__(self, weights: Tensor, world: World, looks: str = "zh") -> None:
        size = num_weights(world, looks)
        if weights.dim() != 2 or weights.shape[1] != size:
            raise ShapeError(f"weights have shape {tuple(weights.shape)}; expected (controllers, {size})")
        table = weights.to(world.zero.dtype).unflatten(1, (world.actions, -1))
        self.weight, self.bias, self.looks = table[..., :-1], table[..., -1], looks
        self._rows = 1  # of each controller, as they were last asked

    def act(self, code: Tensor, out: Tensor, generator: torch.Generator) -> Tensor:
        """See `Agent.act`."""
        rows = inputs_of(code, out, self.looks).unflatten(0, (len(self.weight), -1))
        value = rows @ self.weight.transpose(1, 2) + self.bias.unsqueeze(1)
        self._rows = value.shape[1]
        return value.argmax(-1).flatten()

    def spread(self, rows: int) -> Linear:
        """The same controllers in charge of so many rows in all, before they have acted."""
        some = copy.copy(self)
        some._rows = rows // len(self.weight)
        return some

    def select(self, index: Tensor) -> Linear:
        """See `Agent.select`."""
        controller = index // self._rows
        some = copy.copy(self)
        some.weight, some.bias, some._rows = self.weight[controller], self.bias[controller], 1
        return some


class Random:
    """Acts at random: the last action again, or any; or whatever followed the last one how often.

    Args:
        actions: how many there are.
        keep: probability of the last one.
        moves: (actions, actions), probabilities of the next action given the last, instead of `keep`.
    """

    def __init__(self, actions: int, keep: float = 0.0, moves: Tensor | None = None) -> None:
        self.actions, self.keep, self.moves = actions, keep, moves
        self._last: Tensor | None = None  # unknown before the first step

    def act(self, code: Tensor, out: Tensor, generator: torch.Generator) -> Tensor:
        """See `Agent.act`."""
        fresh = torch.randint(self.actions, (len(code),), generator=generator)
        again = torch.rand(len(code), generator=generator) < self.keep
        last = self._last if self._last is not None and len(self._last) == len(code) else None
        if last is not None and self.moves is not None:
            again = torch.ones_like(again)
            last = torch.multinomial(self.moves[last], 1, generator=generator).squeeze(1)
        self._last = fresh if last is None else torch.where(again, last, fresh)
        return self._last

    def select(self, index: Tensor) -> Random:
        """See `Agent.select`."""
        some = Random(self.actions, self.keep, self.moves)
        some._last = None if self._last is None else self._last[index]
        return some


def inputs_of(code: Tensor, out: Tensor, looks: str) -> Tensor:
    """What a controller takes, (rows, inputs), of codes (rows, Z) and the memory's outputs (rows, hidden)."""
    return torch.cat({"zh": (code, out), "z": (code,), "h": (out,)}[looks], -1)


def rows_of(state: Any, index: Tensor) -> Any:
    """Some rows of a state: a named tuple of tensors, or of further ones."""
    return type(state)(*(rows_of(part, index) if isinstance(part, tuple) else part[index] for part in state))


def num_weights(world: World, looks: str) -> int:
    """Weights and biases of one controller.

    Raises:
        UnknownNameError: `looks` is none of `LOOKS`.
    """
    if looks not in LOOKS:
        raise unknown_name("input of a controller", looks, LOOKS)
    inputs = (world.code if "z" in looks else 0) + (world.hidden if "h" in looks else 0)
    return world.actions * (inputs + 1)


@dataclass(frozen=True)
class Rollouts:
    """Outcome of rollouts.

    Attributes:
        score: float (rows,), the sum of rewards; where a step is worth 1, the steps each rollout lasted.
        ended: bool (rows,), whether it came to an end, rather than to the limit.
        length: int64 (rows,), frames that count.
        code: (rows, T + 1, Z), or None if not kept.
        action: int64 (rows, T), or None.
        frames: (rows, T + 1, C, H, W) of a game outside, or None.
        reward: (rows, T), what each action brought, the game's own or the dream's; 0 behind the end. Or None.
    """

    score: Tensor
    ended: Tensor
    length: Tensor
    code: Tensor | None = None
    action: Tensor | None = None
    frames: Tensor | None = None
    reward: Tensor | None = None


@torch.no_grad()
def dream(
    world: World,
    agent: Agent,
    rows: int,
    steps: int,
    *,
    tau: float = 1.0,
    ends: Ends = "sampled",
    seed: int = 0,
    keep: bool = False,
    start: State | None = None,
) -> Rollouts:
    """Act in rollouts of the memory.

    Args:
        world: whose memory.
        agent: chooses the actions.
        rows: number of rollouts.
        steps: longest rollout.
        tau: temperature: logits of components are divided by it, variances multiplied.
        ends: `"sampled"` draws the end from its probability; `"rule"` ends where the paper's weighted probability
            passes one half.
        seed: of this dream.
        keep: keep codes, actions and rewards.
        start: state to go on from; the beginning by default.

    Raises:
        UnknownNameError: another rule for the end.
        ConfigError: a temperature that is not positive, or no steps.
    """
    if ends not in ENDS:
        raise unknown_name("rule for the end", ends, ENDS)
    if not tau > 0:
        raise ConfigError(f"tau is {tau}; it must be positive")
    if min(rows, steps) < 1:
        raise ConfigError(f"rows={rows}, steps={steps}; both must be at least 1")
    generator = torch.Generator().manual_seed(seed)
    state = world.start(rows) if start is None else start
    shift = torch.tensor(world.end_weight).log()
    present = torch.arange(rows)  # rollouts the rows are about: those that ended leave
    alive = torch.ones(rows, dtype=torch.bool)
    score = torch.zeros(rows)
    length = torch.ones(rows, dtype=torch.long)
    codes: list[Tensor] = []
    done: list[Tensor] = []
    gains: list[Tensor] = []
    for t in range(steps + 1):
        prediction = world.predict(state)
        code = prediction.code.draw(pi_temperature=tau, sigma_temperature=tau, generator=generator)
        if t:
            chance = torch.rand(len(code), generator=generator)
            end = chance < prediction.end.sigmoid() if ends == "sampled" else prediction.end + shift > 0
            gain = world.gained(state, code) * alive[present]
            score[present] += gain
            length[present] += alive[present]
            if keep:
                gains.append(gain)
            alive[present] &= ~end
        if keep:
            codes.append(code)
        if t == steps or not bool(alive.any()):
            break
        stay = alive[present]
        if not keep and int(stay.sum()) < SHARE * len(present):
            index = stay.nonzero().squeeze(-1)
            present, code, agent = present[index], code[index], agent.select(index)
            state = State(*(part[index] for part in state))
        action = agent.act(code, state.out, generator)
        if keep:
            done.append(action)
        state = world.observe(state, code, action)
    if not keep:
        return Rollouts(score, ~alive, length)
    return Rollouts(score, ~alive, length, torch.stack(codes, 1), torch.stack(done, 1), reward=torch.stack(gains, 1))


class _Hopes:
    """Which games are worth playing on.

    Args:
        games: how many.
        patience: steps without a gain after which one is given up; 0 for never.
    """

    def __init__(self, games: int, patience: int) -> None:
        self.patience = patience
        self.given_up = torch.zeros(games, dtype=torch.bool)
        self._idle, self._lost = torch.zeros(games), torch.zeros(games)  # steps in a row, and their rewards

    def after(self, present: Tensor, gain: Tensor, alive: Tensor) -> Tensor:
        """Games that are given up after a step, which gained this in those present."""
        waits = gain <= 0
        self._idle[present] = torch.where(waits, self._idle[present] + 1, 0.0)
        self._lost[present] = torch.where(waits, self._lost[present] + gain, 0.0)
        now = alive & (self._idle >= self.patience) & (self.patience > 0)
        self.given_up |= now
        return now.nonzero().squeeze(-1)

    def expected(self, games: Tensor) -> Tensor:
        """What a further step of these would bring: the mean of the idle ones."""
        return self._lost[games] / self._idle[games]


def _whole(value: Tensor, present: Tensor, games: int) -> Tensor:
    """Values of the games still present among those of all; 0 of the others."""
    if len(present) == games:
        return value
    return value.new_zeros(games, *value.shape[1:]).index_copy(0, present, value)


@torch.no_grad()
def play(
    world: World,
    encode: Any,
    agent: Agent,
    game: Game,
    games: Tensor,
    steps: int,
    *,
    seed: int = 0,
    keep: bool = False,
    generator: torch.Generator | None = None,
    patience: int = 0,
    frames: bool = True,
) -> Rollouts:
    """Act in a game outside, seen through the encoder and the memory.

    Args:
        world: whose memory.
        encode: frames -> location and scale of their codes; locations are used.
        agent, game: who chooses the actions, and where.
        games: numbers of the games, (rows,).
        steps: longest rollout.
        seed: of the games, and of the agent's draws.
        keep: keep codes, actions, frames and rewards.
        generator: of the agent's draws; one of the seed by default.
        patience: give a game up in which so many steps in a row have gained nothing, no reward above 0; its score is
            what it were if all further steps up to the limit were worth the mean of these. 0 gives none up.
        frames: whether frames are among what is kept; they take by far the most memory.

    Raises:
        ConfigError: no steps.
    """
    if steps < 1:
        raise ConfigError(f"steps is {steps}; it must be at least 1")
    generator = torch.Generator().manual_seed(seed) if generator is None else generator
    outside = game.reset(games, seed)
    state = world.start(len(games))
    present = torch.arange(len(games))
    alive = torch.ones(len(games), dtype=torch.bool)
    score, length = torch.zeros(len(games)), torch.ones(len(games), dtype=torch.long)
    hopes = _Hopes(len(games), patience)
    kept: dict[str, list[Tensor]] = {name: [] for name in ("code", "action", "reward", *(["frames"] if frames else []))}

    def note(**values: Tensor) -> None:
        for name, value in values.items() if keep else ():
            if name in kept:
                kept[name].append(_whole(value, present, len(games)))

    for t in range(steps + 1):
        stay = alive[present]
        # games given up are not over: they must leave, lest they be played on
        if (patience or not keep) and 0 < int(stay.sum()) < (1.0 if patience else SHARE) * len(present):
            index = stay.nonzero().squeeze(-1)
            present, agent = present[index], agent.select(index)
            state, outside = rows_of(state, index), rows_of(outside, index)
        frame = game.render(outside)
        code = encode(frame)[0]
        note(code=code, frames=frame)
        if t == steps or not bool(alive.any()):
            break
        action = agent.act(code, state.out, generator)
        note(action=action)
        outside, reward, over = game.step(outside, action)
        gain = reward * alive[present]
        score[present] += gain
        note(reward=gain)
        length[present] += alive[present]
        alive[present] &= ~over
        lost = hopes.after(present, gain, alive)
        score[lost] += hopes.expected(lost) * (steps - t - 1)
        alive[lost] = False
        state = world.observe(state, code, action)
    outcome = Rollouts(score, ~(alive | hopes.given_up), length)
    if not keep:
        return outcome
    return replace(outcome, **{name: torch.stack(parts, 1) for name, parts in kept.items()})
