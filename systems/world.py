"""World model as a product: watch games, dream them, train a player inside the dream, let it play outside.

    data = phlogiston.datasets.load("dodge")
    system = WorldModel().fit(data)               V, then M, then a player C trained in the dream alone
    system.sample(4)["frames"]                    dreams of a game
    system.play(64).score.mean()                  how long the player lasts in the game itself
    system.practise(looks="z", inside="game")     another player
    system.dream(weights, 8, tau=1.15)            P players in 8 dreams each, all in one batch
    system.query({"frames": Known(clip, mask)})   what comes next, given what was seen and done

Reference: Ha and Schmidhuber, "World models", arXiv 1803.10122.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from phlogiston.datasets.base import Dataset, Meta, Split
from phlogiston.datasets.games.dodge import ACTIONS, DodgeEnv
from phlogiston.errors import ConfigError, DataError, RunError, ShapeError, unknown_name
from phlogiston.evaluate.metric import Metric
from phlogiston.evaluate.score import Score
from phlogiston.guides.world import FrameGuide, NoGuide, WorldGuide
from phlogiston.inference import objectives
from phlogiston.inference.engine import Stage
from phlogiston.inference.evidence import Known
from phlogiston.inference.schedules import constant, cosine, warmup
from phlogiston.models.dreaming import Agent, DreamGame, Ends, Linear, Random, Rollouts, dream, num_weights, play
from phlogiston.models.world import FrameModel, MemoryModel, World, pixels
from phlogiston.systems.base import System, coerce, rows_of
from phlogiston.systems.configs.world import PRESETS
from phlogiston.systems.configs.world import Config as WorldConfig
from phlogiston.systems.vdsm_clips import evaluating
from phlogiston.systems.world_player import Player, beside
from phlogiston.systems.world_training import DrawCodes, DrawFrames, Practise, Search, Watched, search

if TYPE_CHECKING:
    from matplotlib.figure import Figure

VISION = ("model.decoder.*", "guide.*")  # what stage V trains
MEMORY = ("model.enter.*", "model.rnn.*", "model.head.*")  # what stage M trains
CHUNK = 64  # games looked at together
FIRST_GAME = 1 << 40  # games that players are trained and scored in; none of the data's


class WorldModel(System):
    """World model; options in `systems.configs.world.Config`.

    Data hold `frames` uint8 (rows, T, C, H, W) or floats in [0, 1], `action` int64 (rows, T), what was done at each
    frame, `done` bool (rows, T), True at a frame where the game is over, and `length` int64 (rows,), frames that count.

    Example:
        >>> from phlogiston import datasets
        >>> data = datasets.load("dodge", sizes=(12, 0, 4), limit=20)
        >>> small = {"widths": (8, 8), "features": 16, "hidden": 8, "code": 4, "generations": 2, "population": 4}
        >>> system = WorldModel(frame_steps=2, steps=2, **small).fit(data)
        >>> tuple(system.sample(3, steps=5, seed=0)["frames"].shape)
        (3, 6, 1, 16, 16)
    """

    name: ClassVar[str] = "world"
    Config: ClassVar[type] = WorldConfig
    config: WorldConfig

    # ----- data ---------------------------------------------------------------------------------------------------

    def describe(self, train: Split, meta: Meta | None) -> dict[str, Any]:
        """Form of the frames, number of actions, longest game, and which game it is, if it can be played."""
        games = check_games(train.tensors)
        channels, height, width = games["frames"].shape[2:]
        if height != width:
            raise ShapeError(
                f"frames have {height} x {width} pixels; this model takes square ones. Crop or resize them"
            )
        own = None
        if meta is not None and meta.name == "dodge":
            own = {name: meta.options[name] for name in ("size", "balls", "limit", "drift")}
        return {
            "channels": int(channels),
            "size": int(height),
            "actions": len(ACTIONS) if own else int(games["action"].max()) + 1,
            "action_names": list(ACTIONS) if own else None,
            "longest": int(games["length"].max()) - 1 if own is None else int(own["limit"]),
            "keep": float(meta.options["keep"]) if own and meta is not None else 0.0,
            "game": own,
            "mean": _mean_colour(games["frames"]),
        }

    def prepare(self, split: Split) -> Watched:  # type: ignore[override]
        """The games as the engine reads them."""
        games = check_games(split.tensors, self.schema)
        watched = Watched(games, sum(len(part) for part in self._parts))
        self._parts.append(watched)
        return watched

    def fit(self, data: Any, **options: Any) -> WorldModel:
        """Train on games; see `System.fit`."""
        self._parts = []
        coerce(data)
        return super().fit(data, **options)

    _parts: list[Watched]

    def games(self, x: Any) -> dict[str, Tensor]:
        """Take games in any accepted form: a dataset (its test rows), a split, or a dict of `frames`, `action`, ...

        Raises:
            ShapeError, DataError: games of another form than the system was trained on.
        """
        self._need_fit()
        if not isinstance(x, Dataset | Split | Mapping):
            raise ShapeError("games are a dataset, a split or a dict with frames and action; see WorldModel")
        tensors = rows_of(x)
        return check_games(tensors, self.schema)

    def frames_of(self, x: Any) -> Tensor:
        """Frames (..., C, H, W) in any accepted form, as floats in [0, 1]."""
        self._need_fit()
        if isinstance(x, Dataset | Split | Mapping):
            x = rows_of(x)["frames"]
        return check_frames(torch.as_tensor(x), self.schema)

    # ----- training -----------------------------------------------------------------------------------------------

    def build(self) -> None:
        """Model and guide."""
        c, schema = self.config, self.schema
        halvings = max(1, (schema["size"] // 4).bit_length() - 1)
        widths = c.widths or tuple(min(16 * 2**i, 64) for i in range(halvings))
        self.model = World(
            schema["channels"], schema["size"], schema["actions"], c.code, widths[::-1], c.features,
            c.hidden, c.layers, c.num_components, c.kind, c.noise, c.min_scale, c.end_weight,
        )  # fmt: skip
        self.model.decoder.start_at(torch.tensor(schema["mean"]))
        self.guide = WorldGuide(self.model, widths, c.features)
        # the player is kept beside the parameters; no gradient ever reaches it
        self.model.register_buffer("player", torch.zeros(num_weights(self.model, c.looks)))
        self.model.register_buffer("curve", torch.zeros(c.generations, 2))

    def stages(self) -> list[Stage]:
        """V on single frames, then M on codes of the frozen encoder."""
        c = self.config
        rate = warmup(c.warmup, cosine(1.0, 0.02), 0.05)
        vision = objectives.make("free_bits", nats=c.free_bits * c.code, each=True)
        return [
            Stage(
                "frames", c.frame_steps, vision, "adam", c.frame_learning_rate, c.frame_batch, VISION,
                {"learning_rate": rate}, c.clip * 100.0, programs=frame_programs,
                transform=DrawFrames(c.frames_per_game),
            ),
            Stage(
                "memory", c.steps, "elbo", "adam", c.learning_rate, c.batch_size, MEMORY,
                {"learning_rate": rate, "scale.done": constant(c.end_share)}, c.clip * 10.0,
                programs=memory_programs, transform=DrawCodes(self.guide, self._parts),
            ),
        ]  # fmt: skip

    def callbacks(self) -> list[Any]:
        """Training the player at the end."""
        return [Practise(self)] if self.config.generations else []

    # ----- players ------------------------------------------------------------------------------------------------

    @property
    def player(self) -> Player | None:
        """The player trained with the model, or None where there is none."""
        self._need_fit()
        c = self.config
        if not c.generations:
            return None
        curve = [(float(a), float(b)) for a, b in self.model.curve.tolist()]
        return Player(self.model.player.clone(), c.looks, "dream", c.tau, c.ends, curve)

    def practise_inside(self) -> None:
        """Train the player that is kept with the parameters; called at the end of training."""
        c = self.config
        found = self._search(c.looks, "dream", c.tau, c.ends, c.generations, c.population, c.rollouts, c.spread, 0, 0)
        with torch.no_grad():
            self.model.player.copy_(found.weights)
            self.model.curve.copy_(torch.tensor(found.curve))

    def practise(
        self,
        *,
        looks: str | None = None,
        inside: Literal["dream", "game"] = "dream",
        tau: float | None = None,
        ends: Ends | None = None,
        generations: int | None = None,
        population: int | None = None,
        rollouts: int | None = None,
        spread: float | None = None,
        max_steps: int | None = None,
        seed: int = 0,
        out: str | Path | None = None,
    ) -> Player:
        """Train a player by evolution; what is not given is as configured.

        Args:
            looks: what it looks at: "z" the code, "h" the memory, "zh" both.
            inside: "dream", the memory's; "game", the game itself, where the data say which it is.
            tau: temperature of the dream.
            ends: how dreams end, "sampled" or "rule".
            generations: how many.
            population: controllers in each.
            rollouts: of each controller.
            spread: standard deviation their weights begin with.
            max_steps: longest rollout.
            seed: of the search and of everything drawn.
            out: file to keep the player in, JSON; None keeps it in memory.

        Raises:
            ConfigError: options out of range; a game that cannot be played here.
            RunError: `out` exists; nothing is trained.
        """
        self._need_fit()
        c = self.config
        if out is not None and Path(out).exists():
            raise RunError(f"{out} exists already; choose another name, nothing was written")
        if inside not in ("dream", "game"):
            raise unknown_name("place to practise", inside, ("dream", "game"))
        chosen = (
            looks if looks is not None else c.looks,
            inside,
            float(tau if tau is not None else c.tau),
            ends if ends is not None else c.ends,
            _at_least("generations", generations if generations is not None else c.generations or 60, 1),
            _at_least("population", population if population is not None else c.population, 4),
            _at_least("rollouts", rollouts if rollouts is not None else c.rollouts, 1),
            float(spread if spread is not None else c.spread),
            max_steps or 0,
            seed,
        )
        found = self._search(*chosen)
        player = Player(found.weights, chosen[0], inside, chosen[2], chosen[3], found.curve)
        if out is not None:
            player.save(out)
        return player

    def practise_beside(
        self, run: str | Path, out: str | Path | None = None, seed: int = 0, **options: Any
    ) -> tuple[Player, Path]:
        """Train a player and keep it in a new file, by default the first free one beside a run.

        Args:
            run: the run folder.
            out: file of the player; see `world_player.beside` for the default.
            seed: as `practise`.
            **options: as `practise`.
        """
        path = beside(run) if out is None else Path(out)
        return self.practise(seed=seed, out=path, **options), path

    def _search(
        self,
        looks: str,
        inside: str,
        tau: float,
        ends: Ends,
        generations: int,
        population: int,
        rollouts: int,
        spread: float,
        max_steps: int,
        seed: int,
    ) -> Search:
        steps = max_steps or self._most()
        world = copy.deepcopy(self.model).to("cpu").eval()
        encode = copy.deepcopy(self.guide).to("cpu").eval().encode
        game = self._game() if inside == "game" else None

        def score(points: Tensor, number: int) -> Tensor:
            agent, rows = Linear(points, world, looks), len(points) * rollouts
            if game is None:
                found = dream(world, agent, rows, steps, tau=tau, ends=ends, seed=number)
            else:  # the same games for all, so that luck does not choose
                games = (FIRST_GAME + number * rollouts + torch.arange(rollouts)).repeat(len(points))
                found = play(world, encode, agent, game, games, steps)
            return found.score.unflatten(0, (len(points), rollouts)).mean(1)

        return search(score, world, looks, generations, population, spread, seed)

    def _most(self) -> int:
        return int(self.config.max_steps or self.schema["longest"])

    def _game(self) -> Any:
        if self.schema["game"] is None:
            raise ConfigError("the game these data come from cannot be played here; pass one: play(..., game=...)")
        return DodgeEnv(**self.schema["game"])

    def _agent(self, policy: Any, looks: str | None) -> tuple[Agent, int]:
        """Somebody who acts, and how many controllers that is."""
        if policy is None:
            policy = self.player if self.config.generations else "random"
        if isinstance(policy, str | Path) and str(policy) != "random":
            policy = Player.load(policy)
        if isinstance(policy, str):
            return Random(self.schema["actions"], self.schema["keep"]), 1
        if isinstance(policy, Player):
            policy, looks = policy.weights, policy.looks
        weights = torch.as_tensor(policy, dtype=torch.float32)
        weights = weights.unsqueeze(0) if weights.dim() == 1 else weights
        return Linear(weights, self.model, looks or self.config.looks), len(weights)

    def dream(
        self,
        policy: Any = None,
        n_rollouts: int = 16,
        *,
        tau: float | None = None,
        max_steps: int | None = None,
        ends: Ends | None = None,
        looks: str | None = None,
        seed: int = 0,
        keep: bool = False,
    ) -> Rollouts:
        """Let players act in the dream.

        Args:
            policy: weights (P, F) of P controllers, or (F,) of one; a `Player`, or the file of one; "random"; the
                player trained with the model by default.
            n_rollouts: dreams of each controller.
            tau: temperature: logits of components are divided by it, variances multiplied; as configured by default.
            max_steps: longest dream; the longest game by default.
            ends: "sampled" or "rule".
            looks: what weights look at; as configured by default.
            seed: of everything drawn.
            keep: keep codes and actions.

        Returns:
            P * n_rollouts rows, those of the first controller first.

        Raises:
            ConfigError: options out of range.
            ShapeError: weights that do not fit.
        """
        self._need_fit()
        agent, count = self._agent(policy, looks)
        c, rows = self.config, count * _at_least("n_rollouts", n_rollouts, 1)
        with evaluating(self.model):
            return dream(
                self.model, agent, rows, max_steps or self._most(), tau=c.tau if tau is None else tau,
                ends=ends or c.ends, seed=seed, keep=keep,
            )  # fmt: skip

    def play(
        self,
        policy: Any = None,
        n_games: int = 64,
        *,
        game: Any = None,
        max_steps: int | None = None,
        looks: str | None = None,
        seed: int = 0,
        keep: bool = False,
    ) -> Rollouts:
        """Let players play the game itself, which they see through encoder and memory.

        Args:
            policy: as in `dream`.
            n_games: games of each controller, the same for all of them.
            game: where to play: an object with `reset`, `step` and `render` (`models.dreaming.Game`); the one the data
                come from by default.
            max_steps: longest game.
            looks: as in `dream`.
            seed: of the games.
            keep: keep codes, actions and frames.
        """
        self._need_fit()
        agent, count = self._agent(policy, looks)
        games = (2 * FIRST_GAME + torch.arange(_at_least("n_games", n_games, 1))).repeat(count)
        with evaluating(self.model, self.guide):
            return play(
                self.model, self.guide.encode, agent, self._game() if game is None else game, games,
                max_steps or self._most(), seed=seed, keep=keep,
            )  # fmt: skip

    def dream_game(self, tau: float = 1.0, ends: Ends = "sampled") -> DreamGame:
        """The dream as a game with `reset`, `step` and `render`, for agents of your own."""
        self._need_fit()
        self.model.eval()
        return DreamGame(self.model, tau, ends)

    # ----- drawing and scoring ------------------------------------------------------------------------------------

    @torch.no_grad()
    def sample(  # type: ignore[override]
        self,
        n: int,
        *,
        steps: int | None = None,
        tau: float = 1.0,
        player: str | None = None,
        ends: Ends | None = None,
        seed: int | None = None,
    ) -> dict[str, Tensor]:
        """Dream games.

        Args:
            n: how many.
            steps: of the longest; as long as the longest game by default.
            tau: temperature of the dream.
            player: "random", or the file of a player; the one trained with the model by default.
            ends: how dreams end.
            seed: of everything drawn; None draws one from torch's generator.

        Returns:
            `frames` (n, T, C, H, W), means of pixels, the last one repeated behind the end; `action` (n, T), what was
            done at each; `done` bool (n, T), True from the end on; `length` (n,).
        """
        self._need_fit()
        seed = int(torch.randint(2**31, ())) if seed is None else seed
        found = self.dream(player, _at_least("n", n, 1), tau=tau, max_steps=steps, ends=ends, seed=seed, keep=True)
        assert found.code is not None
        assert found.action is not None
        place = torch.arange(found.code.shape[1])
        last = torch.minimum(place, found.length.unsqueeze(1) - 1)
        frames = self._render(found.code.gather(1, last.unsqueeze(-1).expand(*last.shape, self.config.code)))
        action = torch.cat([found.action, torch.ones_like(found.action[:, :1])], 1)[:, : len(place)]
        over = found.ended.unsqueeze(1) & (place >= found.length.unsqueeze(1) - 1)
        return {"frames": frames, "action": action, "done": over, "length": found.length}

    @torch.no_grad()
    def _render(self, code: Tensor) -> Tensor:
        with evaluating(self.model):
            return torch.cat([self.model.picture(part) for part in code.split(CHUNK)])

    @torch.no_grad()
    def encode(self, x: Any) -> dict[str, Tensor]:
        """Codes of frames (..., C, H, W), or of games: `code_loc`, `code_scale` (..., Z)."""
        frames = self.frames_of(x)
        with evaluating(self.guide):
            parts = [self.guide.encode(part) for part in frames.split(CHUNK)]
        return {"code_loc": torch.cat([a for a, _ in parts]), "code_scale": torch.cat([b for _, b in parts])}

    def reconstruct(self, x: Any) -> Tensor:
        """Frames again from the locations of their codes, (..., C, H, W)."""
        return self._render(self.encode(x)["code_loc"])

    def log_prob(self, x: Any, *, n_samples: int = 32, seed: int = 0) -> Score:  # type: ignore[override]
        """Estimate log p(frames, done | action) of games by a particle filter.

        Args:
            x: games, see `games`.
            n_samples: particles per game.
            seed: of the draws.

        Returns:
            Scores (rows,), nats per game. The probability is estimated without bias, so its logarithm is, on average,
            a lower bound.
        """
        from phlogiston.systems.queries.world import log_likelihood

        games = self.games(x)
        _at_least("n_samples", n_samples, 1)
        found = []
        block = max(1, 512 // n_samples)
        with evaluating(self.model, self.guide):
            for i in range(0, len(games["length"]), block):
                part = {name: value[i : i + block] for name, value in games.items()}
                most = int(part["length"].max())
                part = {n: v if n == "length" else v[:, :most] for n, v in part.items()}
                part["frames"] = part["frames"].float() / 255.0
                found.append(log_likelihood(self.model, self.guide, part, n_samples, seed + i))
        return Score(torch.cat(found), "lower bound")

    def query(  # type: ignore[override]
        self,
        evidence: Any = None,
        ask: Sequence[str] | None = None,
        num_samples: int = 200,
        *,
        steps: int | None = None,
        seed: int | None = None,
    ) -> Any:
        """Sample games of which something is known: what comes next, what was in between, how it might end.

        Sites are `frames` (T, C, H, W), in [0, 1], `action` (T,), `done` (T,) and `code` (T, Z), of one game. Pieces
        about frames may be `Known` (with a mask of frames or pixels), `Near` and `Within`; about actions `Known` and
        `OneOf`; about ends `Known`. Known actions are conditions and have no probability.

        Args:
            evidence: pieces by site; see `inference.evidence`.
            ask: sites to return; all by default.
            num_samples: particles, and samples.
            steps: frames of the game; those the evidence is about by default.
            seed: of this call.

        Returns:
            An `inference.answer.Answer`; behind the end of a game the last frame stays.

        Raises:
            EvidenceError: malformed or impossible evidence.
        """
        from phlogiston.systems.queries.world import filter_games

        self._need_fit()
        with evaluating(self.model, self.guide):
            return filter_games(
                self.model, self.guide, evidence, ask, num_samples, steps, min(32, self._most()), seed
            )  # fmt: skip

    def vocabulary(self) -> tuple[dict[str, Sequence[str]], dict[str, Sequence[str]]]:
        """Names evidence may be written in: none; frames have too many pixels to be named."""
        self._need_fit()
        return {}, {}

    # ----- evaluation ---------------------------------------------------------------------------------------------

    METRICS: ClassVar[tuple[str, ...]] = ("survival", "frames", "memory", "log_likelihood")

    def evaluate(self, data: Any, metrics: Sequence[str] | None = None) -> dict[str, Metric]:
        """Score on held-out games.

        Args:
            data: a dataset (its test rows, else validation rows), split or dict.
            metrics: some of `METRICS`; all but "log_likelihood" by default.

        Returns:
            `frame_error` (squared error per frame, summed over pixels, beside that of the mean frame); `end_auc`,
            `code_nats_per_step`; `survival`, `survival_random` and `survival_dreamt`, steps a player lasts.
        """
        from phlogiston.systems.world_report import evaluate

        chosen = self._chosen_metrics(metrics)
        return evaluate(self, data, chosen - {"log_likelihood"} if metrics is None else chosen)

    def figures(self, data: Any) -> dict[str, Figure]:
        """A game above the dream of it, frames and their reconstructions, how players learned."""
        from phlogiston.systems.world_report import figures

        self._need_fit()
        return figures(self, data)

    def views(self) -> dict[str, Any]:
        """What `show` can lay out."""
        from phlogiston.systems.world_report import VIEWS

        return dict(VIEWS)

    def asked(self, data: Any) -> list[tuple[str, Any]]:
        """What comes next, eight frames into a game."""
        games = self.games(data)
        seen = games["frames"][0, :8].float() / 255.0
        question = {"frames": Known(seen), "action": Known(games["action"][0, :8])}
        answer = self.query(question, ask=["frames", "done"], num_samples=100, steps=16, seed=0)
        return [("what comes after eight frames", answer)]

    @classmethod
    def demo(cls, quick: bool = False) -> list[dict[str, Any]]:
        """Dodge: learned from watching, dreamt, and played."""
        shorter = {"frame_steps": 60, "steps": 40, "generations": 3, "population": 8, "rollouts": 4}
        return [
            {
                "title": "Learning to play inside a dream",
                "text": "The model has watched somebody play at random: frames, moves, and when a ball hit. It learned "
                "to describe a frame by a few numbers, to predict the next from what is done, and when it is over. "
                "A player was then trained without the game: only in what the model dreams.",
                "data": "dodge",
                "data_options": {"sizes": (60, 10, 20) if quick else (600, 20, 50), "limit": 60 if quick else 100},
                "options": {**PRESETS["cpu"], **(shorter if quick else {})},
            }
        ]


def frame_programs(model: nn.Module, guide: nn.Module) -> tuple[nn.Module, nn.Module]:
    """What runs in stage V."""
    assert isinstance(model, World)
    assert isinstance(guide, WorldGuide)
    return FrameModel(model), FrameGuide(guide)


def memory_programs(model: nn.Module, guide: nn.Module) -> tuple[nn.Module, nn.Module]:
    """What runs in stage M."""
    assert isinstance(model, World)
    return MemoryModel(model), NoGuide()


def check_games(tensors: Mapping[str, Any], schema: Mapping[str, Any] | None = None) -> dict[str, Tensor]:
    """Games as they are trained on: bytes, whole numbers, bools.

    Raises:
        ShapeError: a tensor is missing or has another shape.
        DataError: no frames, an unknown action, or an end before the last frame.
    """
    for name in ("frames", "action"):
        if name not in tensors:
            raise ShapeError(
                "a world model needs 'frames' (rows, T, C, H, W) and 'action' (rows, T); the data hold "
                f"{sorted(tensors)}"
            )
    frames = check_frames(torch.as_tensor(tensors["frames"]), schema)
    if frames.dim() != 5:
        raise ShapeError(f"frames have shape {tuple(frames.shape)}; expected five axes, (rows, T, C, H, W)")
    rows, steps = frames.shape[:2]
    action = torch.as_tensor(tensors["action"])
    done = torch.as_tensor(tensors.get("done", torch.zeros(rows, steps, dtype=torch.bool)))
    length = torch.as_tensor(tensors.get("length", torch.full((rows,), steps)))
    for name, value, shape in (
        ("action", action, (rows, steps)),
        ("done", done, (rows, steps)),
        ("length", length, (rows,)),
    ):
        if tuple(value.shape) != shape:
            raise ShapeError(f"{name} has shape {tuple(value.shape)}; expected {shape}")
    if action.is_floating_point() or action.dtype == torch.bool or int(action.min()) < 0:
        raise DataError("action must hold whole numbers from 0 on, one per frame")
    if schema is not None and int(action.max()) >= schema["actions"]:
        raise DataError(f"action holds {int(action.max())}; this model knows {schema['actions']} actions")
    if int(length.min()) < 2 or int(length.max()) > steps:
        row = int(((length < 2) | (length > steps)).nonzero()[0])
        raise DataError(f"game {row} has length {int(length[row])}; expected 2 to {steps} frames")
    done = done.bool()
    early = done & (torch.arange(steps) < length.unsqueeze(1) - 1)
    if bool(early.any()):
        row = int(early.any(1).nonzero()[0])
        raise DataError(f"game {row} goes on after its end: 'done' may be True at the last frame only")
    found = frames if frames.dtype == torch.uint8 else (frames * 255.0).round().to(torch.uint8)
    return {"frames": found, "action": action.long(), "done": done, "length": length.long()}


def check_frames(frames: Tensor, schema: Mapping[str, Any] | None = None) -> Tensor:
    """Refuse what are no frames, or frames of another form.

    Raises:
        ShapeError: wrong axes, channels or size.
        DataError: no frames, or values outside [0, 1].
    """
    if frames.dim() < 4:
        raise ShapeError(f"frames have shape {tuple(frames.shape)}; expected (..., C, H, W) with at least four axes")
    if frames.shape[-3] not in (1, 3) and frames.shape[-1] in (1, 3):
        raise ShapeError(
            f"frames have shape {tuple(frames.shape)}: channels seem to be last. Move them: frames.movedim(-1, -3)"
        )
    if min(frames.shape) < 1:
        raise DataError(f"frames have shape {tuple(frames.shape)}; at least one frame is needed")
    if schema is not None:
        want = (schema["channels"], schema["size"], schema["size"])
        if tuple(frames.shape[-3:]) != want:
            raise ShapeError(f"frames are {tuple(frames.shape[-3:])} (C, H, W); this model was trained on {want}")
    if frames.dtype == torch.uint8:
        return frames
    if not frames.is_floating_point():
        raise DataError(f"frames hold {frames.dtype} values; give bytes (uint8), or floats in [0, 1]")
    if not bool(((frames >= 0) & (frames <= 1)).all()):
        low, high = float(frames.min()), float(frames.max())
        raise DataError(f"frames hold values from {low:.4g} to {high:.4g}; expected [0, 1], or bytes (uint8)")
    return frames.float()


def _mean_colour(frames: Tensor) -> list[float]:
    found = pixels(frames[:: max(1, len(frames) // 256), 0])
    assert found is not None
    return [float(v) for v in found.mean((0, 2, 3))]


def _at_least(name: str, value: int, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{name} is {value!r}; it must be a whole number from {least} on")
    return value
