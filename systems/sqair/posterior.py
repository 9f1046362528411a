"""What a trained SQAIR believes about films: weighted particles, and futures and what-ifs that start from them.

Everything runs the programs that were trained, through Pyro's handlers: the guide proposes, the model is replayed for
the weights, conditioned for what-ifs, and run on by itself for the future.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from phlogiston.errors import ConfigError, DataError, ShapeError
from phlogiston.models.sqair import SQAIRModel, State
from phlogiston.networks.spatial import pixel_boxes

_PARTICLES = "particles"


@dataclass
class Posterior:
    """Weighted particles of some films; K particles, R films, T frames, N places.

    Attributes:
        log_weights: (K, R), nats, of whole films.
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
        """Importance-weighted bound per film, nats."""
        return torch.logsumexp(self.log_weights, 0) - math.log(len(self.log_weights))

    def ess(self) -> Tensor:
        """Effective number of particles per film."""
        return 1.0 / self.weights.square().sum(0)

    def count_probability(self, most: int) -> Tensor:
        """Probability of each number of objects, (R, T, most + 1)."""
        counts = self.presence.sum(-1).long()
        shown = torch.nn.functional.one_hot(counts, most + 1).to(self.weights.dtype)
        return torch.einsum("kr,krtc->rtc", self.weights, shown)

    def pick(self, generator: torch.Generator | None = None, best: bool = False) -> dict[str, Tensor]:
        """One particle per film, drawn by weight, or the best: tensors (R, T, ...) by name."""
        if best:
            chosen = self.log_weights.argmax(0)
        else:
            chosen = torch.multinomial(self.weights.T, 1, generator=generator).squeeze(1)
        rows = torch.arange(len(chosen))
        names = ("presence", "where", "what", "ids", "canvas")
        return {n: v[chosen, rows] for n in names if (v := getattr(self, n)) is not None}


def run(
    model: SQAIRModel,
    guide: Any,
    x: Tensor,
    particles: int,
    *,
    mask: Tensor | None = None,
    start: tuple[State, Tensor | None] | None = None,
    canvas: bool = True,
) -> Posterior:
    """Filter films.

    Args:
        model: the generative program.
        guide: its guide.
        x: films.
        particles: K.
        mask: True where pixels are known.
        start: state and guide's memory to go on from, tensors (K, R, ...).
        canvas: keep the pictures, too.
    """
    if particles < 1:
        raise ConfigError(f"particles={particles}: at least 1 is needed.")
    options: dict[str, Any] = {"x": x} if mask is None else {"x": x, "mask": mask}
    with torch.no_grad(), pyro.plate(_PARTICLES, particles, dim=-2), pyro.validation_enabled(False):
        proposed = poutine.trace(guide).get_trace(**options, start=start)
        state = None if start is None else start[0]
        target = poutine.trace(poutine.replay(model, trace=proposed)).get_trace(**options, start=state)
        proposed.compute_log_prob()
        target.compute_log_prob()
    weights = _total(target) - _total(proposed)
    states: list[State] = list(target.nodes["_RETURN"]["value"])  # type: ignore[arg-type]
    rows = len(x)
    shape = (particles, rows)
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
    found = [site["log_prob"] for site in trace.nodes.values() if site["type"] == "sample" and "log_prob" in site]
    plates = [site for site in found if isinstance(site, Tensor) and site.dim() >= 1]
    return torch.stack(torch.broadcast_tensors(*plates)).sum(0)


