"""Inverse kinematics by conditioning a density: hands and feet to targets, the head below an obstacle.

A deep residual mixture learns 30 columns of poses: root, joint angles, and where hands, feet and head end up. To pose
the figure is then to ask for the angles given the ends. The upper row shows samples of the model's conditional, the
lower row the same samples after a few Gauss-Newton steps on the true kinematics; on the right a beam hangs where the
head would like to be.

    python examples/drmm_kinematics.py --out poses.png

After Hämäläinen and Solin, Deep Residual Mixture Models, 2020.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from phlogiston import datasets
from phlogiston.datasets import poses
from phlogiston.systems.drmm import DRMM
from phlogiston.systems.kinematics import Kinematics, Poses

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LIMBS = ("right_hand", "left_hand", "right_foot", "left_foot")
OPTIONS: dict[str, Any] = {"preset": "poses", "num_components": 64, "steps": 8000}
INK, ACCENT, SOFT = "#1d3557", "#c2410c", "#8a94a3"


def targets_of(row: np.ndarray, names: tuple[str, ...] = LIMBS) -> dict[str, np.ndarray]:
    """Where a pose of the data has its hands and feet: targets that can be reached."""
    first = {name: poses.COLUMNS.index(f"{name}_x") for name in names}
    return {name: row[i : i + 2] for name, i in first.items()}


def draw_pose(place: Axes, joints: np.ndarray, **style: Any) -> None:
    """Draw one figure as sticks; joints (16, 2)."""
    neck, top = joints[poses.NAMES.index("head")], joints[poses.NAMES.index("head_top")]
    around = np.linspace(0.0, 2.0 * np.pi, 40)
    radius = 0.5 * np.linalg.norm(top - neck)
    place.plot(*((neck + top)[:, None] / 2 + 0.62 * radius * np.stack([np.cos(around), np.sin(around)])), **style)
    place.plot(*np.stack([neck, neck + 0.19 * (top - neck)]).T, **style)
    for i, joint in enumerate(poses.JOINTS):
        if joint.parent and joint.name != "head_top":
            start = joints[poses.NAMES.index(joint.parent)]
            place.plot(*np.stack([start, joints[i]]).T, solid_capstyle="round", **style)


def panel(place: Axes, found: Poses, targets: dict[str, Any], limit: float | None, title: str, shown: int = 8) -> None:
    """Draw some poses over each other, the first one dark, with targets and obstacle."""
    for joints in found.joints[1:shown]:
        draw_pose(place, joints, color=SOFT, alpha=0.45, linewidth=1.2)
    draw_pose(place, found.joints[0], color=INK, linewidth=2.2)
    place.scatter(
        *np.array(list(targets.values())).T, s=60, facecolors="none", edgecolors=ACCENT, linewidths=1.8, zorder=3
    )
    if limit is not None:
        place.axhspan(limit, 2.5, color=ACCENT, alpha=0.18, linewidth=0)
        place.axhline(limit, color=ACCENT, linewidth=1.0)
    place.set(xlim=(-1.05, 1.05), ylim=(-0.35, 1.75), aspect="equal", xticks=[], yticks=[])
    place.set_title(title, fontsize=9)
    place.set_xlabel(f"error {found.error.mean():.4f}", fontsize=8)


def picture(solver: Kinematics, num_samples: int = 64) -> Figure:
    """Three questions, sampled and refined."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 6.6), layout="constrained")
    figure.set_label("stick figures reaching for targets, sampled above and refined below")
    standing = {"right_foot": (0.2, 0.0), "left_foot": (-0.2, 0.0)}
    questions: list[tuple[str, dict[str, Any], float | None]] = [
        ("hands and feet", {**standing, "right_hand": (0.55, 1.1), "left_hand": (-0.6, 0.8)}, None),
        ("feet and one hand", {**standing, "right_hand": (0.6, 0.7)}, None),
        ("... and the head below the line", {**standing, "right_hand": (0.6, 0.7)}, 1.15),
    ]
    axes = figure.subplots(2, len(questions))
    for column, (title, targets, limit) in enumerate(questions):
        for row, refine in enumerate((False, True)):
            found = solver.solve(targets, limit, num_samples, refine, seed=column)
            panel(axes[row, column], found, targets, limit, title if not refine else "refined")
    return figure


def main() -> None:
    """Fit, pose, print how well held-out targets are reached, and draw."""
    parser = argparse.ArgumentParser(description="Inverse kinematics by conditioning a density.")
    parser.add_argument("--smoke", action="store_true", help="a small model that shows the path, not the quality")
    parser.add_argument("--out", type=Path, default=Path("drmm_kinematics.png"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    small: dict[str, Any] = {"frame": "tril", "num_layers": 1, "num_components": 12, "steps": 100}
    data = datasets.load("poses", seed=options.seed, **({"sizes": (3000, 0, 50)} if options.smoke else {}))
    solver = Kinematics(DRMM(**(small if options.smoke else OPTIONS)).fit(data, seed=options.seed))
    held_out = data.test.numpy().astype(np.float64)[: 5 if options.smoke else 40]
    for refine in (False, True):
        found = [solver.solve(targets_of(row), refine=refine, seed=i) for i, row in enumerate(held_out)]
        error, loss = np.mean([f.error for f in found]), np.mean([f.log_prob_loss for f in found])
        words = f"refined: {error:.4f}, {loss:+.2f} nats of log density lost" if refine else f"samples: {error:.4f}"
        print(f"distance from hands and feet to their targets, {words}")
    picture(solver).savefig(options.out, dpi=110)
    print(options.out)


if __name__ == "__main__":
    main()
