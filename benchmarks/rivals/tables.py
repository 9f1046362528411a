"""Made-up tables of others: CTGAN and a Gaussian copula, run by an interpreter of their own (`make rivals`).

Both learn from half of a table with a fifth of its entries missing. Neither takes gaps in numbers, so they are filled
first, as their users would: by the five nearest rows. The copula is that of `copulas`, the library under SDV, with
categories spread over intervals as SDV does it. Figures go to docs/results/rivals.json.

Sources: Xu et al., Modeling Tabular Data using Conditional GAN, NeurIPS 2019; Patki, Wedge and Veeramachaneni, The
Synthetic Data Vault, DSAA 2016.
"""

from __future__ import annotations

import argparse
import time
import warnings
from typing import Any

import numpy as np
import pandas
from sklearn.impute import KNNImputer

Frame = pandas.DataFrame


def filled(frame: Frame) -> Frame:
    """Gaps filled in by the five nearest rows, categories by the likeliest."""
    numbers = frame.select_dtypes("number")
    others = [c for c in frame.columns if c not in numbers.columns]
    marks = pandas.concat([pandas.get_dummies(frame[c]).astype(float).where(frame[c].notna()) for c in others], axis=1)
    scaled = (numbers - numbers.mean()) / numbers.std()
    found = KNNImputer().fit_transform(pandas.concat([scaled, marks], axis=1).to_numpy(float))
    out = Frame(
        found[:, : numbers.shape[1]] * numbers.std().to_numpy() + numbers.mean().to_numpy(), columns=numbers.columns
    )
    start = numbers.shape[1]
    for c in others:
        labels = pandas.get_dummies(frame[c]).columns
        out[c] = np.asarray(labels, dtype=object)[found[:, start : start + len(labels)].argmax(1)]
        start += len(labels)
    return out[list(frame.columns)]


def ctgan(rows: Frame, category: str, seed: int) -> Frame:
    """CTGAN with its own defaults."""
    import torch
    from ctgan import CTGAN

    np.random.seed(seed)  # noqa: NPY002 - the library draws from the global generators
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    model = CTGAN()
    model.fit(rows, [category])
    found: Frame = model.sample(len(rows))
    return found


def copula(rows: Frame, category: str, seed: int) -> Frame:
    """A Gaussian copula with the marginals its library chooses."""
    from copulas.multivariate import GaussianMultivariate

    random = np.random.default_rng(seed)
    np.random.seed(seed)  # noqa: NPY002
    share = rows[category].value_counts(normalize=True)
    ends = share.cumsum()
    start = ends - share
    place = start[rows[category]].to_numpy() + share[rows[category]].to_numpy() * random.random(len(rows))
    model: Any = GaussianMultivariate()
    model.fit(rows.assign(**{category: place}))
    found = model.sample(len(rows))
    code = np.searchsorted(ends.to_numpy(), found[category].clip(0, 1 - 1e-9).to_numpy(), side="right")
    out: Frame = found.assign(**{category: np.asarray(share.index, dtype=object)[np.minimum(code, len(share) - 1)]})
    return out[list(rows.columns)]


METHODS = {"CTGAN": ctgan, "Gaussian copula": copula}


def main() -> None:
    """Run both on every table and seed."""
    import quality
    from results import write

    parser = argparse.ArgumentParser(description="Others' made-up tables.")
    parser.add_argument("--tables", default="wine,breast_cancer,diabetes")
    parser.add_argument("--seeds", default="0,1,2")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    for name in given.tables.split(","):
        table = quality.load(name)
        for method, function in METHODS.items():
            scores = {}
            for seed in map(int, given.seeds.split(",")):
                learned, other = quality.halves(table, seed)
                hole = quality.gaps(table._replace(frame=learned), seed)
                began = time.process_time()
                made_up = function(filled(quality.punched(learned, hole)), table.category, seed)
                scores[seed] = {
                    "cpu_seconds": time.process_time() - began,
                    "use": quality.use(made_up, other, table.target, seed),
                    "privacy": quality.privacy(made_up, learned, other),
                }
            write(f"tables/{name}/{method}", scores)


if __name__ == "__main__":
    main()
