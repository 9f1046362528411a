"""From scenes and options to networks: the schema, memory, decoder and guide, and what is kept with the model."""

from __future__ import annotations

from typing import Any

import torch

from phlogiston.datasets.base import Split
from phlogiston.datasets.generated.scene_grid import SceneGrid
from phlogiston.errors import DataError, ShapeError
from phlogiston.guides.scene import SceneGuide
from phlogiston.models.scene import SceneModel
from phlogiston.networks.draw import DrawDecoder, DrawEncoder
from phlogiston.networks.scene_memory import GraphMemory, PooledMemory
from phlogiston.systems.frames import refuse_zeros_and_ones
from phlogiston.systems.options import from_config
from phlogiston.systems.scene.config import Config

KEPT_VIEWS = 16  # at most so many photographs of each scene that is kept with the model


def describe(config: Config, rows: SceneGrid, kept: Split) -> dict[str, Any]:
    """Return the schema: the size of the pictures, and the shape of what is kept with the model.

    Args:
        config: the options.
        rows: prepared training rows.
        kept: scenes of which the first are kept.

    Raises:
        ShapeError: pictures of a size that the options do not allow.
        DataError: a camera outside the extent that the options give a scene.
    """
    refuse_zeros_and_ones(rows.images, "images")
    height, width = rows.images.shape[2:4]
    if height != width or height % config.grid:
        raise ShapeError(
            f"pictures are {height} x {width}; expected squares whose side is a multiple of grid={config.grid}"
        )
    low, high = config.corner, config.corner + config.tile
    at = rows.poses[..., :2]
    outside = ((at < low) | (at > high)).any(-1)
    if bool(outside.any()):
        x, y = at[outside][0].tolist()
        raise DataError(
            f"a photograph was taken at ({x:.3g}, {y:.3g}), outside the tile [{low:g}, {high:g}]; "
            "set options corner and tile to the extent of your scenes"
        )
    count = min(len(kept), config.keep_scenes)
    shape = None
    if count:
        views = kept.tensors["images"].shape[1]
        map_shape = list(kept.tensors["map"].shape[1:3]) if "map" in kept.tensors else [0, 0]
        shape = [count, min(views, KEPT_VIEWS), *map_shape]
    return {"image": int(height), "kept": shape}


def initialise(model: SceneModel, rows: SceneGrid, kept: Split) -> None:
    """Store the mean photograph, and photographs of a few scenes, in the model's buffers.

    Args:
        model: as `build` made it.
        rows: prepared training rows, of which the mean is taken.
        kept: scenes of which the first are kept.
    """
    photographs = rows.images[:2000].flatten(0, 1)
    mean = torch.stack([part.float().mean(0) for part in photographs.split(4096)]).mean(0)
    model.get_buffer("mean_image").copy_(mean.permute(2, 0, 1) / 255)
    buffers = dict(model.named_buffers(recurse=False))
    if "kept_images" not in buffers:
        return
    count, views = buffers["kept_images"].shape[:2]
    buffers["kept_images"].copy_(kept.tensors["images"][:count, :views])
    poses = kept.tensors["poses"][:count, :views]
    buffers["kept_poses"][..., : poses.shape[-1]].copy_(poses)
    if "map" in kept.tensors:
        buffers["kept_maps"].copy_(kept.tensors["map"][:count])


def build(config: Config, schema: dict[str, Any]) -> tuple[SceneModel, SceneGuide]:
    """Make the pair: memory, decoder, and the guide's encoder.

    Args:
        config: the options.
        schema: see `describe`.
    """
    c, side = config, schema["image"]
    memory: Any
    if c.memory == "graph":
        memory = from_config(GraphMemory, c, steps=c.steps_between, widths=c.encoder)
    else:
        memory = from_config(PooledMemory, c, widths=c.encoder)
    decoder = from_config(DrawDecoder, c, memory=memory, image=side, size=c.grid)
    model = from_config(SceneModel, c, memory=memory, decoder=decoder, width=c.tile, most=c.context)
    guide = SceneGuide(model, from_config(DrawEncoder, c, decoder=decoder, features=c.hidden))
    model.register_buffer("mean_image", torch.zeros(3, side, side))
    if schema["kept"] is not None:
        count, views, *extent = schema["kept"]
        model.register_buffer("kept_images", torch.zeros(count, views, side, side, 3, dtype=torch.uint8))
        model.register_buffer("kept_poses", torch.zeros(count, views, 6))
        model.register_buffer("kept_maps", torch.zeros(count, *extent, 3, dtype=torch.uint8))
    return model, guide
