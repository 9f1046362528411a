"""What the number of threads does: the default where torch has as many as the machine has cores, and two against one.

python -P -m pytest benchmarks/test_threads.py -m bench -s
"""

from __future__ import annotations

import os
import time

import pytest
import torch

from phlogiston import datasets
from phlogiston.systems.drmm.system import DRMM

from . import training
from .rows import Rows, shown

pytestmark = pytest.mark.bench


def test_the_default_is_no_slower_than_one_thread(row: Rows) -> None:
    data = datasets.load("swissroll")

    def train(threads: int) -> None:
        torch.set_num_threads(threads)
        DRMM(num_layers=3, num_components=16, steps=60).fit(data, progress="off")

    row(
        "threads/drmm",
        work="60 steps of a DRMM, 3x16, from the first row to the last, on the default number of threads",
        ours=lambda: train(os.cpu_count() or 1),
        alternative=lambda: train(1),
        against="torch on one thread",
        bar=1.1,
        rounds=3,
    )


def _product(threads: int) -> float:
    """Least seconds of a product of matrices, the work that gains most from threads."""
    torch.set_num_threads(threads)
    matrix, times = torch.randn(1500, 1500), []
    for _ in range(10):
        began = time.perf_counter()
        matrix @ matrix
        times.append(time.perf_counter() - began)
    return min(times)


@pytest.mark.parametrize("system", sorted(training.SIZES))
def test_two_threads_and_one(row: Rows, system: str) -> None:
    """Time by the clock says little where other work has the cores: what a product gains stands beside it."""
    load, product = os.getloadavg()[0], _product(2) / _product(1)
    two, one = training.seconds(system, [{"threads": 2}, {"threads": 1}], time.perf_counter)
    row.figure(
        f"threads/two-{system}",
        f"a training step of {system} at its default size, on two threads",
        two / one,
        1 / 1.5,
        shown(two),
        f"on one thread: {shown(one)}; load of the machine {load:.1f}, where a product of large matrices came to "
        f"{product:.2f}",
        figure="time by the clock, ours over the alternative",
    )
