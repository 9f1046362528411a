"""Regressors that others would pick, on the tables of `uci`: run by an interpreter of its own.

    make rivals UCI=FOLDER

NGBoost and CatBoost ask for other versions of packages than phlogiston pins, so they live in a virtual environment of
their own (`.rivals`, from requirements-rivals.txt), and nothing of phlogiston is imported here. FOLDER holds the tables
as npz, as the dataset `uci` wants them. Figures go to docs/results/rivals.json, from where the recipes of
tests/learn/test_rivals.py take them: ours are trained on the same rows, and recorded beside them.

Every method is used as its own documentation begins: no option is set but what it predicts (a distribution, or
quantiles). All of them learn from training and validation rows together, since none of them needs validation rows.

Sources: Gneiting and Raftery, JASA 2007 (CRPS of a Gaussian); Duan et al., NGBoost, ICML 2020; Prokhorenkova et al.,
CatBoost, NeurIPS 2018; Ke et al., LightGBM, NeurIPS 2017, which scikit-learn's histogram boosting follows.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import norm

LEVELS = np.array([0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95])  # of methods that predict quantiles
FINE = (np.arange(200) + 0.5) / 200  # at which the CRPS of quantiles is summed up
Array = Any


def gaussian_scores(y: Array, mean: Array, sd: Array, grid: bool) -> dict[str, float]:
    """CRPS and negative log likelihood of Gaussians; for whole-number targets also those of the numbers' cells."""
    z = (y - mean) / sd
    crps = sd * (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / np.sqrt(np.pi))
    found = {"crps": float(crps.mean()), "nll": float(-norm.logpdf(y, mean, sd).mean())}
    if grid:
        cell = norm.cdf((y + 0.5 - mean) / sd) - norm.cdf((y - 0.5 - mean) / sd)
        found["nll_cells"] = float(-np.log(np.maximum(cell, 1e-300)).mean())
        values = np.arange(y.min() - 30, y.max() + 31)
        below = norm.cdf((values + 0.5 - mean[:, None]) / sd[:, None])
        found["crps_cells"] = float(np.square(below - (y[:, None] <= values)).sum(1).mean())
    return found


def quantile_crps(y: Array, quantiles: Array, whole: bool = False) -> float:
    """CRPS of predicted quantiles (rows, LEVELS): they are sorted, and joined by lines on the normal scale.

    With `whole` that of whole numbers, to which the quantiles are rounded.
    """
    ordered = np.sort(quantiles, 1)
    at, knots = norm.ppf(FINE), norm.ppf(LEVELS)
    place = np.clip(np.searchsorted(knots, at) - 1, 0, len(knots) - 2)  # the outer lines go on beyond the last knot
    share = (at - knots[place]) / (knots[place + 1] - knots[place])
    curve = ordered[:, place] * (1 - share) + ordered[:, place + 1] * share
    error = y[:, None] - (np.round(curve) if whole else curve)
    return float(2 * np.maximum(FINE * error, (FINE - 1) * error).mean())


def rmse(y: Array, mean: Array) -> float:
    """Root mean squared error."""
    return float(np.sqrt(np.square(y - mean).mean()))


def ngboost(x: Array, y: Array, at: Array, seed: int) -> tuple[str, tuple[Array, Array]]:
    """Natural gradient boosting of a Gaussian."""
    from ngboost import NGBRegressor

    found = NGBRegressor(verbose=False, random_state=seed).fit(x, y).pred_dist(at)
    return "gaussian", (found.params["loc"], found.params["scale"])


def catboost_gaussian(x: Array, y: Array, at: Array, seed: int) -> tuple[str, tuple[Array, Array]]:
    """CatBoost that predicts a mean and a variance."""
    found = _catboost("RMSEWithUncertainty", seed).fit(x, y).predict(at)
    return "gaussian", (found[:, 0], np.sqrt(found[:, 1]))


