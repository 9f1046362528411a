"""What a trained SQAIR infers about videos: weighted particles, and futures and what-ifs that start from them.

Everything runs the programs that were trained, through Pyro's handlers: the guide proposes, the model is replayed for
the weights, conditioned for what-ifs, and run on by itself for the future.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from phlogiston.arrays import at_least
from phlogiston.errors import ConfigError, DataError, ShapeError
from phlogiston.models.sqair import SQAIRModel
from phlogiston.models.sqair_state import State
from phlogiston.networks.spatial import moved, pixel_boxes

_PARTICLES = "particles"


@dataclass
class Posterior:
    """Weighted particles of some videos; K particles, R videos, T frames, N slots.

    Attributes:
        log_weights: (K, R), nats, of whole videos.
        log_likelihood: (K, R), log p(x | z).
        presence: (K, R, T, N); `where`, `what`, `ids` and `canvas` alike, with their own last axes.
        last: the state after the last frame, its tensors (K, R, ...).
        last_memory: the guide's own memory, or None.
    """

    log_weights: Tensor
    log_likelihood: Tensor
    presence: Tensor
    where: Tensor
    what: Tensor
    ids: Tensor
    canvas: Tensor | None
    last: State
    last_memory: Tensor | None

    @property
    def weights(self) -> Tensor:
        """Normalised weights (K, R)."""
        return torch.softmax(self.log_weights, 0)

    def bound(self) -> Tensor:
        """Importance-weighted bound per video, nats."""
        return torch.logsumexp(self.log_weights, 0) - math.log(len(self.log_weights))

    def ess(self) -> Tensor:
        """Effective number of particles per video."""
        return 1.0 / self.weights.square().sum(0)

    def count_probability(self, most: int) -> Tensor:
        """Probability of each number of objects, (R, T, most + 1)."""
        counts = self.presence.sum(-1).long()
        shown = torch.nn.functional.one_hot(counts, most + 1).to(self.weights.dtype)
        return torch.einsum("kr,krtc->rtc", self.weights, shown)

    def pick(self, generator: torch.Generator | None = None, best: bool = False) -> dict[str, Tensor]:
        """One particle per video, drawn by weight, or the best: tensors (R, T, ...) by name."""
        if best:
            chosen = self.log_weights.argmax(0)
        else:
            chosen = torch.multinomial(self.weights.T, 1, generator=generator).squeeze(1)
        rows = torch.arange(len(chosen))
        names = ("presence", "where", "what", "ids", "canvas")
        return {n: v[chosen, rows] for n in names if (v := getattr(self, n)) is not None}

    def best_last(self) -> State:
        """The last state of one video's best particle, tensors (1, R, ...)."""
        chosen = int(self.log_weights[:, 0].argmax())
        return self.last.map(lambda part: part[chosen : chosen + 1])


def run(
    model: SQAIRModel,
    guide: Any,
    x: Tensor,
    num_particles: int,
    *,
    mask: Tensor | None = None,
    start: tuple[State, Tensor | None] | None = None,
    canvas: bool = True,
) -> Posterior:
    """Filter videos.

    Args:
        model: the generative program.
        guide: its guide.
        x: videos.
        num_particles: K.
        mask: True where pixels are known.
        start: state and guide's memory to continue from, tensors (K, R, ...).
        canvas: keep the pictures, too.
    """
    at_least("num_particles", num_particles, 1)
    options: dict[str, Any] = {"x": x} if mask is None else {"x": x, "mask": mask}
    with torch.no_grad(), pyro.plate(_PARTICLES, num_particles, dim=-2), pyro.validation_enabled(False):
        proposed = poutine.trace(guide).get_trace(**options, start=start)
        state = None if start is None else start[0]
        target = poutine.trace(poutine.replay(model, trace=proposed)).get_trace(**options, start=state)
        proposed.compute_log_prob()
        target.compute_log_prob()
    weights = _total(target) - _total(proposed)
    states: list[State] = list(target.nodes["_RETURN"]["value"])  # type: ignore[arg-type]
    rows = len(x)
    shape = (num_particles, rows)
    pictures = torch.stack([s.canvas for s in states], 2) if canvas else None
    return Posterior(
        weights.expand(shape),
        target.nodes["x"]["log_prob"].expand(shape),
        torch.stack([s.presence for s in states], 2),
        torch.stack([s.where for s in states], 2),
        torch.stack([s.what for s in states], 2),
        torch.stack([s.ids for s in states], 2),
        pictures,
        states[-1],
        proposed.nodes["_RETURN"]["value"][-1][1],
    )


