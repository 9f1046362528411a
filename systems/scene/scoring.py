"""Scores of a fitted scene model on held-out scenes, query by query."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import pyro
import torch
from torch import Tensor
from torch.distributions import kl_divergence

from phlogiston.datasets.base import Dataset, Split
from phlogiston.datasets.generated.scene_grid import SceneGrid
from phlogiston.errors import DataError
from phlogiston.evaluate.held_out import held_out
from phlogiston.evaluate.metric import Metric, from_rows
from phlogiston.models.scene import SceneModel, unit
from phlogiston.networks.scene_memory import State
from phlogiston.systems.scene.system import Scene
from phlogiston.systems.scene.training import paint
from phlogiston.systems.scene.views import traces

QUERIES = 1000  # of an evaluation, where the data have so many
BATCH = 8  # scenes at once
SAMPLES = 8  # pictures per query


def split_of(data: Any) -> Split:
    """Held-out scenes in any accepted form."""
    if isinstance(data, Dataset):
        return held_out(data)
    return data if isinstance(data, Split) else Split(data)


def episodes(
    system: Scene,
    split: Split,
    side: int = 1,
    context: int | None = None,
    total: int | None = None,
    seed: int = 0,
) -> Iterator[dict[str, Tensor]]:
    """Yield batches of scene grids with queries outside their context; equal seeds give equal batches.

    Args:
        system: the fitted system.
        split: held-out scenes.
        side: scenes along a grid's side.
        context: photographs seen per scene; the options' by default.
        total: queries over all batches, with other choices of context where scenes have too few photographs;
            `QUERIES` by default, or as many as there are.
        seed: of the choice of photographs.

    Raises:
        DataError: too few scenes or photographs.
    """
    c = system.config
    seen = c.context if context is None else context
    scenes, views = split.tensors["images"].shape[:2]
    total = min(QUERIES, scenes * max(1, views - seen)) if total is None else total
    cells = side * side
    if scenes < cells:
        raise DataError(f"there are {scenes} held-out scenes; a grid of {side} x {side} needs {cells}.")
    usable = scenes // cells * cells
    queries = min(max(1, views - seen), max(1, math.ceil(total / usable)))
    arena = max(c.arena, side) if c.memory == "pooled" else 0
    rows = SceneGrid(split, seen, queries, (side,), width=c.tile, arena=arena, corner=c.corner)
    step = max(1, BATCH // cells) * cells
    rounds = max(1, math.ceil(total / (usable * queries)))
    for turn in range(rounds):
        for start in range(0, usable, step):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed + 1_000_003 * turn + start)
                batch = rows[torch.arange(start, min(start + step, usable))]
            yield batch


def observe_batch(model: SceneModel, batch: dict[str, Tensor]) -> State:
    """Write the photographs of a batch into a fresh memory."""
    return model.observe(batch["images"], batch["poses"], batch.get("obs_mask"), batch["origin"], batch["side"])


@torch.no_grad()
def score(
    system: Scene,
    batches: Iterator[dict[str, Tensor]],
    samples: int = SAMPLES,
    seed: int = 0,
    posterior: bool = True,
) -> dict[str, Tensor]:
    """Score pictures query by query.

    Returns:
        Per query, each (queries,): squared errors per pixel of the `mean` of prior samples, of a `single` one (averaged
        over samples), of the `best`, of the `draft`, of the `posterior`'s picture; the samples' unbiased `variance`;
        the divergence `kl` in nats, and `kl_<layer>`.
    """
    model, decoder = system.model, system.model.decoder
    parts: dict[str, list[Tensor]] = {}
    with torch.random.fork_rng(devices=[]), pyro.validation_enabled(False):
        torch.manual_seed(seed)
        for batch in batches:
            truth = unit(batch["query_images"], torch.float32)
            state = observe_batch(model, batch)
            context = model.context(state, batch["query_poses"])
            drawn = paint(decoder, context, samples)
            middle = drawn.mean(0)
            figures = {
                "mean": _mse(middle, truth),
                "single": _mse(drawn, truth).mean(0),
                "best": _mse(drawn, truth).amin(0),
                "variance": (drawn - middle).square().mean((-3, -2, -1)).sum(0) / max(1, samples - 1),
            }
            if decoder.draft is not None:
                figures["draft"] = _mse(decoder.picture(context.draft), truth)
            if posterior:
                model_trace, guide_trace = traces(system.guide, state, truth, batch["query_poses"])
                figures["posterior"] = _mse(model_trace.nodes["x"]["fn"].mean, truth)
                for layer in range(decoder.layers):
                    name = f"z_{layer}"
                    figures[f"kl_{layer}"] = _divergence(guide_trace.nodes[name], model_trace.nodes[name])
                layers = [figures[f"kl_{layer}"] for layer in range(decoder.layers)]
                figures["kl"] = torch.stack(layers).sum(0) if layers else torch.zeros_like(figures["mean"])
            for name, value in figures.items():
                parts.setdefault(name, []).append(value.flatten())
    return {name: torch.cat(values) for name, values in parts.items()}


def _divergence(guide_site: Any, model_site: Any) -> Tensor:
    """KL of one latent; estimated from the guide's draw where the prior is a mixture."""
    try:
        return kl_divergence(guide_site["fn"], model_site["fn"])
    except NotImplementedError:
        z = guide_site["value"]
        difference: Tensor = guide_site["fn"].log_prob(z) - model_site["fn"].log_prob(z)
        return difference


