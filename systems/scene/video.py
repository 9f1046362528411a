"""The video of turning round in scenes: painted views on the left, a map with the nodes that are read on the right."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from phlogiston.datasets.base import Array
from phlogiston.errors import ConfigError
from phlogiston.models.scene import SceneModel
from phlogiston.systems.scene.memory import Memory, observe, tile
from phlogiston.systems.scene.views import sample_views, turn_poses

SIDE = 192  # pixels of each half


def kept_memory(model: SceneModel, scene: int, context: int, corner: float) -> Memory:
    """Return a memory of one of the scenes kept with the model: of its first `context` photographs."""
    kept: Any = model
    return observe(model, kept.kept_images[scene, :context], kept.kept_poses[scene, :context], 1, corner)


def turn_video(
    model: SceneModel,
    corner: float,
    side: int = 0,
    context: int = 8,
    points: int = 1,
    frames: int = 11,
    temperature: float = 1.0,
    seed: int | None = None,
) -> Tensor:
    """Lay kept scenes side by side, stand in each, turn round: uint8 (time, SIDE, 2 SIDE, 3).

    Args:
        model: the fitted model, with scenes kept.
        corner: smallest x and y of a scene.
        side: scenes along a side of the grid; 0 for as many as were kept, up to 3.
        context: photographs of each scene that are seen.
        points: standing points per scene, those with most photographs nearby.
        frames: per turn.
        temperature: of the latents' priors.
        seed: of the draws; one for each turn.

    Raises:
        ConfigError: more scenes than were kept, or no frames.
    """
    count = len(model.get_buffer("kept_images"))
    side = side or max(k for k in (1, 2, 3) if k * k <= count)
    if side * side > count:
        raise ConfigError(f"a grid of {side} x {side} scenes needs {side * side}; the model keeps {count}.")
    if frames < 1:
        raise ConfigError(f"frames must be at least 1; got {frames}")
    memory = grid_memory(model, side, context, corner)
    ground = backdrop(model, memory)
    out = []
    for number in range(side * side):
        for xy in standing_points(model, memory, number, points):
            poses = turn_poses(xy, frames)
            pictures = sample_views(model, memory.state, poses, 1, temperature, seed=seed)[0]
            out += [beside(p, ground, memory, pose) for p, pose in zip(pictures, poses, strict=True)]
    return torch.from_numpy(np.stack(out))


def grid_memory(model: SceneModel, side: int, context: int, corner: float) -> Memory:
    """Return one memory of kept scenes laid side by side."""
    if model.memory.keeps_places:
        return tile([kept_memory(model, i, context, corner) for i in range(side * side)])
    memory = observe(model, None, None, side, corner)
    for i in range(side * side):
        poses = model.get_buffer("kept_poses")[i, :context].clone()
        poses[:, :2] += torch.tensor([i // side, i % side]) * model.width
        memory.add(model.get_buffer("kept_images")[i, :context], poses)
    return memory


def standing_points(model: SceneModel, memory: Memory, number: int, count: int) -> list[tuple[float, float]]:
    """Where most photographs of a scene were taken from: the cells of a 5 x 5 raster with most of them."""
    at = model.get_buffer("kept_poses")[number, :, :2].clone()
    width = model.width
    inside = ((at - memory.area[0]) / width * 5).long().clamp(0, 4)
    cell = inside[:, 0] * 5 + inside[:, 1]
    shift = torch.tensor([number // memory.side, number % memory.side]) * width
    order = torch.bincount(cell, minlength=25).argsort(descending=True, stable=True)
    points = []
    for chosen in order[:count].tolist():
        here = at[cell == chosen]
        point = here[0] if len(here) else at.mean(0)
        points.append((float(point[0] + shift[0]), float(point[1] + shift[1])))
    return points


def backdrop(model: SceneModel, memory: Memory) -> Array:
    """The ground from above, float (SIDE, SIDE, 3), north at the top: the true map where one is kept, else colours of
    the floor as the photographs show it near their lower edge."""
    side = memory.side
    maps = model.get_buffer("kept_maps")
    if maps.shape[1]:
        rows = [np.concatenate([maps[i * side + j].numpy() for i in range(side)], 1) for j in reversed(range(side))]
        whole = np.concatenate(rows, 0).astype(np.float32) / 255.0
        index = (np.arange(SIDE) * len(whole) / SIDE).astype(int)
        return whole[index][:, index] * 0.85
    x0, y0, x1, y1 = memory.area
    ground = np.full((SIDE, SIDE, 3), 0.25, dtype=np.float32)
    weight = np.full((SIDE, SIDE, 1), 1e-3, dtype=np.float32)
    px = x0 + (np.arange(SIDE) + 0.5) / SIDE * (x1 - x0)
    py = y1 - (np.arange(SIDE) + 0.5) / SIDE * (y1 - y0)
    total = ground * weight
    for number in range(side * side):
        shift = np.array([number // side, number % side]) * model.width
        images, poses = model.get_buffer("kept_images")[number], model.get_buffer("kept_poses")[number].numpy()
        for image, pose in zip(images, poses, strict=True):
            picture = image.numpy().astype(np.float32) / 255.0
            low = picture[int(0.8 * len(picture)) : int(0.93 * len(picture))]
            ahead = 0.06 * np.array([np.cos(pose[3]), np.sin(pose[3])])
            at = pose[:2] + shift + ahead
            near = np.exp(-((px[None] - at[0]) ** 2 + (py[:, None] - at[1]) ** 2) / (2 * 0.03**2))[..., None]
            total = total + near * low.mean((0, 1))
            weight = weight + near
    return np.asarray(total / weight, dtype=np.float32)


def beside(picture: Tensor, ground: Array, memory: Memory, pose: Tensor) -> Array:
    """One frame: a painted picture and the map it was painted at, uint8 (SIDE, 2 SIDE, 3)."""
    size = picture.shape[-1]
    index = (np.arange(SIDE) * size // SIDE).astype(int)
    left = picture.permute(1, 2, 0).clamp(0, 1).numpy()[index][:, index]
    right = ground.copy()
    x0, y0, x1, _ = memory.area
    scale = SIDE / (x1 - x0)
    column, row = np.meshgrid(np.arange(SIDE) + 0.5, np.arange(SIDE) + 0.5)

    def pixel(at: Array) -> tuple[float, float]:
        return float((at[0] - x0) * scale), float(SIDE - (at[1] - y0) * scale)

    def disc(at: Array, radius: float, colour: tuple[float, float, float], opacity: float) -> None:
        x, y = pixel(at)
        inside = ((column - x) ** 2 + (row - y) ** 2 < radius**2)[..., None] * opacity
        right[:] = right * (1 - inside) + np.asarray(colour, dtype=np.float32) * inside

    radius = max(1.2, SIDE / (memory.side * 40))
    for at in memory.nodes().numpy():
        disc(at, radius, (1.0, 1.0, 1.0), 0.75)
    if memory.model.memory.keeps_places:
        active = memory.attribution(pose)
        for at, weight in zip(active.positions.numpy(), active.weights.tolist(), strict=True):
            disc(at, 1.8 * radius, (0.86, 0.08, 0.1), weight)
    x, y = pixel(pose[:2].numpy())
    angle = np.arctan2(-(row - y), column - x) - float(pose[3])
    angle = np.abs((angle + np.pi) % (2 * np.pi) - np.pi)
    reach = np.hypot(column - x, row - y)
    cone = ((angle < np.pi / 4) & (reach < 0.22 * SIDE / memory.side))[..., None] * 0.45
    right[:] = right * (1 - cone) + np.asarray((1.0, 0.95, 0.3), dtype=np.float32) * cone
    disc(pose[:2].numpy(), 1.2 * radius, (0.05, 0.05, 0.05), 1.0)
    whole = np.concatenate([left, right], 1)
    return np.asarray(np.round(255 * np.clip(whole, 0, 1)), dtype=np.uint8)
