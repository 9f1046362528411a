"""DRMM's figures of merit and pictures."""

from __future__ import annotations

import warnings
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from phlogiston.datasets.base import Dataset, Split
from phlogiston.datasets.weights import written_out
from phlogiston.evaluate.held_out import held_out
from phlogiston.evaluate.metric import Metric, from_rows
from phlogiston.systems.drmm.config import PRESETS
from phlogiston.systems.drmm.panels import panels
from phlogiston.systems.table_rows import fitting_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from phlogiston.systems.drmm.system import DRMM

MOST_COMPARED = 2000
"""Rows at most that precision and recall compare with as many samples: all pairs are formed."""


def score(system: DRMM, data: Any, wanted: set[str]) -> dict[str, Metric]:
    """The metrics `DRMM.evaluate` promises."""
    from phlogiston.evaluate.neighbours import precision_recall

    rows = fitting_rows(system, data)
    out: dict[str, Metric] = {}
    if "log_likelihood" in wanted:
        out["log_likelihood"] = system.log_prob(rows).mean()
    if "depths" in wanted:
        for depth in range(1, system.model.num_layers):
            out[f"log_likelihood_depth_{depth}"] = system.log_prob(rows, depth=depth).mean()
    weight = rows.get("weight")
    real = _compared(rows)[:, system.varying]
    if "precision_recall" in wanted and len(real) > 4:
        generated = system.sample(len(real), seed=0)["x"][:, system.varying]
        standard = system.model.standardise
        found = precision_recall(standard(real), standard(generated), k=3)
        rest = len(rows["x"]) - len(real)
        if rest > 0:  # complete rows of positive weight, and at most MOST_COMPARED of them
            for metric in found.values():
                metric.detail["rows_not_compared"] = rest
        out.update(found)
    if "accuracy" in wanted:
        for name in system.schema["categorical"]:
            labels = rows.get(name)
            if labels is not None and bool((labels >= 0).any()):
                seen = labels >= 0
                hit = (system.predict_proba(name, rows).argmax(-1) == labels)[seen].double()
                out[f"accuracy_{name}"] = from_rows(hit, "estimate", True, {}, None if weight is None else weight[seen])
    return out


def _compared(rows: dict[str, torch.Tensor]) -> torch.Tensor:
    """The rows that samples are compared with: complete ones, written out where they have weights."""
    named = {name: value for name, value in rows.items() if name in ("x", "mask", "weight")}
    split = written_out(Split(named, double=("x",)))
    x = split.tensors["x"]
    return (x[split.tensors["mask"].all(-1)] if "mask" in split.tensors else x)[:MOST_COMPARED]


def draw(system: DRMM, data: Any) -> dict[str, Figure]:
    """The pictures `DRMM.figures` promises."""
    from phlogiston.evaluate import figures

    rows = fitting_rows(system, data)
    x = rows["x"]
    generator = torch.Generator().manual_seed(0)
    known = x if "mask" not in rows else torch.where(rows["mask"], x, torch.nan)
    shown = known[torch.randperm(len(x), generator=generator)[:4000]].numpy()
    depths = range(1, system.model.num_layers + 1)
    labels = [f"depth {d}" if len(depths) > 1 else "model" for d in depths]
    out: dict[str, Figure] = {}
    complete = rows["mask"].all(-1) if "mask" in rows else torch.ones(len(x), dtype=torch.bool)
    if x.shape[1] == 2 and len(system.varying) == 2 and bool(complete.any()):
        out["density"] = figures.density_depths(
            shown,
            [system.sample(len(shown), depth=d, seed=d)["x"].numpy() for d in depths],
            [partial(_log_density, system, d) for d in depths],
            truth=data.meta.truth if isinstance(data, Dataset) else None,
            labels=labels,
            columns=system.schema["columns"],
            alt="data, and density and samples after each layer",
        )
    elif system.schema["image_shape"]:
        shape = tuple(system.schema["image_shape"])
        groups = {"data": shown[:64].reshape(-1, *shape)}
        for d, label in zip(depths, labels, strict=True):
            drawn = system.sample(64, depth=d, seed=d)["x"].numpy().reshape(-1, *shape)
            groups[f"samples, {label}"] = drawn.clip(np.nanmin(shown), np.nanmax(shown))  # the data's blacks and whites
        out["samples"] = figures.image_grids(groups, alt="held-out images, and samples after each layer")
    else:
        out["columns"] = figures.histogram_matrix(
            shown, system.sample(len(shown), seed=0)["x"].numpy(), columns=system.schema["columns"]
        )
    if bool(complete.any()):
        named = {n: rows[n][complete].numpy() for n in system.schema["categorical"] if rows.get(n) is not None}
        out.update(panels(system, x[complete].numpy().astype(np.float64), named))
    if system.history is not None and any(f"log_prob_{depths[-1]}" in r for r in system.history.records):
        out["training"] = figures.curves(
            system.history.steps,
            {label: system.history.column(f"log_prob_{d}") for d, label in zip(depths, labels, strict=True)},
            ylabel="log p(x) of training rows, nats",
            alt="log density of training rows after each depth, over training",
        )
    return out


