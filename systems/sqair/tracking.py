"""Objects followed through films: tracks of whole films, and a tracker that takes frames one by one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from phlogiston.models.sqair import State
from phlogiston.systems.sqair import posterior
from phlogiston.systems.sqair.videos import checked


@dataclass(frozen=True)
class Track:
    """One object of one film.

    Attributes:
        identity: its number; no other object of the film has it.
        first: first frame it is there.
        last: last frame it is there.
        boxes: (frames, 4) as x, y, width, height in pixels, from `first` to `last`.
        what: (features,), mean appearance.
    """

    identity: int
    first: int
    last: int
    boxes: Tensor
    what: Tensor


def tracks_of(found: dict[str, Tensor], shape: tuple[int, int, int]) -> list[list[Track]]:
    """Tracks per film from one particle per film, tensors (R, T, N, ...)."""
    places = posterior.boxes(found["where"], found["presence"], shape)
    out = []
    for row in range(len(places)):
        ids = found["ids"][row]
        tracks = []
        for identity in sorted({int(i) for i in ids.flatten() if i >= 0}):
            here = ids == identity  # (T, N), one place per frame
            frames = here.any(-1).nonzero().squeeze(-1)
            tracks.append(
                Track(identity, int(frames[0]), int(frames[-1]), places[row][here], found["what"][row][here].mean(0))
            )
        out.append(tracks)
    return out


class Tracker:
    """Follows objects while frames come in; memory does not grow with their number.

    Args:
        system: a fitted SQAIR.
        particles: how many guesses are kept; they are drawn anew whenever fewer than half of them count.
        seed: of all draws.

    Example::

        tracker = system.tracker()
        for frame in camera:            # (height, width) or (channels, height, width)
            objects = tracker.step(frame)
            objects["ids"], objects["boxes"]
    """

    def __init__(self, system: Any, particles: int = 8, seed: int = 0) -> None:
        self.model, self.guide = system.model, system.guide
        self.particles = particles
        self.generator = torch.Generator().manual_seed(seed)
        self.state: tuple[State, Tensor | None] | None = None
        self.log_weights = torch.zeros(particles, 1)
        self.frames = 0

    def step(self, frame: Any) -> dict[str, Tensor]:
        """Take one frame.

        Returns:
            `ids` int64 (objects,), `boxes` (objects, 4) as x, y, width, height in pixels, `what` (objects, features),
            `canvas` (channels, height, width), and `count_probability` (places + 1,).

        Raises:
            ShapeError, DataError: what is no frame of the kind the model knows.
        """
        picture = torch.as_tensor(frame)
        film = checked(picture[None, None], "frame")
        if film.shape[2:] != torch.Size(self.model.shape):
            from phlogiston.errors import ShapeError

            raise ShapeError(f"frame has shape {tuple(picture.shape)}; this model knows {self.model.shape}.")
        with torch.random.fork_rng():
            torch.manual_seed(int(torch.randint(2**62, (), generator=self.generator)))
            found = posterior.run(self.model, self.guide, film, self.particles, start=self.state)
        self.log_weights = self.log_weights + found.log_weights
        found.log_weights = self.log_weights
        probability = found.count_probability(self.model.slots)[0, 0]
        best = found.pick(best=True)
        state, memory = found.last, found.last_memory
        if float(found.ess()[0]) < self.particles / 2:
            chosen = torch.multinomial(found.weights[:, 0], self.particles, True, generator=self.generator)
            state = state.map(lambda part: part[chosen])
            memory = None if memory is None else memory[chosen]
            self.log_weights = torch.zeros_like(self.log_weights)
        else:
            self.log_weights = self.log_weights - self.log_weights.amax(0)
        self.state = (state, memory)
        self.frames += 1
        there = best["presence"][0, 0] > 0
        places = posterior.boxes(best["where"][0, 0], best["presence"][0, 0], self.model.shape)
        return {
            "ids": best["ids"][0, 0][there],
            "boxes": places[there],
            "what": best["what"][0, 0][there],
            "canvas": best["canvas"][0, 0],
            "count_probability": probability,
        }
