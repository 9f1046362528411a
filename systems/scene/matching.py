"""The embed-and-classify experiment: train a memory to recognise photographs, and count how often it does.

    matching = train(data, "graph", steps=1500)
    accuracy(matching, data.test, side=3)

Candidates are the photographs queried and, by default, those in the memory. The latter are easy negatives once they
are memorised; `fresh=True` replaces them by other photographs of the same scenes.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from phlogiston.datasets.base import Dataset, Split
from phlogiston.datasets.generated.scene_grid import SceneGrid
from phlogiston.evaluate.metric import Metric, from_rows
from phlogiston.inference.svi.engine import Stage, fit
from phlogiston.inference.svi.schedules import cosine, warmup
from phlogiston.models.scene_matching import SceneMatching
from phlogiston.networks.scene_memory import GraphMemory, PooledMemory


def train(
    data: Dataset,
    memory: str = "graph",
    steps: int = 1500,
    *,
    batch_size: int = 16,
    context: int = 8,
    sides: tuple[int, ...] = (1, 2),
    learning_rate: float = 0.002,
    seed: int = 0,
    **options: Any,
) -> SceneMatching:
    """Train from scratch.

    Args:
        data: scenes.
        memory: "graph" or "pooled".
        steps: optimiser steps.
        batch_size: scenes per step; every one of their photographs is a candidate for every query.
        context: photographs seen per scene.
        sides: scenes along a grid's side.
        learning_rate: peak.
        seed: of everything random.
        **options: of the memory.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net: Any = GraphMemory(**options) if memory == "graph" else PooledMemory(**options)
        model = SceneMatching(net)
    rows = SceneGrid(data.train, context, 1, sides, arena=3 if memory == "pooled" else 0)
    stage = Stage(
        "match",
        steps,
        learning_rate=learning_rate,
        batch_size=batch_size,
        schedules={"learning_rate": warmup(0.03, cosine(1.0, 0.05))},
        clip=10.0,
    )
    fit(model, None, rows, stages=stage, seed=seed, progress="off")
    model.eval()
    return model


@torch.no_grad()
def accuracy(
    model: SceneMatching,
    split: Split,
    side: int = 1,
    *,
    scenes: int = 16,
    context: int = 8,
    queries: int = 480,
    fresh: bool = False,
    seed: int = 0,
) -> Metric:
    """Share of queries whose own photograph scores highest.

    Args:
        model: trained by `train`.
        split: held-out scenes.
        side: scenes along a grid's side.
        scenes: per batch, rounded to whole grids (at least two): with `context` 8, 16 scenes make 144 candidates.
        context: photographs seen per scene.
        queries: to average over.
        fresh: candidates beside the queries' own are other photographs of the scenes instead of those seen.
        seed: of the choices.
    """
    per = max(2, scenes // side**2) * side**2 if side > 1 else scenes
    arena = max(3, side) if isinstance(model.memory, PooledMemory) else 0
    each = 1 + (context if fresh else 0)
    rows = SceneGrid(split, context, each, (side,), arena=arena)
    hits = []
    with torch.random.fork_rng(devices=[]):
        for turn in range(math.ceil(queries / per)):
            torch.manual_seed(seed + turn)
            batch = rows[torch.randperm(len(rows))[:per]]
            others = None
            if fresh:  # the first of a scene's photographs is the query, the rest are candidates
                grids = len(batch["origin"])
                grouped = batch["query_images"].unflatten(1, (side**2, each))
                others = grouped[:, :, 1:].flatten(1, 2)
                batch["query_images"] = grouped[:, :, 0]
                batch["query_poses"] = batch["query_poses"].reshape(grids, side**2, each, 6)[:, :, 0]
            logits = model(**batch, others=others).flatten(0, 1)
            hits.append((logits.argmax(-1) == torch.arange(len(logits))).double())
            candidates = logits.shape[-1]
    return from_rows(
        torch.cat(hits), "estimate", True, {"candidates": candidates, "chance": 1.0 / candidates, "fresh": fresh}
    )
