"""A map of the ground: photographs are laid down on it along their rays, queries look into it along theirs.

Every photograph is read column by column. What a column says goes to all points of a raster on the ground that lie in
its direction, together with how far off each is: whether a wall stands at a point, before or behind it, is for a small
network to tell. Weighted means over photographs make up a map, which a few convolutions complete: what one photograph
shows and the other hides, and what such places are like where nobody looked. A query looks into the map ahead of each
of its columns, at a number of distances.

The map is a scene's own, and all in it relative to its tile, so that scenes laid side by side do not touch each other.
Columns are upright: of a camera's pose its place and its heading are used, not its height, pitch or roll.

References: Philion & Fidler, *Lift, Splat, Shoot* (ECCV 2020), on raising columns to a map; Roddick & Cipolla,
*Predicting semantic map representations from images using pyramid occupancy networks* (CVPR 2020).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

ROWS = 16  # a column is read in so many parts
FINE = 4  # columns looked along, per column of what is read
NEAREST, FARTHEST = 0.06, 2.4  # of the distances looked at, in half widths of a tile


class GroundMap(nn.Module):
    """Lays photographs down, completes the map, looks into it.

    Args:
        raster: G, points along a side of a scene.
        size: s, columns of what is read.
        channels: C, of the map.
        width: channels on the way to it.
        depths: distances looked at.
        out: channels of a column that is read.
        blocks: residual blocks that complete the map, each reaching twice as far as the one before.

    Attributes:
        embedded: length of an embedded photograph, G^2 (C + 1).
        code: length of what is read, `out` s.
    """

    def __init__(
        self,
        raster: int = 14,
        size: int = 8,
        channels: int = 32,
        width: int = 48,
        depths: int = 14,
        out: int = 96,
        blocks: int = 3,
    ) -> None:
        super().__init__()
        self.raster, self.size, self.channels = raster, size, channels
        self.embedded, self.code = raster**2 * (channels + 1), out * size
        self.look = nn.Sequential(
            nn.Conv2d(3, 24, 4, stride=2, padding=1), nn.ReLU(), nn.Conv2d(24, width, 4, stride=2, padding=1), nn.ReLU()
        )
        self.column = nn.Conv2d(width, width, (ROWS, 1))
        self.far = nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, width))
        self.lay = nn.Linear(width, channels + 1)
        self.enter = nn.Conv2d(channels + 2, width, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.ReLU(),
                nn.Conv2d(width, width, 3, padding=2**i, dilation=2**i),
                nn.ReLU(),
                nn.Conv2d(width, width, 3, padding=1),
            )
            for i in range(blocks)
        )
        self.whole = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.leave = nn.Conv2d(width, channels, 1)
        self.along = nn.Conv1d((channels + 1) * depths, 128, 1)
        self.merge = nn.Conv1d(128, out, FINE, stride=FINE)
        at = (torch.arange(raster) + 0.5) * (2.0 / raster) - 1.0
        points = torch.stack(torch.meshgrid(at, at, indexing="ij"), -1).reshape(-1, 2)
        self.register_buffer("points", points, persistent=False)
        ahead = torch.linspace(NEAREST**0.5, FARTHEST**0.5, depths).square()
        self.register_buffer("ahead", ahead, persistent=False)

    points: Tensor
    ahead: Tensor

    def embed(self, images: Tensor, poses: Tensor) -> Tensor:
        """Lay down photographs (B, V, 3, H, W) taken at relative poses (B, V, 6): (B, V, `embedded`), to be summed."""
        lead = images.shape[:2]
        if not lead.numel():
            return images.new_zeros(*lead, self.embedded)
        seen = self.look((4.0 * images - 2.0).flatten(0, 1))
        seen = self.column(functional.adaptive_avg_pool2d(seen, (ROWS, seen.shape[-1])))  # (n, width, 1, columns)
        x, y, yaw = (poses[..., i].flatten()[:, None] for i in (0, 1, 3))
        dx, dy = self.points[:, 0] - x, self.points[:, 1] - y
        cos, sin = yaw.cos(), yaw.sin()
        ahead, right = dx * cos + dy * sin, dx * sin - dy * cos
        across = right / ahead.clamp_min(1e-3)
        inside = (ahead > 0.02) & (across.abs() < 1.0)
        across = across.clamp(-1.0, 1.0)
        grid = torch.stack([across, torch.zeros_like(across)], -1)[:, :, None]
        found = functional.grid_sample(seen, grid, align_corners=False, padding_mode="border")[..., 0].mT
        distance = (ahead.square() + right.square()).sqrt()
        near = 0.3 * ahead.clamp_min(0.1).reciprocal()
        far = [distance, (distance + 0.05).log(), ahead, near, across, torch.exp(-4.0 * distance)]
        laid = self.lay(torch.relu(found + self.far(torch.stack(far, -1))))
        weight = torch.sigmoid(laid[..., -1:]) * inside[..., None]
        return torch.cat([weight * laid[..., :-1], weight], -1).reshape(*lead, -1)

    def complete(self, sums: Tensor) -> Tensor:
        """Turn sums (n, G^2 (C + 1)) of photographs into maps (n, C, G, G)."""
        raw = sums.reshape(-1, self.raster, self.raster, self.channels + 1).permute(0, 3, 1, 2)
        weight = raw[:, -1:]
        x = torch.cat([raw[:, :-1] / (weight + 0.05), torch.log1p(weight), torch.ones_like(weight)], 1)
        x = self.enter(x)
        for block, whole in zip(self.blocks, self.whole, strict=True):
            x = x + block(x) + whole(torch.relu(x).mean((-2, -1)))[..., None, None]
        done: Tensor = self.leave(torch.relu(x))
        return done

    def read(self, maps: Tensor, poses: Tensor) -> Tensor:
        """Look into maps (n, C, G, G) from relative poses (n, 6): (n, `code`), `out` channels by s columns."""
        x, y, yaw = (poses[:, i, None] for i in (0, 1, 3))
        fine = FINE * self.size
        across = (torch.arange(fine, device=poses.device, dtype=poses.dtype) + 0.5) * (2.0 / fine) - 1.0
        cos, sin = yaw.cos(), yaw.sin()
        dx, dy = cos + across * sin, sin - across * cos
        at_x = x[..., None] + dx[..., None] * self.ahead
        at_y = y[..., None] + dy[..., None] * self.ahead
        maps = torch.cat([maps, torch.ones_like(maps[:, :1])], 1)  # beyond the map there is nothing, not even this
        found = functional.grid_sample(maps, torch.stack([at_y, at_x], -1), align_corners=False)
        found = torch.relu(self.along(found.transpose(-2, -1).flatten(1, 2)))
        columns: Tensor = self.merge(found)
        return columns.flatten(1)
