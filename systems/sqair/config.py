"""Configuration of SQAIR."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from phlogiston.errors import ConfigError
from phlogiston.systems.limits import at_least, positive, share

SUMMARY = "sequential attend, infer, repeat: finds, counts and follows moving objects in videos, without labels"
PAPER = "Kosiorek, Kim, Posner and Teh, Sequential Attend, Infer, Repeat, NeurIPS 2018 (arXiv 1806.01794)"


@dataclass(frozen=True)
class Config:
    """Every option of the system.

    Attributes:
        slots: most objects at a time.
        features: numbers in an object's appearance.
        glimpse: height and width of a decoded appearance, pixels.
        hidden: width of hidden layers.
        memory: width of the recurrent state of an object's dynamics.
        std: standard deviation of pixels, which are 0 .. 1.
        background_std: the same where no object is; 0 for one number everywhere.
        learn_std: train `std` (never below 0.01).
        output: decoded pixels "sigmoid" (0 .. 1) or "linear" times a trainable number.
        presence: prior of staying and being born at "fixed" rates, or "learned".
        survival: probability per frame that an object stays, 1 - 1 / frames it is visible; where learned, the start.
        birth: odds of a birth in a frame after the first, where fixed.
        later_births: most births in a frame after the first.
        location: what the dynamics' mean starts from: the last value ("residual"), the last value and step
            ("velocity"), or nothing ("absolute").
        chain: let a new object's box depend on the one born before it, and births on what is there already.
        background: "none", "mean" (a trainable picture that shows where objects are) or "static" (one behind them).
        outside: how far beside the picture an object's centre may be and still be followed, as a share of half the
            picture.
        screen: pixels of a "static" background that never change hide what is behind them, and objects there are
            followed.
        renderer: "sum" adds objects up, "max" shows the brightest in each pixel (what it hides is followed all the
            same), "over" puts later slots in front.
        parts: the guide's networks: "residual" (fast) or "paper".
        propagation: how the residual guide finds an object again: by matching its picture ("match") or by a look at
            its old position ("glimpse").
        match_from: share of the training after which the matching is switched on.
        reach: pixels per frame that the matching searches.
        passes: rounds of matching per frame, each against the other objects' new positions.
        births: what decides on a birth: uncovered "energy", corrected by a network, or the network alone ("learned").
        freedom: how far the network may move the logits of staying and birth that the evidence gives.
        least_energy: energy that makes a birth as likely as not, as a share of the typical object's.
        particles: K, particles per video and step.
        signal: "iwae" is the gradient of the bound; "elbo" is what the published code used.
        lengths: frames per video in each stage of the training; of shorter videos all.
        shares: share of the steps each of these stages takes.
        optimizer: "adam" or "rmsprop".
        learning_rate: step size, until `decay_from`.
        decay_from: share of the training after which the step size falls, linearly, to `decay_to` of it.
        decay_to: see there.
        clip: largest norm of the gradient (per video).
        steps: optimiser steps.
        batch_size: videos per step.
    """

    slots: int = 3
    features: int = 24
    glimpse: tuple[int, int] = (20, 20)
    hidden: int = 128
    memory: int = 128
    std: float = 0.3
    background_std: float = 0.0
    learn_std: bool = False
    output: Literal["sigmoid", "linear"] = "sigmoid"
    presence: Literal["fixed", "learned"] = "fixed"
    survival: float = 0.99
    birth: float = 0.01
    later_births: int = 1
    location: Literal["velocity", "residual", "absolute"] = "velocity"
    chain: bool = False
    background: Literal["none", "mean", "static"] = "none"
    outside: float = 0.0
    screen: bool = False
    renderer: Literal["sum", "max", "over"] = "sum"
    parts: Literal["residual", "paper"] = "residual"
    propagation: Literal["match", "glimpse"] = "match"
    match_from: float = 0.0
    reach: int = 7
    passes: int = 1
    births: Literal["energy", "learned"] = "energy"
    freedom: float = 3.0
    least_energy: float = 0.25
    particles: int = 4
    signal: Literal["iwae", "elbo"] = "iwae"
    lengths: tuple[int, ...] = (3, 6, 10)
    shares: tuple[float, ...] = (0.8, 0.1, 0.1)
    optimizer: Literal["adam", "rmsprop"] = "adam"
    learning_rate: float = 0.002
    decay_from: float = 0.6
    decay_to: float = 0.05
    clip: float = 10.0
    steps: int = 800
    batch_size: int = 32

    def __post_init__(self) -> None:
        at_least(
            self, 1, "slots", "features", "hidden", "memory", "later_births", "reach", "passes", "steps", "batch_size",
        )  # fmt: skip
        if self.particles < 2:
            raise ConfigError(
                f"particles must be at least 2 (each one's baseline are the others); got {self.particles}"
            )
        positive(self, "std", "learning_rate", "clip", "least_energy", "freedom")
        if self.std <= 0.01:
            raise ConfigError(f"std must be above 0.01, the least that the model takes; got {self.std}")
        share(self, "survival", "birth")
        for name in ("match_from", "decay_from", "decay_to"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must lie in 0 .. 1; got {getattr(self, name)}")
        at_least(self, 0, "background_std", "outside")
        if self.parts == "paper" and (self.outside or self.screen):
            raise ConfigError("outside and screen belong to parts 'residual'; what is hidden, parts 'paper' lose")
        if self.screen and self.background != "static":
            raise ConfigError(f"screen is a part of background 'static'; got background={self.background!r}")
        if min(self.glimpse) < 4:
            raise ConfigError(f"glimpse is {self.glimpse}; at least 4 pixels each way are needed")
        if len(self.lengths) != len(self.shares) or not self.lengths or min(self.lengths) < 1:
            raise ConfigError(f"lengths {self.lengths} and shares {self.shares} must be equally many, lengths positive")
        if min(self.shares) <= 0 or abs(sum(self.shares) - 1.0) > 1e-6:
            raise ConfigError(f"shares must be positive and add up to 1; got {self.shares}")
        if self.chain != (self.parts == "paper"):
            raise ConfigError(f"chain belongs to parts 'paper' and to no other; got chain={self.chain}, {self.parts!r}")
        if self.renderer == "max" and (self.parts, self.output, self.background) != ("residual", "sigmoid", "none"):
            raise ConfigError(
                "renderer 'max' takes parts 'residual', output 'sigmoid' and background 'none' (take it away when "
                f"reading videos); got {self.parts!r}, {self.output!r}, {self.background!r}"
            )
        if self.renderer == "over" and self.background == "mean":
            raise ConfigError("background 'mean' shows through objects; renderer 'over' takes 'static' or 'none'")


PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "fast": {},
    "cpu": {},
    # four to six things that pass over each other: first single frames, in which they are found, then longer videos
    "crowd": {
        "slots": 6,
        "renderer": "max",
        "least_energy": 0.1,
        "batch_size": 16,
        "steps": 600,
        "lengths": (1, 3, 6),
        "shares": (0.6, 0.3, 0.1),
    },
    # the published model and training; its guide is drawn on the same frame of a video N times over
    "paper_mlp": {
        "features": 50,
        "hidden": 256,
        "memory": 256,
        "output": "linear",
        "presence": "learned",
        "survival": 0.9999,
        "later_births": 3,
        "location": "absolute",
        "chain": True,
        "background": "mean",
        "parts": "paper",
        "particles": 5,
        "lengths": (3, 4, 5, 6, 7, 8, 9, 10),
        "shares": (0.125,) * 8,
        "optimizer": "rmsprop",
        "learning_rate": 1e-5,
        "decay_from": 0.2,
        "decay_to": 0.1,
        "steps": 1_000_000,
    },
}
