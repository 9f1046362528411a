"""Configuration of the deep residual mixture model."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

from phlogiston.errors import ConfigError
from phlogiston.systems.limits import at_least, positive

SUMMARY = "deep residual mixture model: a density with K^L modes; train once, sample any variables given any others"
PAPER = "Hämäläinen and Solin, Deep Residual Mixture Models, arXiv 2006.12063"


@dataclass(frozen=True)
class Config:
    """Every option of the system.

    Attributes:
        num_layers: layers `L`; the mixture has `num_components ** num_layers` modes. `num_layers`, `num_components`,
            `frame` and `pooling` are chosen together by cross-validation on the training rows (`drmm.selection`) while
            all four are "auto"; where any is given, the others are 3, 16, "diag" and 1.
        num_components: components `K` of each layer.
        frame: what a layer may do to the next one's coordinates: "shift" moves (the paper), "iso" also scales, "diag"
            scales each column, "tril" shears, too. "tril" for strongly correlated columns, up to some 64 of them;
            "lowrank" for more: the last layer's components are factor analysers, a diagonal and `rank` directions each.
        rank: directions of each component of frame "lowrank".
        prior: distribution of component paths (one component per layer): "autoregressive", or "latent_class", which the
            original's density implies.
        prior_order: how many previous layers each layer's prior depends on; None for all.
        guide: "beam" sums each row's best paths (a lower bound), "exact" sums all of them, "autoregressive" draws them
            layer by layer as the paper does.
        beam: paths kept per layer and row in training.
        max_enum: densities are exact up to this many paths, beam bounds beyond.
        steps: optimiser steps; "auto" for 3,000, fewer where a structure was chosen that needs no more.
        batch_size: rows per step, over all processes.
        learning_rate: of Adam; constant for the first half, then linear to zero.
        clip: largest gradient norm.
        depth_weight: weight of the truncated depths' densities in the loss at the start.
        final_depth_weight: the same at the end; linear in between.
        stream_weight: weight of the categorical columns' log p(y | x) in the loss; above 1 the model spends more of its
            capacity on telling categories apart, at some cost in log p(x).
        parameter_prior: keep table entries near N(0, table_sd) and log-scales near their start: against overfitting.
        table_sd: sd of that prior on table entries.
        log_scale_sd: sd of that prior on log-scales.
        pooling: rows of the components' common shape that each component of the first layer counts beside its own when
            EM starts it: 1 lets rows decide; tens, where rows are few, make components differ more in place than in
            shape. Training goes on from there without it.
        revive_every: steps between searches for unused components; 0 switches them off.
        grid: columns of values on a grid (pixels, counts, rounded measurements), each standing for a cell one step
            wide: they are mapped to near-normal coordinates and fill their cells with noise drawn anew at every step.
            "auto" finds them, "off" maps none, names map these. Columns that are exact linear combinations of others
            are never found.
        compile: let torch.compile fuse the operations of a training step: half the time a step, after ten seconds or
            more at the start. Needs a C++ compiler; where there is none, a warning says so and training goes on.
    """

    num_layers: int | Literal["auto"] = "auto"
    num_components: int | Literal["auto"] = "auto"
    frame: Literal["auto", "shift", "iso", "diag", "tril", "lowrank"] = "auto"
    rank: int = 8
    prior: Literal["autoregressive", "latent_class"] = "autoregressive"
    prior_order: int | None = None
    guide: Literal["beam", "exact", "autoregressive"] = "beam"
    beam: int = 8
    max_enum: int = 65_536
    steps: int | Literal["auto"] = "auto"
    batch_size: int = 256
    learning_rate: float = 0.01
    clip: float = 10.0
    depth_weight: float = 1.0
    final_depth_weight: float = 0.1
    stream_weight: float = 1.0
    parameter_prior: bool = True
    table_sd: float = 1.0
    log_scale_sd: float = 0.5
    pooling: float | Literal["auto"] = "auto"
    revive_every: int = 250
    grid: tuple[str, ...] = ("auto",)
    compile: bool = False

    def __post_init__(self) -> None:
        counts = ("num_layers", "num_components", "steps")
        at_least(self, 1, "beam", "max_enum", "batch_size", "rank", *(n for n in counts if getattr(self, n) != "auto"))
        positive(self, "learning_rate", "clip", "stream_weight", "table_sd", "log_scale_sd")
        if self.pooling != "auto":
            positive(self, "pooling")
        at_least(self, 0, "depth_weight", "final_depth_weight", "revive_every")
        if self.prior_order is not None and (self.prior_order < 0 or self.prior == "latent_class"):
            raise ConfigError("prior_order must be 0 or more, and only the autoregressive prior has one")
        paths = fixed(self).paths
        if self.guide == "exact" and not self.open and paths > self.max_enum:
            raise ConfigError(
                f"guide 'exact' sums num_components ** num_layers = {paths} paths, "
                f"more than max_enum = {self.max_enum}; use guide 'beam'"
            )

    @property
    def open(self) -> bool:
        """Whether the structure is to be chosen by cross-validation."""
        return all(getattr(self, field.name) == "auto" for field in fields(Structure))


STEPS = 3_000
"""Optimiser steps of a structure that was given."""


@dataclass(frozen=True)
class Structure:
    """What cross-validation chooses; fields are those of `Config`."""

    num_layers: int = 3
    num_components: int = 16
    frame: Literal["shift", "iso", "diag", "tril", "lowrank"] = "diag"
    pooling: float = 1.0

    @property
    def paths(self) -> int:
        """How many modes it has."""
        return self.num_components**self.num_layers

    @property
    def steps(self) -> int:
        """Optimiser steps that suit it: one layer is all but finished by EM, which places factor analysers only."""
        if self.frame == "lowrank":
            return 1_000
        return 20 if self.num_layers == 1 else STEPS


def fixed(config: Config) -> Structure:
    """The structure a configuration gives, with defaults for what is "auto"."""
    given = {field.name: getattr(config, field.name) for field in fields(Structure)}
    return Structure(**{name: value for name, value in given.items() if value != "auto"})


PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    # The paper's residuals and step count, at its toy-data size.
    "paper": {"frame": "shift", "steps": 50_000, "batch_size": 64, "learning_rate": 0.005, "parameter_prior": False},
    "cpu": {"num_layers": 3, "num_components": 16, "steps": 1_500},
    "swissroll": {
        "frame": "tril",
        "num_layers": 2,
        "num_components": 16,
        "steps": 2_000,
        "table_sd": 2.0,
        "log_scale_sd": 1.0,
    },
    "sierpinski": {
        "frame": "iso",
        "num_layers": 5,
        "num_components": 3,
        "steps": 3_000,
        "batch_size": 512,
        "parameter_prior": False,
    },
    # hundreds of rows: components that differ in place more than in shape, as EM finds them
    "small_table": {
        "frame": "tril",
        "num_layers": 1,
        "num_components": 3,
        "pooling": 60.0,
        "steps": 20,
        "learning_rate": 0.001,
    },
    "poses": {
        "frame": "tril",
        "num_layers": 2,
        "num_components": 48,
        "beam": 6,
        "batch_size": 192,
        "learning_rate": 0.01,
        "steps": 4_000,
    },
    "digits": {
        "frame": "lowrank",
        "num_layers": 1,
        "num_components": 16,
        "rank": 10,
        "steps": 400,
        "stream_weight": 10.0,
    },
}
