"""Calibration of predictions given as draws: PIT, CRPS, interval coverage; weighted draws are welcome.

A predictive sample (draws, rows) is compared with what happened (rows,). Gneiting, Balabdaoui and Raftery,
*Probabilistic forecasts, calibration and sharpness*, 2007.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from phlogiston.errors import ConfigError, DataError, ShapeError
from phlogiston.evaluate.figures import array
from phlogiston.evaluate.metric import Metric, from_rows, from_share


def pit(draws: Any, truth: Any, log_weights: Any | None = None, *, seed: int = 0) -> np.ndarray:
    """Return where the truth falls among the draws, uniform on (0, 1) if and only if they are calibrated.

    Ties (discrete predictions) are broken at random; the truth counts as one more draw, so that finitely many draws
    give exactly uniform values.

    Args:
        draws: (draws, rows).
        truth: (rows,).
        log_weights: (draws, rows) or (draws,), unnormalised; equal if not given.
        seed: of the tie-breaking.

    Returns:
        (rows,) in (0, 1).
    """
    x, y, w = _prepare(draws, truth, log_weights)
    random = np.random.default_rng(seed).random(len(y))
    share = len(x) / (len(x) + 1.0)  # what the draws weigh beside the truth itself
    below, equal = (w * (x < y)).sum(0), (w * (x == y)).sum(0)
    return below * share + random * (equal * share + 1.0 - share)


def crps(draws: Any, truth: Any, log_weights: Any | None = None) -> np.ndarray:
    """Return the continuous ranked probability score of each row, E|X - y| - E|X - X'| / 2, in the unit of the data.

    Equally weighted draws give the unbiased ("fair") form, in which X and X' are different draws.

    Args:
        draws: (draws, rows), at least 2 draws.
        truth: (rows,).
        log_weights: as for `pit`.

    Returns:
        (rows,), lower is better.
    """
    x, y, w = _prepare(draws, truth, log_weights)
    if len(x) < 2:
        raise DataError("the CRPS needs at least 2 draws.")
    error = (w * np.abs(x - y)).sum(0)
    order = np.argsort(x, axis=0)
    x, w = np.take_along_axis(x, order, 0), np.take_along_axis(w, order, 0)
    below = np.cumsum(w, 0)[:-1]
    # the sum of w_i w_j |x_i - x_j|, from gaps between neighbours: columns far from zero keep their digits
    spread = 2.0 * (below * (1.0 - below) * np.diff(x, axis=0)).sum(0)
    together = 1.0 - (w**2).sum(0)
    return error - 0.5 * np.where(together > 1e-12, spread / np.maximum(together, 1e-12), 0.0)


def coverage(
    draws: Any,
    truth: Any,
    levels: Sequence[float] = (0.5, 0.8, 0.9, 0.95),
    log_weights: Any | None = None,
    *,
    seed: int = 0,
) -> dict[float, Metric]:
    """Return how often central intervals contain the truth, level by level.

    Args:
        draws, truth, log_weights, seed: as for `pit`.
        levels: probabilities of the intervals.

    Returns:
        level -> share of rows inside, with its binomial error; `detail["p_value"]` tests that it is the level.
    """
    from scipy.stats import binomtest

    at = pit(draws, truth, log_weights, seed=seed)
    out = {}
    for level in levels:
        if not 0.0 < level < 1.0:
            raise ConfigError(f"level is {level}; expected a probability between 0 and 1.")
        inside = np.abs(at - 0.5) <= level / 2.0
        share, n = float(inside.mean()), len(inside)
        p = float(binomtest(int(inside.sum()), n, level).pvalue)
        out[level] = from_share(share, n, None, {"level": level, "p_value": p})
    return out


def calibration(
    draws: Any, truth: Any, log_weights: Any | None = None, *, level: float = 0.9, seed: int = 0
) -> dict[str, Metric]:
    """Return `crps`, `pit_deviation` (Kolmogorov distance of the PIT from uniform) and `coverage` at one level.

    Args:
        draws, truth, log_weights, seed: as for `pit`.
        level: of the interval.
    """
    from scipy.stats import kstest

    test = kstest(pit(draws, truth, log_weights, seed=seed), "uniform")
    rows = crps(draws, truth, log_weights)
    return {
        "crps": from_rows(rows, "estimate", False),
        "pit_deviation": Metric(
            float(test.statistic), None, len(rows), "estimate", False, {"p_value": float(test.pvalue)}
        ),
        "coverage": coverage(draws, truth, (level,), log_weights, seed=seed)[level],
    }


def _prepare(draws: Any, truth: Any, log_weights: Any | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return draws (s, n), truth (n,) and normalised weights (s, n), checked."""
    x, y = array(draws), array(truth)
    if x.ndim != 2 or y.shape != x.shape[1:] or x.size == 0:
        raise ShapeError(f"draws have shape {x.shape} and truth {y.shape}; expected (draws, rows) and (rows,).")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise DataError("draws or truth hold NaN or infinite values.")
    if log_weights is None:
        return x, y, np.full(x.shape, 1.0 / len(x))
    w = array(log_weights)
    w = np.broadcast_to(w[:, None] if w.ndim == 1 else w, x.shape)
    if np.isnan(w).any() or np.isneginf(w.max(0)).any():
        raise DataError("log_weights hold NaN, or a row whose weights are all zero.")
    w = np.exp(w - w.max(0))
    return x, y, w / w.sum(0)
