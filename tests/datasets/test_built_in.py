"""The generated sources: reproducible, extendable, true to what they say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from phlogiston import datasets
from phlogiston.datasets.generated import digits, poses, sierpinski, swissroll
from phlogiston.errors import DataError, ShapeError

BUILT_IN = [name for name in datasets.names() if datasets.info(name).kind == "built in"]
SMALL: dict[str, dict[str, Any]] = {
    "swissroll": {"n": 70},
    "poses": {"sizes": (50, 5, 10)},
    "script": {"sizes": (20, 5, 5)},
    "figures": {"characters": (2, 1, 1)},
    "pendulum": {"sizes": (6, 2, 3)},
    "courts": {"sizes": (3, 1, 1)},
    "mazes": {"sizes": (3, 1, 1)},
    "ring": {"sizes": (3, 1, 1)},
    "dodge": {"sizes": (6, 2, 2), "limit": 30},
}


def parts(data: datasets.Dataset) -> tuple[datasets.Split, ...]:
    return data.train, data.valid, data.test


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(name: str) -> None:
    one, two, other = (datasets.load(name, seed=seed, **SMALL.get(name, {})) for seed in (5, 5, 6))
    for a, b in zip(parts(one), parts(two), strict=True):
        assert {k: t.numpy().tobytes() for k, t in a.tensors.items()} == {
            k: t.numpy().tobytes() for k, t in b.tensors.items()
        }
    assert any(t.numpy().tobytes() != other.train.numpy(k).tobytes() for k, t in one.train.tensors.items())


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_description_matches_what_is_loaded(name: str) -> None:
    data, about = datasets.load(name), datasets.info(name)
    assert [int(n.replace(",", "")) for n in about.rows.split(" / ")] == [len(part) for part in parts(data)]
    assert data.meta.shapes == {key: tuple(t.shape[1:]) for key, t in data.train.tensors.items()}
    if "x" in data.train.tensors and data.train.tensors["x"].dim() == 2:  # a table; clips have no columns
        assert len(data.meta.columns) == data.train.tensors["x"].shape[-1]
    assert set(data.meta.options) == set(about.options)


@pytest.mark.parametrize(
    "draw",
    [
        lambda n: swissroll.draw(n, seed=3),
        lambda n: sierpinski.draw(n, seed=3),
        lambda n: poses.draw(n, seed=3),
        lambda n: datasets.load("swissroll", sizes=(n, 1, 1)).train.numpy(),
        lambda n: datasets.load("poses", sizes=(n, 1, 1)).train.numpy(),
        lambda n: datasets.load("sierpinski", n=n, valid=0, test=0).train.numpy(),
    ],
)
def test_the_first_rows_do_not_depend_on_how_many_were_asked_for(draw: Any) -> None:
    few, many = draw(7), draw(1001)
    assert few.tobytes() == many[:7].tobytes()


def test_no_part_of_the_data_repeats_another() -> None:
    for name in ("swissroll", "poses"):
        first = {tuple(part.numpy()[0]) for part in parts(datasets.load(name, **SMALL[name]))}
        assert len(first) == 3


# ---- swissroll


def test_swissroll_true_density_integrates_to_one() -> None:
    step = 0.25  # the trapezoid rule on a grid as wide as the noise is exact to e^(-2 pi^2)
    axis = np.arange(-8.0, 8.0, step)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    assert np.exp(swissroll.true_log_prob(grid, noise_sd=0.25)).sum() * step**2 == pytest.approx(1.0, abs=1e-6)


def test_swissroll_true_density_meets_an_independent_quadrature() -> None:
    angle = (np.arange(400_000) + 0.5) * swissroll.MAX_ANGLE / 400_000
    curve = 0.5 * angle[:, None] * np.stack([np.sin(angle), np.cos(angle)], 1)
    x = np.array([[0.0, 0.0], [0.3, -1.2], [0.0, 6.3], [-3.0, 2.0], [8.0, 8.0]])
    sd = 0.1
    distance = ((x[:, None] - curve) ** 2).sum(-1) / (2 * sd**2)
    top = distance.min(1, keepdims=True)
    density = (np.exp(top - distance) * angle).mean(1) * 2 / swissroll.MAX_ANGLE
    want = np.log(density) - top[:, 0] - np.log(2 * np.pi * sd**2)
    assert swissroll.true_log_prob(x, sd)[:4] == pytest.approx(want[:4], abs=1e-6)
    assert swissroll.true_log_prob(x, sd)[4] == pytest.approx(want[4], rel=1e-5)  # 250 nats out, at the curve's end


def test_swissroll_held_out_rows_score_what_the_truth_allows() -> None:
    data = datasets.load("swissroll")
    assert data.meta.truth is not None
    # 2,000 rows: standard error 0.017
    assert data.meta.truth(data.test.numpy()).mean() == pytest.approx(-2.814, abs=0.06)


def test_swissroll_without_noise_lies_on_the_curve_and_has_no_density() -> None:
    data = datasets.load("swissroll", noise_sd=0)
    x = np.concatenate([part.numpy() for part in parts(data)]).astype(float)
    radius = np.linalg.norm(x, axis=1)  # half the angle
    assert np.abs(x - radius[:, None] * np.stack([np.sin(2 * radius), np.cos(2 * radius)], 1)).max() < 1e-5
    assert np.abs(2 * radius / 0.001 - np.round(2 * radius / 0.001)).max() < 0.01  # on the grid of angles
    assert len(x) == pytest.approx(6283, abs=5 * 46)  # sd of the count is 46
    assert data.meta.truth is None


def test_swissroll_angles_have_a_density_that_grows_with_the_angle() -> None:
    radius = np.linalg.norm(swissroll.draw(20_000, noise_sd=1e-9), axis=1) / (2 * np.pi)
    assert (radius < 0.5).mean() == pytest.approx(0.25, abs=0.015)  # sqrt(u) < 1/2
    assert radius.max() <= 1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [({"noise_sd": -1.0}, "noise_sd is -1"), ({"n": 3}, "at least 7"), ({"sizes": (1, 2)}, "three numbers")],
)
def test_swissroll_refuses_impossible_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        datasets.load("swissroll", **options)


def test_swissroll_density_refuses_other_shapes_and_too_little_noise() -> None:
    with pytest.raises(ShapeError, match=r"\(3, 3\)"):
        swissroll.true_log_prob(np.zeros((3, 3)))
    with pytest.raises(DataError, match=r"from 0\.005 on"):
        swissroll.true_log_prob(np.zeros((3, 2)), noise_sd=1e-4)


# ---- Sierpinski


def test_sierpinski_is_6561_corners_centred_with_side_length_two() -> None:
    points = sierpinski.corner_points()
    assert points.shape == (6561, 2)
    low, high = points.min(0), points.max(0)
    assert low + high == pytest.approx(np.zeros(2), abs=1e-12)
    assert high[0] - low[0] == pytest.approx(2.0)
    assert high[1] - low[1] == pytest.approx(np.sqrt(3.0))
    assert len(np.unique(points.round(9), axis=0)) == (3**8 + 3) // 2


def test_sierpinski_has_no_point_in_any_hole() -> None:
    points = np.concatenate([sierpinski.corner_points(), sierpinski.draw(4000)])
    assert np.isfinite(sierpinski.true_log_prob(points)).all()
    middle = sierpinski.CORNERS.mean(0, keepdims=True)
    assert sierpinski.true_log_prob(middle)[0] == -np.inf


def test_sierpinski_density_is_one_over_the_area_of_the_small_triangles() -> None:
    level = sierpinski.true_log_prob(sierpinski.draw(1))[0]
    assert np.exp(-level) == pytest.approx(3**7 * np.sqrt(3.0) / 4**7)  # a triangle of side 2 has area sqrt(3)


def test_sierpinski_cells_are_the_small_triangles_in_order_of_their_path() -> None:
    points = sierpinski.draw(2000, seed=1)
    for depth in (1, 3, 5):
        centres = sierpinski.corner_points(depth).reshape(-1, 3, 2).mean(1)
        cells = sierpinski.cell(points, depth)
        # a point lies in the triangle whose centre is nearest, among those of its level
        nearest = ((points[:, None] - centres) ** 2).sum(-1).argmin(1)
        assert (cells == nearest).all()


def test_sierpinski_draws_visit_every_cell_equally() -> None:
    counts = np.bincount(sierpinski.cell(sierpinski.draw(24_300)), minlength=243)
    chi_square = ((counts - 100.0) ** 2 / 100.0).sum()
    assert 242 - 5 * 22 < chi_square < 242 + 5 * 22  # sd is sqrt(2 * 242) = 22


def test_sierpinski_points_outside_go_to_the_nearest_triangle() -> None:
    far = 3.0 * sierpinski.CORNERS
    assert sierpinski.cell(far, 2).tolist() == [0, 4, 8]
    with pytest.raises(ShapeError, match=r"\(2, 3\)"):
        sierpinski.cell(np.zeros((2, 3)))


def test_sierpinski_parts_are_a_division_of_the_points() -> None:
    data = datasets.load("sierpinski", seed=2)
    together = np.concatenate([part.numpy() for part in parts(data)])
    want = sierpinski.corner_points().astype(np.float32)
    assert (np.sort(together, axis=0) == np.sort(want, axis=0)).all()
    with pytest.raises(DataError, match="leave -39 to train on"):
        datasets.load("sierpinski", valid=3000, test=3600)


# ---- digits


def test_digits_are_grey_levels_plus_noise_within_one_level() -> None:
    noisy, plain = datasets.load("digits", seed=4), datasets.load("digits", seed=4, dequantise=False)
    noise = (noisy.train.numpy() - plain.train.numpy()) * 16
    assert noise.min() >= -1e-5
    assert noise.max() <= 1.0 + 1e-5
    assert noise.mean() == pytest.approx(0.5, abs=0.005)
    assert (noisy.train.numpy("label") == plain.train.numpy("label")).all()
    assert noisy.meta.image_shape == (8, 8)
    assert noisy.meta.categorical["label"] == tuple("0123456789")


def test_digits_tested_are_the_same_whatever_is_carved_for_validation() -> None:
    a, b = datasets.load("digits", valid=0), datasets.load("digits", valid=300)
    assert (len(a.train), len(a.valid), len(a.test)) == (1400, 0, 397)
    assert a.test.numpy().tobytes() == b.test.numpy().tobytes()
    assert digits.INFO.licence


# ---- poses


def test_a_hand_worked_pose_comes_out_of_forward_kinematics() -> None:
    angles = np.zeros(16)
    angles[poses.NAMES.index("torso")] = np.pi / 2  # the whole body tips clockwise: up becomes right
    angles[poses.NAMES.index("right_forearm")] = np.pi / 2
    angles[poses.NAMES.index("left_thigh")] = -np.pi / 2
    joint = dict(zip(poses.NAMES, poses.forward_kinematics(np.array([0.1, 0.6]), angles), strict=True))
    assert joint["upper_torso"] == pytest.approx([0.35, 0.6])
    assert joint["head_top"] == pytest.approx([0.85, 0.6])
    assert joint["right_upper_arm"] == pytest.approx([0.6, 0.45])  # 0.15 to the right of the spine is now below it
    assert joint["right_forearm"] == pytest.approx([0.6, 0.15])
    assert joint["right_hand"] == pytest.approx([0.3, 0.15])  # turned once more: right becomes left
    assert joint["left_foot"] == pytest.approx([0.1, 0.75 - 0.7])  # the thigh turned back: hanging down again
    assert joint["right_foot"] == pytest.approx([0.1 - 0.7, 0.45])


def test_the_centre_of_mass_of_a_standing_figure_is_the_mean_of_its_segments() -> None:
    row = poses.observe(np.array([0.0, 1.0]), np.zeros(16))
    heights = [0.125, 0.375, 0.625] + [0.5] * 4 + [-0.175, -0.525] * 2
    assert row[18:20] == pytest.approx([0.0, 1.0 + np.mean(heights)])


def test_the_reference_centre_of_mass_divides_by_the_joints_and_counts_a_corner_twice() -> None:
    row = poses.observe(np.array([0.0, 1.0]), np.zeros(16), reference_com=True)

    def outline(at: tuple[float, float], x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
        return np.array([[x0, y0], [x0, y1], [x1, y1], [x1, y0], [x0, y0]]).mean(0) + at

    segments = [
        outline((0, 1.0), -0.15, 0, 0.15, 0.25),
        outline((0, 1.25), -0.15, 0, 0.15, 0.25),
        outline((0, 1.5), -0.075, 0, 0.075, 0.25),
        *(outline((s * a, 1.5), 0, 0.05, s * 0.3, -0.05) for s in (1, -1) for a in (0.15, 0.45)),
        *(outline((s * 0.15, 1.0 - a), -0.05, 0, 0.05, -0.35) for s in (1, -1) for a in (0.0, 0.35)),
    ]
    assert row[18:20] == pytest.approx(np.sum(segments, 0) / 16)


def test_poses_keep_joint_limits_bone_lengths_and_constant_columns() -> None:
    x = datasets.load("poses", sizes=(3000, 1, 1)).train.numpy().astype(float)
    drawn, limits = x[:, :18], poses.LIMITS
    assert (drawn >= limits[:, 0] - 1e-6).all()
    assert (drawn <= limits[:, 1] + 1e-6).all()
    free = limits[:, 0] < limits[:, 1]
    assert (drawn[:, ~free] == 0).all()
    assert (~free).sum() == 5
    spread = (limits[free, 1] - limits[free, 0]) / np.sqrt(12.0)
    assert drawn[:, free].mean(0) == pytest.approx(limits[free].mean(1), abs=0.1)
    assert drawn[:, free].std(0) / spread == pytest.approx(np.ones(free.sum()), abs=0.05)
    joints = poses.forward_kinematics(drawn[:, :2], drawn[:, 2:])
    for i, joint in enumerate(poses.JOINTS[1:], 1):
        bone = np.linalg.norm(joints[:, i] - joints[:, poses.NAMES.index(joint.parent)], axis=1)
        assert bone == pytest.approx(np.full(len(x), np.linalg.norm(joint.offset)))
    tips = np.concatenate([joints[:, poses.NAMES.index(name)] for name in poses.EFFECTORS], axis=1)
    assert x[:, 20:] == pytest.approx(tips, abs=1e-5)


def test_poses_refuse_other_shapes() -> None:
    with pytest.raises(ShapeError, match=r"\(4, 15\)"):
        poses.forward_kinematics(np.zeros((4, 2)), np.zeros((4, 15)))
    with pytest.raises(DataError, match="three numbers"):
        datasets.load("poses", sizes=(1, 2))
