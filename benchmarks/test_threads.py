"""What the default number of threads costs, where torch has as many as the machine has cores.

python -P -m pytest benchmarks/test_threads.py -m bench -s
"""

from __future__ import annotations

import os

import pytest
import torch

from phlogiston import datasets
from phlogiston.systems.drmm.system import DRMM

from .rows import Rows

pytestmark = pytest.mark.bench


def test_the_default_is_no_slower_than_one_thread(row: Rows) -> None:
    data = datasets.load("swissroll")

    def train(threads: int) -> None:
        torch.set_num_threads(threads)
        DRMM(steps=60).fit(data, progress="off")

    row(
        "threads/drmm",
        work="60 steps of a DRMM, 3x16, from the first row to the last, on the default number of threads",
        ours=lambda: train(os.cpu_count() or 1),
        alternative=lambda: train(1),
        against="torch on one thread",
        bar=1.1,
        rounds=3,
    )
