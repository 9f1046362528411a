"""Memories of scenes: posed photographs go in, and a code for any viewpoint comes out.

Two kinds behind one interface. `GraphMemory` keeps what it saw where it saw it: a hub per scene, and a lattice of nodes
on the ground with messages between neighbours (Alet et al., *Graph Element Networks*, ICML 2019), or a map of the
ground (`networks.ground`). `PooledMemory` adds
all views up, from any position (Eslami et al., *Neural scene representation and rendering*, Science 2018).

Scenes lie side by side in a square grid of `side` x `side` tiles. Both work in coordinates relative
to the tile a camera stands in. That is all the graph uses, hence moving a grid changes nothing; the pooled memory is
given absolute coordinates besides, as it distinguishes scenes by them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from phlogiston.errors import ConfigError, unknown_name
from phlogiston.networks.ground import GroundMap
from phlogiston.networks.lattice import Corners, MessagePassing, bilinear, gather, scatter
from phlogiston.networks.view_rays import CHANNELS, RayAddress, ray_map

NODES_PER_TILE = 4  # lattice cells along a scene's side


@dataclass(frozen=True)
class Frame:
    """Where the tiles of a batch of scenes lie.

    Attributes:
        origin: (B, 2), lower left corner of every scene.
        side: tiles along a side.
        width: width of a tile.
    """

    origin: Tensor
    side: int
    width: float

    @classmethod
    def of(cls, origin: Tensor, side: Tensor | int, width: float) -> Frame:
        """The frame whose number of tiles along a side is given as it is, or by a tensor that repeats it."""
        if isinstance(side, Tensor):
            first = side.reshape(-1)[0]  # on the CPU read in place; elsewhere the host waits, as shapes depend on it
            side = int(first.numpy()) if first.device.type == "cpu" else int(first)
        return cls(origin, side, width)

    def tiles(self, poses: Tensor) -> tuple[Tensor, Tensor]:
        """Return tile numbers, long (B, V), and positions within tiles from -1 to 1, (B, V, 2)."""
        at = (poses[..., :2] - self.origin[:, None]) / self.width
        tile = at.floor().clamp(0, self.side - 1)
        return (tile[..., 0] * self.side + tile[..., 1]).long(), 2.0 * (at - tile) - 1.0


@dataclass(frozen=True)
class State:
    """What a memory holds of a batch of scenes.

    Attributes:
        frame: where the tiles lie.
        embeddings: (B, V, E), sums over each view.
        poses: (B, V, 6).
        mask: bool (B, V), False for padding.
        sums: tensors that views add to.
        codes: what is read from, made of `sums`.
    """

    frame: Frame
    embeddings: Tensor
    poses: Tensor
    mask: Tensor
    sums: tuple[Tensor, ...]
    codes: tuple[Tensor, ...]


class ViewEncoder(nn.Module):
    """Photographs and their rays to sums: what is seen, filed under the directions it is seen in.

    Strided convolutions and the cells' rays give values v at a raster of cells, a network of the rays alone an address
    a, shares of `bins` drawers. A view contributes sum a_k v_c and sum a_k, for every drawer and channel. Ratios of
    such sums over views are means of what was seen along alike rays, however many views looked there: linear attention
    (Katharopoulos et al., *Transformers are RNNs*, ICML 2020) with rays as keys, which adds up and therefore can be
    extended view by view. One drawer is the plain mean over pictures and views. The first three channels of a value are
    a cell's mean colour as it is: what a picture is made of need not be learned.

    Args:
        bins: K, drawers.
        values: C, channels of a value; up to 3 are learned, all of them.
        widths: channels of the strided layers.
        extra: numbers that come with a pose besides its six.
    """

    def __init__(self, bins: int, values: int, widths: Sequence[int] = (24, 48), extra: int = 0) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width in widths:
            layers += [nn.Conv2d(channels, width, 4, stride=2, padding=1), nn.ReLU()]
            channels = width
        wide = max(64, values)
        self.plain = 3 if values > 3 else 0
        learned = values - self.plain
        self.look = nn.Sequential(*layers)
        self.values = nn.Sequential(
            nn.Conv2d(channels + CHANNELS + extra, wide, 1), nn.ReLU(), nn.Conv2d(wide, learned, 1)
        )
        keep_variance(self.look)
        keep_variance(self.values)
        self.address = RayAddress(bins, extra)
        self.code, self.factor = bins * values + bins, 2 ** len(widths)

    def forward(self, images: Tensor, poses: Tensor) -> Tensor:
        """Embed images (B, V, 3, H, W) taken at relative poses (B, V, 6 + extra): (B, V, K C + K), all sums."""
        scenes, views = images.shape[:2]
        if views == 0:
            return images.new_zeros(scenes, 0, self.code)
        size = images.shape[-1]
        seen = (4.0 * images - 2.0).flatten(0, 1)
        rays = ray_map(poses, size // self.factor).flatten(0, 1)
        value = self.values(torch.cat([self.look(seen), rays], 1))
        if self.plain:
            value = torch.cat([functional.avg_pool2d(seen, self.factor), value], 1)
        value = value.flatten(-2)
        share = self.address(rays).flatten(-2) / value.shape[-1]
        filed = torch.einsum("nkp,ncp->nkc", share, value).flatten(1)
        return torch.cat([filed, share.sum(-1)], -1).reshape(scenes, views, -1)


def keep_variance(module: nn.Module) -> None:
    """Start convolutions and dense layers so that signals neither fade nor grow on their way through ReLUs.

    The library's own start shrinks them in every layer, and what differs between scenes would drown in biases (He et
    al., *Delving deep into rectifiers*, ICCV 2015).
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class SceneMemory(nn.Module):
    """The interface of all memories; a decoder needs nothing else of them.

    Attributes:
        code: R, channels of what is read: `hubs` of drawers (K C values, then K weights), then `between` of nodes, then
            `columns`, one part per column of a query.
        keeps_places: True if what was seen in one tile can be moved to another.
        extra: numbers `local` adds to a pose.
    """

    code: int
    bins: int
    values: int
    hubs: int
    between: int
    columns: int = 0
    keeps_places: bool = False
    extra: int = 0

    def local(self, poses: Tensor, frame: Frame) -> Tensor:
        """Return poses (B, Q, 6) relative to the middle of their tile, in half widths: (B, Q, 6 + extra)."""
        _, inside = frame.tiles(poses)
        return torch.cat([inside, poses[..., 2:3] * (2.0 / frame.width), poses[..., 3:]], -1)

    def embed(self, images: Tensor, poses: Tensor, frame: Frame) -> Tensor:
        """Embed views: images (B, V, 3, H, W) in [0, 1] and poses (B, V, 6) to (B, V, E)."""
        raise NotImplementedError

    def sums(self, embeddings: Tensor, poses: Tensor, mask: Tensor, frame: Frame) -> tuple[Tensor, ...]:
        """Return the sums over views that make up the memory."""
        raise NotImplementedError

    def codes(self, sums: tuple[Tensor, ...], frame: Frame) -> tuple[Tensor, ...]:
        """Return what is read from, made of sums over views."""
        raise NotImplementedError

    def read(self, state: State, poses: Tensor) -> Tensor:
        """Return the code for every viewpoint: (B, Q, R) for poses (B, Q, 6)."""
        raise NotImplementedError

    # ----- the same for all ---------------------------------------------------------------------------------------

    def write(self, embeddings: Tensor, poses: Tensor, mask: Tensor, frame: Frame) -> State:
        """Make a memory of embedded views."""
        sums = self.sums(embeddings, poses, mask, frame)
        return State(frame, embeddings, poses, mask, sums, self.codes(sums, frame))

    def observe(self, images: Tensor, poses: Tensor, mask: Tensor | None, frame: Frame) -> State:
        """Make a memory of views.

        Args:
            images: (B, V, 3, H, W) in [0, 1]; V may be 0.
            poses: (B, V, 6).
            mask: bool (B, V), False for padding; None if every view counts.
            frame: where the tiles lie.
        """
        mask = torch.ones(poses.shape[:2], dtype=torch.bool, device=poses.device) if mask is None else mask
        return self.write(self.embed(images, poses, frame), poses, mask, frame)

    def add(self, state: State, images: Tensor, poses: Tensor) -> State:
        """Add views to a memory, at the cost of the new views alone."""
        embeddings = self.embed(images, poses, state.frame)
        mask = torch.ones(poses.shape[:2], dtype=torch.bool, device=poses.device)
        more = self.sums(embeddings, poses, mask, state.frame)
        sums = tuple(a + b for a, b in zip(state.sums, more, strict=True))
        return State(
            state.frame,
            torch.cat([state.embeddings, embeddings], 1),
            torch.cat([state.poses, poses], 1),
            torch.cat([state.mask, mask], 1),
            sums,
            self.codes(sums, state.frame),
        )

    def keep(self, state: State, mask: Tensor) -> State:
        """Forget all views but those of `mask`, bool (B, V)."""
        return self.write(state.embeddings, state.poses, state.mask & mask, state.frame)

    def reframe(self, state: State, frame: Frame) -> State:
        """Put what was seen into another frame, views staying where they are."""
        return self.write(state.embeddings, state.poses, state.mask, frame)


