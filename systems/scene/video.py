"""The film of a turn: what the model paints on the left, a map with the nodes it asks on the right."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from phlogiston.datasets.base import Array
from phlogiston.errors import ConfigError
from phlogiston.evaluate import figures as draw
from phlogiston.systems.scene.memory import Memory, tile

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from phlogiston.systems.scene.system import Scene

SIDE = 192  # pixels of each half


def film(
    system: Scene, side: int, context: int, points: int, frames: int, temperature: float, seed: int | None
) -> Tensor:
    """Lay kept places side by side, stand in each, turn round: uint8 (time, SIDE, 2 SIDE, 3).

    Args:
        system: the fitted system.
        side: places along a side; 0 for as many as were kept, up to 3.
        context: photographs of each place that are seen.
        points: standing points per place, those with most photographs nearby.
        frames: per turn.
        temperature: of the latents' priors.
        seed: of the draws; one for each turn.

    Raises:
        ConfigError: more places than were kept.
    """
    kept = len(system.model.kept_images)
    side = side or max(k for k in (1, 2, 3) if k * k <= kept)
    if side * side > kept:
        raise ConfigError(f"a square of {side} x {side} places needs {side * side}; the model keeps {kept}.")
    if frames < 1:
        raise ConfigError(f"frames must be at least 1; got {frames}")
    memory = remembered(system, side, context)
    ground = backdrop(system, memory)
    out = []
    for number in range(side * side):
        for xy in standing_points(system, memory, number, points):
            pictures, poses = system.turn(memory, xy, frames, temperature=temperature, seed=seed)
            out += [beside(p, ground, memory, pose) for p, pose in zip(pictures, poses, strict=True)]
    return torch.from_numpy(np.stack(out))


def strip(system: Scene, side: int = 0, context: int = 8, rows: int = 3, frames: int = 5) -> Figure:
    """Stills of the film: a turn in some of the places, one a row, and the map with what was asked on the right.

    Args:
        system: the fitted system.
        side: places along a side of the memory; 0 for as many as were kept, up to 3.
        context: photographs of each place that are seen.
        rows: places shown, evenly spaced over all.
        frames: per turn.
    """
    # the last frame of a turn is the first again
    pictures = film(system, side, context, 1, frames + 1, 1.0, 0).unflatten(0, (-1, frames + 1))
    chosen = torch.linspace(0, len(pictures) - 1, rows).round().long().tolist()
    kept = round(len(pictures) ** 0.5)
    figure = draw.new_figure(
        1.5 * (frames + 1) + 0.2,
        1.5 * rows + 0.25,
        f"turning round in {rows} of {len(pictures)} places laid {kept} x {kept} in one memory: painted views, and the "
        "map with the places' nodes",
    )
    places = figure.subplots(rows, frames + 1, squeeze=False)
    figure.set_layout_engine("constrained", w_pad=0.02, h_pad=0.02, wspace=0.0, hspace=0.0)
    for i, number in enumerate(chosen):
        stills = [*pictures[number, :frames, :, :SIDE], pictures[number, frames // 2, :, SIDE:]]
        for place, still in zip(places[i], stills, strict=True):
            place.imshow(still.numpy(), interpolation="nearest")
            place.set_axis_off()
    for j in range(frames):
        places[0, j].set_title(f"{round(360 * j / frames)}°", fontsize=8)
    places[0, frames].set_title("map", fontsize=8)
    return figure


def remembered(system: Scene, side: int, context: int) -> Memory:
    """One memory of kept places laid side by side."""
    if system.model.memory.keeps_places:
        return tile([system.kept(i, context) for i in range(side * side)])
    memory = system.observe(side=side)
    for i in range(side * side):
        poses = system.model.kept_poses[i, :context].clone()
        poses[:, :2] += torch.tensor([i // side, i % side]) * system.config.tile
        memory.add(system.model.kept_images[i, :context], poses)
    return memory


def standing_points(system: Scene, memory: Memory, number: int, count: int) -> list[tuple[float, float]]:
    """Where most photographs of a place were taken from: the cells of a 5 x 5 raster with most of them."""
    at = system.model.kept_poses[number, :, :2].clone()
    width = system.config.tile
    inside = ((at - system.config.corner) / width * 5).long().clamp(0, 4)
    cell = inside[:, 0] * 5 + inside[:, 1]
    shift = torch.tensor([number // memory.side, number % memory.side]) * width
    order = torch.bincount(cell, minlength=25).argsort(descending=True, stable=True)
    found = []
    for chosen in order[:count].tolist():
        here = at[cell == chosen]
        place = here[0] if len(here) else at.mean(0)
        found.append((float(place[0] + shift[0]), float(place[1] + shift[1])))
    return found


def backdrop(system: Scene, memory: Memory) -> Array:
    """The ground from above, float (SIDE, SIDE, 3), north at the top: the true map where one is kept, else colours of
    the floor as the photographs show it near their lower edge."""
    side = memory.side
    maps = system.model.kept_maps
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
        shift = np.array([number // side, number % side]) * system.config.tile
        for image, pose in zip(system.model.kept_images[number], system.model.kept_poses[number].numpy(), strict=True):
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
    if memory.system.model.memory.keeps_places:
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
