"""What reading a text table costs beside pandas, which cuts and converts the same file and decides nothing.

python -P -m pytest benchmarks/test_csv.py -m bench -q -s
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas
import pytest

from phlogiston import datasets

from .rows import Rows

pytestmark = pytest.mark.bench


def test_a_large_table(row: Rows, tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(100_000, 20))
    path = tmp_path / "large.csv"
    lines = [",".join(f"c{j}" for j in range(20)), *(",".join(map(repr, r)) for r in x.tolist())]
    path.write_text("\n".join(lines) + "\n")
    assert len(datasets.load(path).train) == 70_000
    row(
        "datasets/csv",
        work="a csv file of 100,000 x 20 numbers, from the path to train, valid and test rows",
        ours=lambda: datasets.load(path),
        alternative=lambda: pandas.read_csv(path),
        against="pandas.read_csv",
        bar=1.5,
        rounds=7,
    )
