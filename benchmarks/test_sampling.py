"""What rows of a DRMM cost, against those of scikit-learn's mixture.

python -P -m pytest benchmarks/test_sampling.py -m bench -s
"""

from __future__ import annotations

import warnings

import pytest

from phlogiston import datasets
from phlogiston.systems.drmm.system import DRMM

from .rows import Rows

pytestmark = pytest.mark.bench


def test_a_hundred_thousand_rows(row: Rows) -> None:
    from sklearn.mixture import GaussianMixture

    data = datasets.load("swissroll")
    system = DRMM(preset="swissroll", steps=5).fit(data, progress="off")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # three rounds do not converge
        mixture = GaussianMixture(48, random_state=0, max_iter=3).fit(data.train.numpy("x"))
    row(
        "sampling/drmm",
        work="sampling 100,000 rows of a DRMM, `tril` 2x16, in random order and with their paths",
        ours=lambda: system.sample(100_000),
        alternative=lambda: mixture.sample(100_000),
        against="scikit-learn's mixture of 48, component by component",
        bar=1.0,
    )
