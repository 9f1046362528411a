"""What training needs: batches of frames, batches of codes of the frozen encoder, and the search for an agent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from phlogiston.errors import ConfigError, ShapeError, unknown_name
from phlogiston.guides.world import WorldGuide
from phlogiston.inference.svi.callbacks import State
from phlogiston.models.dreaming import num_weights
from phlogiston.models.world import Before, World
from phlogiston.networks.frame_encoder import pixels
from phlogiston.systems.world.evolution import CMAES, LibraryCMAES
from phlogiston.systems.world.rows import WHOLE, GameRows

WINDOW = 128  # frames of a window of a long game


class DrawFrames:
    """Batch of stage V: some frames of each game, drawn at random; of long games, from all frames alike.

    Args:
        count: how many.
    """

    takes_rows = True

    def __init__(self, count: int) -> None:
        self.count = count

    def describe(self) -> dict[str, Any]:
        """The transform as JSON-able data."""
        return {"transform": "frames of games", "count": self.count}

    def __call__(self, batch: dict[str, Tensor], rows: GameRows) -> dict[str, Tensor]:
        index, length = batch["row"], batch["length"]
        if rows.longest > WHOLE:
            row, step = rows.place(torch.randint(int(rows.starts[-1]), (len(index), self.count)))
        else:
            share = torch.rand(len(index), self.count, device=length.device)
            step = (share * length.unsqueeze(1)).long().cpu()
            row = index.cpu().unsqueeze(1).expand_as(step)
        drawn = pixels(rows.frames(row, step).to(index.device))
        assert drawn is not None
        return {"frames": drawn}


class DrawCodes:
    """Batch of stage M: codes of games, drawn anew each time from the frozen encoder's posterior.

    Games are taken whole, or as windows where they are long. Windows begin anywhere, so that every frame of every game
    is in one as often as any other: the rate of ends is that of the games. The first eighth of a window only tells the
    memory what it is about.

    Args:
        guide: has the encoder.
        window: frames of a window; 0 for whole games of up to 256 frames, and windows of 128 of longer ones.
    """

    takes_rows = True

    def __init__(self, guide: WorldGuide, window: int = 0) -> None:
        self.guide, self.window = guide, window
        self._encoded: WeakKeyDictionary[GameRows, tuple[Tensor, Tensor]] = WeakKeyDictionary()

    def describe(self) -> dict[str, Any]:
        """The transform as JSON-able data."""
        found: dict[str, Any] = {"transform": "codes drawn from the frozen encoder's posterior"}
        return found | ({"window": self.window} if self.window else {})

    def __call__(self, batch: dict[str, Tensor], rows: GameRows) -> dict[str, Any]:
        device = batch["row"].device
        if rows not in self._encoded:
            self._encoded[rows] = self._encode(rows, device)
        if self.window or rows.longest > WHOLE:
            return self._windows(rows, len(batch["row"]), self.window or WINDOW, device)
        index = batch["row"].cpu()
        longest = int(rows.length[index].numpy().max())  # read on the host, where it is
        first = torch.zeros_like(index)
        return {"code": self._draw(rows, index, first, longest, device), "length": batch["length"],
                **self._labels(rows, index, first, longest, device)}  # fmt: skip

    def _windows(self, rows: GameRows, count: int, window: int, device: torch.device) -> dict[str, Any]:
        """Windows of games; see the class."""
        ends = (rows.length + window - 1).cumsum(0)  # positions of a window that share a frame with each game
        at = torch.randint(int(ends[-1].numpy()), (count,))
        row = torch.searchsorted(ends, at, right=True)
        place = at - torch.where(row > 0, ends[row - 1], 0) - (window - 1)
        first = place.clamp_min(0)
        length = torch.minimum(rows.length[row], place + window) - first
        code = self._draw(rows, row, first - 1, window + 1, device)
        action, done, reward = rows.labels(row, first - 1, window + 1)
        counts = first.unsqueeze(1) + torch.arange(window) - place.unsqueeze(1) >= window // 8
        before = Before(code[:, 0], action[:, 0].to(device), (first > 0).to(device))
        found = {"code": code[:, 1:], "action": action[:, 1:].to(device), "done": done[:, 1:].to(device, code.dtype),
                 "length": length.to(device), "counts": counts.to(device), "before": before}  # fmt: skip
        return found | ({} if reward is None else {"reward": reward[:, 1:].to(device)})

    def _labels(
        self, rows: GameRows, row: Tensor, first: Tensor, steps: int, device: torch.device
    ) -> dict[str, Tensor]:
        action, done, reward = rows.labels(row, first, steps)
        found = {"action": action.to(device), "done": done.to(device, torch.float32)}
        return found | ({} if reward is None else {"reward": reward.to(device)})

    def _draw(self, rows: GameRows, row: Tensor, first: Tensor, steps: int, device: torch.device) -> Tensor:
        """Codes (n, steps, Z) of games (n,), from steps (n,) on; 0 outside of a game."""
        step = first.unsqueeze(1) + torch.arange(steps)
        inside = (step >= 0) & (step < rows.length[row].unsqueeze(1))
        index = torch.where(inside, rows.starts[row].unsqueeze(1) + step, 0).to(device)
        loc, scale = (torch.where(inside.to(device).unsqueeze(-1), part[index], 0.0) for part in self._encoded[rows])
        return loc + scale * torch.randn_like(loc)

    @torch.no_grad()
    def _encode(self, rows: GameRows, device: torch.device) -> tuple[Tensor, Tensor]:
        """Locations and scales of the codes of all frames in order, (frames, Z) each."""
        both = [self.guide.encode(frames.to(device)) for frames in rows.pieces()]
        return torch.cat([loc for loc, _ in both]), torch.cat([scale for _, scale in both])


@dataclass(frozen=True)
class Search:
    """Result of a search for a controller.

    Attributes:
        weights: (F,), of the last mean.
        curve: for every generation the mean and the best score over its controllers.
    """

    weights: Tensor
    curve: list[tuple[float, float]]


Searches = Literal["own", "cmaes", "improve"]


def search(
    score: Callable[[Tensor, int], Tensor],
    world: World,
    looks: str,
    generations: int,
    population: int,
    spread: float,
    seed: int,
    start: Tensor | None = None,
    bounds: float | None = None,
    method: Searches = "own",
    basis: Tensor | None = None,
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
        bounds: largest absolute value of a weight; None for none.
        method: "own", or "cmaes" for the library of that name.
        basis: (F, D), see `directions.main_directions`: D numbers are searched, of which the weights differ from
            `start` by their product with it. None searches every weight by itself.

    Returns:
        The mean of the last generation, which averages over the luck of single rollouts.

    Raises:
        ConfigError: bounds that the method does not know, or no such method or library.
        ShapeError: a start of another size.
    """
    size = num_weights(world, looks)
    first = torch.zeros(size) if start is None else start
    if first.shape != (size,):
        raise ShapeError(f"start has shape {tuple(first.shape)}; expected ({size},) for looks={looks!r}")
    begin = first if basis is None else torch.zeros(basis.shape[1])

    def weights(points: Tensor) -> Tensor:
        return points.float() if basis is None else first + points.float() @ basis.T

    # a whole covariance has more entries than so short a search has scores to learn them from
    diagonal = generations * population < len(begin) ** 2
    evolution: CMAES | LibraryCMAES
    if method == "cmaes":
        evolution = LibraryCMAES(begin, spread, population, seed, diagonal, bounds)
    elif method != "own":
        raise unknown_name("method of search", method, ("own", "cmaes"))
    elif bounds is not None:
        raise ConfigError("bounds need method='cmaes'; our own search knows none")
    else:
        evolution = CMAES(begin, spread, population, seed, diagonal)
    curve = []
    for generation in range(generations):
        points = evolution.ask()
        scores = score(weights(points), seed * 1_000_003 + generation)
        evolution.tell(points, -scores)
        curve.append((float(scores.mean()), float(scores.max())))
    return Search(weights(evolution.mean), curve)


class TrainAgent:
    """Engine callback: at the end, train the agent in the dream of the finished model, or in the game.

    Args:
        system: a `WorldModel`.
    """

    def __init__(self, system: Any) -> None:
        self.system = system

    def on_checkpoint(self, state: State) -> None:
        """Train before the last checkpoint is written."""
        if state.step == state.total and self.system.config.generations:
            self.system.train_own_agent()
