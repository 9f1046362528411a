"""Inverse kinematics on a small model: limits hold, refinement reaches targets, and every figure is what it says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from phlogiston import datasets
from phlogiston.datasets.generated import poses
from phlogiston.errors import ConfigError, ShapeError, UnknownNameError
from phlogiston.systems.drmm.kinematics import HEAD, Kinematics
from phlogiston.systems.drmm.system import DRMM

LIMBS = ("right_hand", "left_hand", "right_foot", "left_foot")


def aims(row: np.ndarray, names: tuple[str, ...] = LIMBS) -> dict[str, np.ndarray]:
    return {name: row[(i := poses.COLUMNS.index(f"{name}_x")) : i + 2] for name in names}


@pytest.fixture(scope="module")
def solver() -> Kinematics:
    torch.manual_seed(0)
    data = datasets.load("poses", sizes=(4000, 0, 10))
    options = {"frame": "tril", "num_layers": 1, "num_components": 16, "steps": 150, "batch_size": 128}
    return Kinematics(DRMM(options).fit(data))


@pytest.fixture(scope="module")
def held_out() -> np.ndarray:
    return poses.draw(6, part="test")


def test_the_jacobian_is_that_of_the_forward_kinematics() -> None:
    row = poses.draw(3, seed=2)
    exact = poses.jacobian(row[:, :2], row[:, 2:18])
    for i in range(18):
        step = np.zeros(18)
        step[i] = 1e-6
        ahead, behind = (poses.forward_kinematics(q[:, :2], q[:, 2:]) for q in (row[:, :18] + step, row[:, :18] - step))
        assert exact[..., i] == pytest.approx((ahead - behind) / 2e-6, abs=1e-8)


def test_samples_hold_the_targets_exactly_and_the_limits(solver: Kinematics, held_out: np.ndarray) -> None:
    for i, row in enumerate(held_out):
        found = solver.solve(aims(row), head_limit=row[-1] + 0.05, num_samples=32, seed=i)
        for name, target in aims(row).items():
            assert (aims(found.x.T, (name,))[name] == np.asarray(target)[:, None]).all()
        assert (found.x[:, -1] <= row[-1] + 0.05).all()
        angles = found.x[:, 2:18]
        assert (angles >= poses.LIMITS[2:, 0]).all()
        assert (angles <= poses.LIMITS[2:, 1]).all()
        joints = poses.forward_kinematics(found.x[:, :2], angles)
        ends = np.stack([joints[:, poses.NAMES.index(n)] - np.asarray(t) for n, t in aims(row).items()], 1)
        assert found.error == pytest.approx(np.linalg.norm(ends, axis=-1).mean(1))


def test_refinement_meets_targets_within_all_limits(solver: Kinematics, held_out: np.ndarray) -> None:
    for i, row in enumerate(held_out):
        limit = row[-1] + 0.05
        found = solver.solve(aims(row), head_limit=limit, num_samples=32, refine=True, seed=i)
        assert found.error.mean() < 0.01
        assert found.within_limits.mean() >= 0.95
        assert (found.x[:, 2:18] >= poses.LIMITS[2:, 0]).all()
        assert (found.x[:, 2:18] <= poses.LIMITS[2:, 1]).all()
        assert found.x == pytest.approx(poses.observe(found.x[:, :2], found.x[:, 2:18]))
        assert (found.within_limits == (found.joints[:, HEAD, 1] <= limit)).all()
        want = solver.system.log_prob(found.x.astype(np.float32)).value.numpy()
        assert found.log_prob == pytest.approx(want, abs=0.05)


def test_refinement_does_not_make_all_poses_the_same(solver: Kinematics, held_out: np.ndarray) -> None:
    row = held_out[0]
    sampled = solver.solve(aims(row, LIMBS[:2]), num_samples=64, seed=0)
    refined = solver.solve(aims(row, LIMBS[:2]), num_samples=64, refine=True, seed=0)
    spread = [f.joints[:, poses.NAMES.index("right_foot")].std(0).mean() for f in (sampled, refined)]
    assert spread[1] > 0.7 * spread[0] > 0.05


def test_unreachable_targets_are_approached_and_reported(solver: Kinematics) -> None:
    x = np.repeat(poses.observe(np.array([[0.0, 0.7]]), np.zeros((1, 16))), 2, 0)
    metric = np.repeat(np.eye(len(solver.moving))[None], 2, 0)
    feet = {"right_foot": (0.15, 0.0), "left_foot": (-0.15, 5.0)}
    moved = solver.refine(x, metric, feet)
    assert np.isfinite(moved).all()
    before, after = (np.abs(rows[:, [-3]] - 5.0).mean() for rows in (x, moved))
    assert after < before


def test_the_head_limit_is_an_inequality(solver: Kinematics) -> None:
    x = poses.observe(np.array([[0.0, 0.7]]), np.zeros((1, 16)))  # head top at 1.45
    metric = np.eye(len(solver.moving))[None]
    free = solver.refine(x, metric, aims(x[0]), head_limit=2.0)
    assert free == pytest.approx(x)
    low = solver.refine(x, metric, aims(x[0], LIMBS[2:]), head_limit=1.2)
    assert low[0, -1] <= 1.2
    assert low[0, -6:-2] == pytest.approx(x[0, -6:-2], abs=1e-4)  # the feet stay


def test_bad_questions_are_named(solver: Kinematics) -> None:
    with pytest.raises(UnknownNameError, match="left_hand"):
        solver.solve({"left_hnad": (0.0, 1.0)})
    with pytest.raises(ShapeError, match="two numbers"):
        solver.solve({"left_hand": (0.0, 1.0, 2.0)})
    with pytest.raises(ConfigError, match="centre of mass"):
        solver.solve({"com": (0.0, 1.0)}, refine=True)
    rows = torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ConfigError, match="'poses'"):
        Kinematics(DRMM(num_layers=1, num_components=2, steps=2).fit(rows))