def _total(trace: Any) -> Tensor:
    densities = [site["log_prob"] for site in trace.nodes.values() if site["type"] == "sample" and "log_prob" in site]
    plates = [site for site in densities if isinstance(site, Tensor) and site.dim() >= 1]
    return torch.stack(torch.broadcast_tensors(*plates)).sum(0)


def batches(x: Tensor, mask: Tensor | None, size: int) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Some videos at a time."""
    for start in range(0, len(x), size):
        yield x[start : start + size], None if mask is None else mask[start : start + size]


def resampled(result: Posterior, num_samples: int) -> tuple[State, Tensor | None]:
    """Last states drawn by weight, tensors (num_samples, R, ...)."""
    chosen = torch.multinomial(result.weights.T, num_samples, replacement=True).T  # (num_samples, R)
    rows = torch.arange(chosen.shape[1])
    memory = None if result.last_memory is None else result.last_memory[chosen, rows]
    return result.last.map(lambda part: part[chosen, rows]), memory


def extend(model: SQAIRModel, start: State, frames: int, births: bool) -> tuple[Tensor, list[State]]:
    """Continue videos by the model alone.

    Args:
        model: the generative program.
        start: tensors (num_samples, R, ...).
        frames: how many more.
        births: whether new objects may appear.

    Returns:
        Means of the frames (num_samples, R, frames, channels, height, width), and the states.
    """
    num_samples, rows = start.born.shape
    program: Callable[..., Any] = model
    if not births:
        none = torch.zeros(num_samples, rows, dtype=torch.long)
        data = {f"t{start.time + 1 + i}/births": none for i in range(frames)}
        program = poutine.condition(model, data=data)
    with torch.no_grad(), pyro.plate(_PARTICLES, num_samples, dim=-2), pyro.validation_enabled(False):
        states: list[State] = program(frames=frames, rows=rows, start=start)
    return torch.stack([s.canvas for s in states], 2), states


def draw(model: SQAIRModel, rows: int, frames: int, count: int | None) -> tuple[Tensor, list[State]]:
    """Draw videos from the prior, with a given number of objects in the first frame or any: pixels and states."""
    program: Callable[..., Any] = model
    if count is not None:
        if not 0 <= count <= model.slots:
            raise ConfigError(f"count={count}: this model takes 0 .. {model.slots} objects.")
        program = poutine.condition(model, data={"t0/births": torch.full((rows,), count, dtype=torch.long)})
    with torch.no_grad(), pyro.validation_enabled(False):
        trace = poutine.trace(program).get_trace(frames=frames, rows=rows)
    pixels: Any = trace.nodes["x"]["value"]
    states: Any = trace.nodes["_RETURN"]["value"]
    return pixels, states


def latents(result: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Scenes of one particle, frame by frame: presence, where, what and ids, (R, N, ...) each."""
    frames = result["presence"].shape[1]
    return [{n: result[n][:, t].clone() for n in ("presence", "where", "what", "ids")} for t in range(frames)]


