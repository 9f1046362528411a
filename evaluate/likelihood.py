"""Held-out log-likelihood as a function of a score."""

from __future__ import annotations

from phlogiston.evaluate.metric import Metric
from phlogiston.evaluate.score import Score


def log_likelihood(score: Score) -> Metric:
    """Average log densities over held-out rows; see `Score.mean`."""
    return score.mean()
