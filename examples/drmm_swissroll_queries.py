"""One density, five questions: a Swiss roll unconditional, at a known x, under a Gaussian prior, in a box, in a wedge.

Nothing is trained twice: every panel is one `query` of the same model, and every sample obeys what it was asked for.

    python examples/drmm_swissroll_queries.py --out panel.png

After the tutorial of Hämäläinen and Solin, Deep Residual Mixture Models, 2020.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from phlogiston import datasets
from phlogiston.datasets import Dataset
from phlogiston.inference.query.evidence import HalfSpace, Known, Near, Within
from phlogiston.systems.drmm import DRMM
from phlogiston.systems.drmm.panels import shade

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SOFT = "#c3cad4"
INF = float("inf")
QUESTIONS: dict[str, dict[str, Any]] = {
    "unconditional": {},
    "x0 = 2.5": {"x": Known([2.5, 0.0], [1, 0])},
    "x near (-2, 2), sd 1": {"x": Near([-2.0, 2.0], [1.0, 1.0])},
    "in a box": {"x": Within([-1.0, -INF], [4.5, -1.0])},
    "two inequalities": {"x": HalfSpace([[1.0, 1.0], [-1.0, 2.0]], [-2.0, -1.0])},
}


def picture(system: DRMM, data: Dataset, num_samples: int = 800) -> Figure:
    """Samples over the data, one panel per question, the constraint drawn in colour."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13.0, 3.0), layout="constrained")
    figure.set_label("samples of one Swiss roll density under five kinds of evidence")
    grid = np.linspace(-8, 8, 300)
    a, b = np.meshgrid(grid, grid)
    for ax, (title, question) in zip(figure.subplots(1, len(QUESTIONS), sharey=True), QUESTIONS.items(), strict=True):
        answer = system.query(question, num_samples=num_samples, resample=True, seed=0)
        x = answer.samples["x"].numpy()
        if "x" in question:
            shade(ax, question["x"], a, b)
        ax.scatter(*data.test.numpy().T, s=1.5, color=SOFT, linewidths=0)
        ax.scatter(*x.T, s=3.5, color="#1d3557", linewidths=0, alpha=0.8)
        ax.set(xlim=(-7.5, 7.5), ylim=(-7.5, 7.5), aspect="equal", xticks=[], yticks=[])
        ax.set_title(title, fontsize=10)
        if question and answer.log_evidence is not None:
            ax.set_xlabel(f"log evidence {float(answer.log_evidence):.2f}", fontsize=8)
    return figure


def main() -> None:
    """Fit, ask, print what each answer rests on, and draw."""
    parser = argparse.ArgumentParser(description="Five questions to one density.")
    parser.add_argument("--smoke", action="store_true", help="a few steps that show the path, not the quality")
    parser.add_argument("--out", type=Path, default=Path("drmm_swissroll_queries.png"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    data = datasets.load("swissroll", seed=options.seed)
    system = DRMM(preset="swissroll", **({"steps": 50} if options.smoke else {})).fit(data, seed=options.seed)
    for title, question in QUESTIONS.items():
        print(f"{title:22} {system.query(question, num_samples=2000, seed=options.seed)}")
    picture(system, data).savefig(options.out, dpi=110)
    print(options.out)


if __name__ == "__main__":
    main()