def _mse(one: Tensor, other: Tensor) -> Tensor:
    return (one - other).square().mean((-3, -2, -1))


def baselines(system: Scene, batches: Iterator[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Squared errors of predictions that need no model: the mean training image, the mean of the same scene's context,
    and its view nearest in position and heading."""
    parts: dict[str, list[Tensor]] = {}
    for batch in batches:
        truth, seen = (unit(batch[name], torch.float32) for name in ("query_images", "images"))
        side = int(batch["side"][0])
        grids, count = seen.shape[:2]
        views = count // side**2
        queries = truth.shape[1] // side**2
        seen = seen.reshape(grids * side**2, views, *seen.shape[2:])
        truth = truth.reshape(grids * side**2, queries, *truth.shape[2:])
        at = batch["poses"].reshape(grids * side**2, 1, views, 6)
        where = batch["query_poses"].reshape(grids * side**2, queries, 1, 6)
        turn = 1.0 - torch.cos(at[..., 3] - where[..., 3])
        far = (at[..., :2] - where[..., :2]).square().sum(-1) / (0.5 * system.config.tile) ** 2 + turn
        nearest = torch.take_along_dim(seen, far.argmin(-1)[..., None, None, None], 1)
        figures = {
            "mean_image": _mse(system.model.mean_image.expand_as(truth), truth),
            "context_mean": _mse(seen.mean(1, keepdim=True).expand_as(truth), truth),
            "nearest_view": _mse(nearest, truth),
        }
        for name, value in figures.items():
            parts.setdefault(name, []).append(value.flatten())
    return {name: torch.cat(values) for name, values in parts.items()}


def gap(figures: dict[str, Tensor], samples: int = SAMPLES) -> Tensor:
    """What the posterior explains and prior samples do not spread over: per query, the error of the mean of infinitely
    many samples, less the samples' variance and the posterior's error."""
    return figures["mean"] - figures["variance"] / samples - figures["variance"] - figures["posterior"]


def grid_sweep(
    system: Scene, data: Any, sides: Sequence[int] = (1, 2, 3, 4, 5), total: int = 300, seed: int = 0
) -> dict[int, Metric]:
    """Error of the mean of 8 prior samples against the number of scenes a side of the grid."""
    split = split_of(data)
    errors = {}
    for side in sides:
        if len(split) >= side**2:
            rows = score(system, episodes(system, split, side, total=total, seed=seed), posterior=False)["mean"]
            errors[side] = from_rows(rows, "estimate", False)
    return errors


def context_sweep(
    system: Scene, data: Any, numbers: Sequence[int] = (1, 2, 4, 8, 16, 32), total: int = 300, seed: int = 0
) -> dict[int, Metric]:
    """Error of the mean of 8 prior samples against the photographs seen."""
    split = split_of(data)
    views = split.tensors["images"].shape[1]
    errors = {}
    for number in numbers:
        if number < views:
            rows = score(system, episodes(system, split, 1, number, total, seed), posterior=False)["mean"]
            errors[number] = from_rows(rows, "estimate", False)
    return errors
