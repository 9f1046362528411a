"""Nearest-neighbour measures of two samples: how much of one lies on the support of the other.

    precision   share of generated points inside a k-nearest-neighbour ball of some real point (quality)
    recall      share of real points inside a ball of some generated point (variety)
    density     real balls a generated point lies in, on average, over k (quality, unmoved by outliers among the real)
    coverage    share of real balls that hold a generated point (variety, unmoved by outliers among the generated)

Precision and recall after Kynkäänniemi et al., *Improved precision and recall metric for assessing generative models*,
2019, equations 1-2; density and coverage after Naeem et al., *Reliable fidelity and diversity metrics for generative
models*, 2020, equations 5-6. A ball reaches to the k-th neighbour, the point itself not counted, its surface included.
Every row of both sets is used, and both sizes are given with each figure: all of them move with the number of rows the
balls are drawn around, so compare only figures of equal sizes. Distances are taken in blocks, in float64 unless the
features come as float32: memory does not grow with the square of the samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from phlogiston.arrays import tensor_of
from phlogiston.errors import ConfigError, DataError, ShapeError
from phlogiston.evaluate.metric import Metric, from_rows, from_share

_BLOCK_BYTES = 1 << 26
_FEW_FEATURES = 32  # up to here differences are formed one by one: no cancellation, and as fast as a matrix product


def precision_recall(real: Any, generated: Any, k: int = 3) -> dict[str, Metric]:
    """Measure precision, recall and their harmonic mean.

    Args:
        real: reference features (n, d), array or tensor.
        generated: features (m, d) of what is judged.
        k: which neighbour a ball reaches to.

    Returns:
        `precision`, `recall`, `f1`, in [0, 1], higher is better, with `n_real` and `n_generated` in their details.
        Standard errors are binomial, given the balls.

    Raises:
        ShapeError: not two sets of rows with equally many features.
        DataError: NaN or infinite features, or not more than k rows.
        ConfigError: k below 1.
    """
    real, generated = _prepare(real, generated, k)
    return _precision_recall(
        _compare(generated, real, _radii(real, k), _radii(generated, k)), _detail(real, generated, k)
    )


def density_coverage(real: Any, generated: Any, k: int = 5) -> dict[str, Metric]:
    """Measure density and coverage.

    Args and Raises as for `precision_recall`.

    Returns:
        `density` (1 when the sets have one distribution; may exceed it) and `coverage` in [0, 1], higher is better.
    """
    real, generated = _prepare(real, generated, k)
    return _density_coverage(_compare(generated, real, _radii(real, k)), _detail(real, generated, k))


def all_four(real: Any, generated: Any, k: int = 5) -> dict[str, Metric]:
    """Measure precision, recall, density and coverage (and F1) with one k, as sample-quality tables do.

    Distances within each set and between the two are taken once for all of them.
    """
    real, generated = _prepare(real, generated, k)
    found = _compare(generated, real, _radii(real, k), _radii(generated, k))
    detail = _detail(real, generated, k)
    return {**_precision_recall(found, detail), **_density_coverage(found, detail)}


def _precision_recall(found: _Comparison, detail: dict[str, Any]) -> dict[str, Metric]:
    precision, recall = _share(found.inside > 0, detail), _share(found.reached, detail)
    return {"precision": precision, "recall": recall, "f1": _harmonic(precision, recall)}


def _density_coverage(found: _Comparison, detail: dict[str, Any]) -> dict[str, Metric]:
    return {
        "density": from_rows(found.inside.double() / detail["k"], "estimate", True, detail),
        "coverage": _share(found.covered, detail),
    }


def _detail(real: Tensor, generated: Tensor, k: int) -> dict[str, Any]:
    return {"k": k, "dimensions": real.shape[1], "n_real": len(real), "n_generated": len(generated)}


def _prepare(real: Any, generated: Any, k: int) -> tuple[Tensor, Tensor]:
    """Check both sets, bring them to one dtype (never below float32), centre and unit."""
    if k < 1:
        raise ConfigError(f"k is {k}; a ball reaches to the first neighbour at least.")
    sets = []
    for name, value in (("real", real), ("generated", generated)):
        features = tensor_of(name, value)
        if features.ndim != 2 or features.shape[1] == 0:
            raise ShapeError(f"{name} has shape {tuple(features.shape)}; expected features of shape (rows, features).")
        if features.dtype not in (torch.float32, torch.float64):
            features = features.double()
        if not bool(torch.isfinite(features).all()):
            row = int((~torch.isfinite(features)).any(1).nonzero()[0])
            raise DataError(f"{name} holds NaN or infinite features in row {row}.")
        if len(features) <= k:
            raise DataError(f"{name} has {len(features)} rows; more than k = {k} are needed.")
        sets.append(features)
    a, b = sets
    if a.shape[1] != b.shape[1]:
        raise ShapeError(f"real has {a.shape[1]} features and generated {b.shape[1]}; they must agree.")
    dtype = torch.promote_types(a.dtype, b.dtype)
    a, b = a.to(dtype), b.to(dtype).to(a.device)
    # a power of two divided out and a centre taken off: shares do not change, and no square leaves the dtype's range
    unit = torch.exp2(torch.frexp(torch.maximum(a.abs().max(), b.abs().max())).exponent.to(dtype))
    a, b = a / unit, b / unit
    centre = a.mean(0)
    return a - centre, b - centre


def _distances(points: Tensor, reference: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield blocks of the distance matrix (rows of `points`, all of `reference`)."""
    rows = max(1, _BLOCK_BYTES // (reference.element_size() * len(reference)))
    mode = "donot_use_mm_for_euclid_dist" if points.shape[1] <= _FEW_FEATURES else "use_mm_for_euclid_dist"
    for start in range(0, len(points), rows):
        block = slice(start, min(start + rows, len(points)))
        yield block, torch.cdist(points[block], reference, compute_mode=mode)


def _radii(points: Tensor, k: int) -> Tensor:
    """Return each point's distance to its k-th neighbour, (n,)."""
    radii = points.new_empty(len(points))
    for block, distances in _distances(points, points):
        own = torch.arange(block.start, block.stop, device=points.device)
        distances[own - block.start, own] = -1.0  # the point itself comes first, also among duplicates
        radii[block] = distances.kthvalue(k + 1, dim=1).values
    return radii


class _Comparison(NamedTuple):
    """What one pass over the distances between points and centres tells.

    Attributes:
        inside: int64 (n,), the centres' balls that each point lies in.
        covered: bool (m,), centres whose own ball holds a point.
        reached: bool (m,), centres that lie in a point's ball.
    """

    inside: Tensor
    covered: Tensor
    reached: Tensor


def _compare(points: Tensor, centres: Tensor, radii: Tensor, own_radii: Tensor | None = None) -> _Comparison:
    """Compare points (n, d) with centres (m, d) and their balls' radii (m,), and the points' own (n,) if any."""
    inside = torch.empty(len(points), dtype=torch.long, device=points.device)
    covered, reached = (torch.zeros(len(centres), dtype=torch.bool, device=points.device) for _ in range(2))
    for block, distances in _distances(points, centres):
        within = distances <= radii
        inside[block] = within.sum(1)
        covered |= within.any(0)
        if own_radii is not None:
            reached |= (distances <= own_radii[block].unsqueeze(1)).any(0)
    return _Comparison(inside, covered, reached)


def _share(hits: Tensor, detail: dict[str, Any]) -> Metric:
    n = len(hits)
    share = float(hits.double().mean())
    return from_share(share, n, True, detail)


def _harmonic(precision: Metric, recall: Metric) -> Metric:
    p, r = precision.value, recall.value
    if p + r == 0.0:
        return Metric(0.0, 0.0, precision.n, "estimate", True, dict(precision.detail))
    spread = math.hypot(r * r * (precision.std_error or 0.0), p * p * (recall.std_error or 0.0))  # the delta method
    return Metric(
        2 * p * r / (p + r), 2.0 * spread / (p + r) ** 2, precision.n, "estimate", True, dict(precision.detail)
    )