class GraphMemory(SceneMemory):
    """Hubs, and a lattice of nodes or maps of the ground.

    A view's sums are added to the hub of its tile and, reduced and weighted, to the lattice nodes around the camera.
    Nodes hold weighted means and the logarithm of 1 + the weight that arrived, so that the number of views does not
    change the scale, and unseen nodes can be recognised.

    Args:
        steps: the option `steps_between`.
        widths: the option `encoder`.

    The other arguments are options of `systems.scene.config.Config`, described there.
    """

    keeps_places = True

    def __init__(
        self,
        bins: int = 128,
        values: int = 16,
        code: int = 128,
        nodes: str = "both",
        steps: int = 4,
        write: str = "bilinear",
        widths: Sequence[int] = (24, 48),
        raster: int = 14,
        grid: int = 8,
    ) -> None:
        super().__init__()
        kinds = ("hub", "lattice", "both", "ground")
        if nodes not in kinds:
            raise unknown_name("kind of nodes", nodes, kinds)
        if write not in ("bilinear", "soft"):
            raise unknown_name("way of writing", write, ("bilinear", "soft"))
        self.bins, self.values, self.nodes, self.writing = bins, values, nodes, write
        self.encoder = ViewEncoder(bins, values, widths)
        self.hubs = self.encoder.code if nodes != "lattice" else 0
        self.ground = GroundMap(raster, grid) if nodes == "ground" else None
        self.has_lattice = nodes in ("lattice", "both")
        self.between = code if self.has_lattice else 0
        self.columns = self.ground.code if self.ground is not None else 0
        self.code = self.hubs + self.between + self.columns
        if self.has_lattice:
            self.reduce = nn.Linear(self.encoder.code, code)
            self.place = nn.Linear(2, code, bias=False)  # where a view was taken, seen from the node it is written to
            self.enter = nn.Linear(code + 1, code)
            self.messages = MessagePassing(code, code, steps)
            self.leave = nn.Linear(code, code)
            self.leave_place = nn.Linear(2, code, bias=False)
            self.lattice = nn.Linear(code, code)
        if write == "soft" and self.has_lattice:
            self.sharpness = nn.Parameter(torch.tensor(1.0))
            self.positions = nn.Parameter(torch.zeros(NODES_PER_TILE, NODES_PER_TILE, 2))

    def embed(self, images: Tensor, poses: Tensor, frame: Frame) -> Tensor:
        """See `SceneMemory.embed`."""
        where = self.local(poses, frame)
        out: Tensor = self.encoder(images, where)
        return out if self.ground is None else torch.cat([out, self.ground.embed(images, where)], -1)

    # ----- the lattice --------------------------------------------------------------------------------------------

    @staticmethod
    def extent(frame: Frame) -> int:
        """Nodes along a side of the lattice."""
        return NODES_PER_TILE * frame.side + 1

    def shift(self, frame: Frame) -> Tensor | None:
        """How far learned nodes stand from the lattice, (n, n, 2) in spacings; None for a plain lattice."""
        if self.writing == "bilinear":
            return None
        index = torch.arange(self.extent(frame), device=self.positions.device) % NODES_PER_TILE
        return self.positions[index][:, index]

    def corners(self, poses: Tensor, frame: Frame, outside: str = "clamp") -> Corners:
        """Return the nodes that speak for positions (B, V), with their weights."""
        n = self.extent(frame)
        at = (poses[..., :2] - frame.origin[:, None]) * (NODES_PER_TILE / frame.width)
        result = bilinear(at, n, n, outside)
        shift = self.shift(frame)
        if shift is None:
            return result
        # the nodes of the nine cells around: 4 x 4, so that weights stay local and far scenes out of reach
        low = at.floor().clamp(0, n - 2)
        steps = torch.arange(-1, 3, device=at.device, dtype=at.dtype)
        node = low[..., None, None, :] + torch.stack(torch.meshgrid(steps, steps, indexing="ij"), -1)
        exists = ((node >= 0) & (node <= n - 1)).all(-1).flatten(-2)
        number = node.clamp(0, n - 1).long()
        index = (number[..., 0] * n + number[..., 1]).flatten(-2)
        offset = at[..., None, :] - (node.flatten(-3, -2) + shift.reshape(-1, 2)[index])
        score = -self.sharpness.exp() * offset.square().sum(-1)
        weight = torch.softmax(score.masked_fill(~exists, -math.inf), -1)
        return Corners(index, weight, offset)

    # ----- writing and reading ------------------------------------------------------------------------------------

    def sums(self, embeddings: Tensor, poses: Tensor, mask: Tensor, frame: Frame) -> tuple[Tensor, ...]:
        """Sums of embeddings per scene, then of reduced ones and weights per node."""
        there = embeddings.masked_fill(~mask[..., None], 0.0)
        out: list[Tensor] = []
        if self.nodes != "lattice":
            tile, _ = frame.tiles(poses)
            whole = Corners(tile[..., None], torch.ones_like(there[..., :1]), poses[..., None, :2])
            out.append(scatter(whole, there[..., None, :], frame.side**2))
        if self.has_lattice:
            corners = self.corners(poses, frame)
            value = self.reduce(there)[..., None, :] + self.place(corners.offset)
            keep = mask.to(value.dtype)[..., None, None]
            value = torch.cat([value, torch.ones_like(value[..., :1])], -1) * keep
            out.append(scatter(corners, value, self.extent(frame) ** 2))
        return tuple(out)

    def codes(self, sums: tuple[Tensor, ...], frame: Frame) -> tuple[Tensor, ...]:
        """Codes of hubs, then maps of the ground or nodes after messages."""
        out: list[Tensor] = []
        if self.nodes != "lattice":
            out.append(sums[0][..., : self.hubs])
        if self.ground is not None:
            maps = self.ground.complete(sums[0][..., self.hubs :].flatten(0, 1))
            out.append(maps.unflatten(0, sums[0].shape[:2]))
        if self.has_lattice:
            n = self.extent(frame)
            weight = sums[-1][..., -1:]
            mean = sums[-1][..., :-1] / weight.clamp_min(1e-6)
            entered = self.enter(torch.cat([mean, torch.log1p(weight)], -1))
            out.append(self.messages(entered.reshape(len(entered), n, n, -1), self.shift(frame)).flatten(1, 2))
        return tuple(out)

    def read(self, state: State, poses: Tensor) -> Tensor:
        """The hub of the viewpoint's tile, and what the nodes around it say or what its map holds ahead."""
        out: list[Tensor] = []
        if self.nodes != "lattice":
            tile, _ = state.frame.tiles(poses)
            out.append(torch.take_along_dim(state.codes[0], tile[..., None], 1))
        if self.ground is not None:
            maps = state.codes[1][torch.arange(len(tile), device=tile.device)[:, None], tile]
            where = self.local(poses, state.frame)
            out.append(self.ground.read(maps.flatten(0, 1), where.flatten(0, 1)).unflatten(0, tile.shape))
        if self.has_lattice:
            corners = self.corners(poses, state.frame)
            said = torch.relu(self.leave(gather(corners, state.codes[-1])) + self.leave_place(corners.offset))
            out.append(self.lattice((said * corners.weight[..., None]).sum(-2)))
        return torch.cat(out, -1)


