"""Grids of scenes: scenes laid side by side, remembered and queried together.

`SceneGrid` turns a split of scenes into what the scene model is trained on: each batch draws a side (single scenes, or
2 x 2 of them under one memory), shifts poses to where their scene lies in the grid, and draws which photographs are
seen and which are queried, separately for every scene. All randomness comes from torch's default generator, which the
engine reseeds at every step.

Symmetries augment small data: a scene rotated by a quarter turn, or mirrored, is a scene like any other. A rotation
changes poses only, a mirror exchanges left and right of every photograph (`turned`). What the camera writes into every
photograph at the same pixels (`display`) is not mirrored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from phlogiston.datasets.base import Split
from phlogiston.errors import ConfigError, DataError, unknown_name

if TYPE_CHECKING:
    from torch import Tensor

CORNER = -0.4
SYMMETRIES = ("none", "turns", "all")


class SceneGrid:
    """Rows of the engine: one per scene; a batch of scenes becomes a batch of grids.

    Args:
        split: `images` uint8 (N, V, H, W, 3) and `poses` (N, V, 5 or 6).
        context: photographs seen per scene.
        queries: photographs queried per scene.
        sides: scenes along a grid's side, one of which is drawn per batch.
        least: fewest photographs seen; their number is drawn per grid between it and `context`, few of them oftener.
        width: width of a scene.
        arena: scenes along the side of an area a grid is placed in at random; 0 leaves it at the origin.
        corner: smallest x and y of a scene.
        overlap: let a query be one of the photographs seen.
        symmetry: "none"; "turns" rotates each scene by a random number of quarter turns about its middle; "all" also
            mirrors every second one.

    Raises:
        DataError: the split holds no scenes, or too few photographs of them.
        ConfigError: numbers out of range.
    """

    sequences: frozenset[str] = frozenset()

    def __init__(
        self,
        split: Split,
        context: int = 8,
        queries: int = 3,
        sides: Sequence[int] = (1, 2),
        *,
        least: int | None = None,
        width: float = 0.7,
        arena: int = 0,
        corner: float = CORNER,
        overlap: bool = False,
        symmetry: str = "none",
    ) -> None:
        check_scenes(split.tensors)
        self.least = context if least is None else least
        if queries < 1 or not 0 <= self.least <= context or not sides or min(sides) < 1:
            raise ConfigError(
                f"context={context}, least={least}, queries={queries}, sides={tuple(sides)}: out of range."
            )
        views = split.tensors["images"].shape[1]
        if views < (max(context, queries) if overlap else context + queries):
            raise DataError(
                f"every scene has {views} photographs; {context} to be seen and {queries} to be queried need more."
            )
        if arena and arena < max(sides):
            raise ConfigError(f"arena={arena} is smaller than a grid of {max(sides)} scenes a side.")
        if symmetry not in SYMMETRIES:
            raise unknown_name("symmetry", symmetry, SYMMETRIES)
        self.images, self.poses = split.tensors["images"], six_axes(split.tensors["poses"])
        self.context, self.queries, self.sides = context, queries, tuple(sides)
        self.width, self.arena, self.corner, self.overlap = width, arena, corner, overlap
        self.symmetry = symmetry
        self.fixed = display(self.images.flatten(0, 1)) if symmetry == "all" else None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Tensor) -> dict[str, Tensor]:
        """Return grids of the scenes `index`, as arguments of the scene model."""
        import torch

        possible = [side for side in self.sides if len(index) % side**2 == 0] or [1]
        side = possible[int(torch.randint(len(possible), ()).numpy())]
        rows = index[:, None]
        chosen = torch.rand(len(index), self.images.shape[1]).argsort(1)
        seen = chosen[:, : self.context]
        queried = torch.rand(chosen.shape).argsort(1) if self.overlap else chosen[:, self.context :]
        queried = queried[:, : self.queries]
        both = torch.cat([seen, queried], 1)
        images, poses = self.images[rows, both], self.poses[rows, both]
        if self.symmetry != "none":
            quarters = torch.randint(4, (len(index),))
            mirror = torch.rand(len(index)) < 0.5 if self.symmetry == "all" else None
            images, poses = turned(images, poses, quarters, mirror, self.corner + 0.5 * self.width, self.fixed)
        count = seen.shape[1]
        batch = self.compose(side, images[:, :count], poses[:, :count], images[:, count:], poses[:, count:])
        if self.least < self.context:
            share = torch.rand(len(index) // side**2, 1) ** 1.5
            many = self.least + (share * (self.context - self.least + 1)).long()
            batch["obs_mask"] = (torch.arange(self.context)[None] < many).repeat(1, side**2)
        return batch

    def compose(
        self, side: int, images: Tensor, poses: Tensor, query_images: Tensor, query_poses: Tensor
    ) -> dict[str, Tensor]:
        """Lay scenes side by side.

        Args:
            side: scenes along a side; side^2 consecutive scenes make a grid, scene i side + j lying at (i, j).
            images: (scenes, V, H, W, 3).
            poses: (scenes, V, 6).
            query_images: (scenes, Q, H, W, 3).
            query_poses: (scenes, Q, 6).

        Returns:
            Arguments of the scene model, (grids, side^2 V, ...) and (grids, side^2 Q, ...).
        """
        import torch

        cells = side * side
        grids = len(images) // cells
        cell = torch.arange(cells)
        tile = torch.stack([cell // side, cell % side], 1).to(poses.dtype) * self.width  # (cells, 2)
        origin = torch.full((grids, 2), self.corner)
        if self.arena:
            origin = origin + torch.rand(grids, 2) * (self.arena - side) * self.width
        shift = (tile[None] + (origin - self.corner)[:, None]).reshape(-1, 1, 2)

        def lay(pictures: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
            moved = torch.cat([at[..., :2] + shift, at[..., 2:]], -1)
            flat = pictures.reshape(grids, -1, *pictures.shape[2:]).permute(0, 1, 4, 2, 3)
            return flat.contiguous(), moved.reshape(grids, -1, at.shape[-1])

        seen, where = lay(images, poses)
        queried, from_where = lay(query_images, query_poses)
        return {
            "images": seen,
            "poses": where,
            "query_poses": from_where,
            "query_images": queried,
            "origin": origin,
            "side": torch.full((grids,), side),
        }


def check_scenes(tensors: Mapping[str, Tensor]) -> None:
    """Check that rows are scenes: `images` (scenes, views, height, width, 3) with `poses` (scenes, views, 5 or 6).

    Raises:
        DataError: they are not.
    """
    for name, axes in (("images", 5), ("poses", 3)):
        if name not in tensors or tensors[name].dim() != axes or (name == "images" and tensors[name].shape[-1] != 3):
            given = ", ".join(f"{key} {tuple(tensor.shape)}" for key, tensor in tensors.items())
            raise DataError(
                "scenes need 'images' (scenes, views, height, width, 3) and 'poses' (scenes, views, 6); got "
                f"{given or 'nothing'}."
            )


def six_axes(poses: Tensor) -> Tensor:
    """Return poses with a roll of 0 where they have none: (..., 6)."""
    import torch

    return poses if poses.shape[-1] == 6 else torch.cat([poses, torch.zeros_like(poses[..., :1])], -1)


def display(photographs: Tensor, most: int = 500) -> Tensor:
    """Find what is written into photographs at the same pixels, whatever they show: numbers, symbols, a frame.

    Such pixels stand out from their neighbours by more on average than that varies from photograph to photograph; those
    within two pixels of them count, too.

    Args:
        photographs: (N, H, W, 3), of which `most`, evenly spaced, are looked at.

    Returns:
        bool (H, W), the same left and right: True at such pixels and their mirror images.
    """
    import torch
    from torch.nn import functional

    few = photographs[:: max(1, len(photographs) // most)].permute(0, 3, 1, 2).float()
    around = functional.avg_pool2d(functional.pad(few, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    out = few - around
    fixed = (out.mean(0).abs() > torch.maximum(out.std(0), torch.tensor(1.0))).any(0)
    fixed = functional.max_pool2d(fixed[None].float(), 5, stride=1, padding=2)[0] > 0  # plain parts of it, too
    return fixed | fixed.flip(-1)


def turned(
    images: Tensor,
    poses: Tensor,
    quarters: Tensor,
    mirror: Tensor | None,
    middle: float,
    fixed: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the photographs that would have been taken in rotated and mirrored scenes.

    Args:
        images: (N, V, H, W, 3).
        poses: (N, V, 6).
        quarters: int (N,), quarter turns to the left about the middle of each scene.
        mirror: bool (N,), scenes mirrored in x before they are rotated; None for none.
        middle: x and y of a scene's middle.
        fixed: bool (H, W), pixels that are not mirrored; see `display`.
    """
    import torch

    x, y, z, yaw, pitch, roll = poses.unbind(-1)
    x, y = x - middle, y - middle
    if mirror is not None:
        m = mirror[:, None]
        x, yaw, roll = torch.where(m, -x, x), torch.where(m, math.pi - yaw, yaw), torch.where(m, -roll, roll)
        moved = mirror[:, None, None, None, None]
        moved = moved if fixed is None else moved & ~fixed[..., None]
        images = torch.where(moved, images.flip(3), images)
    cos = torch.tensor([1.0, 0.0, -1.0, 0.0], dtype=poses.dtype)[quarters][:, None]
    sin = torch.tensor([0.0, 1.0, 0.0, -1.0], dtype=poses.dtype)[quarters][:, None]
    yaw = yaw + 0.5 * math.pi * quarters[:, None]
    yaw = torch.remainder(yaw + math.pi, 2 * math.pi) - math.pi
    return images, torch.stack([cos * x - sin * y + middle, sin * x + cos * y + middle, z, yaw, pitch, roll], -1)
