"""A lattice of nodes on the ground: writing to it, passing messages along its edges, reading between its nodes.

Nodes stand at (i, j) for 0 <= i < nx, 0 <= j < ny in units of their spacing. Nothing here depends on how many there
are: the same parameters serve any extent. Messages follow Alet et al., *Graph Element Networks* (ICML 2019), with every
edge knowing its offset instead of its ends' positions, so that a shifted lattice computes the same numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from phlogiston.errors import DataError

OFFSETS = ((1, 0), (-1, 0), (0, 1), (0, -1))


@dataclass(frozen=True, eq=False)
class Corners:
    """The nodes that speak for a position.

    Attributes:
        index: long (..., 4), node numbers i * ny + j.
        weight: (..., 4), not negative, summing to 1.
        offset: (..., 4, 2), the position relative to each node, in spacings.
    """

    index: Tensor
    weight: Tensor
    offset: Tensor


def bilinear(at: Tensor, nx: int, ny: int, outside: str = "clamp") -> Corners:
    """Return the corners of the cell a position lies in, with bilinear weights.

    The weights reproduce positions inside the lattice exactly: sum_n w_n p_n = at.

    Args:
        at: positions (..., 2) in spacings.
        nx: nodes along x, at least 2.
        ny: nodes along y, at least 2.
        outside: what to do with positions beyond the outermost nodes: `"clamp"` to the nearest position on the lattice,
            or `"error"`.

    Raises:
        DataError: a position lies outside and `outside` is `"error"`.
    """
    top = at.new_tensor([nx - 1.0, ny - 1.0])
    if outside == "error":
        beyond = ((at < 0) | (at > top)).any(-1)
        if bool(beyond.any()):
            position = at[beyond][0].tolist()
            raise DataError(
                f"a position lies outside the memory's lattice: ({position[0]:.3g}, {position[1]:.3g}) spacings "
                f"from its corner; expected 0 to {nx - 1} and 0 to {ny - 1}."
            )
    inside = torch.minimum(at.clamp_min(0.0), top)
    low = torch.minimum(inside.floor(), top - 1.0)
    part = inside - low
    index, weight, offset = [], [], []
    for a in (0, 1):
        for b in (0, 1):
            node = low + low.new_tensor([a, b])
            index.append((node[..., 0] * ny + node[..., 1]).long())
            wx = part[..., 0] if a else 1.0 - part[..., 0]
            wy = part[..., 1] if b else 1.0 - part[..., 1]
            weight.append(wx * wy)
            offset.append(at - node)
    return Corners(torch.stack(index, -1), torch.stack(weight, -1), torch.stack(offset, -2))


def scatter(corners: Corners, values: Tensor, nodes: int) -> Tensor:
    """Add weighted values into nodes: sum_v w_vn value_vn.

    Args:
        corners: of V positions in each of B lattices, (B, V, k).
        values: (B, V, k, D), what each position gives to each of its nodes.
        nodes: number of nodes of a lattice.

    Returns:
        (B, nodes, D)
    """
    scenes, _, _, width = values.shape
    row = corners.index + torch.arange(scenes, device=values.device)[:, None, None] * nodes
    flat = values.new_zeros(scenes * nodes, width)
    weighted = values * corners.weight[..., None]
    return flat.index_add(0, row.reshape(-1), weighted.reshape(-1, width)).reshape(scenes, nodes, width)


def gather(corners: Corners, nodes: Tensor) -> Tensor:
    """Return what the nodes of each position hold: (B, Q, k, D) from nodes (B, N, D)."""
    scenes, count, width = nodes.shape
    row = corners.index + torch.arange(scenes, device=nodes.device)[:, None, None] * count
    return nodes.reshape(-1, width)[row]


class MessagePassing(nn.Module):
    """Rounds of messages between neighbouring nodes, all with the same weights.

        M_j = sum_i W2 relu(W_s h_i + W_t h_j + W_o (p_j - p_i) + b1) + b2,   h_j <- norm(h_j + Node([M_j, h_j]))

    The first layer of the edge network is applied once per node instead of once per edge, and the second one, being
    linear, to the sum over edges; on a lattice the sum over edges is four shifts.

    Args:
        width: D, channels of a node.
        hidden: channels between.
        steps: rounds; what happens further away than so many edges does not arrive.
    """

    def __init__(self, width: int, hidden: int, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.source = nn.Linear(width, hidden, bias=False)
        self.sink = nn.Linear(width, hidden)
        self.offset = nn.Linear(2, hidden, bias=False)
        self.out = nn.Linear(hidden, width)
        self.node = nn.Sequential(nn.Linear(2 * width, hidden), nn.ReLU(), nn.Linear(hidden, width))
        self.norm = nn.LayerNorm(width)

    def forward(self, nodes: Tensor, shift: Tensor | None = None) -> Tensor:
        """Pass messages.

        Args:
            nodes: (B, nx, ny, D).
            shift: (nx, ny, 2), how far each node is from its position on the lattice, in spacings.
        """
        nx, ny = nodes.shape[1:3]
        degree = _degree(nx, ny, nodes)
        for _ in range(self.steps):
            given, taken = self.source(nodes), self.sink(nodes)
            total = torch.zeros_like(given)
            for dx, dy in OFFSETS:
                here, there = _overlap(nx, ny, dx, dy)
                offset = nodes.new_tensor([dx, dy])
                if shift is not None:
                    offset = offset + shift[here] - shift[there]
                edge = functional.relu(given[:, *there] + taken[:, *here] + self.offset(offset))
                total = total + functional.pad(edge, _padding(dx, dy))
            message = functional.linear(total, self.out.weight) + degree * self.out.bias
            nodes = self.norm(nodes + self.node(torch.cat([message, nodes], -1)))
        return nodes


def _overlap(nx: int, ny: int, dx: int, dy: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Slices of the nodes j that have a neighbour i = j - (dx, dy), and of those neighbours."""
    here = (slice(max(dx, 0), nx + min(dx, 0)), slice(max(dy, 0), ny + min(dy, 0)))
    there = (slice(max(-dx, 0), nx + min(-dx, 0)), slice(max(-dy, 0), ny + min(-dy, 0)))
    return here, there


