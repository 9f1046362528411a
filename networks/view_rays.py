"""Rays of a camera as maps: where each pixel, or each cell of a coarser grid, looks from and to.

The camera is that of `datasets.generated.raycast`: forward is (cos yaw, sin yaw), yaw turns left, the field of view is
90 degrees. Positions are relative to the tile the camera stands in, in half widths: the tile is the square [-1, 1]^2. A
map holds nine channels:

    0, 1    cosine and sine of the ray's heading
    2       sine of its elevation
    3, 4    the camera's x and y
    5, 6    where the ray leaves the tile
    7       how far that is, over the ground
    8       how high the ray is there, h / (1 + |h|)

The last four are functions of the others that a network would have to learn first: two views of one thing agree in
them, however they were taken. Further numbers behind the pose are passed on as constant channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

CHANNELS = 9
VECTOR = 9


def ray_map(poses: Tensor, size: int) -> Tensor:
    """Return the rays through the centres of a size x size grid: (..., 9 + e, size, size).

    Args:
        poses: (..., 6 + e): x, y, z, yaw, pitch, roll, and what else is to be passed on.
        size: cells a side.
    """
    x, y, z, yaw, pitch, roll, *rest = (part[..., None, None] for part in poses.unbind(-1))
    offset = (torch.arange(size, device=poses.device, dtype=poses.dtype) + 0.5) * (2.0 / size) - 1.0
    across, upwards = offset[None, :], -offset[:, None]
    cos_p, sin_p = pitch.cos(), pitch.sin()
    cos_r, sin_r = roll.cos(), roll.sin()
    # in the camera's level frame: ahead, to the right, up
    right = across * cos_r + upwards * sin_r
    rise = upwards * cos_r - across * sin_r
    ahead = cos_p - rise * sin_p
    up = sin_p + rise * cos_p
    cos_y, sin_y = yaw.cos(), yaw.sin()
    dx, dy = ahead * cos_y + right * sin_y, ahead * sin_y - right * cos_y
    flat = (dx * dx + dy * dy).clamp_min(1e-12)
    length = flat.rsqrt()
    elevation = up * (flat + up * up).rsqrt()
    dx, dy = dx * length, dy * length
    inside_x, inside_y = x.clamp(-1.0, 1.0), y.clamp(-1.0, 1.0)
    to_side = torch.minimum(_reach(inside_x, dx), _reach(inside_y, dy))
    height = z + up * length * to_side
    parts = [dx, dy, elevation, x, y, inside_x + to_side * dx, inside_y + to_side * dy, to_side]
    parts += [height / (1.0 + height.abs()), *rest]
    return torch.stack(torch.broadcast_tensors(*parts), dim=-3)


def _reach(offset: Tensor, direction: Tensor) -> Tensor:
    """How far it is to the side of the tile a ray points to, along one axis."""
    ahead = torch.where(direction < 0, -1.0, 1.0)
    return (ahead - offset) / (ahead * direction.abs().clamp_min(1e-6))


def pose_vector(poses: Tensor) -> Tensor:
    """Return poses with angles as cosines and sines, and what else is passed on: (..., 9 + e)."""
    angles = poses[..., 3:6]
    return torch.cat([poses[..., :3], angles.cos(), angles.sin(), poses[..., 6:]], dim=-1)


class RayAddress(nn.Module):
    """Where along a ray things are filed: shares of K drawers for every ray, summing to 1.

        address = softmax(-sum_f s_f (ray_f - centre_kf)^2 + net(ray)_k)

    Centres start as random rays of a tile, with rays distinguished by where they leave it and how high; the net starts
    at zero. Two addresses made alike start alike, so that what was written is read back from the first step on.

    Args:
        bins: K.
        extra: numbers that come with a pose besides its six.
        hidden: channels of the net.
    """

    def __init__(self, bins: int, extra: int = 0, hidden: int = 48) -> None:
        super().__init__()
        self.bins = bins
        g = torch.Generator().manual_seed(0)
        poses = torch.zeros(bins, 6 + extra)
        poses[:, :2] = 1.9 * torch.rand(bins, 2, generator=g) - 0.95
        poses[:, 3] = 2 * torch.pi * torch.rand(bins, generator=g)
        poses[:, 6:] = 2 * torch.rand(bins, extra, generator=g) - 1
        rays = ray_map(poses, 8)
        at = torch.randint(0, 8, (2, bins), generator=g)
        self.centres = nn.Parameter(rays[torch.arange(bins), :, at[0], at[1]])
        scale = torch.tensor([0.3, 0.3, 0.3, 0.3, 0.3, 12.0, 12.0, 0.3, 40.0] + [3.0] * extra)
        self.log_scale = nn.Parameter(scale.log())
        self.net = nn.Sequential(nn.Conv2d(CHANNELS + extra, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, bins, 1))
        nn.init.zeros_(self.net[2].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.net[2].bias)  # type: ignore[arg-type]

    def forward(self, rays: Tensor) -> Tensor:
        """Return the address of rays (n, 9 + extra, s, s): (n, K, s, s)."""
        if self.bins == 1:
            return torch.ones_like(rays[:, :1]) + 0.0 * self.net(rays)
        scale = self.log_scale.exp()
        # the square of the ray itself is the same for all drawers, and falls out
        weight = 2.0 * scale * self.centres
        bias = -(scale * self.centres.square()).sum(-1)
        near = nn.functional.conv2d(rays, weight[:, :, None, None], bias)
        return torch.softmax(near + self.net(rays), 1)
