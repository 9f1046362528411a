"""Configuration of mixture density networks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from phlogiston.errors import ConfigError
from phlogiston.systems.limits import at_least, positive, share

SUMMARY = "mixture density network: regression with several right answers, calibrated intervals, ensembles, Bayes"
PAPER = "Bishop, Mixture Density Networks, 1994; Lakshminarayanan et al., Deep Ensembles, arXiv 1612.01474"


@dataclass(frozen=True)
class Config:
    """Every option of the system.

    Attributes:
        target: names (or positions, as text) of the columns of `x` to predict when the data have no `y`; the last
            column if empty.
        num_components: components `K` of each mixture.
        kind: what a component may look like: "diag", "isotropic", "bivariate" (two targets, correlated), "full", or
            "factorised" (an independent mixture per target).
        hidden: widths of the hidden layers; none makes the parameters linear in x.
        activation: "silu", "tanh", "relu" or "gelu".
        members: networks trained side by side and averaged.
        ensemble: how members come about: "independent" networks (a deep ensemble), or "tabm", which share the hidden
            layers' weights and have rank-one adapters, biases and an output layer of their own.
        bins: pieces of the piecewise-linear embedding of each input, between quantiles, which the network takes beside
            the input itself; 0 for none, "auto" for a number that grows with the training rows (`sizes`).
        average: what remains, at every step, of the running average of parameters that is kept in place of the
            parameters themselves; 0 for no average.
        recalibrate: refit how wide components are on the validation rows after training; without any, nothing changes.
        hold_out: share of the training rows set aside for validation where data come without validation rows: "auto"
            is a tenth, but 50 rows, or a fifth where those are more. Nothing else keeps a network from learning the
            noise of its rows by heart. 0 holds out none; of rows that stay on disk, and under random weights, which
            need none, none are.
        weights: "point" estimates, or random ones: "mean_field" or "low_rank" posterior.
        random: which weights are random: "all" or the "last" layer's.
        prior_sd: standard deviation of the prior on weights, times sqrt(inputs of the layer).
        init_scale: standard deviations of the posterior at its start, in units of the prior's.
        rank: shared directions of the "low_rank" posterior.
        posterior_steps: optimiser steps on the posterior, after `steps` on its centre.
        kl_weight: weight of the divergence from the prior; below 1 the posterior is colder than Bayes' rule.
        particles: weight samples per step while the posterior is trained.
        weight_samples: weight samples averaged for predictions.
        scale: how raw outputs become standard deviations: "softplus", "elu" or "exp".
        min_scale: smallest standard deviation of a component, in standard deviations of the target.
        grid: step of the grid on which targets were recorded; scores are then log probabilities of its cells. 0: none.
        steps: optimiser steps.
        batch_size: rows per step; "auto" for a number that grows with the training rows (`sizes`).
        learning_rate: peak of the one-cycle schedule (a linear rise, then a cosine to zero).
        warmup: share of the steps the rise takes.
        weight_decay: of AdamW.
        clip: largest gradient norm.
        check_every: steps between evaluations on the validation rows; each member, or the average, keeps its best
            parameters. Without validation rows the last ones are kept.
        patience: evaluations without any member improving that end training early; 0 for never.
        keep_inputs: training inputs kept with the model, from which `sample` draws where it is given none.
    """

    target: tuple[str, ...] = ()
    num_components: int = 5
    kind: Literal["diag", "isotropic", "bivariate", "full", "factorised"] = "diag"
    hidden: tuple[int, ...] = (50, 50)
    activation: Literal["silu", "tanh", "relu", "gelu"] = "silu"
    members: int = 1
    ensemble: Literal["independent", "tabm"] = "independent"
    bins: int | Literal["auto"] = 0
    average: float = 0.0
    recalibrate: bool = False
    hold_out: float | Literal["auto"] = "auto"
    weights: Literal["point", "mean_field", "low_rank"] = "point"
    random: Literal["all", "last"] = "all"
    prior_sd: float = 1.0
    init_scale: float = 0.05
    rank: int = 10
    posterior_steps: int = 2_000
    kl_weight: float = 1.0
    particles: int = 4
    weight_samples: int = 50
    scale: Literal["softplus", "elu", "exp"] = "softplus"
    min_scale: float = 0.01
    grid: float = 0.0
    steps: int = 3_000
    batch_size: int | Literal["auto"] = 128
    learning_rate: float = 0.005
    warmup: float = 0.2
    weight_decay: float = 0.001
    clip: float = 10.0
    check_every: int = 50
    patience: int = 0
    keep_inputs: int = 512

    def __post_init__(self) -> None:
        at_least(
            self, 1, "num_components", "members", "rank", "posterior_steps", "particles", "weight_samples", "steps",
            "check_every",
        )  # fmt: skip
        if self.batch_size != "auto":
            at_least(self, 1, "batch_size")
        if self.bins != "auto":
            at_least(self, 0, "bins")
        positive(self, "prior_sd", "init_scale", "kl_weight", "min_scale", "learning_rate", "clip")
        at_least(self, 0, "weight_decay", "patience", "keep_inputs", "grid", "average")
        share(self, "warmup")
        if self.hold_out != "auto" and not 0 <= self.hold_out < 1:
            raise ConfigError(f"hold_out is {self.hold_out}; give the share of the rows to set aside, from 0 up to 1")
        if self.average >= 1:
            raise ConfigError(f"average is {self.average}; what remains of an average at a step is below 1")
        if self.ensemble == "tabm" and (self.members < 2 or not self.hidden):
            raise ConfigError("ensemble='tabm' needs members >= 2 and at least one hidden layer to share")
        if self.average and (self.weights != "point" or self.patience):
            raise ConfigError("average is for point estimates without patience")
        if self.recalibrate and (self.weights != "point" or self.kind == "factorised"):
            raise ConfigError("recalibrate is for point estimates of any kind but 'factorised'")
        if any(width < 1 for width in self.hidden):
            raise ConfigError(f"hidden holds {min(self.hidden)}; every layer needs at least one unit")
        if self.weights != "point" and self.members > 1:
            raise ConfigError("members > 1 and random weights exclude each other; choose one kind of averaging")
        if self.weights != "point" and self.patience:
            raise ConfigError("patience is for point estimates; random weights regularise themselves")
        if self.grid and self.kind in ("full", "bivariate"):
            raise ConfigError(f"grid needs components with independent coordinates; kind is {self.kind!r}")


def sizes(config: Config, rows: float) -> dict[str, int]:
    """The options that are "auto", for so many training rows: powers of two that grow with them.

    A step takes about a 32nd of the rows, 32 to 256; an input has a piece for about 128 rows, 32 to 64.

    Args:
        config: the options.
        rows: training rows, or the sum of their weights.

    Returns:
        `batch_size` and `bins`, those of them that are "auto".
    """
    found = {"batch_size": _power_of_two(rows / 32, 32, 256), "bins": _power_of_two(rows / 128, 32, 64)}
    return {name: value for name, value in found.items() if getattr(config, name) == "auto"}


def _power_of_two(value: float, least: int, most: int) -> int:
    """The nearest power of two (by ratio) within limits that are powers of two themselves."""
    return min(max(2 ** round(math.log2(max(value, 1.0))), least), most)


PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    # the size of Bishop's and the Keras layer's demonstrations: 750 parameters
    "paper": {"hidden": (15, 15), "activation": "tanh", "num_components": 10, "steps": 4_000, "weight_decay": 0.0},
    "cpu": {"steps": 1_500},
    "arcsine": {
        "hidden": (32, 32),
        "activation": "tanh",
        "num_components": 10,
        "steps": 4_000,
        "learning_rate": 0.01,
        "weight_decay": 0.0,
        "min_scale": 0.001,
    },
    "spiral": {"num_components": 10, "steps": 4_000, "learning_rate": 0.01, "min_scale": 0.001},
    "ensemble": {"members": 5},
    # tables with steps, bends and repeated rows; wants validation rows
    "table": {
        "members": 16,
        "ensemble": "tabm",
        "bins": "auto",
        "hidden": (128, 128),
        "num_components": 2,
        "average": 0.99,
        "recalibrate": True,
        "batch_size": "auto",
        "warmup": 0.05,
        "weight_decay": 0.0,
        "min_scale": 0.003,
        "steps": 2_500,
    },
    # random last layer on learned features: few rows cannot determine every weight's distribution
    "bayesian": {
        "weights": "mean_field",
        "random": "last",
        "hidden": (32, 32),
        "steps": 1_000,
        "posterior_steps": 3_000,
        "weight_decay": 0.0,
    },
}
