"""DRMM's figures of merit and pictures.

Metrics: `log_likelihood` (nats per row), `log_likelihood_depth_1` ..., `precision`, `recall` and `f1` of samples, and
`accuracy_<column>` for each categorical column.

Pictures: two columns get densities and a row of questions in the plane; images get samples, completions and label
probabilities; other columns histograms, and poses and flights plans of their own.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from phlogiston.datasets.base import Split
from phlogiston.datasets.generated import jumper, poses
from phlogiston.datasets.streamed import in_memory
from phlogiston.datasets.weights import written_out
from phlogiston.errors import EvidenceError
from phlogiston.evaluate.metric import Metric, from_rows
from phlogiston.systems.drmm import panels
from phlogiston.systems.drmm.kinematics import Kinematics
from phlogiston.systems.evaluation import Evaluation
from phlogiston.systems.table_rows import fitting_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from phlogiston.systems.drmm.system import DRMM

Array = np.ndarray
MOST_SHOWN = 4000
"""Rows at most in a picture."""
MOST_COMPARED = 2000
"""Rows at most that precision and recall compare with as many samples: all pairs are formed."""


def depths(e: Evaluation[DRMM]) -> dict[str, Metric]:
    """Mean log density of the mixtures truncated after each layer but the last, nats per row."""
    return {
        f"log_likelihood_depth_{depth}": e.system.log_prob(e.rows, depth=depth).mean()
        for depth in range(1, e.system.model.num_layers)
    }


def precision_and_recall(e: Evaluation[DRMM]) -> dict[str, Metric]:
    """How far samples and held-out rows lie among each other: k = 3, standardised, as many samples as rows."""
    from phlogiston.evaluate.neighbours import precision_recall

    rows, system = _rows(e), e.system
    real = _compared(rows)[:, system.varying]
    if len(real) <= 4:
        return {}
    generated = system.sample(len(real), seed=0)["x"][:, system.varying]
    standard = system.model.standardise
    results = precision_recall(standard(real), standard(generated), k=3)
    rest = len(rows["x"]) - len(real)
    if rest > 0:  # complete rows of positive weight, and at most MOST_COMPARED of them
        for metric in results.values():
            metric.detail["rows_not_compared"] = rest
    return results


def accuracy(e: Evaluation[DRMM]) -> dict[str, Metric]:
    """Share of rows whose most probable category, given x, is the true one; for each categorical column."""
    rows, results = _rows(e), {}
    weight = rows.get("weight")
    for name in e.system.schema["categorical"]:
        labels = rows.get(name)
        if labels is not None and bool((labels >= 0).any()):
            seen = labels >= 0
            hit = (e.system.predict_proba(name, e.rows).argmax(-1) == labels)[seen].double()
            counts = None if weight is None else weight[seen]
            results[f"accuracy_{name}"] = from_rows(hit, "estimate", True, {}, counts)
    return results


def _rows(e: Evaluation[DRMM]) -> dict[str, torch.Tensor]:
    return e.once("rows", lambda: fitting_rows(e.system, e.rows))


def _compared(rows: dict[str, torch.Tensor]) -> torch.Tensor:
    """The rows that samples are compared with: complete ones, written out where they have weights."""
    named = {name: value for name, value in rows.items() if name in ("x", "mask", "weight")}
    split = written_out(Split(named, double=("x",)))
    x = split.tensors["x"]
    return (x[split.tensors["mask"].all(-1)] if "mask" in split.tensors else x)[:MOST_COMPARED]


def density(e: Evaluation[DRMM]) -> Figure | None:
    """Left the data and, below, the true density where it is known; then the model's density after each layer above its
    samples. The layers should sharpen until density and samples look like the left column.
    """
    from phlogiston.evaluate import figures

    if _layout(e) != "plane":
        return None
    system, shown, layers = e.system, _shown(e), _layers(e.system)
    return figures.density_depths(
        shown,
        [system.sample(len(shown), depth=depth, seed=depth)["x"].numpy() for depth in layers.values()],
        [partial(_log_density, system, depth) for depth in layers.values()],
        truth=e.dataset.meta.truth if e.dataset is not None else None,
        labels=list(layers),
        columns=system.schema["columns"],
        alt="data, and density and samples after each layer",
    )


def samples(e: Evaluation[DRMM]) -> Figure | None:
    """Left images that were held out, then samples of the model after each layer: new ones, which should pass for more
    of the left.
    """
    from phlogiston.evaluate.image_figures import image_grids

    if _layout(e) != "images":
        return None
    system, shown, shape = e.system, _shown(e), tuple(e.system.schema["image_shape"])
    groups = {"data": shown[:64].reshape(-1, *shape)}
    for label, depth in _layers(system).items():
        drawn = system.sample(64, depth=depth, seed=depth)["x"].numpy().reshape(-1, *shape)
        groups[f"samples, {label}"] = drawn.clip(np.nanmin(shown), np.nanmax(shown))  # the data's blacks and whites
    return image_grids(groups, alt="held-out images, and samples after each layer")


def columns(e: Evaluation[DRMM]) -> Figure | None:
    """On the diagonal the distribution of each column; pairs of columns beside it, held-out rows (grey) below and
    samples (orange) above. Outlines should follow the grey shapes, and both triangles mirror each other.
    """
    from phlogiston.evaluate import figures

    if _layout(e) != "columns":
        return None
    shown, varying = _shown(e), list(e.system.varying)
    drawn = e.system.sample(len(shown), seed=0)["x"].numpy()
    names = [e.system.schema["columns"][i] for i in varying]
    return figures.histogram_matrix(shown[:, varying], drawn[:, varying], columns=names)


def questions(e: Evaluation[DRMM]) -> Figure | None:
    """One density, five questions: blue are answers, grey the data, orange what was given. Answers should keep to what
    was given and, within it, to where data are.
    """
    return _answered(e, "plane", lambda x: panels.conditionals(e.system, x))


def completion(e: Evaluation[DRMM]) -> Figure | None:
    """Held-out images, the upper halves that were given, and completions. The mean is blurred where the model is
    unsure, samples are sharp and differ there; bars say how probable each label is, the true one in bold.
    """
    rows, complete = _rows(e), _complete(e)
    labels = {n: rows[n][complete].numpy()[:8] for n in e.system.schema["categorical"] if rows.get(n) is not None}
    return _answered(e, "images", lambda x: panels.completions(e.system, x[:8], labels))


def kinematics(e: Evaluation[DRMM]) -> Figure | None:
    """Bodies that reach for circles: above as the density answers, below after Gauss-Newton steps on the true joints,
    after which hands and feet should be in the circles and heads below the line. Errors are in body lengths.
    """
    return _answered(e, "columns", lambda x: panels.reaching(Kinematics(e.system)), poses.COLUMNS)


def flights(e: Evaluation[DRMM]) -> Figure | None:
    """Flights that the model invents, that pass through the circles, and that keep out of the orange walls as well.
    They should hop as the first do: fall ever faster, and jump.
    """
    return _answered(e, "columns", lambda x: panels.flights(e.system), jumper.COLUMNS)


def _answered(
    e: Evaluation[DRMM], layout: str, draw: Callable[[Array], Figure], names: tuple[str, ...] = ()
) -> Figure | None:
    """Draw answers where they suit the data; None where they do not, or the model finds the question impossible."""
    complete = _complete(e)
    suits = _layout(e) == layout and (not names or tuple(e.system.schema["columns"]) == names)
    if not suits or not bool(complete.any()):
        return None
    with contextlib.suppress(EvidenceError):  # a model of a few steps need not find these questions possible
        return draw(_rows(e)["x"][complete].numpy().astype(np.float64))
    return None


def training(e: Evaluation[DRMM]) -> Figure | None:
    """How probable training rows became, after each layer: later layers should end higher. The loss itself is not
    drawn, since its terms are weighed anew as training goes on.
    """
    from phlogiston.evaluate import figures

    history, layers = e.system.history, _layers(e.system)
    if history is None or not any(f"log_prob_{len(layers)}" in record for record in history.records):
        return None
    return figures.curves(
        history.steps,
        {label: history.column(f"log_prob_{depth}") for label, depth in layers.items()},
        ylabel="log p(x) of training rows, nats",
        alt="log density of training rows after each depth, over training",
    )


def _layout(e: Evaluation[DRMM]) -> str:
    """How rows are drawn: in the plane, as images, or column by column."""
    system = e.system
    if len(system.schema["columns"]) == len(system.varying) == 2 and bool(_complete(e).any()):
        return "plane"
    return "images" if system.schema["image_shape"] else "columns"


def _complete(e: Evaluation[DRMM]) -> torch.Tensor:
    rows = _rows(e)
    return rows["mask"].all(-1) if "mask" in rows else torch.ones(len(rows["x"]), dtype=torch.bool)


def _shown(e: Evaluation[DRMM]) -> Array:
    """Rows that a picture shows, NaN where entries are missing."""
    rows = _rows(e)
    known = rows["x"] if "mask" not in rows else torch.where(rows["mask"], rows["x"], torch.nan)
    generator = torch.Generator().manual_seed(0)
    return np.asarray(known[torch.randperm(len(known), generator=generator)[:MOST_SHOWN]].numpy())


def _layers(system: DRMM) -> dict[str, int]:
    depths = range(1, system.model.num_layers + 1)
    return {f"depth {depth}" if len(depths) > 1 else "model": depth for depth in depths}


def _log_density(system: DRMM, depth: int, points: Any) -> Any:
    return system.log_prob(points, depth=depth).value.numpy()


def gaussian_mixture(e: Evaluation[DRMM]) -> dict[str, Metric]:
    """A Gaussian mixture of scikit-learn with as many components as one layer, on the same rows if complete."""
    from sklearn.mixture import GaussianMixture

    if e.dataset is None:
        return {}
    system = e.system
    parts = [written_out(split) for split in (in_memory(e.dataset.train), e.rows)]
    if not len(parts[1]) or any("mask" in part.tensors and not bool(part.tensors["mask"].all()) for part in parts):
        return {}
    train, test = (part.numpy("x")[:, list(system.varying)].astype(np.float64) for part in parts)
    location, scale = system.model.location.numpy(), system.model.scale.numpy()
    kind = "full" if system.recipe.frame == "tril" else "diag"
    components = min(system.recipe.num_components, len(train) // 4)
    mixture = GaussianMixture(components, covariance_type=kind, random_state=0, reg_covar=1e-4, max_iter=50)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fifty rounds are plenty here, converged or not
        mixture.fit((train[:5000] - location) / scale)
    rows = mixture.score_samples((test - location) / scale) - np.log(scale).sum()
    detail = {"method": f"GaussianMixture of scikit-learn, {components} {kind} components, {len(train[:5000])} rows"}
    error = float(rows.std() / np.sqrt(len(rows)))
    return {"log_likelihood_of_a_mixture": Metric(float(rows.mean()), error, len(rows), "exact", True, detail)}


METRICS = {"depths": depths, "precision_recall": precision_and_recall, "accuracy": accuracy}
FIGURES = {
    "density": density,
    "samples": samples,
    "columns": columns,
    "questions": questions,
    "completion": completion,
    "kinematics": kinematics,
    "flights": flights,
    "training": training,
}
BASELINES = {"gaussian_mixture": gaussian_mixture}
