"""Scenes laid side by side, turned and mirrored, as training and evaluation see them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from phlogiston import datasets
from phlogiston.datasets.base import Dataset, Split
from phlogiston.datasets.generated.scene_grid import SceneGrid, display, turned
from phlogiston.errors import ConfigError, DataError, UnknownNameError
from phlogiston.networks.view_rays import ray_map


@pytest.fixture(scope="module")
def data() -> Dataset:
    return datasets.load("courts", sizes=(16, 4, 9), views=8, size=16)


def test_grids_shift_photographs_to_where_their_scene_lies(data: Dataset) -> None:
    rows = SceneGrid(data.train, 3, 2, (2,))
    torch.manual_seed(0)
    batch = rows[torch.arange(8)]
    assert batch["images"].shape == (2, 12, 3, 16, 16)
    tiles = ((batch["poses"][..., :2] + 0.4) / 0.7).floor().long()
    assert tiles.reshape(2, 4, 3, 2)[0, :, 0].tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    back = batch["poses"].reshape(8, 3, 6).clone()
    cell = torch.arange(8) % 4
    back[..., 0] -= 0.7 * (cell // 2)[:, None]
    back[..., 1] -= 0.7 * (cell % 2)[:, None]
    for scene in range(8):
        distance = (back[scene, :, None] - data.train.tensors["poses"][scene]).abs().amax(-1)
        nearest = distance.argmin(1)
        assert bool((distance.amin(1) < 1e-5).all())
        want = data.train.tensors["images"][scene, nearest].permute(0, 3, 1, 2)
        assert torch.equal(batch["images"].reshape(8, 3, 3, 16, 16)[scene], want)


def test_queries_are_not_among_the_context_unless_allowed(data: Dataset) -> None:
    torch.manual_seed(0)
    for overlap in (False, True):
        repeats = 0
        for _ in range(20):
            batch = SceneGrid(data.train, 5, 3, (1,), overlap=overlap)[torch.arange(16)]
            same = (batch["poses"][:, :, None] == batch["query_poses"][:, None]).all(-1)
            repeats += int(same.sum())
        assert (repeats > 0) == overlap


def test_numbers_of_photographs_and_cells_vary_where_asked(data: Dataset) -> None:
    torch.manual_seed(0)
    rows = SceneGrid(data.train, 5, 1, (1, 2), least=2, arena=3)
    seen, sides, origins = set(), set(), set()
    for _ in range(40):
        batch = rows[torch.arange(4)]
        seen |= set(batch["obs_mask"].reshape(-1, 5).sum(1).tolist())
        sides.add(int(batch["side"][0]))
        origins.add(round(float(batch["origin"][0, 0]), 4))
        assert float(batch["origin"].max()) <= -0.4 + (3 - int(batch["side"][0])) * 0.7 + 1e-6
    assert seen == {2, 3, 4, 5}
    many = SceneGrid(data.train, 5, 1, (1,), least=2)[torch.arange(4).repeat(1000)]["obs_mask"].sum(1)
    for number in range(2, 6):  # the share to draw `number` or less grows like the power 2 / 3: few are drawn oftener
        want = ((number - 1) / 4) ** (2 / 3)
        assert float((many <= number).float().mean()) == pytest.approx(want, abs=4 * 0.5 / math.sqrt(4000))
    assert sides == {1, 2}
    assert len(origins) > 20
    with pytest.raises(DataError, match="photographs"):
        SceneGrid(data.train, 8, 1)
    with pytest.raises(ConfigError, match="arena"):
        SceneGrid(data.train, 2, 1, (3,), arena=2)
    with pytest.raises(DataError, match="scenes need"):
        SceneGrid(Split({"x": np.zeros((3, 2))}), 1, 1)


def test_turned_and_mirrored_cells_are_seen_along_turned_and_mirrored_rays() -> None:
    """A picture is what its rays meet: poses and pixels must move together, or no scene would fit them."""
    torch.manual_seed(0)
    poses = torch.cat([1.9 * torch.rand(8, 3, 2) - 0.95, torch.zeros(8, 3, 1), 3 * torch.randn(8, 3, 3)], -1)
    pictures = torch.randint(256, (8, 3, 6, 6, 3), dtype=torch.uint8)
    quarters, mirror = torch.arange(8) % 4, torch.arange(8) >= 4
    images, moved = turned(pictures, poses, quarters, mirror, 0.0)
    rays, seen = ray_map(poses, 6), ray_map(moved, 6)
    sign = torch.where(mirror, -1.0, 1.0)[:, None, None, None]
    rays = torch.where(mirror[:, None, None, None, None], rays.flip(-1), rays)
    angle = 0.5 * math.pi * quarters[:, None, None, None]
    for x, y in ((0, 1), (3, 4), (5, 6)):  # heading, camera, and where a ray leaves the tile
        old_x, old_y = sign * rays[:, :, x], rays[:, :, y]
        torch.testing.assert_close(seen[:, :, x], angle.cos() * old_x - angle.sin() * old_y, atol=1e-4, rtol=0)
        torch.testing.assert_close(seen[:, :, y], angle.sin() * old_x + angle.cos() * old_y, atol=1e-4, rtol=0)
    torch.testing.assert_close(seen[:, :, [2, 7, 8]], rays[:, :, [2, 7, 8]], atol=1e-4, rtol=0)
    assert torch.equal(images[:4], pictures[:4])
    assert torch.equal(images[4:], pictures[4:].flip(3))
    assert float(moved[..., 3].abs().max()) <= math.pi + 1e-5


def test_turning_cells_keeps_them_in_their_tiles(data: Dataset) -> None:
    torch.manual_seed(0)
    batch = SceneGrid(data.train, 5, 1, (1,), symmetry="all")[torch.arange(16)]
    own = data.train.tensors["poses"][:16]
    assert float((batch["poses"][..., :2] + 0.05).abs().max()) <= 0.35
    assert not bool((batch["poses"][:, :, None, :2] == own[:, None, :, :2]).all(-1).any(-1).all())
    with pytest.raises(UnknownNameError, match="symmetry"):
        SceneGrid(data.train, 5, 1, symmetry="mirror")


def test_what_a_camera_writes_into_its_photographs_is_not_mirrored() -> None:
    torch.manual_seed(0)
    smooth = torch.rand(60, 3, 5, 5)
    smooth = torch.nn.functional.interpolate(smooth, (20, 20), mode="bicubic").clamp(0, 1)
    pictures = (200 * smooth).byte().permute(0, 2, 3, 1).reshape(6, 10, 20, 20, 3)
    assert not bool(display(pictures.flatten(0, 1)).any())
    pictures[..., 16:18, 3:5, :] = torch.tensor([250, 250, 0], dtype=torch.uint8)
    fixed = display(pictures.flatten(0, 1))
    assert bool(fixed[16:18, 3:5].all())
    assert torch.equal(fixed, fixed.flip(-1))
    assert not bool(fixed[:13].any())
    data = Split({"images": pictures, "poses": torch.zeros(6, 10, 5)})
    batch = SceneGrid(data, 4, 2, (1,), symmetry="all")[torch.arange(6)]
    shown = batch["images"].permute(0, 1, 3, 4, 2)
    assert bool((shown[..., 16:18, 3:5, :] == torch.tensor([250, 250, 0], dtype=torch.uint8)).all())
    rest = shown[..., :13, :, :]
    known = pictures[..., :13, :, :].flatten(0, 1)
    straight = (rest[:, 0, None] == known).all((-3, -2, -1)).any(1)
    mirrored = (rest[:, 0, None] == known.flip(2)).all((-3, -2, -1)).any(1)
    assert bool((straight | mirrored).all())
    assert 0 < int(mirrored.sum()) < 6
