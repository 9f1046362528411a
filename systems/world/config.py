"""Configuration of world models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from phlogiston.errors import ConfigError
from phlogiston.systems.limits import at_least, positive, share

SUMMARY = "world model: learns a game from recordings, dreams it, and trains an agent inside the dream"
PAPER = "Ha and Schmidhuber, World models, arXiv 1803.10122"


@dataclass(frozen=True)
class Config:
    """Every option of the system.

    Attributes:
        code: Z, size of the code of a frame.
        widths: channels of the encoder after each halving of the frame, down to 4 x 4 pixels; the decoder mirrors them.
            Left empty: 16, 32, then 64 at every further one.
        features: of a frame, between encoder and code.
        noise: standard deviation of a pixel. Small objects, such as a ball, are encoded only if it is small.
        rare: how much more pixels of rare colours count while frames are learned: as a colour's share of all pixels to
            the power of minus this. 0 counts all alike; with 0.5, small things of a colour of their own are encoded
            that would be lost beside large walls.
        free_bits: nats per entry of the code and frame that are free of cost.
        hidden: units of the memory.
        layers: of the memory.
        num_components: components K of each mixture.
        kind: "factorised", a mixture for every entry of the code by itself, or "diag", one for the whole code.
        min_scale: smallest standard deviation of a component.
        end_weight: weight of a frame at which the game ends.
        end_share: weight of the nats of the end, relative to those of the code.
        frame_steps: optimiser steps of the first stage, on single frames.
        frame_batch: games per step of the first stage.
        frames_per_game: frames taken from each.
        frame_learning_rate: peak of its schedule (a linear rise, then a cosine to nearly zero).
        steps: optimiser steps of the second stage, on sequences of codes.
        batch_size: games, or windows of long ones, per step of the second stage.
        window: frames of a window; 0 for whole games of up to 256 frames, and windows of 128 of longer ones.
        learning_rate: peak of its schedule.
        warmup: share of a stage's steps the rise takes.
        clip: largest gradient norm.
        looks: what the controller takes: "z" the code, "h" the memory, "zh" both.
        generations: of the controller's training at the end; 0 trains none.
        population: controllers per generation.
        rollouts: dreams of each.
        inside: where it is trained: "dream", or "game", the recording's environment.
        method: "own", a search by CMA-ES; or "improve", which learns from every step the controller plays and needs far
            fewer games where rewards come along the way: then generations are rounds of `population` games
            (`systems.world.practice`).
        patience: steps without a reward above 0 after which a game it is trained in is given up; 0 for never.
        directions: controllers look along so many main directions of their inputs, as these vary in dreams of the
            recording's policy. 0 searches every weight by itself.
        spread: standard deviation with which the search begins, of weights or of those of directions.
        tau: temperature of the dream they train in. Above 1 it is harder than the game.
        ends: "sampled" draws the end of a dream, "rule" ends where the paper's weighted probability passes one half.
        max_steps: longest dream and longest game outside; 0 dreams as long as the longest game in the data and plays
            up to the limit of the environment or of the recording. Set it where agents outlast whoever was recorded.
        start: run, or what `save` wrote, whose parameters training begins with; what is of another size begins anew.
        parts: what is trained: "vmc" all, "mc" memory and agent on the frames' codes of `start`. (An agent alone is
            trained by `train_agent`, or `phlogiston practise`.)
        rounds: how often the model is trained. After each but the last its agent plays `round_games` games, which are
            trained on, too; needs a recording that names its environment. Of the rounds before the last a run keeps
            folders of its own beside its folder.
        round_games: see above.
    """

    code: int = 8
    widths: tuple[int, ...] = ()
    features: int = 256
    noise: float = 0.05
    rare: float = 0.0
    free_bits: float = 0.5
    hidden: int = 96
    layers: int = 1
    num_components: int = 5
    kind: Literal["factorised", "diag"] = "factorised"
    min_scale: float = 0.01
    end_weight: float = 10.0
    end_share: float = 4.0
    frame_steps: int = 1_500
    frame_batch: int = 32
    frames_per_game: int = 2
    frame_learning_rate: float = 0.004
    steps: int = 1_200
    batch_size: int = 32
    window: int = 0
    learning_rate: float = 0.004
    warmup: float = 0.05
    clip: float = 10.0
    looks: Literal["zh", "z", "h"] = "zh"
    generations: int = 40
    population: int = 32
    rollouts: int = 8
    inside: Literal["dream", "game"] = "dream"
    method: Literal["own", "improve"] = "own"
    patience: int = 0
    directions: int = 24
    spread: float = 0.1
    tau: float = 1.15
    ends: Literal["sampled", "rule"] = "sampled"
    max_steps: int = 0
    start: str = ""
    parts: Literal["vmc", "mc"] = "vmc"
    rounds: int = 1
    round_games: int = 100

    def __post_init__(self) -> None:
        at_least(
            self, 1, "code", "features", "hidden", "layers", "num_components", "frame_steps", "frame_batch",
            "frames_per_game", "steps", "batch_size", "rollouts", "rounds", "round_games",
        )  # fmt: skip
        positive(
            self, "noise", "min_scale", "end_weight", "end_share", "frame_learning_rate", "learning_rate", "clip",
            "spread", "tau",
        )  # fmt: skip
        at_least(self, 0, "rare", "free_bits", "generations", "directions", "max_steps", "window", "patience")
        at_least(self, 4, "population")
        share(self, "warmup")
        if "v" not in self.parts and not self.start:
            raise ConfigError("parts='mc' keeps the encoder of another run: say which, start='runs/world-1'")
        if self.rounds > 1 and not self.generations:
            raise ConfigError("rounds are played by the agent: they need generations of at least 1")


PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "cpu": {"frame_steps": 500, "steps": 250, "generations": 15},
    # a game of small bright things that agents outlast the recording in, some six minutes of a CPU core:
    #   phlogiston data record VizdoomTakeCover-v1 --episodes 600 --policy sticky:0.7 --skip 4 --crop 90:154,0:320
    #       --size 32 --cap 2100 --out cover
    #   phlogiston train world --preset take-cover --data cover
    "take-cover": {
        "code": 32,
        "noise": 0.1,
        "rare": 0.5,
        "free_bits": 0.2,
        "hidden": 128,
        "window": 128,
        "frame_steps": 4_000,
        "steps": 1_500,
        "generations": 10,  # where it begins, a search of eighty has not found much better
        "tau": 1.3,
        "max_steps": 525,  # of four frames: the environment's limit
    },
    # a game of rewards along the way, in small grey frames; as the paper's, the agent learns in the game itself:
    #   phlogiston data record CarRacing-v3 --set continuous=false --episodes 100 --policy sticky:0.3:.5,1,1,2,.25
    #       --skip 6 --crop 0:84,0:96 --size 32 --grey --out racing
    #   phlogiston train world --preset racing --data racing
    "racing": {
        "code": 16,
        "noise": 0.1,
        "free_bits": 0.2,
        "hidden": 64,
        "frame_steps": 1_500,
        "steps": 1_000,
        "inside": "game",
        "method": "improve",
        "generations": 8,
        "population": 24,
        "patience": 17,  # of six frames: two seconds
    },
    # sizes of the paper's models, and searches as long as a CPU can bear; frames of 64 x 64 pixels in colour:
    #   phlogiston data record CarRacing-v3 --episodes 1000 --policy sticky:0.7 --skip 4 --out racing
    #   phlogiston train world --preset paper-carracing --data racing
    "paper-carracing": {
        "code": 32,
        "hidden": 256,
        "noise": 0.1,
        "frame_steps": 6_000,
        "frame_learning_rate": 0.001,
        "steps": 4_000,
        "learning_rate": 0.001,
        "generations": 200,
        "population": 64,
        "rollouts": 4,
    },
    "paper-doom": {"code": 64, "hidden": 512, "generations": 200, "population": 64, "rollouts": 16},
}
