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
from typing import Any

import numpy as np

from phlogiston import datasets
from phlogiston.datasets.generated import poses
from phlogiston.systems.drmm import DRMM
from phlogiston.systems.drmm.kinematics import Kinematics
from phlogiston.systems.drmm.panels import reaching

LIMBS = ("right_hand", "left_hand", "right_foot", "left_foot")
OPTIONS: dict[str, Any] = {"preset": "poses", "num_components": 64, "steps": 8000}


def targets_of(row: np.ndarray, names: tuple[str, ...] = LIMBS) -> dict[str, np.ndarray]:
    """Where a pose of the data has its hands and feet: targets that can be reached."""
    first = {name: poses.COLUMNS.index(f"{name}_x") for name in names}
    return {name: row[i : i + 2] for name, i in first.items()}


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
        results = [solver.solve(targets_of(row), refine=refine, seed=i) for i, row in enumerate(held_out)]
        error, loss = np.mean([f.error for f in results]), np.mean([f.log_prob_loss for f in results])
        words = f"refined: {error:.4f}, {loss:+.2f} nats of log density lost" if refine else f"samples: {error:.4f}"
        print(f"distance from hands and feet to their targets, {words}")
    reaching(solver).savefig(options.out, dpi=110)
    print(options.out)


if __name__ == "__main__":
    main()