def chunks(x: Tensor, mask: Tensor | None, size: int) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Some films at a time."""
    for start in range(0, len(x), size):
        yield x[start : start + size], None if mask is None else mask[start : start + size]


def resampled(found: Posterior, samples: int) -> tuple[State, Tensor | None]:
    """Last states drawn by weight, tensors (samples, R, ...)."""
    chosen = torch.multinomial(found.weights.T, samples, replacement=True).T  # (samples, R)
    rows = torch.arange(chosen.shape[1])
    memory = None if found.last_memory is None else found.last_memory[chosen, rows]
    return found.last.map(lambda part: part[chosen, rows]), memory


def go_on(model: SQAIRModel, start: State, frames: int, births: bool) -> tuple[Tensor, list[State]]:
    """Let films run on by the model alone.

    Args:
        model: the generative program.
        start: tensors (samples, R, ...).
        frames: how many more.
        births: whether new objects may appear.

    Returns:
        Means of the frames (samples, R, frames, channels, height, width), and the states.
    """
    samples, rows = start.born.shape
    program: Callable[..., Any] = model
    if not births:
        none = torch.zeros(samples, rows, dtype=torch.long)
        data = {f"t{start.time + 1 + i}/births": none for i in range(frames)}
        program = poutine.condition(model, data=data)
    with torch.no_grad(), pyro.plate(_PARTICLES, samples, dim=-2), pyro.validation_enabled(False):
        states: list[State] = program(frames=frames, rows=rows, start=start)
    return torch.stack([s.canvas for s in states], 2), states


def draw(model: SQAIRModel, films: int, frames: int, count: int | None) -> tuple[Tensor, list[State]]:
    """Films from the prior, with a given number of objects in the first frame if wanted: pixels and states."""
    program: Callable[..., Any] = model
    if count is not None:
        if not 0 <= count <= model.slots:
            raise ConfigError(f"count={count}: this model has room for 0 .. {model.slots} objects.")
        program = poutine.condition(model, data={"t0/births": torch.full((films,), count, dtype=torch.long)})
    with torch.no_grad(), pyro.validation_enabled(False):
        trace = poutine.trace(program).get_trace(frames=frames, rows=films)
    pixels: Any = trace.nodes["x"]["value"]
    states: Any = trace.nodes["_RETURN"]["value"]
    return pixels, states


def latents(found: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Scenes of one particle, frame by frame: presence, where, what and ids, (R, N, ...) each."""
    frames = found["presence"].shape[1]
    return [{n: found[n][:, t].clone() for n in ("presence", "where", "what", "ids")} for t in range(frames)]


def edit(
    scenes: list[dict[str, Tensor]],
    *,
    remove: int | None = None,
    move: tuple[int, float, float] | None = None,
    swap: tuple[int, int] | None = None,
    shape: tuple[int, int, int],
    first: int = 0,
) -> list[dict[str, Tensor]]:
    """Change one object of one film's scenes from a frame on.

    Args:
        scenes: as `latents` gives them, of one film.
        remove: identity of the object to take away.
        move: identity, and pixels to the right and down.
        swap: two identities that exchange what they look like.
        shape: channels, height, width of frames.
        first: the first frame changed.

    Raises:
        DataError: no such object.
        ShapeError: scenes of several films.
    """
    from phlogiston.networks.spatial import moved

    if scenes and len(scenes[0]["presence"]) != 1:
        raise ShapeError("an edit changes one film; give x of shape (1, frames, ...).")
    known = sorted({int(i) for scene in scenes for i in scene["ids"].flatten() if i >= 0})
    for name in [remove, None if move is None else move[0], *(swap or ())]:
        if name is not None and name not in known:
            raise DataError(f"there is no object {name} in this film; its identities are {known}.")
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
                changed["where"][chosen] = moved(changed["where"][chosen], step, shape[1], shape[2])
            if swap is not None:
                a, b = (changed["ids"] == name for name in swap)
                if bool(a.any()) and bool(b.any()):
                    changed["what"][a], changed["what"][b] = changed["what"][b].clone(), changed["what"][a].clone()
        out.append(changed)
    return out


def show(model: SQAIRModel, scenes: list[dict[str, Tensor]]) -> Tensor:
    """Mean pictures of scenes, (R, T, channels, height, width)."""
    out = []
    with torch.no_grad():
        for scene in scenes:
            places = scene["presence"].shape
            glimpse = model.decode(scene["what"].reshape(-1, model.features))
            glimpse = glimpse.reshape(*places, *glimpse.shape[1:])
            canvas, covers = model.render(scene["presence"], scene["where"], glimpse)
            out.append(model.likelihood(canvas.unsqueeze(1), None if covers is None else covers.unsqueeze(1)).mean)
    return torch.cat(out, 1)


def boxes(where: Tensor, presence: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Boxes in pixels (..., 4) as x, y, width, height; zero where nothing is."""
    return pixel_boxes(where, shape[1], shape[2]) * presence.unsqueeze(-1)
