"""From places and options to networks: the schema, memory, decoder and guide, and what is kept with the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from phlogiston.datasets.base import Split
from phlogiston.datasets.generated.hotels import Hotels
from phlogiston.errors import DataError, ShapeError
from phlogiston.guides.scene import SceneGuide
from phlogiston.models.scene import SceneModel
from phlogiston.networks.draw import DrawDecoder
from phlogiston.networks.scene_memory import GraphMemory, PooledMemory
from phlogiston.systems.frames import refuse_zeros_and_ones

if TYPE_CHECKING:
    from phlogiston.systems.scene.system import Scene


def describe(system: Scene, train: Split) -> dict[str, Any]:
    """Size of the pictures, and what is kept of places to show."""
    rows = system.prepare(train)  # refuses what is no scene
    refuse_zeros_and_ones(rows.images, "images")
    height, width = rows.images.shape[2:4]
    if height != width or height % system.config.grid:
        raise ShapeError(
            f"pictures are {height} x {width}; expected squares whose side is a multiple of grid={system.config.grid}"
        )
    c = system.config
    low, high = c.corner, c.corner + c.tile
    at = rows.poses[..., :2]
    if bool((at < low).any()) or bool((at > high).any()):
        place = at[((at < low) | (at > high)).any(-1)][0].tolist()
        raise DataError(
            f"a photograph was taken at ({place[0]:.3g}, {place[1]:.3g}), outside the tile [{low:g}, {high:g}]; "
            "set options corner and tile to the extent of your places"
        )
    kept = system._shown if system._shown is not None else train
    count = min(len(kept), c.keep_scenes)
    shape = None
    if count:
        views = kept.tensors["images"].shape[1]
        map_shape = list(kept.tensors["map"].shape[1:3]) if "map" in kept.tensors else [0, 0]
        shape = [count, min(views, 16), *map_shape]
    return {"image": int(height), "kept": shape}


def initialise(system: Scene, train: Hotels) -> None:
    """Keep the mean photograph, and photographs of a few places, with the model."""
    rows = train.images[:2000].flatten(0, 1)
    system.model.mean_image.copy_(
        torch.stack([part.float().mean(0) for part in rows.split(4096)]).mean(0).permute(2, 0, 1) / 255
    )
    if system.schema["kept"] is None:
        return
    count, views = system.schema["kept"][:2]
    source = system._shown if system._shown is not None else Split({"images": train.images, "poses": train.poses})
    system.model.kept_images.copy_(source.tensors["images"][:count, :views])
    poses = source.tensors["poses"][:count, :views]
    system.model.kept_poses[..., : poses.shape[-1]].copy_(poses)
    if "map" in source.tensors:
        system.model.kept_maps.copy_(source.tensors["map"][:count])


def build(system: Scene) -> None:
    """Memory, decoder, and the guide's encoder."""
    c = system.config
    memory: Any
    if c.memory == "graph":
        memory = GraphMemory(c.bins, c.values, c.code, c.nodes, c.steps_between, c.write, c.encoder)
    else:
        memory = PooledMemory(c.bins, c.values, c.pool, c.arena, c.tile, c.corner, c.encoder)
    decoder = DrawDecoder(
        memory,
        system.schema["image"],
        c.grid,
        c.hidden,
        c.latent,
        c.layers,
        c.kernel,
        c.static_kernel,
        c.width,
        c.poses,
        c.output,
        c.canvas,
        c.draft,
        c.prior_context,
        c.blocks,
        c.whole,
        c.parts,
    )
    system.model = SceneModel(memory, decoder, c.tile, c.likelihood, c.sigma)
    system.guide = SceneGuide(system.model, c.hidden, c.kernel, c.hidden, c.reduce, c.residual)
    side = system.schema["image"]
    system.model.register_buffer("mean_image", torch.zeros(3, side, side))
    if system.schema["kept"] is not None:
        count, views, *extent = system.schema["kept"]
        system.model.register_buffer("kept_images", torch.zeros(count, views, side, side, 3, dtype=torch.uint8))
        system.model.register_buffer("kept_poses", torch.zeros(count, views, 6))
        system.model.register_buffer("kept_maps", torch.zeros(count, *extent, 3, dtype=torch.uint8))
