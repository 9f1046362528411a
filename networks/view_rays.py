"""Rays of a camera as maps: where each pixel, or each cell of a coarser grid, looks from and to.

The camera is that of `datasets.raycast`: forward is (cos yaw, sin yaw), yaw turns left, the field of view is 90
degrees. Positions are relative to the tile the camera stands in, in half widths: the tile is the square [-1, 1]^2. A
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
from torch import Tensor

CHANNELS = 9
VECTOR = 9


def ray_map(poses: Tensor, size: int) -> Tensor:
    """Return the rays through the centres of a size x size grid: (..., 9 + e, size, size).

    Args:
        poses: (..., 6 + e): x, y, z, yaw, pitch, roll, and what else is to be passed on.
        size: cells a side.
    """
    x, y, z, yaw, pitch, roll, *rest = (part[..., None, None] for part in poses.unbind(-1))
    place = (torch.arange(size, device=poses.device, dtype=poses.dtype) + 0.5) * (2.0 / size) - 1.0
    across, upwards = place[None, :], -place[:, None]
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


def _reach(place: Tensor, direction: Tensor) -> Tensor:
    """How far it is to the side of the tile a ray points to, along one axis."""
    ahead = torch.where(direction < 0, -1.0, 1.0)
    return (ahead - place) / (ahead * direction.abs().clamp_min(1e-6))


def pose_vector(poses: Tensor) -> Tensor:
    """Return poses with angles as cosines and sines, and what else is passed on: (..., 9 + e)."""
    angles = poses[..., 3:6]
    return torch.cat([poses[..., :3], angles.cos(), angles.sin(), poses[..., 6:]], dim=-1)
