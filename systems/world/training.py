"""What training needs: batches of frames, batches of codes of the frozen encoder, and the search for an agent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from phlogiston.guides.world import WorldGuide
from phlogiston.inference.svi.callbacks import State
from phlogiston.models.dreaming import num_weights
from phlogiston.models.world import World
from phlogiston.networks.frame_encoder import pixels
from phlogiston.networks.host import whole_number
from phlogiston.systems.world.evolution import CMAES


class GameRows:
    """Rows for the engine: a row is a game.

    Args:
        tensors: `frames` uint8 (rows, T, C, H, W), `action` int64 and `done` bool (rows, T), `length` int64 (rows,).
    """

    sequences: tuple[str, ...] = ()

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors

    def __len__(self) -> int:
        return len(self.tensors["length"])

    def __getitem__(self, index: Tensor) -> dict[str, Tensor]:
        return {**{name: value[index] for name, value in self.tensors.items()}, "row": index}


class DrawFrames:
    """Batch of stage V: some frames of each game, drawn at random.

    Args:
        count: how many.
    """

    def __init__(self, count: int) -> None:
        self.count = count

    def describe(self) -> dict[str, Any]:
        """The transform as JSON-able data."""
        return {"transform": "frames of games", "count": self.count}

    def __call__(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        frames, length = batch["frames"], batch["length"]
        share = torch.rand(len(frames), self.count, device=frames.device)
        step = (share * length.unsqueeze(1)).long()
        rows = torch.arange(len(frames), device=frames.device).unsqueeze(1)
        drawn = pixels(frames[rows, step])
        assert drawn is not None
        return {"frames": drawn}


class DrawCodes:
    """Batch of stage M: codes of games, drawn anew each time from the frozen encoder's posterior.

    Args:
        guide: has the encoder.
        chunk: games encoded at once.
    """

    takes_rows = True

    def __init__(self, guide: WorldGuide, chunk: int = 32) -> None:
        self.guide, self.chunk = guide, chunk
        self._encoded: WeakKeyDictionary[GameRows, tuple[Tensor, Tensor]] = WeakKeyDictionary()

    def describe(self) -> dict[str, Any]:
        """The transform as JSON-able data."""
        return {"transform": "codes drawn from the frozen encoder's posterior"}

    def __call__(self, batch: dict[str, Tensor], rows: GameRows) -> dict[str, Tensor]:
        index = batch["row"]
        if rows not in self._encoded:
            self._encoded[rows] = self._encode(rows, index.device)
        loc, scale = self._encoded[rows]
        longest = whole_number(batch["length"].max())
        mean, spread = loc[index, :longest], scale[index, :longest]
        return {
            "code": mean + spread * torch.randn_like(mean),
            "action": batch["action"][:, :longest],
            "done": batch["done"][:, :longest].to(mean.dtype),
            "length": batch["length"],
        }

    @torch.no_grad()
    def _encode(self, rows: GameRows, device: torch.device) -> tuple[Tensor, Tensor]:
        """Locations and scales of all codes, (games, T, Z) each, 0 behind the end."""
        frames, length = rows.tensors["frames"], rows.tensors["length"]
        valid = torch.arange(frames.shape[1]) < length.unsqueeze(1)
        blocks = []
        for i in range(0, len(frames), self.chunk):
            counts = valid[i : i + self.chunk]
            loc, scale = self.guide.encode(frames[i : i + self.chunk][counts].to(device))
            both = loc.new_zeros(2, *counts.shape, loc.shape[-1])
            both[:, counts.to(device)] = torch.stack([loc, scale])
            blocks.append(both)
        whole = torch.cat(blocks, 1)
        return whole[0], whole[1]


@dataclass(frozen=True)
class Search:
    """Result of a search for a controller.

    Attributes:
        weights: (F,), of the last mean.
        curve: for every generation the mean and the best score over its controllers.
    """

    weights: Tensor
    curve: list[tuple[float, float]]


def search(
    score: Callable[[Tensor, int], Tensor],
    world: World,
    looks: str,
    generations: int,
    population: int,
    spread: float,
    seed: int,
    start: Tensor | None = None,
) -> Search:
    """Search for a controller by evolution.

    Args:
        score: controllers (P, F) and a seed -> their scores (P,), larger is better.
        world: whom they act in.
        looks: their inputs, see `models.dreaming.Linear`.
        generations: how many.
        population: controllers in each.
        spread: standard deviation to begin with.
        seed: of the search; generation g is scored with a seed of its own, the same for all its controllers.
        start: (F,), where to begin; 0 by default.

    Returns:
        The mean of the last generation, which averages over the luck of single rollouts.
    """
    begin = torch.zeros(num_weights(world, looks)) if start is None else start
    # a whole covariance has more entries than so short a search has scores to learn them from
    diagonal = generations * population < len(begin) ** 2
    evolution = CMAES(begin, spread, population, seed, diagonal)
    curve = []
    for generation in range(generations):
        points = evolution.ask()
        scores = score(points.float(), seed * 1_000_003 + generation)
        evolution.tell(points, -scores)
        curve.append((float(scores.mean()), float(scores.max())))
    return Search(evolution.mean.float(), curve)


class TrainAgent:
    """Engine callback: at the end, train the agent in the dream of the finished model.

    Args:
        system: a `WorldModel`.
    """

    def __init__(self, system: Any) -> None:
        self.system = system

    def on_checkpoint(self, state: State) -> None:
        """Train before the last checkpoint is written."""
        if state.step == state.total and self.system.config.generations:
            self.system.train_own_agent()
