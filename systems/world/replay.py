"""A game and a dream of it side by side, each played by a list of actions: what a person sees who plays both.

Whatever was drawn depends on the seed and the actions alone, so a list of actions is all there is to a state: the same
list gives the same frames again, and a shorter one takes actions back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from phlogiston.errors import ConfigError
from phlogiston.models.dream_game import DreamGame, Moment
from phlogiston.models.dreaming import Agent, Game
from phlogiston.models.world import State, World


@dataclass(frozen=True)
class Course:
    """How a game or a dream went.

    Attributes:
        frames: (T + 1, C, H, W) in [0, 1]; of a dream, means of pixels.
        code: (T + 1, Z), of the frames.
        action: int64 (T,), what was done, up to the end.
        reward: (T,), what each action brought: the game's own, or what the dream expects.
        end: (T + 1,), probability that each frame is the end, as the model saw it one frame before; 0 for the first.
        ahead: (actions,), probability that the next frame is the end if this is done now; 0 where it is over.
        over: whether it is over.
    """

    frames: Tensor
    code: Tensor
    action: Tensor
    reward: Tensor
    end: Tensor
    ahead: Tensor
    over: bool


class Replay(NamedTuple):
    """What came of the actions.

    Attributes:
        dream: in the dream.
        game: in the game itself; None where it cannot be played here.
    """

    dream: Course
    game: Course | None


class _Line:
    """What a dream and a game have in common: frames with their codes, and the memory of them.

    Args:
        world: whose memory.
        longest: steps after which it is cut off.
    """

    memory: State  # before the newest frame

    def __init__(self, world: World, longest: int) -> None:
        self.world, self.longest = world, longest
        self.frames: list[Tensor] = []
        self.codes: list[Tensor] = []
        self.actions: list[int] = []
        self.rewards: list[float] = []
        self.ends = [0.0]
        self.over = False

    def take(self, action: int) -> None:
        """Do something; nothing where it is over.

        Raises:
            ConfigError: there is no such action.
        """
        if isinstance(action, bool) or not isinstance(action, int) or not 0 <= action < self.world.actions:
            raise ConfigError(f"there is no action {action!r}; they are numbered 0 to {self.world.actions - 1}")
        if self.over:
            return
        self.actions.append(action)
        reward, over = self.advance(torch.tensor([action]))
        self.rewards.append(reward)
        self.ends.append(float(self.world.predict(self.memory).end.sigmoid()))
        self.over = over or len(self.actions) >= self.longest

    def advance(self, action: Tensor) -> tuple[float, bool]:
        """Move on by one frame: the reward, and whether it is over."""
        raise NotImplementedError

    def advised(self, agent: Agent) -> int:
        """What an agent would do now."""
        return int(agent.act(self.codes[-1], self.memory.out, torch.Generator().manual_seed(len(self.actions))))

    def course(self) -> Course:
        """What came of it so far."""
        ahead = torch.zeros(self.world.actions)
        if not self.over:
            every = torch.arange(self.world.actions)
            memory = State(*(part.expand(len(every), *part.shape[1:]) for part in self.memory))
            code = self.codes[-1].expand(len(every), -1)
            ahead = self.world.predict(self.world.observe(memory, code, every)).end.sigmoid()
        action, reward = torch.tensor(self.actions, dtype=torch.long), torch.tensor(self.rewards)
        return Course(
            torch.cat(self.frames), torch.cat(self.codes), action, reward, torch.tensor(self.ends), ahead, self.over
        )


class _Outside(_Line):
    """The game itself, seen through the encoder."""

    def __init__(
        self, world: World, encode: Callable[[Tensor], Any], game: Game, number: int, seed: int, longest: int
    ) -> None:
        super().__init__(world, longest)
        self.encode, self.game = encode, game
        self.state, self.memory = game.reset(torch.tensor([number]), seed), world.start(1)
        self._see()

    def _see(self) -> None:
        self.frames.append(self.game.render(self.state))
        self.codes.append(self.encode(self.frames[-1])[0])

    def advance(self, action: Tensor) -> tuple[float, bool]:
        """See `_Line.advance`."""
        self.state, reward, over = self.game.step(self.state, action)
        self.memory = self.world.observe(self.memory, self.codes[-1], action)
        self._see()
        return float(reward), bool(over)


class _Inside(_Line):
    """A dream, whose first frames may be those of the game."""

    def __init__(self, game: DreamGame, seed: int, longest: int, shown: int, outside: _Outside | None) -> None:
        super().__init__(game.world, longest)
        self.game, self.shown, self.outside = game, shown, outside
        self.moment = game.reset(1, seed)
        self._see(self.moment)

    def _see(self, moment: Moment) -> bool:
        """Take a frame in: the game's where it is shown, else the one that was dreamt. Whether it is the end."""
        time = len(self.frames)
        if self.outside is not None and time < min(self.shown, len(self.outside.codes)):
            moment = moment._replace(code=self.outside.codes[time], over=torch.zeros(1, dtype=torch.bool))
        self.moment, self.memory = moment, moment.memory
        self.codes.append(moment.code)
        self.frames.append(self.game.render(moment))
        return bool(moment.over)

    def advance(self, action: Tensor) -> tuple[float, bool]:
        """See `_Line.advance`."""
        moment, reward, _ = self.game.step(self.moment, action)
        return float(reward), self._see(moment)


