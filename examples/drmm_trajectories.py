"""Planning flights by conditioning a density: pass way-points at given times, stay clear of obstacles.

A deep residual mixture learns flights of 32 steps, heights and speeds in one row of 64 columns. A plan is the answer to
a question about some columns: way-points are known heights, the gap between two obstacles is a box on a height. Every
answer obeys both exactly; how well it obeys the game's physics is what the model has learned.

    python examples/drmm_trajectories.py --out flights.png

After the planning example that goes with Hämäläinen and Solin, Deep Residual Mixture Models, 2020.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from phlogiston import datasets
from phlogiston.datasets import jumper
from phlogiston.distributions.paths import tuple_gaussian
from phlogiston.inference.evidence import Known, Piece, Within
from phlogiston.systems.drmm import DRMM

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OPTIONS: dict[str, Any] = {"frame": "diag", "num_layers": 4, "num_components": 128, "steps": 3000}
INK, ACCENT, SOFT = "#1d3557", "#c2410c", "#8a94a3"
Gaps = Mapping[int, tuple[float, float]]


def question(way_points: Mapping[int, float], gaps: Gaps) -> dict[str, list[Piece]]:
    """Evidence for `DRMM.query`: time -> height to pass, and time -> (lowest, highest) height allowed."""
    values, mask = torch.zeros(64, dtype=torch.float64), torch.zeros(64, dtype=torch.bool)
    for time, height in way_points.items():
        values[time], mask[time] = height, True
    lower, upper = torch.full((64,), -math.inf).double(), torch.full((64,), math.inf).double()
    for time, (low, high) in gaps.items():
        lower[time], upper[time] = low, high
    return {"x": [Known(values, mask), Within(lower, upper)]}


def obeys(x: np.ndarray, way_points: Mapping[int, float], gaps: Gaps, near: float = 0.02) -> np.ndarray:
    """Whether flights (n, 64) pass all way-points and stay within all gaps: bool (n,)."""
    y = jumper.heights(x)
    passed = [np.abs(y[:, time] - height) <= near for time, height in way_points.items()]
    clear = [(y[:, time] >= low) & (y[:, time] <= high) for time, (low, high) in gaps.items()]
    return np.asarray(np.all([*passed, *clear], axis=0))


def reconstructed(system: DRMM, x: np.ndarray, noise: bool, seed: int = 0) -> np.ndarray:
    """Flights as the model writes them: coded as their most probable tuple, then drawn from it (or its mean)."""
    model = system.model
    with torch.no_grad():
        mean, factor = tuple_gaussian(model.frames, system.codes(x.astype(np.float32)))
        if noise:
            e = torch.randn(mean.shape, generator=torch.Generator().manual_seed(seed))
            mean = mean + (factor * e if factor.dim() == 2 else (factor @ e.unsqueeze(-1)).squeeze(-1))
        return np.asarray((model.location + model.scale * mean).double().numpy())


def held_out_question(x: np.ndarray, seed: int) -> tuple[dict[int, float], dict[int, tuple[float, float]]]:
    """Three way-points and three gaps of 0.16 that a held-out flight (64,) passes, at random times."""
    times = np.random.default_rng(seed).choice(jumper.STEPS, 6, replace=False)
    y, off = jumper.heights(x), np.random.default_rng([seed, 1]).uniform(-0.05, 0.05, 3)
    gaps = {int(t): (float(y[t] + o - 0.08), float(y[t] + o + 0.08)) for t, o in zip(times[3:], off, strict=True)}
    return {int(t): float(y[t]) for t in times[:3]}, gaps


def picture(system: DRMM, seed: int = 0) -> Figure:
    """Flights without a question, through way-points, and through way-points and gaps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0, 3.4), layout="constrained")
    figure.set_label("flights: unconditional, through way-points, through way-points and between obstacles")
    way_points = {0: 0.5, 12: 0.3, 31: 0.6}
    obstacles = {6: (0.38, 0.55), 19: (0.45, 0.62), 25: (0.62, 0.8)}
    panels: list[tuple[str, dict[int, float], Gaps]] = [
        ("the model's flights", {}, {}),
        ("through three way-points", way_points, {}),
        ("... and between obstacles", way_points, obstacles),
    ]
    for place, (title, points, gaps) in zip(figure.subplots(1, 3, sharey=True), panels, strict=True):
        answer = system.query(
            question(points, gaps), num_samples=400, noise="mean", resample=True, sort=True, seed=seed
        )
        y = jumper.heights(answer.samples["x"].numpy())
        shown = y[np.random.default_rng(seed).permutation(len(y) // 4)[:12]]  # of the most plausible quarter
        place.plot(shown[1:].T, color=SOFT, linewidth=1.0, alpha=0.8)
        place.plot(shown[0], color=INK, linewidth=2.0)
        for time, (low, high) in gaps.items():
            for bottom, top in ((-0.1, low), (high, 1.1)):
                place.fill_between([time - 0.35, time + 0.35], bottom, top, color=ACCENT, alpha=0.55, linewidth=0)
        if points:
            place.scatter(
                points.keys(), points.values(), s=55, color="white", edgecolors=ACCENT, linewidths=1.8, zorder=3
            )
        place.set(xlim=(-1, 32), ylim=(-0.1, 1.1), xlabel="step")
        place.set_title(title, fontsize=10)
    figure.axes[0].set_ylabel("height")
    return figure


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
            system.query(question(points, gaps), num_samples=64, noise="mean", resample=True, seed=i)
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
    picture(system).savefig(options.out, dpi=110)
    print(options.out)


if __name__ == "__main__":
    main()
