"""How scenes are trained: the draft alone, then everything, then with more weight on edges where that is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from phlogiston.inference.svi.engine import Stage
from phlogiston.inference.svi.schedules import constant, cosine, linear, piecewise, warmup
from phlogiston.systems.scene.config import Config
from phlogiston.systems.scene.training import PixelNoise, SceneObjective

EDGE_RATE = 0.4
"""Share of the peak learning rate that the last stage, of a trained system, begins with."""


def scene_objective(**options: Any) -> Callable[[nn.Module, nn.Module], nn.Module]:
    """Return what a `Stage` takes: a maker of the objective, named `scene` in the records."""

    def scene(model: Any, guide: Any) -> SceneObjective:
        return SceneObjective(model, guide, **options)

    return scene


def stages(config: Config, image: int) -> list[Stage]:
    """Return the recipe: the draft alone, then everything, then edges.

    Args:
        config: the options.
        image: side of a photograph in pixels.
    """
    c = config
    pixels = 3 * image**2
    options: dict[str, Any] = {
        "draft_weight": c.draft_weight,
        "prior_share": c.prior_share,
        "prior_weight": c.prior_weight,
        "spread_weight": c.spread_weight,
        "score_weight": c.score_weight,
        "grain_weight": c.grain_weight,
        "kl_weight": c.kl_weight,
    }
    shared: dict[str, Any] = {
        "batch_size": c.batch_size,
        "learning_rate": c.learning_rate,
        "clip": c.clip * pixels / c.sigma**2,
    }
    recipe = []
    if c.draft_steps:
        last = ("head",) if c.output != "linear" else ("up", "out")
        parts = ["memory", *(f"decoder.{name}" for name in ("expand", "draft", *last))]
        recipe.append(
            Stage(
                "draft",
                c.draft_steps,
                objective=scene_objective(latents=False, **options),
                trainable=tuple(f"model.{part}.*" for part in parts),
                schedules={"learning_rate": warmup(c.warmup, constant(1.0) if c.layers else cosine(1.0, c.final_rate))},
                **shared,
            )
        )
    if not c.layers:
        return recipe
    schedules: dict[str, Any] = {"learning_rate": warmup(c.warmup, cosine(1.0, c.final_rate))}
    if c.kl_warmup:
        rise = ((0.0, 0.01), (0.5 * c.kl_warmup, 0.1), (c.kl_warmup, 1.0))
        points = [(progress, share * c.kl_weight) for progress, share in rise]
        schedules["objective.kl_weight"] = piecewise(points)
    handlers: dict[str, Any] = {}
    if c.sigma_start:
        handlers["noise"] = PixelNoise(c.sigma_start)
        schedules["noise.scale"] = linear(c.sigma_start, c.sigma)
    recipe.append(
        Stage(
            "all",
            c.steps,
            objective=scene_objective(**options),
            schedules=schedules,
            handlers=handlers,
            **shared,
        )
    )
    if c.edge_steps:
        recipe.append(
            Stage(
                "edges",
                c.edge_steps,
                objective=scene_objective(**{**options, "grain_weight": c.edge_weight}),
                schedules={"learning_rate": warmup(c.warmup, cosine(EDGE_RATE, c.final_rate))},
                **shared,
            )
        )
    return recipe