def baselines(system: DRMM, data: Dataset) -> dict[str, Metric]:
    """A Gaussian mixture of scikit-learn with as many components as one layer, on the same rows."""
    from sklearn.mixture import GaussianMixture

    parts = [written_out(split) for split in (data.train, held_out(data))]
    if not len(parts[1]) or any("mask" in part.tensors and not bool(part.tensors["mask"].all()) for part in parts):
        return {}
    train, test = (part.numpy("x")[:, list(system.varying)].astype(np.float64) for part in parts)
    location, scale = system.model.location.numpy(), system.model.scale.numpy()
    kind = "full" if system.config.frame == "tril" else "diag"
    components = min(system.config.num_components, len(train) // 4)
    mixture = GaussianMixture(components, covariance_type=kind, random_state=0, reg_covar=1e-4, max_iter=50)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fifty rounds are plenty here, converged or not
        mixture.fit((train[:5000] - location) / scale)
    rows = mixture.score_samples((test - location) / scale) - np.log(scale).sum()
    detail = {"method": f"GaussianMixture of scikit-learn, {components} {kind} components, {len(train[:5000])} rows"}
    error = float(rows.std() / np.sqrt(len(rows)))
    return {"log_likelihood_of_a_mixture": Metric(float(rows.mean()), error, len(rows), "exact", True, detail)}


def _log_density(system: DRMM, depth: int, points: Any) -> Any:
    return system.log_prob(points, depth=depth).value.numpy()


def recipes(quick: bool) -> list[dict[str, Any]]:
    """What `DRMM.demo` trains."""
    steps = (250, 150, 120, 150) if quick else (2_000, 1_500, 400, 800)
    return [
        {
            "title": "DRMM on a noisy Swiss roll",
            "text": "A curve with noise in the plane. Each layer multiplies the number of Gaussians by 16: the "
            "density sharpens from left to right. Below, one density asked five things.",
            "data": "swissroll",
            "ask": [["x0 = 2.5"], ["x0 ~ 0 +- 0.5"], ["x0 >= 0", "x0 <= 4", "2*x0 - x1 >= 0.3"]],
            "next": [("phlogiston sample RUN -n 5000 --out points.csv", "rows to work with")],
            "data_options": {},
            "options": {**PRESETS["swissroll"], "num_layers": 2 if quick else 3, "steps": steps[0]},
        },
        {
            "title": "DRMM on handwritten digits",
            "text": "The 8x8 digits of scikit-learn with their labels as a categorical stream: one model draws, "
            "scores, completes and names digits.",
            "data": "digits",
            "ask": [["label in {3, 8}", "pixel_0_3 >= 0.4"], ["pixel_3_3 = 0", "pixel_4_4 = 0"]],
            "next": [("phlogiston sample RUN -n 64 --out digits.png", "a picture of 64 new digits")],
            "data_options": {},
            "options": {**PRESETS["digits"], "steps": steps[1]},
        },
        {
            "title": "DRMM solves inverse kinematics",
            "text": "Root, joint angles and limb positions of a body in the plane. To reach is to ask for angles given "
            "ends; below, the same samples after Gauss-Newton steps on the true kinematics.",
            "data": "poses",
            "ask": [
                ["right_hand_x = 0.6", "right_hand_y = 0.7"],
                ["right_hand_x = 0.6", "right_hand_y = 0.7", "head_top_y <= 1.2"],
            ],
            "next": [("python examples/drmm_kinematics.py", "poses that reach exactly, in a picture")],
            "data_options": {"sizes": (6_000, 0, 500)},
            "options": {**PRESETS["poses"], "num_layers": 1, "num_components": 32, "steps": steps[2]},
        },
        {
            "title": "DRMM plans flights",
            "text": "Flights of an agent that falls unless it jumps: 32 heights and 32 speeds. Way-points are "
            "known heights, gaps between obstacles are boxes.",
            "data": "jumper",
            "ask": [["y0 = 0.5", "y16 = 0.6", "y31 = 0.4"], ["y0 = 0.5", "y16 >= 0.7", "y24 <= 0.3"]],
            "next": [("python examples/drmm_trajectories.py", "way-points and obstacles, in a picture")],
            "data_options": {"sizes": (8_000, 0, 500)},
            "options": {"frame": "diag", "num_layers": 3, "num_components": 64, "steps": steps[3]},
        },
    ]
