"""Configuration of SketchRNN."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from phlogiston.errors import ConfigError
from phlogiston.systems.limits import at_least, positive, share

SUMMARY = "SketchRNN: drawings as pen strokes, drawn, completed, interpolated, mixed"
PAPER = "Ha and Eck, A Neural Representation of Sketch Drawings, ICLR 2018, arXiv 1704.03477"


@dataclass(frozen=True)
class Config:
    """Every option of the system.

    Attributes:
        latent: size of z; 0 for the unconditional model, which has no encoder.
        hidden: units of the decoder.
        encoder_hidden: units of each direction of the encoder.
        inputs: width of the decoder's input layer.
        num_components: components K of the offsets' mixture.
        min_scale: smallest standard deviation of a component, in units of the offsets' standard deviation.
        dequantise: width of the uniform noise added to offsets, in data units; 1 for drawings in whole pixels. Scores
            are of offsets with such noise, from a fixed seed.
        stretch: while training, each axis of a drawing is scaled by a random factor within 1 +- this.
        drop: while training, a point inside a stroke is left out with this probability.
        plan: first steps, the end being one, whose positions and pens the latent predicts for the decoder; 0 for none.
        plan_steps: optimiser steps that latent and plan take before, without a decoder.
        wander: while training, half of the drawings are shown to the decoder with their points off the line, up to so
            many standard deviations of offsets, so that it learns to come back.
        max_points: longest drawing that is generated.
        beta: weight of the latent's divergence at the end of training.
        beta_start: the same at the beginning.
        beta_warmup: share of the steps it takes to get from one to the other.
        free_bits: nats per drawing below which the divergence costs nothing more.
        alone_steps: optimiser steps the decoder takes before, without a latent.
        steps: optimiser steps.
        batch_size: drawings per step.
        learning_rate: peak of the schedule (a linear rise, then a cosine to a hundredth).
        warmup: share of the steps the rise takes.
        clip: largest gradient norm of the loss per drawing.
        hold_out: set some of the drawings aside for validation where data come without validation rows: a tenth, or of
            few a fifth. The parameters that score them best are kept; nothing else keeps a network from learning a few
            drawings by heart.
    """

    latent: int = 32
    hidden: int = 128
    encoder_hidden: int = 64
    inputs: int = 32
    num_components: int = 10
    min_scale: float = 0.003
    dequantise: float = 0.0
    stretch: float = 0.0
    drop: float = 0.0
    plan: int = 0
    plan_steps: int = 0
    wander: float = 0.0
    max_points: int = 200
    beta: float = 1.0
    beta_start: float = 0.02
    beta_warmup: float = 0.6
    free_bits: float = 6.0
    alone_steps: int = 0
    steps: int = 8_000
    batch_size: int = 100
    learning_rate: float = 0.003
    warmup: float = 0.03
    clip: float = 30.0
    hold_out: bool = True

    def __post_init__(self) -> None:
        at_least(self, 1, "hidden", "encoder_hidden", "inputs", "num_components", "max_points", "steps", "batch_size")
        positive(self, "min_scale", "learning_rate", "clip")
        at_least(self, 0, "latent", "dequantise", "beta", "beta_start", "free_bits", "wander")
        if self.alone_steps < 0 or (self.alone_steps and not self.latent):
            raise ConfigError(
                f"alone_steps is {self.alone_steps}; it must not be negative, and without a latent the decoder is "
                "alone anyway"
            )
        if self.plan < 0 or (self.plan and not self.latent):
            raise ConfigError(f"plan is {self.plan}; it must not be negative, and without a latent there is none")
        if self.plan_steps < 0 or (self.plan_steps and not self.plan):
            raise ConfigError(f"plan_steps is {self.plan_steps}; it must not be negative, and without a plan be 0")
        share(self, "beta_warmup", "warmup")
        for name in ("stretch", "drop"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} must lie between 0 and 1; got {getattr(self, name)}")


def reference_weight(w_kl: float, longest: int, latent: int, tolerance: float = 0.2) -> tuple[float, float]:
    """Turn the reference's weight of the divergence into `beta` and `free_bits`.

    Its loss divides the reconstruction by the padded length and averages the divergence over latent numbers, so that
    "w_kl = 0.5" at 250 points and 128 numbers is a beta of 0.98 with a floor of 25.6 nats.

    Args:
        w_kl: the reference's weight.
        longest: its padded length, N_max.
        latent: N_z.
        tolerance: its floor, per latent number.

    Example:
        >>> tuple(round(v, 2) for v in reference_weight(0.5, 250, 128))
        (0.98, 25.6)
    """
    return w_kl * longest / latent, tolerance * latent


PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "unconditional": {"latent": 0},
    # whole pixels on a canvas of 105; drawings of at most 40 points
    # gradients grow tenfold as components narrow: at the default rate and clip one seed of three was left 3 nats behind
    "omniglot": {"dequantise": 1.0, "free_bits": 5.5, "alone_steps": 3_000, "steps": 4_000, "learning_rate": 0.006,
                 "clip": 3.0},
    "omniglot-unconditional": {"dequantise": 1.0, "latent": 0, "learning_rate": 0.006, "clip": 3.0},
    # codes: a small weight of the divergence lets the latent carry more
    "omniglot-codes": {"dequantise": 1.0, "latent": 64, "plan": 41, "plan_steps": 1_500, "wander": 0.5, "beta": 0.25,
                       "beta_start": 0.25, "free_bits": 0.0, "steps": 4_000},
    "paper": {"latent": 128, "hidden": 512, "encoder_hidden": 256, "num_components": 20, "beta": 0.98,
              "free_bits": 25.6, "stretch": 0.15, "drop": 0.1, "max_points": 250, "learning_rate": 0.001},
    "cpu": {"steps": 1_500},
}  # fmt: skip
