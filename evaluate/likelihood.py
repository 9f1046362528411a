"""Held-out log-likelihood with its standard error, and the same in bits per dimension."""

from __future__ import annotations

import math

import torch

from phlogiston.errors import ConfigError, DataError
from phlogiston.evaluate.metric import Metric, from_rows
from phlogiston.evaluate.score import Score


def log_likelihood(score: Score) -> Metric:
    """Average log densities over held-out rows, by their weights where they have some.

    The standard error covers the choice of rows *and* the Monte Carlo noise of each (both show in the spread between
    rows); the noise alone is in `detail["monte_carlo_std_error"]`. One row with no density makes the mean -inf:
    `detail["impossible_rows"]` counts them.

    Args:
        score: log densities (n,) in nats.

    Returns:
        The mean in nats per row, of the score's kind.

    Raises:
        DataError: no rows.
    """
    if len(score) == 0:
        raise DataError("the score has no rows; there is nothing to average.")
    detail: dict[str, object] = {"unit": "nats per row"}
    counts = torch.ones(len(score), dtype=torch.float64) if score.weight is None else score.weight.double()
    impossible = int((torch.isneginf(score.value) & (counts > 0)).sum())
    if impossible:
        detail["impossible_rows"] = impossible
    if score.std_error is not None:
        detail["monte_carlo_std_error"] = float(
            (counts * score.std_error.double()).square().sum().sqrt() / counts.sum()
        )
    return from_rows(score.value, score.kind, higher_is_better=True, detail=detail, weight=score.weight)


def bits_per_dimension(score: Score, features: int, bin_width: float = 1.0) -> Metric:
    """Turn log densities of dequantised data into bits per dimension: -(log p(x) + D log w) / (D log 2).

    Args:
        score: log densities (n,) in nats of rows with `features` entries each.
        features: entries per row, D.
        bin_width: width w of one quantisation step in the units of x: 1/256 for 8-bit pixels scaled to [0, 1).

    Returns:
        Bits per dimension, lower is better. A lower bound on the density is an upper bound here, and says so.

    Raises:
        ConfigError: `features` or `bin_width` is not positive.
        DataError: no rows.
    """
    if features < 1 or bin_width <= 0:
        raise ConfigError(f"features is {features} and bin_width {bin_width}; both must be positive.")
    mean = log_likelihood(score)
    scale = features * math.log(2.0)
    return Metric(
        -(mean.value + features * math.log(bin_width)) / scale,
        None if mean.std_error is None else mean.std_error / scale,
        mean.n,
        "upper bound" if score.kind == "lower bound" else score.kind,
        higher_is_better=False,
        detail={"unit": "bits per dimension", "features": features, "bin_width": bin_width},
    )
