"""Nats per step, and what a distribution without memory reaches: every step drawn from one and the same mixture.

Its steps are taken in the coordinates the network models, and scored on the same cells or as the same density.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from phlogiston.datasets.base import Dataset
from phlogiston.datasets.streamed import in_memory
from phlogiston.distributions.mixtures.diagonal import DiagMixture
from phlogiston.distributions.warped import Warped
from phlogiston.evaluate.metric import Metric
from phlogiston.models.stepwise import valid_steps
from phlogiston.systems.evaluation import Evaluation

if TYPE_CHECKING:
    from phlogiston.systems.sequence.system import SequenceModel

_MOST = 20_000  # steps a mixture is fitted to
_NARROWEST = 1e-6  # smallest variance of a component, in units of the steps


def per_step(whole: Tensor, length: Tensor, detail: dict[str, Any]) -> Metric:
    """Minus the mean log probability of a step.

    Args:
        whole: (rows,), log probability of each sequence.
        length: (rows,).
        detail: of the metric.
    """
    total = float(length.sum())
    mean = -float(whole.double().sum()) / total
    # a ratio of sums: the spread of whole sequences around it gives the error
    spread = -whole.double() - mean * length.double()
    error = float(spread.square().sum().sqrt()) / total if len(length) > 1 else None
    return Metric(mean, error, len(length), "exact", False, detail)


def without_memory(e: Evaluation[SequenceModel]) -> dict[str, Metric]:
    """Nats per step of one normal distribution of the steps, and of a mixture of as many as the network has."""
    if not isinstance(e.data, Dataset):
        return {}
    metrics = {}
    for name, components in (("a_gaussian", 1), ("a_mixture", e.system.config.num_components)):
        metrics[f"nats_per_step_of_{name}"] = _score(e, components)
    return metrics


def _score(e: Evaluation[SequenceModel], components: int) -> Metric:
    system = e.system
    seen = in_memory(e.data.train).tensors
    x, length = system.sequences(seen["x"], seen.get("length"))
    inside = valid_steps(length, x.shape[1])
    d = system.model.targets
    plain = DiagMixture(torch.zeros(1), torch.zeros(1, d), torch.ones(1, d))
    steps = _distribution(system, plain, x).forward(x[..., :d])[inside]
    law = _fitted(steps[:: max(1, len(steps) // _MOST)].double().numpy(), components)
    rows, length = system.sequences(e.rows)
    value = _distribution(system, law, rows).log_prob(rows[..., :d])
    if system.model.pen_states:
        lifted = x[inside][:, d].mean().clamp(1e-6, 1.0 - 1e-6)
        value = value + torch.where(rows[..., d] > 0.5, lifted.log(), (1.0 - lifted).log())
    value = torch.where(valid_steps(length, rows.shape[1]), value, 0.0).double().sum(1)
    detail = {"method": f"GaussianMixture of scikit-learn, {components} diagonal components of single steps"}
    return per_step(value, length, detail)


def _distribution(system: SequenceModel, base: DiagMixture, x: Tensor) -> Warped:
    """Steps of `x` (rows, steps, width) as a mixture of the model's coordinates: batch (rows, steps)."""
    model, numbers = system.model, x[..., : system.model.targets]
    last = torch.cat([model.level_centre.expand(len(x), 1, -1), numbers[:, :-1]], 1)
    shift = torch.where(model.is_level, last, model.centre)
    return Warped(base, shift, model.unit, model.is_positive, model.grid, validate_args=False)


def _fitted(steps: np.ndarray[tuple[int, ...], np.dtype[np.float64]], components: int) -> DiagMixture:
    from sklearn.mixture import GaussianMixture

    mixture = GaussianMixture(components, covariance_type="diag", random_state=0, reg_covar=_NARROWEST, max_iter=50)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fifty rounds are plenty here, converged or not
        mixture.fit(steps)
    parts = np.log(mixture.weights_), mixture.means_, np.sqrt(mixture.covariances_)
    logits, loc, scale = (torch.as_tensor(part, dtype=torch.float32) for part in parts)
    return DiagMixture(logits, loc, scale)