def edit(
    model: SQAIRModel,
    scenes: list[dict[str, Tensor]],
    *,
    remove: int | None = None,
    move: tuple[int, float, float] | None = None,
    swap: tuple[int, int] | None = None,
    first: int = 0,
) -> list[dict[str, Tensor]]:
    """Change one object of one video's scenes from a frame on.

    Args:
        model: the generative program.
        scenes: as `latents` gives them, of one video.
        remove: identity of the object to take away.
        move: identity, and pixels to the right and down.
        swap: two identities that exchange what they look like.
        first: the first frame changed.

    Raises:
        DataError: no such object.
        ShapeError: scenes of several videos.
    """
    if scenes and len(scenes[0]["presence"]) != 1:
        raise ShapeError("an edit changes one video; give x of shape (1, frames, ...).")
    known = sorted({int(i) for scene in scenes for i in scene["ids"].flatten() if i >= 0})
    for name in [remove, None if move is None else move[0], *(swap or ())]:
        if name is not None and name not in known:
            raise DataError(f"there is no object {name} in this video; its identities are {known}.")
    out = []
    for t, scene in enumerate(scenes):
        changed = {name: part.clone() for name, part in scene.items()}
        if t >= first:
            if remove is not None:
                gone = changed["ids"] == remove
                changed["presence"][gone] = 0.0
                changed["ids"][gone] = -1
                for name in ("where", "what"):
                    changed[name][gone] = 0.0
            if move is not None:
                chosen = changed["ids"] == move[0]
                step = torch.tensor([move[1], move[2]], dtype=changed["where"].dtype)
                changed["where"][chosen] = moved(changed["where"][chosen], step, *model.shape[1:], model.span)
            if swap is not None:
                a, b = (changed["ids"] == name for name in swap)
                if bool(a.any()) and bool(b.any()):
                    changed["what"][a], changed["what"][b] = changed["what"][b].clone(), changed["what"][a].clone()
        out.append(changed)
    return out


def replaced(state: State, scene: Mapping[str, Tensor]) -> State:
    """A state (1, R, ...) with the objects of a scene; what was taken away leaves no memory."""
    presence = scene["presence"].unsqueeze(0)
    there = (presence > 0).unsqueeze(-1)
    where, what, ids = (scene[name].unsqueeze(0) for name in ("where", "what", "ids"))
    memory, step = state.memory * there, state.step * there
    return replace(state, presence=presence, where=where, what=what, ids=ids, memory=memory, step=step)


def show(model: SQAIRModel, scenes: list[dict[str, Tensor]]) -> Tensor:
    """Mean pictures of scenes, (R, T, channels, height, width)."""
    out = []
    with torch.no_grad():
        for scene in scenes:
            lead = scene["presence"].shape
            glimpse = model.decode(scene["what"].reshape(-1, model.features))
            glimpse = glimpse.reshape(*lead, *glimpse.shape[1:])
            canvas, covers = model.render(scene["presence"], scene["where"], glimpse)
            out.append(model.likelihood(canvas.unsqueeze(1), None if covers is None else covers.unsqueeze(1)).mean)
    return torch.cat(out, 1)


def log_prob_of_nothing(model: SQAIRModel, x: Tensor) -> Tensor:
    """Log density of videos if nothing were there, (videos,), nats: what any model must beat."""
    out = []
    with torch.no_grad():
        for some, _ in batches(x, None, 64):
            presence = torch.zeros(len(some), model.slots)
            where = torch.zeros(*presence.shape, 4)
            glimpse = torch.zeros(*presence.shape, model.planes, *model.glimpse)
            canvas, covers = model.render(presence, where, glimpse)
            covers = None if covers is None else covers.unsqueeze(1)
            likelihood = model.likelihood(canvas.unsqueeze(1).expand(some.shape), covers)
            out.append(likelihood.log_prob(model.video(some)))
    return torch.cat(out)


def boxes(model: SQAIRModel, where: Tensor, presence: Tensor) -> Tensor:
    """Boxes in pixels (..., 4) as x, y, width, height; zero where nothing is."""
    return pixel_boxes(where, *model.shape[1:], model.span) * presence.unsqueeze(-1)
