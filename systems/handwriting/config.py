"""Configuration of handwriting synthesis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from phlogiston.systems.limits import at_least, positive, share

SUMMARY = "handwriting synthesis: writes a given text, neatly or in the hand of an example"
PAPER = "Graves, Generating Sequences With Recurrent Neural Networks, arXiv 1308.0850"


@dataclass(frozen=True)
class Config:
    """Every option of the system.

    Attributes:
        hidden: units of each of the three layers.
        windows: J, windows that slide over the text.
        num_components: components K of the offsets' mixture.
        min_scale: smallest standard deviation of a component, in units of the offsets' standard deviation.
        max_points: longest line that is written.
        steps: optimiser steps.
        batch_size: lines per step.
        learning_rate: peak of the schedule (a linear rise, then a cosine to a hundredth).
        warmup: share of the steps the rise takes.
        clip: largest gradient norm of the loss per line.
        hold_out: set some of the lines aside for validation where data come without validation rows: a tenth, or of
            few a fifth. The parameters that score them best are kept; nothing else keeps a network from learning a few
            lines by heart.
    """

    hidden: int = 128
    windows: int = 5
    num_components: int = 10
    min_scale: float = 0.01
    max_points: int = 1_000
    steps: int = 2_000
    batch_size: int = 64
    learning_rate: float = 0.003
    warmup: float = 0.05
    clip: float = 30.0
    hold_out: bool = True

    def __post_init__(self) -> None:
        at_least(self, 1, "hidden", "windows", "num_components", "max_points", "steps", "batch_size")
        positive(self, "min_scale", "learning_rate", "clip")
        share(self, "warmup")


PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "paper": {"hidden": 400, "windows": 10, "num_components": 20, "learning_rate": 0.0005, "max_points": 3_000},
    "cpu": {"hidden": 80, "batch_size": 40, "steps": 350},
}