class PooledMemory(SceneMemory):
    """One set of sums for everything seen.

    Args:
        widths: the option `encoder`.

    The other arguments are options of `systems.scene.config.Config`, described there.
    """

    def __init__(
        self,
        bins: int = 128,
        values: int = 16,
        pool: str = "mean",
        arena: int = 3,
        tile: float = 0.7,
        corner: float = -0.4,
        widths: Sequence[int] = (24, 48),
    ) -> None:
        super().__init__()
        self.extra = 2
        if pool not in ("sum", "mean"):
            raise unknown_name("pool", pool, ("sum", "mean"))
        if arena < 1:
            raise ConfigError(f"arena={arena}; at least one tile is needed.")
        self.bins, self.values, self.pool, self.reach, self.corner = bins, values, pool, 0.5 * arena * tile, corner
        self.encoder = ViewEncoder(bins, values, widths, self.extra)
        self.hubs = self.code = self.encoder.code
        self.between = 0

    def local(self, poses: Tensor, frame: Frame) -> Tensor:
        """Poses relative to their tile, and where in the area they are: x and y from -1 to 1."""
        return torch.cat([super().local(poses, frame), (poses[..., :2] - self.corner) / self.reach - 1.0], -1)

    def embed(self, images: Tensor, poses: Tensor, frame: Frame) -> Tensor:
        """See `SceneMemory.embed`."""
        return self.encoder(images, self.local(poses, frame))  # type: ignore[no-any-return]

    def sums(self, embeddings: Tensor, poses: Tensor, mask: Tensor, frame: Frame) -> tuple[Tensor, ...]:
        """Sum of embeddings, and number of views: (B, K C + K + 1)."""
        keep = mask.to(embeddings.dtype)[..., None]
        there = embeddings.masked_fill(~mask[..., None], 0.0)
        return (torch.cat([there, keep], -1).sum(1),)

    def codes(self, sums: tuple[Tensor, ...], frame: Frame) -> tuple[Tensor, ...]:
        """The pooled sums, or means over views: (B, K C + K)."""
        total, count = sums[0][..., :-1], sums[0][..., -1:]
        return (total / count.clamp_min(1.0) if self.pool == "mean" else total,)

    def read(self, state: State, poses: Tensor) -> Tensor:
        """The same vector for every viewpoint."""
        return state.codes[0][:, None].expand(*poses.shape[:2], self.code)


def shifted(state: State, by: Tensor) -> State:
    """Return a state whose views and frame are moved by (B, 2) or (2,)."""
    moved = state.poses.clone()
    moved[..., :2] += by.reshape(-1, 1, 2)
    frame = replace(state.frame, origin=state.frame.origin + by)
    return replace(state, frame=frame, poses=moved)
