"""How much CPU time a DRMM takes to be as good on held-out rows as scikit-learn's mixture of as many components.

    PHLOGISTON_TEST_DATA=DIR python -P -m pytest benchmarks/test_time_to_quality.py -m bench -s

Ours is all of `fit`, from the rows to the step after which the held-out log density is level; scoring is not counted.
Scikit-learn gets standardised columns, its own k-means and its own stopping rule. Both see the same numbers: rounded
measurements are filled with noise one step wide beforehand.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from phlogiston import datasets
from phlogiston.systems.drmm.config import PRESETS
from phlogiston.systems.drmm.system import DRMM

from .rows import Rows, shown

pytestmark = pytest.mark.bench

BAR = 3.0
LADDER = (1, 10, 25, 50, 100, 200, 400)
"""Steps after which ours is scored: the first one at which it is level counts."""
DEEP = {"num_layers": 2, "frame": "tril"}
Table = tuple[dict[str, Any], np.ndarray, dict[str, Any], np.ndarray]


class Watch:
    """Callback: the CPU time after which a held-out figure is reached.

    Args:
        score: the held-out figure of the model in training.
        target: the figure to reach.
    """

    def __init__(self, score: Callable[[], float], target: float) -> None:
        self.score, self.target = score, target
        self.began, self.aside = time.process_time(), 0.0
        self.reached: float | None = None
        self.figure = -np.inf

    def on_step(self, state: Any) -> None:
        """Score where it is due, off the clock; training ends when the target is reached."""
        if state.step not in LADDER:
            return
        now = time.process_time()
        self.figure = self.score()
        if self.figure >= self.target:
            self.reached = now - self.began - self.aside
            state.request_stop()
        self.aside += time.process_time() - now


def swissroll(seed: int) -> Table:
    """Points of the noisy Swiss roll."""
    data = datasets.load("swissroll", noise_sd=0.1, n=7000, seed=seed)
    train, test = (part.numpy().astype(np.float64) for part in (data.train, data.test))
    return {"x": train}, train, {"x": test}, test


def measurements(name: str) -> Callable[[int], Table]:
    """A regression table with its target as one more column, split by the first of its given splits."""

    def load(seed: int) -> Table:
        root = os.environ.get("PHLOGISTON_TEST_DATA")
        path = Path(root or "") / "uci_regression" / f"{name}.npz"
        if root is None or not path.exists():
            pytest.skip(f"needs uci_regression/{name}.npz in the folder of PHLOGISTON_TEST_DATA")
        with np.load(path) as file:
            x = np.concatenate([file["x"], file["y"]], 1).astype(np.float64)
            test = np.isin(np.arange(len(x)), file["test_index"][0])
        generator = np.random.default_rng(seed)
        for column in x.T:
            column += generator.uniform(-0.5, 0.5, len(x)) * np.round(np.diff(np.unique(column)).min(), 6)
        x = (x - x[~test].mean(0)) / x[~test].std(0)
        return {"x": x[~test]}, x[~test], {"x": x[test]}, x[test]

    return load


def digits(seed: int) -> Table:
    """Digits of 8 x 8 pixels; ours learns their labels, too."""
    data = datasets.load("digits", valid=0, seed=seed)
    return data, data.train.numpy().astype(np.float64), data.test, data.test.numpy().astype(np.float64)


def poses(seed: int) -> Table:
    """Poses of a body: 25 columns that vary."""
    data = datasets.load("poses", seed=seed)
    train, test = (part.numpy().astype(np.float64) for part in (data.train, data.test))
    keep = train.std(0) > 1e-9
    return {"x": train[:, keep]}, train[:, keep], {"x": test[:, keep]}, test[:, keep]


CASES: dict[str, tuple[str, Callable[[int], Table], dict[str, Any], int, str, dict[str, Any], int]] = {
    "swissroll-full": ("the noisy Swiss roll, `tril` 2x16", swissroll, PRESETS["swissroll"], 16, "full", {}, 3),
    "swissroll-diag": ("the noisy Swiss roll, `diag` 3x16", swissroll, {}, 16, "diag", {}, 3),
    "power-full": ("power plant, `tril` 2x16", measurements("power_plant"), DEEP, 16, "full", {}, 3),
    "power-diag": ("power plant, `diag` 3x16", measurements("power_plant"), {}, 16, "diag", {}, 3),
    "concrete-full": ("concrete, `tril` 2x16", measurements("concrete"), DEEP, 16, "full", {}, 3),
    "concrete-diag": ("concrete, `diag` 3x16", measurements("concrete"), {}, 16, "diag", {}, 3),
    "digits": ("digits, preset", digits, PRESETS["digits"], 16, "full", {"reg_covar": 1e-3}, 3),
    "poses": ("poses, preset", poses, PRESETS["poses"], 48, "full", {"reg_covar": 4e-4}, 1),
}


def mixture(train: np.ndarray, test: np.ndarray, components: int, kind: str, seed: int, **options: Any) -> Any:
    """Scikit-learn's mixture: CPU seconds, and held-out nats in the data's units."""
    from sklearn.mixture import GaussianMixture

    began = time.process_time()
    location, scale = train.mean(0), np.where(train.std(0) > 0, train.std(0), 1.0)
    fitted = GaussianMixture(components, covariance_type=kind, random_state=seed, **options)
    fitted.fit((train - location) / scale)
    seconds = time.process_time() - began
    return seconds, float(fitted.score((test - location) / scale)) - float(np.log(scale).sum())


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_time_to_equal_a_mixture(row: Rows, name: str) -> None:
    what, load, options, components, kind, theirs, seeds = CASES[name]
    warm = torch.randn(100, 2, generator=torch.Generator().manual_seed(0))  # what is imported on first use
    DRMM(num_layers=2, num_components=2, steps=2).fit(warm, progress="off")
    mixture(warm.numpy(), warm.numpy(), 2, "full", 0)
    ours, alternative, figures = 0.0, 0.0, []
    for seed in range(seeds):
        data, train, held_out, test = load(seed)
        seconds, target = mixture(train, test, components, kind, seed, **theirs)
        system = DRMM(options)
        scored = held_out

        def score(system: DRMM = system, scored: Any = scored) -> float:
            return float(system.log_prob(scored).value.mean())

        watch = Watch(score, target)
        system.fit(data, seed=seed, steps=max(LADDER), callbacks=[watch], progress="off")
        assert watch.reached is not None, (
            f"{name}, seed {seed}: {watch.figure:.3f} after {max(LADDER)} steps; {target:.3f}"
        )
        ours, alternative = ours + watch.reached, alternative + seconds
        figures.append((watch.figure, target))
    reached, wanted = np.mean(figures, 0)
    row.figure(
        f"drmm/quality-{name}",
        f"to be as good on held-out rows of {what}, as a Gaussian mixture, {components} {kind}",
        ours / alternative,
        BAR,
        f"{shown(ours / seeds)}, then {reached:.2f} nats",
        f"scikit-learn: {shown(alternative / seeds)}, {wanted:.2f} nats",
    )
