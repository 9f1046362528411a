"""Painting and scoring views: every answer runs the model, or guide and model, under a plate of samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from phlogiston.errors import ShapeError, unknown_name
from phlogiston.models.scene_latents import tempered

if TYPE_CHECKING:
    from phlogiston.systems.scene.memory import Memory
    from phlogiston.systems.scene.system import Scene

PICTURES = 512  # painted at once


class Temper(Messenger):
    """Multiplies the standard deviations of the latents' priors.

    Args:
        temperature: factor, not negative.
    """

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and str(msg["name"]).startswith("z_"):
            msg["fn"] = tempered(msg["fn"], self.temperature).expand(msg["fn"].batch_shape)


@contextmanager
def quiet(seed: int | None) -> Iterator[None]:
    """No gradients, no checks, and chance from `seed`, the caller's own left as it was."""
    with torch.no_grad(), pyro.validation_enabled(False):
        if seed is None:
            yield
            return
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield


def sample_views(
    system: Scene,
    memory: Memory,
    poses: Tensor,
    num_samples: int,
    temperature: float,
    noise: bool,
    latents: bool,
    keep: dict[str, Tensor],
    seed: int | None,
) -> Any:
    """See `Scene.sample_views`."""
    model = system.model
    names = [f"z_{layer}" for layer in range(model.decoder.layers)]
    given = {}
    for name, value in keep.items():
        if name not in names:
            raise unknown_name("latent to keep", name, names)
        want = (num_samples, len(poses), *model.decoder.shapes[names.index(name)])
        shape = tuple(value.shape)
        if shape not in (want, want[1:]):
            raise ShapeError(f"keep[{name!r}] has shape {shape}; expected {want[1:]} or {want}.")
        given[name] = value.expand(want)[:, None]
    pictures, drawn = [], []
    with quiet(seed):
        step = max(1, PICTURES // num_samples)
        for start in range(0, len(poses), step):
            part = slice(start, start + step)
            here = {name: value[:, :, part] for name, value in given.items()}
            program = poutine.condition(model, data=here) if here else model
            with pyro.plate("samples", num_samples, dim=-3), Temper(temperature):
                trace = poutine.trace(program).get_trace(query_poses=poses[None, part], state=memory.state)
            site: Any = trace.nodes["x"]
            value = site["value"] if noise else site["fn"].mean
            pictures.append(value.expand(num_samples, *value.shape[-5:])[:, 0])
            values: dict[str, Any] = {name: trace.nodes[name]["value"] for name in names}
            drawn.append({name: value[:, 0] for name, value in values.items()})
    if not pictures:
        side = model.decoder.image
        pictures = [torch.zeros(num_samples, 0, 3, side, side)]
    out = torch.cat(pictures, 1)
    if not latents:
        return out
    return out, {name: torch.cat([part[name] for part in drawn], 1) for name in names}


def reconstruct(
    system: Scene, memory: Memory, images: Tensor, poses: Tensor, num_samples: int, seed: int | None
) -> Tensor:
    """See `Scene.reconstruct`."""
    found = []
    for model_trace, _ in _pairs(system, memory, images, poses, num_samples, seed):
        mean = model_trace.nodes["x"]["fn"].mean
        found.append(mean.expand(num_samples, *mean.shape[-5:])[:, 0])
    return torch.cat(found, 1)


def log_weights(
    system: Scene,
    memory: Memory,
    images: Tensor,
    poses: Tensor,
    num_particles: int,
    seed: int | None,
    keys: Sequence[int] | None = None,
) -> Tensor:
    """Log importance weights of every photograph: (num_particles, queries).

    With `keys` each photograph is drawn for alone, from its own seed, so that its weights do not depend on others.
    """
    found = []
    for model_trace, guide_trace in _pairs(system, memory, images, poses, num_particles, seed, keys):
        model_trace.compute_log_prob()
        guide_trace.compute_log_prob()
        weight: Any = 0.0
        for trace, sign in ((model_trace, 1.0), (guide_trace, -1.0)):
            for site in trace.nodes.values():
                if site["type"] == "sample" and not type(site["fn"]).__name__.startswith("_Subsample"):
                    weight = weight + sign * site["log_prob"].double()
        found.append(weight.expand(num_particles, *weight.shape[-2:])[:, 0])
    return torch.cat(found, 1)


def _pairs(
    system: Scene,
    memory: Memory,
    images: Tensor,
    poses: Tensor,
    count: int,
    seed: int | None,
    keys: Sequence[int] | None = None,
) -> Iterator[tuple[Any, Any]]:
    """Run guide and model on photographs, a chunk at a time; the noise of each chunk is the same for equal seeds."""
    step = max(1, PICTURES // count) if keys is None else 1
    for start in range(0, len(poses), step):
        part = slice(start, start + step)
        batch = {"query_poses": poses[None, part], "query_images": images[None, part], "state": memory.state}
        chosen = keys[start] if keys is not None else None if seed is None else seed + start
        with quiet(chosen), pyro.plate("samples", count, dim=-3):
            guide_trace = poutine.trace(system.guide).get_trace(**batch)
            model_trace = poutine.trace(poutine.replay(system.model, trace=guide_trace)).get_trace(**batch)
        yield model_trace, guide_trace
