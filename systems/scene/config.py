"""Configuration of scenes seen from new viewpoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from phlogiston.errors import ConfigError
from phlogiston.systems.limits import at_least, positive

SUMMARY = "posed photographs into a spatial graph memory; photographs from new viewpoints out of it"
PAPER = "Alet et al., Graph Element Networks, ICML 2019, arXiv 1904.09019; Eslami et al., GQN, Science 2018"


@dataclass(frozen=True)
class Config:
    """Every option of the system.

    Attributes:
        memory: "graph" (hubs and lattice nodes in space) or "pooled" (all views added up, as in GQN).
        nodes: nodes of the graph: a "hub" per scene, a "lattice" on the ground, or "both"; or a hub and a map of the
            "ground", which photographs are laid down on and queries look into along their rays: for places where walls
            hide things. On courts and on mazes the lattice added nothing to the hub, and costs more.
        raster: points of that map along a scene's side.
        write: how views reach lattice nodes: "bilinear", to the corners of the camera's cell; or "soft", to the nodes
            near it with weights softmax(-exp(a) distance^2) and learned positions of the nodes.
        pool: "mean" or "sum" of the views, for the pooled memory: whether what is read knows how much was seen only by
            its weights, or grows with it.
        arena: scenes along the side of the area the pooled memory's coordinates span, by which it tells scenes apart;
            grids lie anywhere in it.
        bins: drawers under which what was seen is filed by its ray; 1 is a plain mean.
        values: channels of a drawer.
        code: channels of a lattice node.
        encoder: channels of the view encoder's strided layers.
        steps_between: rounds of messages on the lattice.
        tile: width of a scene.
        corner: smallest x and y of a scene.
        grid: cells along the decoder's side.
        hidden: channels of the recurrent states.
        latent: channels of each latent.
        whole: length of a latent for the whole picture, the first of the layers: for what is there or is not. 0: none;
            every layer then has a latent of `latent` channels per cell.
        parts: of the mixture of normals that is its prior, given the query; 1: standard normal.
        layers: latent layers; 0 for none: pictures are the draft, and `draft_steps` are all there is.
        kernel: side of the recurrent kernels, odd.
        static_kernel: side of the kernels through which a query's context enters, odd.
        width: channels of a query's context.
        blocks: residual blocks of the context.
        poses: how a query's pose enters: "rays" per cell, or a "vector".
        output: "shuffle" (a nonlinear head); "layers" of colours under masks, for sharper edges at more cost; or
            "linear" (the reference's canvas).
        canvas: channels of the linear canvas.
        draft: begin every picture from a deterministic draft, instead of nothing.
        prior_context: let the priors see the query.
        prior_temperature: factor on the priors' standard deviations once the model is trained, in samples and densities
            alike: networks trained on few scenes are too sure of others. `systems.scene.quality.calibrate` finds it.
        prior_growth: by how much more where fewer photographs were seen than `context`: with n of them the factor is
            `prior_temperature` ((context + 1) / (n + 1))^`prior_growth`. `calibrate` finds both.
        reduce: how the guide takes pictures in: "conv", two strided layers, of the picture and its difference to the
            draft; or "linear", the reference's single map of the picture to 3 channels.
        residual: the guide predicts means and log-variances of latents relative to their prior's.
        likelihood: "normal", "normal-learned-sigma" or "discretized-logistic".
        sigma: standard deviation of a pixel, in [0, 1] units; with "discretized-logistic" the scale it starts from.
        sigma_start: where sigma starts; it falls in a straight line to `sigma` over all steps. 0: constant.
        context: photographs seen per scene in training.
        least_context: fewest of them, their number being drawn per scene, few of them oftener than
            many; 0: always `context`.
        queries: photographs queried per scene.
        sides: scenes along a grid's side in training; drawn per batch.
        symmetry: scenes are shown as they are ("none"), rotated by random quarter turns ("turns"), or also mirrored
            ("all"): for data with few scenes.
        draft_steps: steps in which the draft alone is trained, before the latents; they come on top of `steps`.
        steps: optimiser steps with latents.
        batch_size: scenes per step.
        learning_rate: peak.
        warmup: share of the steps in which the rate rises.
        final_rate: share of the peak the rate falls to, along a cosine.
        clip: largest gradient norm of the loss per pixel in units of sigma^2 (that is, of sigma^2 loss / D).
        draft_weight: weight of the draft's own loss.
        prior_share: share of the queries whose prior samples are compared with the truth, too.
        prior_weight: weight of that comparison, per query of the share.
        spread_weight: weight of a second comparison: of the variance of prior samples with the squared error of their
            mean, in pictures of a few cells a side.
        score_weight: weight of a third comparison: by the energy score, which is least where prior samples are
            distributed as the truth, in colours and edges of pixels and of squares of 2, 4, 8 and 16.
        grain_weight: weight, within that score, of how much edge and texture samples have square by square.
        edge_steps: steps at the end, on top of `steps`, in which the weight of edges and texture is another one.
        edge_weight: that weight, in place of `grain_weight`.
        kl_weight: weight of the divergence; 1 gives the bound, more keeps codes where the prior draws them.
        kl_warmup: share of the steps in which that weight rises from a hundredth, half of them below a tenth: latents
            that cost their full price before the decoder has a use for them fall asleep.
        keep_scenes: held-out scenes whose photographs are kept with the model, to sample from without data.
    """

    memory: Literal["graph", "pooled"] = "graph"
    nodes: Literal["hub", "lattice", "both", "ground"] = "hub"
    raster: int = 14
    write: Literal["bilinear", "soft"] = "bilinear"
    pool: Literal["mean", "sum"] = "mean"
    arena: int = 3
    bins: int = 128
    values: int = 24
    code: int = 128
    encoder: tuple[int, ...] = (24, 48)
    steps_between: int = 4
    tile: float = 0.7
    corner: float = -0.4
    grid: int = 8
    hidden: int = 32
    latent: int = 4
    whole: int = 16
    parts: int = 16
    layers: int = 1
    kernel: int = 3
    static_kernel: int = 1
    width: int = 64
    blocks: int = 2
    poses: Literal["rays", "vector"] = "rays"
    output: Literal["shuffle", "layers", "linear"] = "shuffle"
    canvas: int = 48
    draft: bool = True
    prior_context: bool = True
    prior_temperature: float = 1.0
    prior_growth: float = 0.0
    reduce: Literal["conv", "linear"] = "conv"
    residual: bool = True
    likelihood: Literal["normal", "normal-learned-sigma", "discretized-logistic"] = "normal"
    sigma: float = 0.2
    sigma_start: float = 0.0
    context: int = 8
    least_context: int = 0
    queries: int = 3
    sides: tuple[int, ...] = (1, 2)
    symmetry: Literal["none", "turns", "all"] = "none"
    draft_steps: int = 1_500
    steps: int = 2_000
    batch_size: int = 8
    learning_rate: float = 0.003
    warmup: float = 0.03
    final_rate: float = 0.05
    clip: float = 0.1
    draft_weight: float = 0.5
    prior_share: float = 0.25
    prior_weight: float = 1.0
    spread_weight: float = 0.3
    score_weight: float = 0.0
    grain_weight: float = 0.0
    edge_steps: int = 0
    edge_weight: float = 0.0
    kl_weight: float = 6.0
    kl_warmup: float = 0.6
    keep_scenes: int = 9

    def __post_init__(self) -> None:
        at_least(
            self, 1, "arena", "raster", "bins", "values", "code", "grid", "hidden", "latent", "parts", "kernel",
            "static_kernel", "width", "canvas", "queries", "steps", "batch_size",
        )  # fmt: skip
        positive(self, "tile", "sigma", "learning_rate", "clip", "prior_temperature")
        at_least(
            self, 0, "layers", "steps_between", "blocks", "context", "least_context", "draft_steps", "draft_weight",
            "prior_weight", "kl_weight", "keep_scenes", "sigma_start", "whole", "spread_weight", "score_weight",
            "grain_weight", "edge_steps", "edge_weight",
        )  # fmt: skip
        if (
            not 0 < self.warmup < 1
            or not 0 <= self.final_rate <= 1
            or not 0 <= self.prior_share <= 1
            or not 0 <= self.kl_warmup <= 1
        ):
            raise ConfigError("warmup must lie in (0, 1), final_rate, prior_share and kl_warmup in [0, 1]")
        if self.kernel % 2 == 0 or self.static_kernel % 2 == 0:
            raise ConfigError(f"kernels must have odd sides; got {self.kernel} and {self.static_kernel}")
        if not self.sides or min(self.sides) < 1:
            raise ConfigError(f"sides must name at least one side of 1 or more; got {self.sides}")
        if self.least_context > self.context:
            raise ConfigError(f"least_context ({self.least_context}) exceeds context ({self.context})")
        if not self.layers and not self.draft_steps:
            raise ConfigError("layers=0 leaves nothing to train but the draft: set draft_steps")
        if self.edge_steps and not (self.layers and self.score_weight and self.edge_weight):
            raise ConfigError("edge_steps train prior samples by a score: set layers, score_weight and edge_weight")
        if self.draft_steps and not self.draft:
            raise ConfigError("draft_steps train the draft, but draft is off; set draft_steps=0")
        if self.memory == "pooled" and max(self.sides) > self.arena:
            raise ConfigError(f"arena ({self.arena}) is smaller than the largest of sides ({max(self.sides)})")
        if self.whole == 1 and self.parts > 1:
            raise ConfigError("a mixture needs a latent of at least 2 numbers: set whole to more, or parts=1")
        if self.sigma_start and self.likelihood != "normal":
            raise ConfigError("sigma_start is for likelihood 'normal'; the others learn their scale")


# one latent per cell and layer, as published; the bound as it stands
CELLS: dict[str, Any] = {"whole": 0, "layers": 2, "kl_weight": 1.0, "spread_weight": 0.0}

# pictures of 64 x 64 pixels with edges in them, of places where walls hide things
SHARP: dict[str, Any] = {
    **CELLS,
    "encoder": (16, 24, 48),
    "grid": 8,
    "sides": (1,),
    "nodes": "ground",
    "output": "layers",
    "layers": 3,
    "whole": 16,
    "latent": 8,
    "queries": 6,
    "least_context": 1,
    "draft_steps": 900,
    "steps": 700,
    "sigma": 0.07,  # what pictures painted through the guide's latents err by
    "kl_weight": 8.0,
    "prior_share": 0.5,
    "prior_weight": 0.0,
    "score_weight": 1.0,
    "grain_weight": 3.0,
    "kl_warmup": 0.5,
}

PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "cpu": {},
    "pooled": {"memory": "pooled"},
    "courts": {"draft_steps": 1_700, "steps": 1_000},
    # for memories of few photographs: trained with 3 to 8 of them; priors chosen on validation scenes
    "courts-few": {
        "draft_steps": 2_700,
        "steps": 1_600,
        "least_context": 3,
        "prior_temperature": 0.6,
        "prior_growth": 0.3,
    },
    # no latents: for comparisons of memories
    "courts-short": {"layers": 0, "draft_steps": 600},
    # priors chosen on validation rooms, as those of "gqn-mazes" on scenes kept back from training
    "courts-64": {**SHARP, "edge_steps": 600, "edge_weight": 12.0, "prior_temperature": 0.96, "prior_growth": 0.2},
    "gqn-mazes": {**SHARP, "symmetry": "all", "prior_growth": 0.17},
    # the published sizes: 8 steps of 16 x 16 states with 128 channels for pictures of 64 x 64 pixels
    "paper": {
        **CELLS,
        "bins": 1,
        "values": 254,
        "code": 256,
        "encoder": (128, 256, 256),
        "nodes": "lattice",
        "steps_between": 9,
        "grid": 16,
        "hidden": 128,
        "latent": 3,
        "layers": 8,
        "kernel": 5,
        "static_kernel": 5,
        "width": 256,
        "poses": "vector",
        "output": "linear",
        "canvas": 128,
        "draft": False,
        "draft_steps": 0,
        "prior_context": False,
        "reduce": "linear",
        "residual": False,
        "sigma": 0.7,
        "sigma_start": 2.0,
        "queries": 1,
        "batch_size": 64,
        "steps": 200_000,
        "learning_rate": 8e-4,
        "warmup": 0.001,
        "final_rate": 0.00625,
        "clip": 1000.0,
        "draft_weight": 0.0,
        "prior_share": 0.0,
        "kl_warmup": 0.0,
    },
}
