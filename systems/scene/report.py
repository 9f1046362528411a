"""Figures of merit, pictures and example queries of scenes.

METRICS, by group:
    generation: prior samples against the truth: squared errors, variance of the samples, PSNR and SSIM of their mean.
    posterior: reconstructions by way of the guide's latents, divergence, and the gap between the two.
    baselines: the mean training image, the mean and the nearest photograph of the context.
    bound: the log density of photographs, nats per picture, a lower bound; `log_likelihood` is the same.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from phlogiston.datasets.base import Split
from phlogiston.evaluate.metric import Metric, from_rows
from phlogiston.inference.query.evidence import Known
from phlogiston.models.scene import unit
from phlogiston.systems.evaluation import Evaluation, MetricFunction
from phlogiston.systems.scene import pictures, scoring
from phlogiston.systems.scene.quality import likeness
from phlogiston.systems.scene.scoring import SAMPLES, episodes, observe_batch
from phlogiston.systems.scene.system import Scene
from phlogiston.systems.scene.views import log_weights

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from phlogiston.inference.query.answer import Answer

UNIT = "squared error per pixel, pixels in [0, 1]"
SWEEP = 100  # queries per point of the curves


def _scores(e: Evaluation[Scene]) -> dict[str, Tensor]:
    """Score the queries once for all groups; reconstructions only where their group is computed."""
    posterior = not e.requested or "posterior" in e.requested
    return e.once("scores", lambda: scoring.score(e.system, episodes(e.system, e.rows), posterior=posterior))


def generation(e: Evaluation[Scene]) -> dict[str, Metric]:
    """Prior samples against the truth."""
    rows = _scores(e)
    detail = {"unit": UNIT, "context": e.system.config.context}
    return {
        "generation_mse": from_rows(rows["mean"], "estimate", False, {**detail, "samples": SAMPLES}),
        "single_sample_mse": from_rows(rows["single"], "estimate", False, detail),
        "best_of_8_mse": from_rows(rows["best"], "estimate", False, detail),
        "sample_variance": from_rows(rows["variance"], "estimate", None, detail),
        **likeness(e.system, e.rows),
    }


def posterior(e: Evaluation[Scene]) -> dict[str, Metric]:
    """Reconstructions, divergence, and what prior samples leave out."""
    rows = _scores(e)
    detail = {"unit": UNIT, "context": e.system.config.context}
    return {
        "posterior_mse": from_rows(rows["posterior"], "estimate", False, detail),
        "kl": from_rows(rows["kl"], "estimate", None, {"unit": "nats per picture"}),
        "gap": from_rows(scoring.gap(rows), "estimate", False, detail),
    }


def baselines(e: Evaluation[Scene]) -> dict[str, Metric]:
    """Squared errors of predictions that need no model."""
    errors = scoring.baselines(e.system, episodes(e.system, e.rows))
    return {f"{name}_mse": from_rows(rows, "estimate", False) for name, rows in errors.items()}


def bound(e: Evaluation[Scene]) -> dict[str, Metric]:
    """Log density of photographs, a lower bound."""
    return {"log_likelihood": e.once("bound", lambda: log_likelihood(e.system, e.rows))}


def log_likelihood(system: Scene, split: Split, total: int = 64, num_particles: int = 16) -> Metric:
    """Importance-weighted bound on the log density of photographs, nats per picture.

    Args:
        system: the fitted system.
        split: held-out scenes.
        total: queries.
        num_particles: importance samples from the guide.
    """
    rows: list[Tensor] = []
    single = ("images", "poses", "origin")
    for batch in episodes(system, split, total=total):
        truth = unit(batch["query_images"], torch.float32)
        with torch.no_grad():
            for i in range(len(truth)):
                state = observe_batch(system.model, {**batch, **{k: batch[k][i : i + 1] for k in single}})
                weights = log_weights(system.guide, state, truth[i], batch["query_poses"][i], num_particles, 0)
                rows.append(torch.logsumexp(weights, 0) - math.log(num_particles))
        if sum(map(len, rows)) >= total:
            break
    detail: dict[str, Any] = {"unit": "nats per picture", "particles": num_particles}
    bounds = torch.cat(rows)
    pixels = 3 * system.schema["image"] ** 2
    if system.config.likelihood == "discretized-logistic":
        detail["bits_per_dim"] = float(-bounds.mean() / pixels / math.log(2))
    else:
        sigma = system.model.likelihood(torch.zeros(3, 1, 1)).base_dist.scale.detach()
        detail["floor"] = float(-(0.5 * (2 * math.pi * sigma**2).log()).mean() * pixels)
    return from_rows(bounds, "lower bound", True, detail)


def views(e: Evaluation[Scene]) -> Figure:
    """One scene a row: photographs that were seen, then the truth from a new point and what the model paints for it.
    The paintings should show the truth's floor, walls and objects in their places; where samples differ, they should
    differ in what no photograph showed.
    """
    return pictures.painted_views(e.system, e.rows)


def errors(e: Evaluation[Scene]) -> Figure:
    """Errors of the paintings: left with more scenes in one memory, where they should hardly rise; right with more
    photographs, where they should fall. Grey lines are predictions that need no model.
    """
    by_side = scoring.grid_sweep(e.system, e.rows, total=SWEEP)
    by_context = scoring.context_sweep(e.system, e.rows, total=SWEEP)
    return pictures.curves(e.system, e.rows, by_side, by_context)


def half_a_photograph(e: Evaluation[Scene]) -> tuple[str, Answer]:
    """The lower half of a photograph, given its upper half, its pose and up to eight photographs of the scene."""
    images, poses = e.rows.tensors["images"][0], e.rows.tensors["poses"][0]
    seen = min(8, len(images) - 1)
    memory = e.system.observe(images[:seen], poses[:seen])
    photograph = images[seen].permute(2, 0, 1).double() / 255
    known = torch.zeros(photograph.shape, dtype=torch.bool)
    known[:, : photograph.shape[1] // 2] = True
    answer = e.system.query({"x": Known(photograph, known)}, ["x"], 50, memory=memory, pose=poses[seen], seed=0)
    count = "eight photographs" if seen == 8 else f"photographs ({seen})"
    return f"{count}, a pose, and the upper half of what is seen there", answer


METRICS: dict[str, MetricFunction] = {
    "generation": generation,
    "posterior": posterior,
    "baselines": baselines,
    "bound": bound,
    "log_likelihood": bound,
}
ON_REQUEST = {"log_likelihood"}  # the same as "bound"
FIGURES = {"views": views, "errors": errors}
EXAMPLE_QUERIES = [half_a_photograph]
