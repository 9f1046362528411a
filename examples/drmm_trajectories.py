"""Planning flights by conditioning a density: pass way-points at given times, stay clear of obstacles.

A deep residual mixture learns flights of 32 steps, heights and speeds in one row of 64 columns. A plan is the answer to
a question about some columns: way-points are known heights, the gap between two obstacles is a box on a height. Every
answer obeys both exactly; how well it obeys the game's physics is what the model has learned.

    python examples/drmm_trajectories.py --out flights.png

After the planning example that goes with Hämäläinen and Solin, Deep Residual Mixture Models, 2020.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from phlogiston import datasets
from phlogiston.datasets.generated import jumper
from phlogiston.networks.frames import path_gaussian
from phlogiston.systems.drmm import DRMM
from phlogiston.systems.drmm.panels import flight_evidence, flights

OPTIONS: dict[str, Any] = {"frame": "diag", "num_layers": 4, "num_components": 128, "steps": 3000}
Gaps = Mapping[int, tuple[float, float]]


def obeys(x: np.ndarray, way_points: Mapping[int, float], gaps: Gaps, near: float = 0.02) -> np.ndarray:
    """Whether flights (n, 64) pass all way-points and stay within all gaps: bool (n,)."""
    y = jumper.heights(x)
    passed = [np.abs(y[:, time] - height) <= near for time, height in way_points.items()]
    clear = [(y[:, time] >= low) & (y[:, time] <= high) for time, (low, high) in gaps.items()]
    return np.asarray(np.all([*passed, *clear], axis=0))


def reconstructed(system: DRMM, x: np.ndarray, noise: bool, seed: int = 0) -> np.ndarray:
    """Flights as the model writes them: coded as their most probable path, then drawn from it (or its mean)."""
    model = system.model
    with torch.no_grad():
        mean, factor = path_gaussian(model.frames, system.codes(x.astype(np.float32)))
        if noise:
            e = torch.randn(mean.shape, generator=torch.Generator().manual_seed(seed))
            mean = mean + (factor * e if factor.dim() == 2 else (factor @ e.unsqueeze(-1)).squeeze(-1))
        return np.asarray(model.values(mean.double()).numpy())


def held_out_question(x: np.ndarray, seed: int) -> tuple[dict[int, float], dict[int, tuple[float, float]]]:
    """Three way-points and three gaps of 0.16 that a held-out flight (64,) passes, at random times."""
    times = np.random.default_rng(seed).choice(jumper.STEPS, 6, replace=False)
    y, off = jumper.heights(x), np.random.default_rng([seed, 1]).uniform(-0.05, 0.05, 3)
    gaps = {int(t): (float(y[t] + o - 0.08), float(y[t] + o + 0.08)) for t, o in zip(times[3:], off, strict=True)}
    return {int(t): float(y[t]) for t in times[:3]}, gaps


def main() -> None:
    """Fit, plan, print how well plans obey way-points, obstacles and physics, and draw."""
    parser = argparse.ArgumentParser(description="Planning flights by conditioning a density.")
    parser.add_argument("--smoke", action="store_true", help="a small model that shows the path, not the quality")
    parser.add_argument("--out", type=Path, default=Path("drmm_trajectories.png"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    small: dict[str, Any] = {"num_layers": 2, "num_components": 32, "steps": 100}
    data = datasets.load("jumper", seed=options.seed, **({"sizes": (3000, 0, 50)} if options.smoke else {}))
    system = DRMM(**(small if options.smoke else OPTIONS)).fit(data, seed=options.seed)
    held_out = data.test.numpy().astype(np.float64)[: 5 if options.smoke else 40]
    good, off = [], []
    for i, flight in enumerate(held_out):
        points, gaps = held_out_question(flight, i)
        x = (
            system.query(flight_evidence(points, gaps), num_samples=64, noise="mean", resample=True, seed=i)
            .samples["x"]
            .numpy()
        )
        good.append(obeys(x, points, gaps).mean())
        off.append(jumper.violation(x).mean())
    known = jumper.violation(reconstructed(system, held_out, noise=False)).mean()
    print(f"plans that pass all way-points and touch no obstacle: {100 * np.mean(good):.1f} %")
    print(
        f"violation of the dynamics per step: {np.mean(off):.4f}; held-out flights as the model codes them: {known:.4f}"
    )
    flights(system).savefig(options.out, dpi=110)
    print(options.out)


if __name__ == "__main__":
    main()