def catboost_quantiles(x: Array, y: Array, at: Array, seed: int) -> tuple[str, Array]:
    """CatBoost that predicts several quantiles at once."""
    levels = ",".join(f"{level:g}" for level in LEVELS)
    return "quantiles", _catboost(f"MultiQuantile:alpha={levels}", seed).fit(x, y).predict(at)


def catboost_mean(x: Array, y: Array, at: Array, seed: int) -> tuple[str, Array]:
    """CatBoost as it comes."""
    return "mean", _catboost("RMSE", seed).fit(x, y).predict(at)


def _catboost(loss: str, seed: int) -> Any:
    from catboost import CatBoostRegressor

    return CatBoostRegressor(loss_function=loss, verbose=0, thread_count=1, random_seed=seed, allow_writing_files=False)


def histogram_quantiles(x: Array, y: Array, at: Array, seed: int) -> tuple[str, Array]:
    """scikit-learn's histogram boosting, one model a quantile."""
    from sklearn.ensemble import HistGradientBoostingRegressor as Boosting

    models = [Boosting(loss="quantile", quantile=level, random_state=seed).fit(x, y) for level in LEVELS]
    return "quantiles", np.stack([model.predict(at) for model in models], 1)


def histogram_mean(x: Array, y: Array, at: Array, seed: int) -> tuple[str, Array]:
    """scikit-learn's histogram boosting as it comes."""
    from sklearn.ensemble import HistGradientBoostingRegressor as Boosting

    return "mean", Boosting(random_state=seed).fit(x, y).predict(at)


METHODS = {
    "NGBoost": ngboost,
    "CatBoost, Gaussian": catboost_gaussian,
    "CatBoost, quantiles": catboost_quantiles,
    "CatBoost": catboost_mean,
    "HistGradientBoosting, quantiles": histogram_quantiles,
    "HistGradientBoosting": histogram_mean,
}


def split_rows(rows: int, split: int) -> tuple[Array, Array]:
    """Rows of training and test of one of the usual splits, as `phlogiston.datasets.fetched.uci` has them."""
    generator = np.random.RandomState(1)
    order = [generator.choice(rows, rows, replace=False) for _ in range(split + 1)][-1]
    return order[: round(0.9 * rows)], order[round(0.9 * rows) :]


def measure(x: Array, y: Array, name: str, split: int) -> dict[str, float]:
    """Train a method on a split, and score what it says of the test rows."""
    train, test = split_rows(len(x), split)
    began = time.process_time()
    kind, found = METHODS[name](x[train], y[train], x[test], split)
    scores = {"cpu_seconds": time.process_time() - began}
    grid = bool((y == np.round(y)).all())
    match kind:
        case "gaussian":
            scores |= {**gaussian_scores(y[test], *found, grid), "rmse": rmse(y[test], found[0])}
        case "quantiles":
            scores["crps"] = quantile_crps(y[test], found)
            if grid:
                scores["crps_cells"] = quantile_crps(y[test], found, whole=True)
        case _:
            scores["rmse"] = rmse(y[test], found)
    return scores


def main() -> None:
    """Run every method on every split of the tables, and write down what came of it."""
    from results import write  # beside this file

    parser = argparse.ArgumentParser(description="Others' regressors on the UCI tables.")
    parser.add_argument("folder", type=Path, help="folder of the tables")
    parser.add_argument("--tables", default="yacht,energy,concrete,wine_red,power_plant")
    parser.add_argument("--splits", default=",".join(map(str, range(5))))
    given = parser.parse_args()
    splits = [int(split) for split in given.splits.split(",")]
    for table in given.tables.split(","):
        data = np.load(given.folder / f"{table}.npz", allow_pickle=False)
        x, y = data["x"].astype(float), data["y"].astype(float).reshape(-1)
        for name in METHODS:
            scores = {split: measure(x, y, name, split) for split in splits}
            write(f"uci/{table}/{name}", scores)


if __name__ == "__main__":
    main()
