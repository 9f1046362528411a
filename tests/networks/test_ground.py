"""Maps of the ground: what is laid down where, and what is looked up where."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from phlogiston.networks.ground import FINE, GroundMap
from phlogiston.networks.view_rays import ray_map

POSES = torch.tensor([[0.1, -0.3, 0.0, 0.4, 0.0, 0.0], [-0.6, 0.5, 0.0, -2.1, 0.0, 0.0]]).double()


def ground() -> GroundMap:
    torch.manual_seed(0)
    return GroundMap(raster=12, size=4, channels=5, width=8, depths=6, out=7).double()


def bearings(net: GroundMap, poses: Tensor) -> Tensor:
    """Angles from the camera's heading to the raster's points, to the left, (n, points), in (-pi, pi]."""
    dx, dy = net.points[:, 0] - poses[:, :1], net.points[:, 1] - poses[:, 1:2]
    turn = torch.atan2(dy, dx) - poses[:, 3:4]
    return torch.remainder(turn + math.pi, 2 * math.pi) - math.pi


def test_photographs_are_laid_down_where_they_look_and_nowhere_else() -> None:
    net = ground()
    laid = net.embed(torch.rand(1, 2, 3, 16, 16).double(), POSES[None])[0].unflatten(-1, (144, 6))
    ahead = bearings(net, POSES).abs() < math.pi / 4
    close = (net.points - POSES[:, None, :2]).norm(dim=-1) < 0.03
    assert torch.equal((laid[..., -1] > 0) | close, ahead | close)
    assert bool((laid[~ahead] == 0).all())


def test_the_right_of_a_photograph_lies_to_the_right() -> None:
    net = ground()
    images = torch.rand(1, 2, 3, 64, 64).double()
    other = images.clone()
    other[..., 48:] = 1 - other[..., 48:]
    one, two = (net.embed(x, POSES[None])[0].unflatten(-1, (144, 6)) for x in (images, other))
    differs = (one != two).any(-1)
    angle = bearings(net, POSES)
    far_right = (angle < -math.atan(0.6)) & (angle > -math.pi / 4) & (one[..., -1] > 0)
    assert bool(differs[far_right].all())
    assert not bool(differs[angle > -math.atan(0.3)].any())


def test_queries_look_along_the_rays_of_their_columns() -> None:
    """Maps of x and of y, read bilinearly, are the positions looked at; beyond the map there is nothing."""
    net = ground()
    looked: list[Tensor] = []

    class Look(nn.Module):
        def forward(self, found: Tensor) -> Tensor:
            looked.append(found.unflatten(1, (6, 6)))  # channels, distances
            return found.new_zeros(len(found), 128, found.shape[-1])

    net.along = Look()  # type: ignore[assignment]
    maps = torch.cat([net.points.T.reshape(2, 12, 12), torch.zeros(3, 12, 12).double()])
    assert net.read(maps.expand(2, -1, -1, -1), POSES).shape == (2, 7 * 4)
    found = looked[0]
    rays = ray_map(POSES, FINE * 4)
    heading, across = rays[:, :2, 0], (torch.arange(16).double() + 0.5) / 8 - 1
    reach = net.ahead[:, None] * (1 + across.square()).sqrt()  # ahead of the camera, hence further along slanting rays
    want = POSES[:, :2, None, None] + heading[:, :, None] * reach
    inside = (want.abs() < 1 - 1 / 12).all(1, keepdim=True)
    assert 20 < int(inside.sum()) < inside.numel()
    torch.testing.assert_close(found[:, :2] * inside, want * inside, rtol=0, atol=1e-6)
    assert bool((found[:, 5:][(want.abs() > 1 + 1 / 12).any(1, keepdim=True)] == 0).all())


@pytest.mark.parametrize("views", [0, 3])
def test_any_number_of_photographs_makes_a_map(views: int) -> None:
    net = ground()
    embedded = net.embed(torch.rand(2, views, 3, 32, 32).double(), torch.zeros(2, views, 6).double())
    assert embedded.shape == (2, views, net.embedded)
    maps = net.complete(embedded.sum(1))
    assert maps.shape == (2, 5, 12, 12)
    assert bool(torch.isfinite(maps).all())
