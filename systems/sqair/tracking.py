"""Objects followed through videos: tracks of whole videos, and a tracker that takes frames one by one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from phlogiston.arrays import at_least, tensor_of
from phlogiston.errors import ShapeError
from phlogiston.guides.sqair import SQAIRGuide
from phlogiston.models.sqair import SQAIRModel
from phlogiston.models.sqair_state import State
from phlogiston.systems.sqair import posterior
from phlogiston.systems.sqair.videos import checked


@dataclass(frozen=True)
class Track:
    """One object of one video.

    Attributes:
        identity: its number; no other object of the video has it.
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


def tracks_of(model: SQAIRModel, result: dict[str, Tensor]) -> list[list[Track]]:
    """Tracks per video from one particle per video, tensors (R, T, N, ...)."""
    boxes = posterior.boxes(model, result["where"], result["presence"])
    out = []
    for row in range(len(boxes)):
        ids = result["ids"][row]
        tracks = []
        for identity in sorted({int(i) for i in ids.flatten() if i >= 0}):
            here = ids == identity  # (T, N), one slot per frame
            frames = here.any(-1).nonzero().squeeze(-1)
            tracks.append(
                Track(identity, int(frames[0]), int(frames[-1]), boxes[row][here], result["what"][row][here].mean(0))
            )
        out.append(tracks)
    return out


class Tracker:
    """Follows objects while frames come in; memory does not grow with their number.

    Args:
        model: a fitted model.
        guide: its guide.
        num_particles: how many guesses are kept; they are drawn anew whenever fewer than half of them count.
        seed: of all draws.

    Example::

        tracker = system.tracker()
        for frame in camera:            # (height, width) or (channels, height, width)
            objects = tracker.step(frame)
            objects["ids"], objects["boxes"]
    """

    def __init__(self, model: SQAIRModel, guide: SQAIRGuide, num_particles: int = 8, seed: int = 0) -> None:
        self.model, self.guide = model, guide
        self.num_particles = at_least("num_particles", num_particles, 1)
        self.generator = torch.Generator().manual_seed(seed)
        self.state: tuple[State, Tensor | None] | None = None
        self.log_weights = torch.zeros(num_particles, 1)
        self.frames = 0

    def step(self, frame: Any) -> dict[str, Tensor]:
        """Take one frame.

        Returns:
            `ids` int64 (objects,), `boxes` (objects, 4) as x, y, width, height in pixels, `what` (objects, features),
            `canvas` (channels, height, width), and `count_probability` (slots + 1,).

        Raises:
            ShapeError, DataError: not a frame like those the model was fitted on.
        """
        picture = tensor_of("frame", frame)
        video = checked(picture[None, None], "frame")
        if video.shape[2:] != torch.Size(self.model.shape):
            raise ShapeError(f"frame has shape {tuple(picture.shape)}; this model was fitted on {self.model.shape}.")
        with torch.random.fork_rng():
            torch.manual_seed(int(torch.randint(2**62, (), generator=self.generator)))
            result = posterior.run(self.model, self.guide, video, self.num_particles, start=self.state)
        self.log_weights = self.log_weights + result.log_weights
        result.log_weights = self.log_weights
        probability = result.count_probability(self.model.slots)[0, 0]
        best = result.pick(best=True)
        state, memory = result.last, result.last_memory
        if float(result.ess()[0]) < self.num_particles / 2:
            chosen = torch.multinomial(result.weights[:, 0], self.num_particles, True, generator=self.generator)
            state = state.map(lambda part: part[chosen])
            memory = None if memory is None else memory[chosen]
            self.log_weights = torch.zeros_like(self.log_weights)
        else:
            self.log_weights = self.log_weights - self.log_weights.amax(0)
        self.state = (state, memory)
        self.frames += 1
        there = best["presence"][0, 0] > 0
        boxes = posterior.boxes(self.model, best["where"][0, 0], best["presence"][0, 0])
        return {
            "ids": best["ids"][0, 0][there],
            "boxes": boxes[there],
            "what": best["what"][0, 0][there],
            "canvas": best["canvas"][0, 0],
            "count_probability": probability,
        }
