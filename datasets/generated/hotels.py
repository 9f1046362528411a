"""Hotels: mazes laid side by side, photographed and asked about together.

`Hotels` turns a split of places into what the scene model is trained on: each call draws a side (one maze, or 2 x 2 of
them under one memory), shifts poses to where their maze stands, and draws which photographs are seen and which are
asked for, separately for every maze. All chance comes from torch's default generator, which the engine sets anew for
every step.

Few places can be made to count for more: a maze turned by a quarter, or seen in a mirror, is a maze like any other.
Turning changes poses only, a mirror exchanges left and right of every photograph (`turned`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from phlogiston.datasets.base import Split
from phlogiston.errors import ConfigError, DataError, unknown_name

if TYPE_CHECKING:
    from torch import Tensor

CORNER = -0.4
SYMMETRIES = ("none", "turns", "all")


class Hotels:
    """Rows of the engine: one per maze; a batch of mazes becomes a batch of hotels.

    Args:
        split: `images` uint8 (N, V, H, W, 3) and `poses` (N, V, 5 or 6).
        context: photographs seen per maze.
        queries: photographs asked for per maze.
        sides: mazes along a hotel's side, one of which is drawn per batch.
        least: fewest photographs seen; their number is drawn per hotel between it and `context`.
        width: width of a maze.
        arena: mazes along the side of an area a hotel is placed in at random; 0 leaves it at the origin.
        corner: smallest x and y of a maze.
        overlap: let a query be one of the photographs seen.
        symmetry: "none"; "turns" turns each maze by a random number of quarters about its middle; "all" mirrors every
            second one, too.

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
        for name, axes in (("images", 5), ("poses", 3)):
            if name not in split.tensors or split.tensors[name].dim() != axes:
                raise DataError(
                    f"scenes need 'images' (places, views, height, width, 3) and 'poses' (places, views, 6); got "
                    f"{split}."
                )
        self.least = context if least is None else least
        if queries < 1 or not 0 <= self.least <= context or not sides or min(sides) < 1:
            raise ConfigError(
                f"context={context}, least={least}, queries={queries}, sides={tuple(sides)}: out of range."
            )
        views = split.tensors["images"].shape[1]
        if views < (max(context, queries) if overlap else context + queries):
            raise DataError(
                f"every place has {views} photographs; {context} to be seen and {queries} to be asked for need more."
            )
        if arena and arena < max(sides):
            raise ConfigError(f"arena={arena} is smaller than a hotel of {max(sides)} mazes a side.")
        if symmetry not in SYMMETRIES:
            raise unknown_name("symmetry", symmetry, SYMMETRIES)
        self.images, self.poses = split.tensors["images"], six_axes(split.tensors["poses"])
        self.context, self.queries, self.sides = context, queries, tuple(sides)
        self.width, self.arena, self.corner, self.overlap = width, arena, corner, overlap
        self.symmetry = symmetry

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Tensor) -> dict[str, Tensor]:
        """Return hotels of the mazes `index`, as arguments of the scene model."""
        import torch

        possible = [side for side in self.sides if len(index) % side**2 == 0] or [1]
        side = possible[int(torch.randint(len(possible), ()))]
        rows = index[:, None]
        chosen = torch.rand(len(index), self.images.shape[1]).argsort(1)
        seen = chosen[:, : self.context]
        asked = torch.rand(chosen.shape).argsort(1) if self.overlap else chosen[:, self.context :]
        asked = asked[:, : self.queries]
        both = torch.cat([seen, asked], 1)
        images, poses = self.images[rows, both], self.poses[rows, both]
        if self.symmetry != "none":
            quarters = torch.randint(4, (len(index),))
            mirror = torch.rand(len(index)) < 0.5 if self.symmetry == "all" else None
            images, poses = turned(images, poses, quarters, mirror, self.corner + 0.5 * self.width)
        count = seen.shape[1]
        batch = self.compose(side, images[:, :count], poses[:, :count], images[:, count:], poses[:, count:])
        if self.least < self.context:
            hotels = len(index) // side**2
            many = torch.randint(self.least, self.context + 1, (hotels, 1))
            batch["obs_mask"] = (torch.arange(self.context)[None] < many).repeat(1, side**2)
        return batch

    def compose(
        self, side: int, images: Tensor, poses: Tensor, query_images: Tensor, query_poses: Tensor
    ) -> dict[str, Tensor]:
        """Lay mazes side by side.

        Args:
            side: mazes along a side; side^2 consecutive mazes make a hotel, maze i side + j standing at (i, j).
            images: (mazes, V, H, W, 3).
            poses: (mazes, V, 6).
            query_images: (mazes, Q, H, W, 3).
            query_poses: (mazes, Q, 6).

        Returns:
            Arguments of the scene model, (hotels, side^2 V, ...) and (hotels, side^2 Q, ...).
        """
        import torch

        mazes = side * side
        hotels = len(images) // mazes
        place = torch.arange(mazes)
        tile = torch.stack([place // side, place % side], 1).to(poses.dtype) * self.width  # (mazes, 2)
        origin = torch.full((hotels, 2), self.corner)
        if self.arena:
            origin = origin + torch.rand(hotels, 2) * (self.arena - side) * self.width
        shift = (tile[None] + (origin - self.corner)[:, None]).reshape(-1, 1, 2)

        def lay(pictures: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
            moved = torch.cat([at[..., :2] + shift, at[..., 2:]], -1)
            flat = pictures.reshape(hotels, -1, *pictures.shape[2:]).permute(0, 1, 4, 2, 3)
            return flat.contiguous(), moved.reshape(hotels, -1, at.shape[-1])

        seen, where = lay(images, poses)
        asked, from_where = lay(query_images, query_poses)
        return {
            "images": seen,
            "poses": where,
            "query_poses": from_where,
            "query_images": asked,
            "origin": origin,
            "side": torch.full((hotels,), side),
        }


def six_axes(poses: Tensor) -> Tensor:
    """Return poses with a roll of 0 where they have none: (..., 6)."""
    import torch

    return poses if poses.shape[-1] == 6 else torch.cat([poses, torch.zeros_like(poses[..., :1])], -1)


def turned(
    images: Tensor, poses: Tensor, quarters: Tensor, mirror: Tensor | None, middle: float
) -> tuple[Tensor, Tensor]:
    """Return the photographs one would have taken in turned and mirrored mazes.

    Args:
        images: (N, V, H, W, 3).
        poses: (N, V, 6).
        quarters: int (N,), quarter turns to the left about the middle of each maze.
        mirror: bool (N,), mazes mirrored in x before they are turned; None for none.
        middle: x and y of a maze's middle.
    """
    import torch

    x, y, z, yaw, pitch, roll = poses.unbind(-1)
    x, y = x - middle, y - middle
    if mirror is not None:
        m = mirror[:, None]
        x, yaw, roll = torch.where(m, -x, x), torch.where(m, math.pi - yaw, yaw), torch.where(m, -roll, roll)
        images = torch.where(mirror[:, None, None, None, None], images.flip(3), images)
    cos = torch.tensor([1.0, 0.0, -1.0, 0.0], dtype=poses.dtype)[quarters][:, None]
    sin = torch.tensor([0.0, 1.0, 0.0, -1.0], dtype=poses.dtype)[quarters][:, None]
    yaw = yaw + 0.5 * math.pi * quarters[:, None]
    yaw = torch.remainder(yaw + math.pi, 2 * math.pi) - math.pi
    return images, torch.stack([cos * x - sin * y + middle, sin * x + cos * y + middle, z, yaw, pitch, roll], -1)
