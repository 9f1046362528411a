"""Configuration of recurrent mixture density networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from phlogiston.errors import ConfigError
from phlogiston.systems.limits import at_least, positive, share

SUMMARY = "recurrent mixture density network: music, controllers and pen strokes, continued, answered and filled in"
PAPER = "Graves, arXiv 1308.0850; Martin and Torresen, RoboJam, EvoMUSART 2018"


@dataclass(frozen=True)
class Config:
    """Every option of the system.

    Attributes:
        levels: columns modelled by the step from their last value (a position, a knob). Left empty, all columns but
            those called `dt`, `dx`, `dy` and `pen`, unless `relative` says otherwise.
        relative: whether columns are taken for levels when `levels` is empty.
        positive: columns modelled by their logarithm; `dt`, if left empty and there is such a column.
        hidden: units per recurrent layer.
        layers: recurrent layers.
        cell: "lstm" or "gru".
        num_components: components K of each mixture.
        kind: what a component may look like: "diag", "bivariate" (two correlated columns), "full"; "auto" is
            "bivariate" for pen strokes and "diag" for all else.
        grid: width of the cells by whose probability steps are scored; 0 scores densities.
        min_scale: smallest standard deviation of a component, in units of its column.
        bounds: two numbers all levels lie between or on, such as the ends of a screen, where components are cut off.
            Left empty, levels may lie anywhere. Needs a grid.
        lattices: numbers of points per unit that devices report levels on: 600 for multiples of 1/600. A component may
            then be a distribution over those alone; the network says how likely each lattice is. Needs bounds.
        mirror: levels that are mirrored within the bounds, each by itself and all together: every training sequence is
            also learned from as its mirror images. Needs bounds, and all steps of a window to count.
        window: steps of the windows that gradients flow through.
        carry: whether the network's state goes on from window to window. Otherwise every window begins anew.
        predict: "all" steps of a window count in training, or the "last" one alone, given at most `window` steps before
            it: sequence to one, as RoboJam was trained. Then nothing is carried.
        min_interval: smallest positive value that is generated (seconds, where the column is `dt`).
        dequantise: noise of this width (uniform) is added to offsets while training; 1 for offsets in whole pixels.
        steps: optimiser steps.
        batch_size: windows per step.
        learning_rate: peak of the schedule (a linear rise, then a cosine to nearly zero).
        warmup: share of the steps the rise takes.
        clip: largest gradient norm of the loss per step.
        hold_out: set some of the training rows aside for validation where data come without validation rows: a tenth
            or a fifth of the sequences, or of fewer than five the last sixth of each. The parameters that score them
            best are kept; nothing else keeps a network from learning a few short sequences by heart.
        valid_length: steps of a validation sequence that are scored.
    """

    levels: tuple[str, ...] = ()
    relative: bool = True
    positive: tuple[str, ...] = ()
    hidden: int = 64
    layers: int = 2
    cell: Literal["lstm", "gru"] = "lstm"
    num_components: int = 10
    kind: Literal["auto", "diag", "bivariate", "full"] = "auto"
    grid: float = 0.0
    min_scale: float = 0.001
    bounds: tuple[float, ...] = ()
    lattices: tuple[int, ...] = ()
    mirror: tuple[str, ...] = ()
    window: int = 50
    carry: bool = True
    predict: Literal["all", "last"] = "all"
    min_interval: float = 0.001
    dequantise: float = 0.0
    steps: int = 3_000
    batch_size: int = 64
    learning_rate: float = 0.004
    warmup: float = 0.05
    clip: float = 1.0
    hold_out: bool = True
    valid_length: int = 400

    def __post_init__(self) -> None:
        at_least(self, 1, "hidden", "layers", "num_components", "window", "steps", "batch_size", "valid_length")
        positive(self, "min_scale", "min_interval", "learning_rate", "clip")
        at_least(self, 0, "grid", "dequantise")
        if self.predict not in ("all", "last"):
            raise ConfigError(f"predict is {self.predict!r}; choose 'all' or 'last'")
        share(self, "warmup")
        if self.grid and self.kind in ("bivariate", "full"):
            raise ConfigError(f"grid needs components with independent columns; kind is {self.kind!r}")
        if self.bounds and (len(self.bounds) != 2 or not self.bounds[0] < self.bounds[1]):
            raise ConfigError(f"bounds must be a smaller and a larger number; got {self.bounds}")
        if self.bounds and not self.grid:
            raise ConfigError("bounds need a grid; grid is 0")
        if self.lattices and not self.bounds:
            raise ConfigError("lattices need bounds; there are none")
        if self.mirror and (not self.bounds or self.predict == "last"):
            raise ConfigError("mirror needs bounds, and predict='all'")
        if any(n < 1 for n in self.lattices):
            raise ConfigError(f"lattices must be positive whole numbers; got {self.lattices}")
        if set(self.levels) & set(self.positive):
            raise ConfigError(f"a column cannot be level and positive at once: {set(self.levels) & set(self.positive)}")


PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    # positions on a screen repeat and lie on devices' lattices: cells of 1/1000 keep the score bounded
    "tinyperf": {"grid": 0.001, "min_scale": 0.0001, "bounds": (0.0, 1.0), "lattices": (576, 600, 686, 748),
                 "mirror": ("x", "y"), "hidden": 128, "num_components": 16, "steps": 3_000},
    # the built-in touches, all on one lattice
    "touches": {"grid": 0.001, "min_scale": 0.0001, "bounds": (0.0, 1.0), "lattices": (600,), "hidden": 96,
                "window": 100, "batch_size": 32, "steps": 3_500},
    # knobs of seven bits
    "control": {"grid": 0.001, "min_scale": 0.0001, "bounds": (0.0, 1.0), "lattices": (128,), "batch_size": 32,
                "steps": 1_500},
    "kanji": {"num_components": 20, "hidden": 128, "layers": 1, "carry": False, "window": 80, "steps": 1_500},
    # sizes of IMPSY's models
    "xs": {"hidden": 16, "num_components": 5},
    "s": {"hidden": 32, "num_components": 5},
    "m": {"hidden": 64, "num_components": 5},
    "l": {"hidden": 128, "num_components": 5},
    "xl": {"hidden": 256, "num_components": 5},
    "cpu": {"steps": 800},
}  # fmt: skip
