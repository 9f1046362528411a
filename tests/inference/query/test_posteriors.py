"""Tempering and NUTS against published posteriors that take seconds; tests/learn/test_queries.py has them all."""

from __future__ import annotations

import math
from typing import Any

import pytest
from posteriors import POSTERIORS, deviation

from phlogiston.inference.query.ask import query


@pytest.mark.parametrize(
    ("name", "method", "n"),
    [
        ("rate_2", "smc", 2000),
        ("rate_5", "smc", 2000),
        ("m0", "smc", 2000),
        ("gp_regr", "smc", 2000),
        ("eight_schools_noncentred", "smc", 4000),
        ("rate_5", "hmc", 100),
    ],
)
def test_means_of_published_posteriors(name: str, method: Any, n: int) -> None:
    """Within a tenth of a standard deviation, and what the answer's own sample size leaves open."""
    answer = query(POSTERIORS[name].model, None, {}, num_samples=n, method=method, seed=0)
    assert deviation(name, answer) < 0.1 + 3 / math.sqrt(answer.ess.item())
