"""The verbs of agents in world models: train them in the dream or in the game, and let them act in either."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from phlogiston.arrays import at_least
from phlogiston.datasets.generated.games.dodge import DodgeEnv
from phlogiston.errors import ConfigError, RunError, unknown_name
from phlogiston.models.dream_game import DreamGame
from phlogiston.models.dreaming import Agent, Ends, Linear, Random, Rollouts, dream
from phlogiston.systems.base import System
from phlogiston.systems.calls import evaluating
from phlogiston.systems.world.agent import TrainedAgent, free_path
from phlogiston.systems.world.config import Config as WorldConfig
from phlogiston.systems.world.directions import main_directions
from phlogiston.systems.world.improvement import Trial
from phlogiston.systems.world.judging import Sweep, best_sweep, play_blind
from phlogiston.systems.world.outside import as_game
from phlogiston.systems.world.playing import play_all
from phlogiston.systems.world.practice import practise, rolls
from phlogiston.systems.world.replay import Replay, SideBySide
from phlogiston.systems.world.training import Search, Searches, search

CHANCE = ("random", "uniform")  # policies that see nothing
FIRST_GAME = 1 << 40  # games that agents are trained and scored in; none of the data's


def _on_cpu(module: Any) -> Any:
    """A copy for many small steps, in evaluation mode."""
    return copy.deepcopy(module).to("cpu").eval()


class AgentVerbs(System):
    """The verbs of `WorldModel` that train agents or let them act."""

    config: WorldConfig

    # ----- agents ------------------------------------------------------------------------------------------------

    @property
    def agent(self) -> TrainedAgent | None:
        """The agent trained with the model, or None where there is none."""
        self._need_fit()
        c = self.config
        if not c.generations:
            return None
        curve = [(float(a), float(b)) for a, b in self.model.curve.tolist()]
        return TrainedAgent(self.model.player.clone(), c.looks, c.inside, c.tau, c.ends, curve)

    def check_place(self) -> None:
        """See that the agent can be trained where it is to be.

        Raises:
            ConfigError: the game cannot be played here.
        """
        with self._place(self.config.inside):
            pass

    def train_own_agent(self) -> None:
        """Train the agent that is kept with the parameters, as configured; called at the end of training."""
        agent = self.train_agent()
        with torch.no_grad():
            self.model.player.copy_(agent.weights)
            self.model.curve.copy_(torch.tensor(agent.curve))

    def train_agent(
        self,
        *,
        looks: str | None = None,
        inside: Any = None,
        tau: float | None = None,
        ends: Ends | None = None,
        generations: int | None = None,
        population: int | None = None,
        rollouts: int | None = None,
        directions: int | None = None,
        spread: float | None = None,
        start: Any = None,
        bounds: float | None = None,
        method: Searches | None = None,
        max_steps: int | None = None,
        patience: int | None = None,
        seed: int = 0,
        out: str | Path | None = None,
        explore: float = 0.3,
        discount: float = 0.95,
    ) -> TrainedAgent:
        """Train an agent, by evolution if not told otherwise; what is not given is as configured.

        Args:
            looks: its inputs: "z" the code, "h" the memory, "zh" both.
            inside: "dream"; "game", if the data say which it is; or a Gymnasium environment, its id or what makes one.
            tau, ends: temperature of the dream, and how it ends, "sampled" or "rule".
            generations, population, rollouts: how many, controllers in each, and rollouts of each; or rounds and games.
            directions: main directions of the inputs along which controllers look; 0, or bounds, for every weight.
            spread: standard deviation with which a search begins.
            start: an agent, its file or weights (F,) to begin at; by default, in a dream, the recording's policy,
                improved (`systems.world.improvement`), if better than it; else, in a game or with bounds, 0.
            bounds: largest absolute value of a weight; None for none. Needs the method "cmaes".
            method: "own", our CMA-ES, "cmaes", that of the library of that name, as with bounds, or "improve".
            max_steps: longest rollout.
            patience: steps without a gain after which a game outside is given up (`models.dreaming.play`); 0 for never.
            seed: of the search and of everything drawn.
            out: file to keep the agent in, JSON; None keeps it in memory.
            explore, discount: of the method "improve" (`systems.world.practice`).

        In a dream, a search's beginning is returned where its end is not clearly better in further dreams. An agent
        clearly worse there than the policy of the recording gives a `DataWarning`.

        Raises:
            ConfigError: options out of range; a game that cannot be played here.
            RunError: `out` exists; nothing is trained.
        """
        self._need_fit()
        c = self.config
        if out is not None and Path(out).exists():
            raise RunError(f"{out} exists already; choose another name, nothing was written")
        method = method or (c.method if bounds is None else "cmaes")
        if bounds is not None and (directions or method == "improve"):
            raise ConfigError(f"bounds are of single weights: not with directions={directions}, method={method!r}")
        looks, ends, tau = looks or c.looks, ends or c.ends, float(c.tau if tau is None else tau)
        spread = float(c.spread if spread is None else spread)
        generations = at_least("generations", c.generations or 60 if generations is None else generations, 1)
        population = at_least("population", c.population if population is None else population, 4)
        rollouts = at_least("rollouts", c.rollouts if rollouts is None else rollouts, 1)
        directions = 0 if bounds else at_least("directions", c.directions if directions is None else directions, 0)
        patience = at_least("patience", c.patience if patience is None else patience, 0)
        with self._place(c.inside if inside is None else inside) as place:
            steps = max_steps or (self.longest if place is None else self.limit)
            where = (place, FIRST_GAME, steps, seed, tau, ends, patience)
            if method == "improve":
                world, encode = _on_cpu(self.model), _on_cpu(self.guide).encode
                found = practise(
                    world, rolls(world, encode, *where), lambda: self._agent("random", None)[0], looks, generations,
                    population, explore=explore, discount=discount, count=directions, start=self._weights(start),
                )  # fmt: skip
            else:
                found = self._sought(
                    where, bounds, method, looks=looks, rollouts=rollouts, directions=directions, seed=seed,
                    begin=self._weights(start), generations=generations, population=population, spread=spread,
                )  # fmt: skip
        agent = TrainedAgent(found.weights, looks, "dream" if place is None else "game", tau, ends, found.curve)
        if out is not None:
            agent.save(out)
        return agent

    def train_agent_beside(
        self, run: str | Path, out: str | Path | None = None, seed: int = 0, **options: Any
    ) -> tuple[TrainedAgent, Path]:
        """Train an agent and keep it in a new file, by default the first free one beside a run.

        Args:
            run: the run folder.
            out: file of the agent; see `agent.free_path` for the default.
            seed: as in `train_agent`.
            **options: as in `train_agent`.
        """
        path = free_path(run) if out is None else Path(out)
        return self.train_agent(seed=seed, out=path, **options), path

    def _weights(self, start: Any) -> Tensor | None:
        if start is None:
            return None
        if isinstance(start, str | Path):
            start = TrainedAgent.load(start)
        return start.weights if isinstance(start, TrainedAgent) else torch.as_tensor(start, dtype=torch.float32)

    def _directions(self, looks: str, count: int, seed: int) -> Tensor | None:
        """What `search` takes as a basis."""
        if not count:
            return None
        return main_directions(_on_cpu(self.model), self._agent("random", None)[0], looks, count, self.longest, seed)

    def _sought(
        self,
        where: tuple[Any, ...],
        bounds: float | None,
        method: Searches,
        *,
        looks: str,
        rollouts: int,
        directions: int,
        begin: Tensor | None,
        seed: int,
        **options: Any,
    ) -> Search:
        """Search, from a good beginning where none is given, and judge in a dream."""
        place, _, steps, _, tau, ends, patience = where
        trial = self._trial(looks, steps, tau, ends, seed) if place is None else None
        if trial is not None and begin is None and bounds is None:
            begin = trial.beginning(directions)
        found = search(
            self._score(looks, place, tau, ends, rollouts, steps, patience), self.model, looks, start=begin,
            bounds=bounds, method=method,
            basis=self._directions(looks, directions, seed), seed=seed, **options,
        )  # fmt: skip
        return found if trial is None else Search(trial.better(begin, found.weights), found.curve)

    def _trial(self, looks: str, steps: int, tau: float, ends: Ends, seed: int) -> Trial:
        """Where agents are compared with the recording's policy."""

        def policy() -> Agent:
            return self._agent("random", None)[0]

        return Trial(_on_cpu(self.model), policy, looks, steps, tau=tau, ends=ends, seed=seed)

    def _score(
        self, looks: str, game: Any, tau: float, ends: Ends, rollouts: int, steps: int, patience: int
    ) -> Callable[[Tensor, int], Tensor]:
        """What `search` maximises, in a game or the dream (None): controllers (P, F) and a seed -> mean scores."""
        world, encode = _on_cpu(self.model), _on_cpu(self.guide).encode

        def score(points: Tensor, number: int) -> Tensor:
            controllers, rows = Linear(points, world, looks), len(points) * rollouts
            if game is None:
                outcome = dream(world, controllers, rows, steps, tau=tau, ends=ends, seed=number)
            else:  # the same games for all, so that luck does not choose
                games = (FIRST_GAME + number * rollouts + torch.arange(rollouts)).repeat(len(points))
                outcome = play_all(world, encode, controllers, game, games, steps, patience=patience)
            return outcome.score.unflatten(0, (len(points), rollouts)).mean(1)

        return score

    @contextlib.contextmanager
    def _place(self, inside: Any) -> Iterator[Any]:
        """The game outside that an agent is trained in, closed in the end; None for the dream.

        Raises:
            UnknownNameError: a text that is neither "dream", "game" nor the id of an environment.
        """
        place = None
        if not isinstance(inside, str):
            place = as_game(inside, self.schema)
        elif inside == "game":
            place = self._game()
        elif inside != "dream":
            try:
                place = as_game(inside, self.schema)
            except ConfigError as error:
                raise unknown_name("value of inside, nor environment,", inside, ("dream", "game")) from error
        try:
            yield place
        finally:
            if place is not None and place is not inside and hasattr(place, "close"):
                place.close()

    @property
    def longest(self) -> int:
        """Steps of the longest dream: of the longest game in the data, if not configured."""
        self._need_fit()
        return int(self.config.max_steps or self.schema["longest"])

    @property
    def limit(self) -> int:
        """Steps after which a game outside is cut off: those of the environment or the recording, where it has some."""
        self._need_fit()
        return int(self.config.max_steps or self.schema.get("limit") or self.schema["longest"])

    def _game(self) -> Any:
        if self.schema["game"] is not None:
            return DodgeEnv(**self.schema["game"])
        if self.schema.get("env") is None:
            raise ConfigError("the game these data come from cannot be played here; pass one: play(..., game=...)")
        return as_game(None, self.schema)

    @property
    def playable(self) -> bool:
        """Whether the game of the data can be played without being passed."""
        self._need_fit()
        return self.schema["game"] is not None or bool((self.schema.get("env") or {}).get("env"))

    def _agent(self, policy: Any, looks: str | None) -> tuple[Agent, int]:
        """The agent of a policy, and how many controllers it has."""
        if policy is None:
            policy = self.agent if self.config.generations else "random"
        if isinstance(policy, str | Path) and str(policy) not in CHANCE:
            policy = TrainedAgent.load(policy)
        if isinstance(policy, str):
            if policy == "uniform":
                return Random(self.schema["actions"]), 1
            moves = self.schema.get("moves")
            table = None if moves is None else torch.tensor(moves)
            return Random(self.schema["actions"], self.schema.get("keep", 0.0), table), 1
        if isinstance(policy, TrainedAgent):
            policy, looks = policy.weights, policy.looks
        weights = torch.as_tensor(policy, dtype=torch.float32)
        weights = weights.unsqueeze(0) if weights.dim() == 1 else weights
        return Linear(weights, self.model, looks or self.config.looks), len(weights)

    def dream(
        self,
        policy: Any = None,
        num_rollouts: int = 16,
        *,
        tau: float | None = None,
        max_steps: int | None = None,
        ends: Ends | None = None,
        looks: str | None = None,
        seed: int = 0,
        keep: bool = False,
    ) -> Rollouts:
        """Let agents act in the dream.

        Args:
            policy: weights (P, F) of P controllers, or (F,) of one; a `TrainedAgent`, or the file of one; "random", by
                chance as the recording's policy moves, or "uniform", every action as often; the agent trained with the
                model by default.
            num_rollouts: dreams of each controller.
            tau: temperature: logits of components are divided by it, variances multiplied; as configured by default.
            max_steps: longest dream; the longest game by default.
            ends: "sampled" or "rule".
            looks: what weights look at; as configured by default.
            seed: of everything drawn.
            keep: keep codes and actions.

        Returns:
            P * num_rollouts rows, those of the first controller first.

        Raises:
            ConfigError: options out of range.
            ShapeError: weights that do not fit.
        """
        self._need_fit()
        agent, count = self._agent(policy, looks)
        c, rows = self.config, count * at_least("num_rollouts", num_rollouts, 1)
        with evaluating(self.model):
            return dream(
                self.model, agent, rows, max_steps or self.longest, tau=c.tau if tau is None else tau,
                ends=ends or c.ends, seed=seed, keep=keep,
            )  # fmt: skip

    def play(
        self,
        policy: Any = None,
        num_games: int = 64,
        *,
        game: Any = None,
        max_steps: int | None = None,
        looks: str | None = None,
        seed: int = 0,
        keep: bool = False,
        blindfold: bool = False,
    ) -> Rollouts:
        """Let agents play the game itself, which they see through encoder and memory.

        Args:
            policy: as in `dream`.
            num_games: games of each controller, the same for all of them.
            game: where to play: a Gymnasium environment, the id of one or a function that makes one, seen and played as
                recorded; or an object with `reset`, `step` and `render` (`models.dreaming.Game`). By default the game
                the data come from.
            max_steps: longest game; by default the limit of the environment or of the recording.
            looks: as in `dream`.
            seed: of the games.
            keep: keep codes, actions and frames.
            blindfold: show every agent what happens in another game than the one it plays: what it scores then, it
                scores without sight.
        """
        self._need_fit()
        agent, count = self._agent(policy, looks)
        games = (2 * FIRST_GAME + torch.arange(at_least("num_games", num_games, 1))).repeat(count)
        place = self._game() if game is None else as_game(game, self.schema)
        with evaluating(self.model, self.guide):
            try:
                return play_all(
                    self.model, self.guide.encode, agent, place, games, max_steps or self.limit, seed=seed,
                    keep=keep, blindfold=blindfold,
                )  # fmt: skip
            finally:
                if place is not game and hasattr(place, "close"):
                    place.close()

    def play_blind(
        self, compared: int = 16, num_games: int = 64, *, game: Any = None, max_steps: int | None = None, seed: int = 0
    ) -> tuple[Sweep, Rollouts]:
        """Play without sight as well as can be: the best of some sweeps from one action to another and back.

        Args:
            compared: games the sweeps are compared in.
            num_games: other games, which the best one then plays: the same as those of `play`.
            game: as in `play`.
            max_steps: longest game.
            seed: of the games.
        """
        self._need_fit()
        place, steps = self._game() if game is None else as_game(game, self.schema), max_steps or self.limit
        try:
            chosen, _ = best_sweep(self.model, place, FIRST_GAME + torch.arange(compared), steps, seed)
            games = 2 * FIRST_GAME + torch.arange(num_games)
            return chosen, play_blind(self.model, place, chosen, games, steps, seed)
        finally:
            if place is not game and hasattr(place, "close"):
                place.close()

    def side_by_side(
        self, *, tau: float = 1.0, ends: Ends = "sampled", shown: int = 0, seed: int = 0, game: bool | None = None
    ) -> SideBySide:
        """A game and a dream of it, to go on in action by action; see `replay`.

        Args:
            tau: as in `replay`; so are the other arguments.
            ends: how the dream ends.
            shown: first frames of the dream that are the game's.
            seed: of both.
            game: whether to play the game itself, too; where it can be played by default.
        """
        self._need_fit()
        outside = self._game() if (self.playable if game is None else game) else None
        self.guide.eval()
        return SideBySide(
            self.dream_game(tau, ends), self.guide.encode, outside, 2 * FIRST_GAME, seed, shown,
            (self.longest, self.limit), self._agent(None, None)[0] if self.config.generations else None,
        )  # fmt: skip

    def replay(
        self,
        dreamt: Sequence[int] = (),
        played: Sequence[int] = (),
        *,
        tau: float = 1.0,
        ends: Ends = "sampled",
        shown: int = 0,
        seed: int = 0,
        game: bool | None = None,
    ) -> Replay:
        """Do given things in a dream and in the game itself: the same again whenever it is called.

        Args:
            dreamt: actions in the dream, in order; those behind its end count for nothing.
            played: actions in the game.
            tau: temperature of the dream.
            ends: how it ends, "sampled" or "rule".
            shown: so many first frames of the dream are those of the game; from there on it goes on by itself.
            seed: of the dream and of the game, which is the first one that `play` plays.
            game: whether to play the game itself, too; where it can be played by default.

        Returns:
            Frames, rewards, and how probable the end was and is, in the dream and in the game.

        Raises:
            ConfigError: an unknown action; other actions in the dream than in the game while the game is shown; a game
                that cannot be played here.
        """
        both = self.side_by_side(tau=tau, ends=ends, shown=shown, seed=seed, game=game)
        try:
            both.play(dreamt, played)
            return both.result()
        finally:
            both.close()

    def dream_game(self, tau: float = 1.0, ends: Ends = "sampled") -> DreamGame:
        """The dream as a game with `reset`, `step` and `render`, for agents of your own."""
        self._need_fit()
        self.model.eval()
        return DreamGame(self.model, tau, ends)

    def as_env(
        self,
        *,
        observe: Literal["state", "frames"] = "state",
        tau: float = 1.0,
        ends: Ends = "sampled",
        max_steps: int | None = None,
        num_envs: int | None = None,
        render_mode: str | None = None,
    ) -> Any:
        """The dream as a Gymnasium environment, for agents of any library.

        Args:
            observe: "state", the code of the frame and the memory, (Z + hidden,); or "frames".
            tau: temperature, as in `dream`.
            ends: "sampled" or "rule".
            max_steps: longest dream, then it is truncated; the longest game by default.
            num_envs: so many dreams in one vectorised environment; None for a single one.
            render_mode: "rgb_array" or None.

        Raises:
            ConfigError: gymnasium is not installed, or there is no such observation.
        """
        from phlogiston.systems.world.dream_env import DreamEnv, DreamVectorEnv

        game = self.dream_game(tau, ends)
        steps = max_steps or self.longest
        if num_envs is None:
            return DreamEnv(game, observe, steps, render_mode)
        return DreamVectorEnv(game, at_least("num_envs", num_envs, 1), observe, steps)