def _padding(dx: int, dy: int) -> tuple[int, ...]:
    return (0, 0, max(dy, 0), max(-dy, 0), max(dx, 0), max(-dx, 0))


def _degree(nx: int, ny: int, like: Tensor) -> Tensor:
    """Number of neighbours of every node: (nx, ny, 1)."""
    along_x = like.new_full((nx,), 2.0)
    along_x[0] -= 1.0
    along_x[-1] -= 1.0
    along_y = like.new_full((ny,), 2.0)
    along_y[0] -= 1.0
    along_y[-1] -= 1.0
    return (along_x[:, None] + along_y[None, :])[..., None]


def edges(nx: int, ny: int) -> Tensor:
    """Every directed edge of a lattice: long (edges, 2), from and to."""
    number = torch.arange(nx * ny).reshape(nx, ny)
    pairs = []
    for dx, dy in OFFSETS:
        here, there = _overlap(nx, ny, dx, dy)
        pairs.append(torch.stack([number[there].reshape(-1), number[here].reshape(-1)], 1))
    return torch.cat(pairs)


def plain_messages(passing: MessagePassing, nodes: Tensor, shift: Tensor | None = None) -> Tensor:
    """The same as `passing(nodes)`, edge by edge as the equation is written: the oracle of tests and benchmarks."""
    scenes, nx, ny, width = nodes.shape
    pairs = edges(nx, ny)
    position = torch.stack(torch.meshgrid(torch.arange(nx), torch.arange(ny), indexing="ij"), -1).to(nodes)
    position = (position if shift is None else position + shift).reshape(-1, 2)
    weight = torch.cat([passing.source.weight, passing.sink.weight, passing.offset.weight], 1)
    flat = nodes.reshape(scenes, nx * ny, width)
    for _ in range(passing.steps):
        offset = (position[pairs[:, 1]] - position[pairs[:, 0]]).expand(scenes, -1, -1)
        inputs = torch.cat([flat[:, pairs[:, 0]], flat[:, pairs[:, 1]], offset], -1)
        message = passing.out(functional.relu(functional.linear(inputs, weight, passing.sink.bias)))
        total = torch.zeros_like(flat).index_add(1, pairs[:, 1], message)
        flat = passing.norm(flat + passing.node(torch.cat([total, flat], -1)))
    return flat.reshape(scenes, nx, ny, width)