class SideBySide:
    """A game and a dream of it, each going on action by action.

    Args:
        dream: the dream as a game.
        encode: frames -> location and scale of their codes.
        game: the game itself; None where it cannot be played.
        number: of the game.
        seed: of both.
        shown: so many first frames of the game are the dream's, too; it goes on from there by itself.
        longest: steps after which the dream and the game are cut off.
        agent: that may act in both; None where none was trained.

    Raises:
        ConfigError: frames of a game that cannot be played.
    """

    @torch.no_grad()
    def __init__(
        self,
        dream: DreamGame,
        encode: Callable[[Tensor], Any],
        game: Game | None,
        number: int,
        seed: int,
        shown: int,
        longest: tuple[int, int],
        agent: Agent | None = None,
    ) -> None:
        if shown < 0 or (shown and game is None):
            raise ConfigError(
                f"shown is {shown}; expected 0 or more frames, and 0 where the game cannot be played here"
            )
        self.shown, self.agent = shown, agent
        self.game = None if game is None else _Outside(dream.world, encode, game, number, seed, longest[1])
        self.dream = _Inside(dream, seed, longest[0], shown, self.game)

    @torch.no_grad()
    def play(self, dreamt: Sequence[int], played: Sequence[int] = ()) -> None:
        """Go on in both; actions behind an end count for nothing.

        Args:
            dreamt: what is done in the dream.
            played: what is done in the game.

        Raises:
            ConfigError: an unknown action, or other actions in the dream than in the game while the game is shown.
        """
        if self.game is not None:
            for action in played:
                self.game.take(action)
            self._check([*self.dream.actions, *dreamt])
        for action in dreamt:
            self.dream.take(action)

    def _check(self, dreamt: list[int]) -> None:
        assert self.game is not None
        seen = min(self.shown - 1, len(dreamt), self.game.longest)
        if seen > 0 and dreamt[:seen] != self.game.actions[:seen] and not self.game.over:
            raise ConfigError(
                f"the dream's first {self.shown} frames are the game's, so that its first {self.shown - 1} actions "
                f"must be the game's, too; got {dreamt[:seen]} in the dream and {self.game.actions[:seen]} in the game"
            )

    @torch.no_grad()
    def let_agent(self, steps: int) -> None:
        """Let the agent act in both for so many steps; it sees each by itself.

        Raises:
            ConfigError: there is none.
        """
        agent = self.agent
        if agent is None:
            raise ConfigError("no agent was trained with this model (generations=0)")
        for _ in range(steps):
            if self.game is not None and not self.game.over:
                self.game.take(self.game.advised(agent))
            if not self.dream.over:
                self.dream.take(self.dream.advised(agent))

    @torch.no_grad()
    def result(self) -> Replay:
        """What came of it so far."""
        return Replay(self.dream.course(), None if self.game is None else self.game.course())

    def close(self) -> None:
        """Close the game, where it holds something open."""
        if self.game is not None and hasattr(self.game.game, "close"):
            self.game.game.close()
