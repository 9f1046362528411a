"""What a decoder starts from: a query's rays, and what the memory says about them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from phlogiston.networks.scene_memory import SceneMemory
from phlogiston.networks.view_rays import CHANNELS, VECTOR, RayAddress, pose_vector, ray_map


def apply_over(layer: nn.Module, x: Tensor) -> Tensor:
    """Apply a layer for (n, c, h, w) under any number of leading axes."""
    lead = x.shape[:-3]
    y: Tensor = layer(x.reshape(-1, *x.shape[-3:]))
    return y.reshape(*lead, *y.shape[1:])


class Rays(nn.Module):
    """The context of a query: its rays, what is filed under each of them, and what the memory says of the whole.

    The latter is the mean over all drawers, and the lattice's word. Where nothing is filed by rays it is all there is,
    and the rays weigh it channel by channel. What a map of the ground says of a column goes to all of its cells.

    Args:
        memory: the memory that is read.
        width: channels of the context.
        size: s.
        blocks: residual blocks.
    """

    def __init__(self, memory: SceneMemory, width: int, size: int, blocks: int = 2) -> None:
        super().__init__()
        self.size, self.bins, self.values, self.hubs = size, memory.bins, memory.values, memory.hubs
        channels = CHANNELS + memory.extra
        self.gated = not self.hubs or memory.bins == 1
        parts = 2 if self.gated else 1
        self.rays = nn.Sequential(nn.Conv2d(channels, width, 1), nn.ReLU(), nn.Conv2d(width, parts * width, 1))
        whole = memory.values + 1 if self.hubs else 0
        self.code = nn.Linear(whole + memory.between, parts * width)
        if self.hubs:
            self.address = RayAddress(memory.bins, memory.extra)
            self.found = nn.Conv2d(memory.values + 1, width, 1)
        self.columns = memory.columns
        if self.columns:
            self.upright = nn.Conv1d(self.columns // size, width * size, 1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 1))
            for _ in range(blocks)
        )

    def forward(self, code: Tensor, poses: Tensor) -> Tensor:
        """Combine codes (B, Q, R) and poses (B, Q, 6 + extra): (B, Q, width, s, s)."""
        rays = ray_map(poses, self.size)
        code, columns = code.split((code.shape[-1] - self.columns, self.columns), -1)
        lead = rays.shape[:-3]
        add = apply_over(self.rays, rays)
        read_out: Tensor | float = 0.0
        if self.hubs:
            filed, weight = code[..., : self.hubs].split((self.bins * self.values, self.bins), -1)
            share = apply_over(self.address, rays).flatten(-2)  # (B, Q, K, cells)
            drawers = filed.unflatten(-1, (self.bins, self.values))
            total = torch.einsum("...kp,...kc->...cp", share, drawers)
            seen = torch.einsum("...kp,...k->...p", share, weight)[..., None, :]
            what = torch.cat([total / (seen + 1e-4), torch.log1p(100.0 * seen)], -2)
            read_out = apply_over(self.found, what.reshape(*lead, -1, self.size, self.size))
            whole = weight.sum(-1, keepdim=True)
            mean = drawers.sum(-2) / (whole + 1e-4)
            code = torch.cat([mean, torch.log1p(100.0 * whole), code[..., self.hubs :]], -1)
        said = self.code(code)[..., None, None]
        if self.gated:
            (add, gate), (said, weighed) = add.chunk(2, -3), said.chunk(2, -3)
            said = said + gate * weighed
        x = add + read_out + said
        if self.columns:
            found = self.upright(columns.reshape(-1, self.columns // self.size, self.size))
            x = x + found.reshape(*lead, -1, self.size, self.size)
        for block in self.blocks:
            x = x + apply_over(block, x)
        return torch.relu(x)


class Expanded(nn.Module):
    """The context of the reference: pose and code, each blown up from a point to the grid by a dense map.

    Args:
        memory: the memory that is read.
        width: channels it is blown up to.
        size: s.
    """

    def __init__(self, memory: SceneMemory, width: int, size: int) -> None:
        super().__init__()
        self.pose = nn.ConvTranspose2d(VECTOR + memory.extra, VECTOR, size, stride=size)
        self.code = nn.ConvTranspose2d(memory.code, width, size, stride=size)

    def forward(self, code: Tensor, poses: Tensor) -> Tensor:
        """Combine codes (B, Q, R) and poses (B, Q, 6): (B, Q, 9 + width, s, s)."""
        vector = pose_vector(poses)[..., None, None]
        return torch.cat([apply_over(self.pose, vector), apply_over(self.code, code[..., None, None])], -3)
