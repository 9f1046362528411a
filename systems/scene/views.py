"""Painting and scoring views: every answer runs the model, or guide and model, under a plate of samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from phlogiston.errors import ShapeError, unknown_name
from phlogiston.guides.scene import SceneGuide
from phlogiston.models.scene import SceneModel, tempered
from phlogiston.networks.scene_memory import State

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
    """No gradients, no checks, and random numbers from `seed`, the caller's generator left as it was."""
    with torch.no_grad(), pyro.validation_enabled(False):
        if seed is None:
            yield
            return
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield


def turn_poses(xy: Sequence[float] | Tensor, frames: int) -> Tensor:
    """Poses of a camera that stands at `xy` and turns once around, to the left, from heading -3.13: (frames, 6)."""
    poses = torch.zeros(frames, 6)
    poses[:, :2] = torch.as_tensor(xy, dtype=torch.float32)
    poses[:, 3] = torch.linspace(-3.13, 3.13, frames)
    return poses


def sample_views(
    model: SceneModel,
    state: State,
    poses: Tensor,
    num_samples: int,
    temperature: float = 1.0,
    noise: bool = False,
    latents: bool = False,
    keep: Mapping[str, Tensor] | None = None,
    seed: int | None = None,
) -> Any:
    """Paint what could be seen from poses (queries, 6); see `Scene.sample_views`."""
    names = [f"z_{layer}" for layer in range(model.decoder.layers)]
    given = {}
    for name, value in (keep or {}).items():
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
                trace = poutine.trace(program).get_trace(query_poses=poses[None, part], state=state)
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
    guide: SceneGuide, state: State, images: Tensor, poses: Tensor, num_samples: int, seed: int | None
) -> Tensor:
    """Paint photographs anew by way of the guide's latents; see `Scene.reconstruct`."""
    parts = []
    for model_trace, _ in _pairs(guide, state, images, poses, num_samples, seed):
        mean = model_trace.nodes["x"]["fn"].mean
        parts.append(mean.expand(num_samples, *mean.shape[-5:])[:, 0])
    return torch.cat(parts, 1)


def log_weights(
    guide: SceneGuide,
    state: State,
    images: Tensor,
    poses: Tensor,
    num_particles: int,
    seed: int | None,
    keys: Sequence[int] | None = None,
) -> Tensor:
    """Log importance weights of every photograph: (num_particles, queries).

    With `keys` each photograph is drawn for alone, from its own seed, so that its weights do not depend on others.
    """
    parts = []
    for model_trace, guide_trace in _pairs(guide, state, images, poses, num_particles, seed, keys):
        model_trace.compute_log_prob()
        guide_trace.compute_log_prob()
        weight: Any = 0.0
        for trace, sign in ((model_trace, 1.0), (guide_trace, -1.0)):
            for site in trace.nodes.values():
                if site["type"] == "sample" and not type(site["fn"]).__name__.startswith("_Subsample"):
                    weight = weight + sign * site["log_prob"].double()
        parts.append(weight.expand(num_particles, *weight.shape[-2:])[:, 0])
    return torch.cat(parts, 1)


def _pairs(
    guide: SceneGuide,
    state: State,
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
        chosen = keys[start] if keys is not None else None if seed is None else seed + start
        with quiet(chosen), pyro.plate("samples", count, dim=-3):
            pair = traces(guide, state, images[None, part], poses[None, part])
        yield pair


def traces(guide: SceneGuide, state: State, images: Tensor, poses: Tensor) -> tuple[Any, Any]:
    """Run the guide on photographs (B, Q, ...), the model on its latents; return the model's trace and the guide's."""
    batch = {"query_poses": poses, "query_images": images, "state": state}
    guide_trace = poutine.trace(guide).get_trace(**batch)
    return poutine.trace(poutine.replay(guide.model, trace=guide_trace)).get_trace(**batch), guide_trace
