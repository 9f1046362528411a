"""The raycaster against what geometry says, and the places it shows."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from phlogiston import datasets
from phlogiston.datasets.generated.floorplans import SKY, FloorPlans, court_plans, maze_plans, ring_plans
from phlogiston.datasets.generated.raycast import directions, render, six
from phlogiston.errors import DataError, ShapeError

MAKERS = {"courts": court_plans, "mazes": maze_plans, "ring": ring_plans}


def poses(count: int, plans: FloorPlans, seed: int = 0) -> np.ndarray[Any, Any]:
    """Standing cameras that are not inside a cylinder."""
    rng = np.random.default_rng(seed)
    at = plans.low + plans.width * rng.uniform(0.03, 0.97, (count, 400, 2))
    free = plans.free(np.arange(count)[:, None] % len(plans), at[..., 0], at[..., 1])
    found = np.zeros((count, 6), dtype=np.float32)
    found[:, :2] = at[np.arange(count), free.argmax(1)]
    found[:, 3] = rng.uniform(-np.pi, np.pi, count)
    return found


def room(**changes: Any) -> FloorPlans:
    """A room without cylinders."""
    plans = court_plans(1, cylinders=0)
    return dataclasses.replace(plans, **changes)


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_a_ray_per_column_shows_what_a_ray_per_pixel_shows(name: str) -> None:
    plans = MAKERS[name](12)
    at = poses(60, plans)
    scene = np.arange(60) % 12
    column, pixel = (render(plans, scene, at, 24, general=g) for g in (False, True))
    assert np.array_equal(column.images, pixel.images)
    assert np.array_equal(np.broadcast_to(column.depth[:, None], pixel.depth.shape), pixel.depth)


def test_a_wall_projects_to_the_rows_its_distance_says() -> None:
    plans = room()
    size = 200
    for distance in (0.15, 0.3, 0.55):
        pose = np.array([[plans.low + plans.width - distance, -0.05, 0.0, 0.0, 0.0, 0.0]], dtype=np.float32)
        view = render(plans, np.array([0]), pose, size)
        np.testing.assert_allclose(view.depth[0, 95:105], distance, rtol=1e-5)  # the same across the wall: a depth
        column = view.images[0, :, size // 2].astype(int)
        sky = int((column == SKY).all(-1).sum())
        # the top edge is ceiling / distance focal lengths above the horizon; a focal length is half the picture
        assert sky == pytest.approx(max(0.0, size / 2 * (1 - plans.ceiling / distance)), abs=1.0)
        steps = np.abs(np.diff(column[size // 2 :], axis=0)).sum(-1)
        foot = size / 2 * (1 + abs(plans.floor) / distance)
        assert steps[round(foot - size / 2) - 2 : round(foot - size / 2) + 1].max() > 20  # wall meets floor there


def test_a_quarter_turn_moves_the_right_border_to_the_left_one() -> None:
    plans = maze_plans(6)
    at = poses(6, plans)
    turned = at.copy()
    turned[:, 3] -= np.pi / 2  # to the right: what was at the right border comes to the left one
    size = 512
    one, two = (render(plans, np.arange(6), p, size).depth for p in (at, turned))
    # depths along both viewing directions agree on the diagonal ray
    same = np.isclose(one[:, -1], two[:, 0], rtol=0.03)
    assert same.mean() > 0.8  # a corner may fall between the two half-pixels


def test_depth_is_where_the_ray_meets_the_wall() -> None:
    plans = room()
    at = poses(20, plans)
    depth = render(plans, np.zeros(20, int), at, 16).depth
    dx, dy, _ = directions(six(at), 16)
    dx, dy = dx.reshape(20, 16, 16)[:, 8], dy.reshape(20, 16, 16)[:, 8]
    x, y = at[:, :1] + depth * dx, at[:, 1:2] + depth * dy
    high = plans.low + plans.width
    border = np.minimum.reduce([abs(x - plans.low), abs(x - high), abs(y - plans.low), abs(y - high)])
    assert border.max() < 1e-4
    assert x.min() > plans.low - 1e-4
    assert y.max() < high + 1e-4


def test_a_cylinder_hides_the_wall_behind_it() -> None:
    plans = room(cylinders=np.array([[[0.15, -0.05, 0.05, 0.15, 23.0]]], dtype=np.float32))
    pose = np.array([[-0.15, -0.05, 0.0, 0.0, 0.0, 0.0]], dtype=np.float32)
    view = render(plans, np.array([0]), pose, 64)
    assert view.depth[0, 32] == pytest.approx(0.25, abs=2e-3)
    assert view.depth[0, 0] == pytest.approx(0.35, abs=0.02)  # of the side wall at the left border
    behind = render(plans, np.array([0]), pose + np.array([[0, 0, 0, np.pi, 0, 0]], dtype=np.float32), 64)
    assert behind.depth[0, 32] == pytest.approx(0.25, abs=1e-4)  # the wall at the back


def test_pitch_moves_the_horizon_and_roll_tilts_it() -> None:
    plans = room()
    pose = np.array([[-0.05, -0.05, 0.0, 0.0, 0.3, 0.0]], dtype=np.float32)
    sky = (render(plans, np.array([0]), pose, 64).images[0] == SKY).all(-1)
    level = (render(plans, np.array([0]), pose * [[1, 1, 1, 1, 0, 0]], 64).images[0] == SKY).all(-1)
    assert sky.sum() > level.sum()
    pose[0, 4:] = 0.0, 0.3
    rolled = (render(plans, np.array([0]), pose, 64).images[0] == SKY).all(-1)
    assert rolled[:, :16].sum() != rolled[:, -16:].sum()


def test_looking_down_on_a_cylinder_shows_its_top() -> None:
    plans = room(cylinders=np.array([[[0.1, -0.05, 0.06, -0.02, 23.0]]], dtype=np.float32))
    pose = np.array([[-0.05, -0.05, 0.1, 0.0, -0.6, 0.0]], dtype=np.float32)
    with_lid = render(plans, np.array([0]), pose, 64).images
    without = render(dataclasses.replace(plans, cylinders=plans.cylinders[:, :0]), np.array([0]), pose, 64).images
    assert (with_lid != without).any(-1).mean() > 0.02


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_places_do_not_depend_on_how_many_are_asked_for(name: str) -> None:
    few, many = MAKERS[name](3, 5), MAKERS[name](40, 5)
    for field in ("east", "north", "walls", "floors", "cylinders"):
        assert np.array_equal(getattr(few, field), getattr(many, field)[:3])
    a, b = (datasets.load(name, sizes=(n, 0, 0), views=4, size=8).train.numpy("images") for n in (2, 6))
    assert a.tobytes() == b[:2].tobytes()


def test_every_cell_of_a_maze_can_be_reached() -> None:
    plans = maze_plans(30, openings=0.0)
    n = plans.cells
    reached = np.zeros((30, n, n), dtype=bool)
    reached[:, 0, 0] = True
    for _ in range(n * n):
        through_x = reached[:, :-1] & ~plans.east[:, 1:-1]
        reached[:, 1:] |= through_x
        reached[:, :-1] |= reached[:, 1:] & ~plans.east[:, 1:-1]
        walls_y = np.swapaxes(plans.north[:, 1:-1], 1, 2)  # (places, cell along x, line)
        reached[:, :, 1:] |= reached[:, :, :-1] & ~walls_y
        reached[:, :, :-1] |= reached[:, :, 1:] & ~walls_y
    assert reached.all()
    # a tree has one edge fewer than cells; carved rooms open more
    opened = (~plans.east[:, 1:-1]).sum((1, 2)) + (~plans.north[:, 1:-1]).sum((1, 2))
    assert opened.min() >= n * n - 1


def test_maps_show_floors_and_walls_where_they_are() -> None:
    plans = maze_plans(2)
    pictures = plans.maps(70)
    assert pictures.shape == (2, 70, 70, 3)
    flat = pictures[0].reshape(-1, 3)
    assert len(np.unique(flat, axis=0)) >= 3
    # the outer walls frame the picture
    corridor = pictures[0, 0]
    assert (corridor != pictures[0, 5, 5]).any()


def test_vary_corridors_changes_materials_between_mazes() -> None:
    fixed, varied = (maze_plans(12, vary_corridors=v) for v in (False, True))
    assert len({int(f[0, 0]) for f in fixed.floors}) <= 4  # a carved room may lie in the corner
    assert len({int(w[3, 3, 0]) for w in varied.walls}) > 3


@pytest.mark.parametrize(
    ("pose", "error", "words"),
    [
        ([[0.31, 0.0, 0.0, 0.0, 0.0]], DataError, "outside the place"),
        ([[0.0, -0.5, 0.0, 0.0, 0.0]], DataError, "outside the place"),
        ([[0.0, 0.0, 0.9, 0.0, 0.0]], DataError, "outside the place"),
        ([[0.0, np.nan, 0.0, 0.0, 0.0]], DataError, "NaN"),
        ([[0.0, 0.0, 0.0]], ShapeError, "x, y, z, yaw, pitch"),
    ],
)
def test_cameras_that_cannot_be_are_refused(pose: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        render(court_plans(1), np.array([0]), np.array(pose), 16)


def test_impossible_requests_are_refused() -> None:
    with pytest.raises(DataError, match="there are 1 places"):
        render(court_plans(1), np.array([1]), np.zeros((1, 6)), 16)
    with pytest.raises(DataError, match="ray per pixel"):
        render(court_plans(1), np.array([0]), np.array([[0, 0, 0, 0, 0.1]]), 16, general=False)
    with pytest.raises(DataError, match="cells >= 3"):
        maze_plans(1, cells=2)
    with pytest.raises(DataError, match="sizes"):
        datasets.load("courts", sizes=(1, 2))
    with pytest.raises(DataError, match="views=0"):
        datasets.load("courts", sizes=(1, 0, 0), views=0)
