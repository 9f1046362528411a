"""Tables of few rows: components that share what rows they have."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_wine

from phlogiston.errors import ConfigError
from phlogiston.systems.drmm.system import DRMM


def small(n: int = 60, seed: int = 0) -> np.ndarray[Any, Any]:
    """Three groups of the same shape in eight columns, a fifth of the entries missing."""
    rng = np.random.default_rng(seed)
    shape = np.tril(rng.normal(size=(8, 8))) * 0.4
    group = rng.integers(0, 3, n)
    return rng.normal(size=(n, 8)) @ shape.T + rng.normal(size=(3, 8))[group] * 2


def covariances(pooling: float, rows: np.ndarray[Any, Any]) -> torch.Tensor:
    options: dict[str, Any] = {"preset": "small_table", "steps": 1, "learning_rate": 1e-9, "grid": ("off",)}
    model = DRMM(**options, pooling=pooling).fit(rows, progress="off").model
    inverse = torch.linalg.inv(model.frames[0].inverse().detach().double())
    return inverse @ inverse.mT


def test_pooled_components_have_one_shape_and_others_their_own() -> None:
    rows = small()
    pooled, own = covariances(1e7, rows), covariances(1.0, rows)
    torch.testing.assert_close(pooled, pooled[:1].expand_as(pooled), rtol=1e-3, atol=1e-4)
    apart = (own - own.mean(0)).norm() / own.mean(0).norm()
    assert float(apart) > 0.2


def test_pooling_fills_the_gaps_of_a_small_table_better() -> None:
    """178 wines, thirteen columns: components of their own shape fill gaps worse."""
    truth = load_wine().data
    hole = np.random.default_rng(0).random(truth.shape) < 0.2
    table, scale = np.where(hole, np.nan, truth), truth.std(0)
    errors = {}
    for pooling in (1.0, 60.0):
        system = DRMM(preset="small_table", pooling=pooling).fit(table, progress="off")
        miss = (system.impute(table, num_samples=50) - truth) / scale
        errors[pooling] = float(np.sqrt(np.square(miss[hole]).mean()))
    assert errors[60.0] < 0.96 * errors[1.0], errors


def test_pooling_is_a_positive_number_of_rows() -> None:
    with pytest.raises(ConfigError, match="pooling"):
        DRMM(pooling=0.0)
