"""What was seen of a scene, as an object to keep: views are added and forgotten, scenes laid side by side in a grid.

memory = system.observe(images, poses)
memory.add(more_images, more_poses)         as if all had been observed at once
memory.forget((x0, y0, x1, y1))             what was photographed from there
memory.extend(3)                            space for a grid of 3 x 3 scenes, with the same parameters
tile([memory, another, ...])                one memory of several scenes
memory.attribution(pose)                    which nodes speak for a viewpoint, and how much
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from phlogiston.arrays import tensor_of
from phlogiston.datasets.generated.scene_grid import CORNER
from phlogiston.errors import ConfigError, DataError, ShapeError
from phlogiston.models.scene import SceneModel, unit
from phlogiston.networks.scene_memory import NODES_PER_TILE, Frame, GraphMemory, State


@dataclass(frozen=True, eq=False)
class Attribution:
    """The nodes that speak for a viewpoint.

    Attributes:
        index: node numbers; those of hubs follow those of the lattice.
        positions: (nodes, 2).
        weights: (nodes,); those of lattice nodes sum to 1, a hub's is 1.
        kinds: "lattice" or "hub" of each.
    """

    index: Tensor
    positions: Tensor
    weights: Tensor
    kinds: tuple[str, ...]


class Memory:
    """A memory of one scene, or of a square grid of scenes; made by `Scene.observe`.

    Args:
        model: the fitted model it belongs to.
        state: what it holds (a batch of one).

    Attributes:
        model: the fitted model it belongs to.
        state: what it holds.
    """

    def __init__(self, model: SceneModel, state: State) -> None:
        self.model = model
        self.state = state

    def __len__(self) -> int:
        """Number of views remembered."""
        return int(self.state.mask.sum())

    def __repr__(self) -> str:
        return f"Memory({len(self)} views of {self.side} x {self.side} scenes)"

    @property
    def side(self) -> int:
        """Scenes along a side of the grid."""
        return self.state.frame.side

    @property
    def area(self) -> tuple[float, float, float, float]:
        """Extent: smallest x and y, largest x and y."""
        x, y = self.state.frame.origin[0].tolist()
        reach = self.side * self.state.frame.width
        return x, y, x + reach, y + reach

    def views(self) -> Tensor:
        """Poses of the views remembered: (views, 6)."""
        return self.state.poses[0][self.state.mask[0]]

    def add(self, images: Any, poses: Any) -> Memory:
        """Add views; returns the memory itself.

        Raises:
            ShapeError: images and poses that do not fit each other or the model.
            DataError: a camera outside the memory's area.
        """
        pictures, where = check_views(images, poses, self)
        if len(where):
            with torch.no_grad():
                self.state = self.model.memory.add(self.state, pictures[None], where[None])
        return self

    def forget(self, region: Sequence[float]) -> int:
        """Forget what was photographed from a region.

        Args:
            region: smallest x and y, largest x and y.

        Returns:
            How many views were forgotten.
        """
        if len(region) != 4 or region[0] > region[2] or region[1] > region[3]:
            raise ConfigError(f"region is {tuple(region)}; expected smallest x and y, then largest x and y.")
        at = self.state.poses[..., :2]
        low, high = at.new_tensor(region[:2]), at.new_tensor(region[2:])
        inside = ((at >= low) & (at <= high)).all(-1) & self.state.mask
        with torch.no_grad():
            self.state = self.model.memory.keep(self.state, ~inside)
        return int(inside.sum())

    def extend(self, side: int) -> Memory:
        """Extend to a grid of `side` x `side` scenes, the present ones staying in place; returns the memory itself.

        Raises:
            ConfigError: the memory is larger already.
        """
        if side < self.side:
            raise ConfigError(f"the memory spans {self.side} scenes a side; it cannot be extended to {side}.")
        frame = self.state.frame
        with torch.no_grad():
            self.state = self.model.memory.reframe(self.state, Frame(frame.origin, side, frame.width))
        return self

    def attribution(self, pose: Any) -> Attribution:
        """Tell which nodes speak for a viewpoint.

        Args:
            pose: (5,) or (6,).

        Raises:
            ConfigError: a pooled memory has no nodes.
        """
        net = self.model.memory
        if not isinstance(net, GraphMemory):
            raise ConfigError("a pooled memory has no nodes: every view speaks for every viewpoint.")
        where = check_poses(np.asarray(pose, dtype=np.float32)[None], self)[None]
        frame = self.state.frame
        index: list[Tensor] = []
        positions: list[Tensor] = []
        weights: list[Tensor] = []
        kinds: list[str] = []
        n = net.extent(frame) if net.has_lattice else 0
        with torch.no_grad():
            if n:
                corners = net.corners(where, frame)
                index.append(corners.index[0, 0])
                spacing = frame.width / NODES_PER_TILE
                positions.append(where[0, 0, :2] - corners.offset[0, 0] * spacing)
                weights.append(corners.weight[0, 0])
                kinds += ["lattice"] * len(corners.index[0, 0])
            if net.nodes != "lattice":
                tile, _ = frame.tiles(where)
                index.append(tile[0] + n * n)
                cell = torch.stack([tile[0] // frame.side, tile[0] % frame.side], -1).to(where.dtype)
                positions.append(frame.origin[0] + (cell + 0.5) * frame.width)
                weights.append(where.new_ones(1))
                kinds.append("hub")
        return Attribution(torch.cat(index), torch.cat(positions), torch.cat(weights), tuple(kinds))

    def nodes(self) -> Tensor:
        """Positions of all lattice nodes and hubs, in the order of `attribution`'s numbers: (nodes, 2)."""
        net, frame = self.model.memory, self.state.frame
        if not isinstance(net, GraphMemory):
            return torch.zeros(0, 2)
        out = []
        if net.has_lattice:
            n = net.extent(frame)
            at = torch.stack(torch.meshgrid(torch.arange(n), torch.arange(n), indexing="ij"), -1).float()
            shift = net.shift(frame)
            at = at if shift is None else at + shift.detach()
            out.append(frame.origin[0] + at.reshape(-1, 2) * (frame.width / NODES_PER_TILE))
        if net.nodes != "lattice":
            tile = torch.arange(frame.side**2)
            at = torch.stack([tile // frame.side, tile % frame.side], -1)
            out.append(frame.origin[0] + (at + 0.5) * frame.width)
        return torch.cat(out)


def observe(model: SceneModel, images: Any, poses: Any, side: int = 1, corner: float = CORNER) -> Memory:
    """Write photographs into a fresh memory of a fitted model.

    Args:
        model: the fitted model.
        images: (views, height, width, 3) bytes, or (views, 3, height, width) in [0, 1]; None for none yet.
        poses: (views, 5 or 6).
        side: scenes along a side of the grid.
        corner: smallest x and y of the first scene.

    Raises:
        ShapeError: images and poses that do not fit each other or the model.
        DataError: a camera outside the memory's area.
    """
    if side < 1:
        raise ConfigError(f"side is {side}; a memory spans at least one scene a side.")
    size = model.decoder.image
    frame = model.frame(torch.full((1, 2), float(corner)), side)
    nothing = model.memory.observe(torch.zeros(1, 0, 3, size, size), torch.zeros(1, 0, 6), None, frame)
    memory = Memory(model, nothing)
    if images is None and poses is None:
        return memory
    pictures, where = check_views(images, poses, memory)
    with torch.no_grad():
        state = model.memory.observe(pictures[None], where[None], None, frame)
    return Memory(model, state)


def tile(memories: Sequence[Memory]) -> Memory:
    """Lay scenes side by side: memories of one scene each become the memory of a square grid of them.

    Args:
        memories: k^2 of them; number i k + j comes to stand i scenes to the right and j up.

    Raises:
        ConfigError: not a square number, not one scene each, different models, or pooled memories (what they hold of a
            view depends on where its scene stands).
    """
    side = math.isqrt(len(memories))
    if not memories or side * side != len(memories):
        raise ConfigError(f"{len(memories)} memories make no square; give 1, 4, 9, ...")
    model = memories[0].model
    if any(m.model is not model or m.side != 1 for m in memories):
        raise ConfigError("tile joins memories of single scenes that belong to one system.")
    net = model.memory
    if not net.keeps_places:
        raise ConfigError("a pooled memory cannot be moved: observe the photographs at their new poses instead.")
    corner = memories[0].state.frame.origin
    width = memories[0].state.frame.width
    poses = []
    for number, memory in enumerate(memories):
        moved = memory.state.poses.clone()
        step = torch.tensor([number // side, number % side], dtype=moved.dtype) * width
        moved[..., :2] += step + corner - memory.state.frame.origin
        poses.append(moved)
    with torch.no_grad():
        state = net.write(
            torch.cat([m.state.embeddings for m in memories], 1),
            torch.cat(poses, 1),
            torch.cat([m.state.mask for m in memories], 1),
            Frame(corner, side, width),
        )
    return Memory(model, state)


def check_poses(poses: Any, memory: Memory) -> Tensor:
    """Poses as float32 (n, 6), inside the memory's area.

    Raises:
        ShapeError: not (n, 5) or (n, 6).
        DataError: NaN, infinity, or a camera outside.
    """
    given = (poses.detach() if isinstance(poses, Tensor) else tensor_of("poses", poses)).cpu().float()
    if given.dim() != 2 or given.shape[1] not in (5, 6):
        raise ShapeError(
            f"poses have shape {tuple(given.shape)}; expected (views, 5) or (views, 6): x, y, z, yaw, pitch[, roll]."
        )
    if not bool(torch.isfinite(given).all()):
        raise DataError("poses hold NaN or infinity; every entry must be a finite number.")
    if given.shape[1] == 5:
        given = torch.cat([given, torch.zeros_like(given[:, :1])], 1)
    x0, y0, x1, y1 = memory.area
    slack = 1e-5
    out = (given[:, 0] < x0 - slack) | (given[:, 0] > x1 + slack)
    out |= (given[:, 1] < y0 - slack) | (given[:, 1] > y1 + slack)
    if bool(out.any()):
        i = int(out.nonzero()[0])
        raise DataError(
            f"pose {i} stands at ({given[i, 0]:.4g}, {given[i, 1]:.4g}), outside the memory's area [{x0:g}, {x1:g}] x "
            f"[{y0:g}, {y1:g}]. memory.extend(side) adds scenes to the right and above."
        )
    return given


def check_views(images: Any, poses: Any, memory: Memory) -> tuple[Tensor, Tensor]:
    """Images as float32 (n, 3, H, W) in [0, 1] and their poses (n, 6).

    Raises:
        ShapeError: shapes that do not fit each other or the model.
        DataError: pixels that are not finite or not in [0, 1]; poses as in `check_poses`.
    """
    if images is None or poses is None:
        raise ShapeError("images and poses belong together: give both.")
    where = check_poses(poses, memory)
    given = (images.detach() if isinstance(images, Tensor) else tensor_of("images", images)).cpu()
    size = memory.model.decoder.image
    if given.dim() != 4 or 3 not in (given.shape[1], given.shape[-1]):
        raise ShapeError(f"images have shape {tuple(given.shape)}; expected (views, H, W, 3) or (views, 3, H, W).")
    if given.shape[-1] == 3 and given.shape[1] != 3:
        given = given.permute(0, 3, 1, 2)
    if given.shape[2:] != (size, size):
        raise ShapeError(
            f"images have {given.shape[2]} x {given.shape[3]} pixels; this model was built for {size} x {size}."
        )
    if len(given) != len(where):
        raise ShapeError(f"there are {len(given)} images and {len(where)} poses; expected as many of both.")
    if given.dtype != torch.uint8:
        given = given.float()
        if not bool(torch.isfinite(given).all()):
            raise DataError("images hold NaN or infinity.")
        if len(given) and (float(given.min()) < -0.01 or float(given.max()) > 1.01):
            raise DataError(
                f"images span {float(given.min()):.3g} to {float(given.max()):.3g}; expected bytes (uint8) or numbers "
                "in [0, 1]."
            )
    return unit(given, torch.float32), where
