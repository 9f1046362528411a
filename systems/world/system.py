"""World model as a product: learn a game from recordings, dream it, train an agent in the dream, let it play.

    data = phlogiston.datasets.load("dodge")
    system = WorldModel().fit(data)               V, then M, then an agent C trained in the dream alone
    system.sample(4)["frames"]                    dreams of a game
    system.play(64).score.mean()                  how long the agent lasts in the game itself
    system.train_agent(looks="z", inside="game")  another agent
    system.dream(weights, 8, tau=1.15)            P agents in 8 dreams each, all in one batch
    system.query({"frames": Known(clip, mask)})   what comes next, given what was seen and done

Reference: Ha and Schmidhuber, "World models", arXiv 1803.10122.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor, nn

from phlogiston.arrays import at_least, tensor_of
from phlogiston.datasets.base import Dataset, Meta, Split
from phlogiston.datasets.generated.games.dodge import ACTIONS
from phlogiston.datasets.recording.store import SampledGames
from phlogiston.errors import ConfigError, DataWarning, ShapeError, unknown_name
from phlogiston.evaluate.score import Score
from phlogiston.guides.world import FrameGuide, NoGuide, WorldGuide
from phlogiston.inference.svi import objectives
from phlogiston.inference.svi.engine import Stage
from phlogiston.inference.svi.row_noise import row_keys
from phlogiston.inference.svi.schedules import constant, cosine, warmup
from phlogiston.models.dreaming import Ends, num_weights
from phlogiston.models.world import FrameModel, MemoryModel, World
from phlogiston.networks.rare_colours import colour_weights
from phlogiston.systems.base import Role
from phlogiston.systems.calls import drawn_seed, evaluating
from phlogiston.systems.frames import mean_colour, refuse_zeros_and_ones
from phlogiston.systems.inputs import check_heeded, rows_of
from phlogiston.systems.options import from_config
from phlogiston.systems.words import in_words
from phlogiston.systems.world.agent_training import AgentVerbs
from phlogiston.systems.world.config import PRESETS
from phlogiston.systems.world.config import Config as WorldConfig
from phlogiston.systems.world.games import check_frames, check_games, describe_recording, describe_rewards
from phlogiston.systems.world.query import METHODS, filter_games, log_likelihood
from phlogiston.systems.world.rounds import check_rounds, play_and_record, together
from phlogiston.systems.world.rows import GameRows, RecordedRows
from phlogiston.systems.world.training import DrawCodes, DrawFrames, TrainAgent

if TYPE_CHECKING:
    from phlogiston.inference.query.answer import Answer

VISION = ("model.decoder.*", "guide.*")  # what stage V trains
MEMORY = ("model.enter.*", "model.rnn.*", "model.head.*")  # what stage M trains
CHUNK = 64  # games scored at once
ANEW = ("player", "curve", "weights")  # not taken from another run: the agent, and what the data say of colours
COUNTED = 1_024  # frames whose colours are counted


class WorldModel(AgentVerbs):
    """World model; options in `systems.world.config.Config`.

    Data hold `frames` uint8 (rows, T, C, H, W) or floats in [0, 1], `action` int64 (rows, T), what was done at each
    frame, `done` bool (rows, T), True at a frame where the game is over, and `length` int64 (rows,), frames that count;
    perhaps `reward` (rows, T), what came with each frame. Recordings of `datasets.record` hold all of these.

    Example:
        >>> from phlogiston import datasets
        >>> data = datasets.load("dodge", sizes=(12, 0, 4), limit=20)
        >>> small = {"widths": (8, 8), "features": 16, "hidden": 8, "code": 4, "generations": 2, "population": 4}
        >>> system = WorldModel(frame_steps=2, steps=2, **small).fit(data)
        >>> tuple(system.sample(3, steps=5, seed=0)["frames"].shape)
        (3, 6, 1, 16, 16)
    """

    name: ClassVar[str] = "world"
    HEEDS: ClassVar[tuple[str, ...]] = ("length",)
    Config: ClassVar[type] = WorldConfig
    config: WorldConfig

    # ----- data ---------------------------------------------------------------------------------------------------

    def describe(self, train: Split, meta: Meta | None) -> dict[str, Any]:
        """Form of the frames, number of actions, longest game, and which game it is, if it can be played."""
        games = check_games(train.tensors)
        recorded = train.whole if isinstance(train, SampledGames) else None
        refuse_zeros_and_ones(torch.as_tensor(train.tensors["frames"]), "frames")
        channels, height, width = games["frames"].shape[2:]
        vector = width if (channels, height) == (1, 1) else 0
        if vector and self.config.rare:
            raise ConfigError(
                f"rare is {self.config.rare}; it weighs colours of pictures, and these frames are vectors"
            )
        if height != width and not vector:
            raise ShapeError(
                f"frames have {height} x {width} pixels; this model takes square ones. Crop or resize them"
            )
        own = None
        if meta is not None and meta.name == "dodge":
            own = {name: meta.options[name] for name in ("size", "balls", "limit", "drift")}
            own |= {"hidden": meta.options["hidden"]} if meta.options.get("hidden") else {}
        about: dict[str, Any] = {
            "channels": int(channels),
            "size": int(height),
            "actions": len(ACTIONS) if own else int(games["action"].max()) + 1,
            "action_names": list(ACTIONS) if own else None,
            "longest": int(games["length"].max()) - 1 if own is None else int(own["limit"]),
            "keep": float(meta.options["keep"]) if own and meta is not None else 0.0,
            "game": own,
            "mean": mean_colour(games["frames"][:, :1]),
        }
        if vector:
            about |= {"shape": [1, 1, int(vector)], "vector": int(vector)}
        if recorded is not None:
            about |= describe_recording(recorded)
        elif "reward" in games:
            about |= describe_rewards(games["reward"], games["length"])
        ends = bool(games["done"].any()) if recorded is None else bool(recorded.ended.any())
        if not ends and "rewards" not in about and self.config.generations:
            warnings.warn(
                "no game ends, and rewards say nothing either: all agents would score alike in the dream, so that "
                "none can be trained there. generations=0 spares the search",
                DataWarning,
                stacklevel=3,
            )
        return about

    def prepare(self, split: Split, role: Role = "train") -> GameRows:
        """The games as the engine reads them; of a recording all of them, which stay on disk."""
        if role == "train" and isinstance(split, SampledGames):
            return RecordedRows(split.whole)
        return GameRows(check_games(split.tensors, self.schema))

    def games(self, x: Any) -> dict[str, Tensor]:
        """Take games in any accepted form: a dataset (its test rows), a split, or a dict of `frames`, `action`, ...

        Raises:
            ShapeError, DataError: games of another form than the system was trained on.
        """
        self._need_fit()
        if not isinstance(x, Dataset | Split | Mapping):
            raise ShapeError("games are a dataset, a split or a dict with frames and action; see WorldModel")
        tensors = rows_of(x)
        check_heeded(self, tensors)
        return check_games(tensors, self.schema)

    def frames_of(self, x: Any) -> Tensor:
        """Frames (..., C, H, W) in any accepted form, as floats in [0, 1]."""
        self._need_fit()
        if isinstance(x, Dataset | Split | Mapping):
            x = rows_of(x)["frames"]
        return check_frames(tensor_of("frames", x), self.schema)

    # ----- training -----------------------------------------------------------------------------------------------

    def build(self) -> None:
        """Model and guide."""
        c, schema = self.config, self.schema
        halvings = max(1, (schema["size"] // 4).bit_length() - 1)
        widths = c.widths or tuple(min(16 * 2**i, 64) for i in range(halvings))
        known = ("channels", "size", "actions", "vector", "each", "rewards")
        data = {name: schema[name] for name in known if name in schema}
        self.model = from_config(World, c, widths=widths[::-1], **data)
        self.model.decoder.start_at(torch.tensor(schema["mean"]))
        self.guide = from_config(WorldGuide, c, model=self.model, widths=widths)
        # the trained agent: saved with the parameters, under the name that saved runs have; it takes no gradient
        self.model.register_buffer("player", torch.zeros(num_weights(self.model, c.looks)))
        self.model.register_buffer("curve", torch.zeros(c.generations, 2))

    _before: WorldModel | None = None  # of the round before

    def fit(self, data: Any, *, out: str | Path | None = None, seed: int = 0, **options: Any) -> Self:
        """Train on games; see `System.fit`. With `rounds` the agent's own games are added to a recording between them.

        Raises:
            ConfigError: rounds on data that are no recording, or that do not name their environment.
        """
        if self.config.rounds == 1:
            return super().fit(data, out=out, seed=seed, **options)
        check_rounds(data)
        with tempfile.TemporaryDirectory() as temporary:
            for number in range(1, self.config.rounds):
                folder = None if out is None else Path(f"{out}-round-{number}")
                own = replace(self.config, rounds=1)
                before = type(self)(own)
                before._before = self._before
                before.fit(data, out=folder, seed=seed + 1_000 * number, **options)
                games = (Path(temporary) / str(number) if folder is None else folder / "games").absolute()
                play_and_record(before, check_rounds(data), games, self.config.round_games, seed + number)
                data, self._before = together(data, games), before
            try:
                return super().fit(data, out=out, seed=seed, **options)
            finally:
                self._before = None

    def initialise(self, train: Any, seed: int) -> None:
        """Begin with the parameters of the round before, or of the run `start`, where there is one; weigh colours."""
        if self.config.generations:
            self.check_place()
        if self.model.weights is not None:
            shown = torch.linspace(0, int(train.starts[-1]) - 1, COUNTED).long()  # frames, evenly spaced
            self.model.weights.copy_(colour_weights(train.frames(*train.place(shown)), self.config.rare))
        before = self._before
        if before is None and self.config.start:
            before = type(self).load(self.config.start)
        if before is None:
            return
        for own, other, part in ((self.model, before.model, "model"), (self.guide, before.guide, "guide")):
            state, theirs = own.state_dict(), other.state_dict()
            fits = {name: value for name, value in theirs.items() if name in state}
            for name, value in list(fits.items()):
                if state[name].shape != value.shape or name in ANEW:
                    del fits[name]
            missing = [n for n in state if n not in fits and (part == "guide" or n.startswith("decoder"))]
            if missing and "v" not in self.config.parts:
                raise ConfigError(
                    f"start={self.config.start!r} has an encoder of another size ({missing[0]}); parts='mc' keeps it"
                )
            own.load_state_dict({**state, **fits})

    def step_options(self) -> dict[str, int]:
        """The options that count optimiser steps, stage by stage."""
        counts = {"frame_steps": self.config.frame_steps, "steps": self.config.steps}
        return counts if "v" in self.config.parts else {"steps": self.config.steps}

    def stages(self) -> list[Stage]:
        """V on single frames, then M on codes of the frozen encoder."""
        c = self.config
        rate = warmup(c.warmup, cosine(1.0, 0.02), 0.05)
        vision = objectives.make("free_bits", nats=c.free_bits * c.code, each=True)
        larger = max(1.0, self.schema["channels"] * self.schema["size"] ** 2 / 256)  # gradients grow with the frame
        recipe = [
            Stage(
                "frames", c.frame_steps, vision, "adam", c.frame_learning_rate, c.frame_batch, VISION,
                {"learning_rate": rate}, c.clip * 100.0 * larger, programs=frame_programs,
                transform=DrawFrames(c.frames_per_game),
            ),
            Stage(
                "memory", c.steps, "elbo", "adam", c.learning_rate, c.batch_size,
                MEMORY if self.model.rewards is None else (*MEMORY, "model.gain*"),
                {"learning_rate": rate, "scale.done": constant(c.end_share)}, c.clip * 10.0,
                programs=memory_programs, transform=DrawCodes(self.guide, c.window),
            ),
        ]  # fmt: skip
        return recipe if "v" in c.parts else recipe[1:]

    def callbacks(self) -> list[Any]:
        """Train the agent at the end."""
        return [TrainAgent(self)] if self.config.generations else []

    # ----- drawing and scoring ------------------------------------------------------------------------------------

    @torch.no_grad()
    def sample(
        self,
        n: int = 1,
        *,
        seed: int | None = None,
        steps: int | None = None,
        tau: float = 1.0,
        player: str | None = None,
        ends: Ends | None = None,
    ) -> dict[str, Tensor]:
        """Dream games.

        Args:
            n: how many.
            seed: of everything drawn; None draws one from torch's generator.
            steps: of the longest; as long as the longest game by default.
            tau: temperature of the dream.
            player: "random", or the file of an agent (as `phlogiston practise` writes it); the one trained with the
                model by default.
            ends: how dreams end.

        Returns:
            `frames` (n, T, C, H, W), means of pixels, the last one repeated behind the end; `action` (n, T), what was
            done at each; `done` bool (n, T), True from the end on; `length` (n,).
        """
        self._need_fit()
        seed = drawn_seed(seed)
        rollouts = self.dream(player, at_least("n", n, 1), tau=tau, max_steps=steps, ends=ends, seed=seed, keep=True)
        assert rollouts.code is not None
        assert rollouts.action is not None
        step = torch.arange(rollouts.code.shape[1])
        last = torch.minimum(step, rollouts.length.unsqueeze(1) - 1)
        frames = self.render(rollouts.code.gather(1, last.unsqueeze(-1).expand(*last.shape, self.config.code)))
        action = torch.cat([rollouts.action, torch.ones_like(rollouts.action[:, :1])], 1)[:, : len(step)]
        over = rollouts.ended.unsqueeze(1) & (step >= rollouts.length.unsqueeze(1) - 1)
        return {"frames": frames, "action": action, "done": over, "length": rollouts.length}

    @torch.no_grad()
    def render(self, code: Tensor) -> Tensor:
        """Mean frames (rows, ..., C, H, W) of codes (rows, ..., Z)."""
        self._need_fit()
        with evaluating(self.model):
            flat = code.reshape(-1, code.shape[-1])
            parts = [self.model.picture(part) for part in flat.split(CHUNK * CHUNK)]
        return torch.cat(parts).unflatten(0, code.shape[:-1])

    @torch.no_grad()
    def encode(self, x: Any) -> dict[str, Tensor]:
        """Codes of frames (..., C, H, W), or of games: `code_loc`, `code_scale` (..., Z)."""
        frames = self.frames_of(x)
        flat = frames.reshape(-1, *frames.shape[-3:])  # a row may be a game of thousands of frames
        with evaluating(self.guide):
            parts = [self.guide.encode(part) for part in flat.split(CHUNK * CHUNK)]
        loc, scale = (torch.cat([part[i] for part in parts]).unflatten(0, frames.shape[:-3]) for i in (0, 1))
        return {"code_loc": loc, "code_scale": scale}

    def reconstruct(self, x: Any) -> Tensor:
        """Frames again from the locations of their codes, (..., C, H, W)."""
        return self.render(self.encode(x)["code_loc"])

    def log_prob(self, data: Any, *, seed: int = 0, num_particles: int = 32) -> Score:
        """Estimate log p(frames, done | action) of games by a particle filter.

        Args:
            data: games, see `games`.
            seed: of the draws.
            num_particles: per game.

        Returns:
            Scores (rows,), nats per game. The probability is estimated without bias, so its logarithm is, on average,
            a lower bound. Standard errors come from 32 particles on: below, there are too few to estimate them.
        """
        games = self.games(data)
        at_least("num_particles", num_particles, 1)
        counts = torch.arange(games["frames"].shape[1]) < games["length"].unsqueeze(1)
        keys = row_keys(games["frames"], games["length"], valid=counts, seed=seed)  # a game's score is its own
        values, errors = [], []
        block = max(1, 512 // num_particles)
        with evaluating(self.model, self.guide):
            for i in range(0, len(games["length"]), block):
                part = {name: value[i : i + block] for name, value in games.items()}
                longest = int(part["length"].max())
                part = {n: v if n == "length" else v[:, :longest] for n, v in part.items()}
                part["frames"] = part["frames"].float() / 255.0
                value, error = log_likelihood(self.model, self.guide, part, num_particles, keys[i : i + block])
                values.append(value)
                errors.append(error)
        known = [error for error in errors if error is not None]
        return Score(torch.cat(values), "lower bound", torch.cat(known) if len(known) == len(errors) else None)

    @in_words
    def query(
        self,
        evidence: Any = None,
        ask: Sequence[str] | None = None,
        num_samples: int = 200,
        *,
        method: str = "auto",
        seed: int | None = None,
        steps: int | None = None,
    ) -> Answer:
        """Sample games of which something is known: what comes next, what was in between, how it might end.

        Sites are `frames` (T, C, H, W), in [0, 1], `action` (T,), `done` (T,) and `code` (T, Z), of one game. Evidence
        about frames may be `Known` (with a mask of frames or pixels), `Near` and `Within`; about actions `Known` and
        `OneOf`; about ends `Known`. Known actions are conditions and have no probability.

        Args:
            evidence: by site; see `inference.query.evidence`.
            ask: sites to return; all by default.
            num_samples: particles, and samples.
            method: `"auto"` or `"smc"`: the particle filter, which is the one way to answer here.
            seed: of this call.
            steps: frames of the game; those the evidence is about by default.

        Returns:
            Behind the end of a game the last frame stays.

        Raises:
            EvidenceError: malformed or impossible evidence.
            UnknownNameError: no such method.
        """
        self._need_fit()
        if method not in METHODS:
            raise unknown_name("query method", method, METHODS)
        with evaluating(self.model, self.guide):
            return filter_games(
                self.model, self.guide, evidence, ask, num_samples, steps, min(32, self.longest), seed
            )  # fmt: skip

    def vocabulary(self) -> tuple[dict[str, Sequence[str]], dict[str, Sequence[str]]]:
        """Names evidence may be written in: none; frames have too many pixels to be named."""
        self._need_fit()
        return {}, {}

    @classmethod
    def demo(cls, quick: bool = False) -> list[dict[str, Any]]:
        """Dodge: learned from recordings, dreamt, and played."""
        return [
            {
                "title": "Learning to play inside a dream",
                "text": "The model was trained on games played at random: frames, moves, and when a ball hit. It "
                "learned to describe a frame by a few numbers, to predict the next from the move, and when a game is "
                "over. An agent was then trained without the game: only in what the model dreams.",
                "data": "dodge",
                "trained": "world/dodge",
                "data_options": {"sizes": (600, 20, 50), "limit": 100},
                "options": dict(PRESETS["cpu"]),
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
