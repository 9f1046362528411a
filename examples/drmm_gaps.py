"""A table with gaps: learned from what is there, filled in, and made up anew.

The table is scikit-learn's of breast cancers, 569 rows of thirty measurements and a diagnosis, of which a fifth of the
entries are taken out at random. The density integrates out what is missing, so nothing has to be filled in before it
can learn. The picture shows two of the thirty columns: what was taken out, what two ways of filling in put there, and
rows that nobody ever measured.

    python examples/drmm_gaps.py --out gaps.png
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas
from sklearn.datasets import load_breast_cancer
from sklearn.impute import KNNImputer

from phlogiston.systems.drmm import DRMM

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = ("mean perimeter", "mean area")
SHARE = 0.2  # of the entries that are taken out


def load(seed: int = 0) -> tuple[pandas.DataFrame, pandas.DataFrame]:
    """The table, and the same table with gaps."""
    found = load_breast_cancer(as_frame=True)
    names = np.array([str(name) for name in found.target_names], dtype=object)
    table = found.data.assign(diagnosis=names[found.target])
    hole = np.random.default_rng(seed).random(table.shape) < SHARE
    return table, table.mask(hole)


def by_neighbours(gappy: pandas.DataFrame) -> pandas.DataFrame:
    """The five nearest rows' mean, in standardised columns."""
    numbers = gappy.drop(columns="diagnosis")
    filled = KNNImputer().fit_transform((numbers - numbers.mean()) / numbers.std())
    return pandas.DataFrame(filled, columns=numbers.columns) * numbers.std() + numbers.mean()


def miss(table: pandas.DataFrame, gappy: pandas.DataFrame, filled: pandas.DataFrame) -> float:
    """Root mean squared error over the gaps of all numbers, in standard deviations of their columns."""
    numbers = table.drop(columns="diagnosis")
    apart = ((filled[numbers.columns] - numbers) / numbers.std()).to_numpy(float)
    return float(np.sqrt(np.square(apart[gappy[numbers.columns].isna().to_numpy()]).mean()))


def made_up(system: DRMM, n: int, seed: int = 0) -> pandas.DataFrame:
    """Rows drawn from the density."""
    rows = system.sample(n, seed=seed)
    return pandas.DataFrame(rows["x"].numpy(), columns=system.schema["columns"])


def picture(
    table: pandas.DataFrame, gappy: pandas.DataFrame, filled: dict[str, pandas.DataFrame], drawn: Any
) -> Figure:
    """What was taken out of two columns, what is put there instead, and made-up rows."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.4), layout="constrained")
    axes = figure.subplots(1, 2 + len(filled), sharex=True, sharey=True)
    gone = gappy[list(SHOWN)].isna().any(axis=1)
    for ax in axes:
        ax.scatter(*(table.loc[~gone, name] for name in SHOWN), s=4, color="0.8", label="both known")
        ax.set_xlabel(f"{SHOWN[0]}, mm")
    axes[0].set_ylabel(f"{SHOWN[1]}, mm²")
    parts = [("what was taken out", table[gone], "black")]
    parts += [
        (f"{name}: error {miss(table, gappy, rows):.2f}", rows[gone], "tab:orange") for name, rows in filled.items()
    ]
    parts += [("rows made up", drawn, "tab:blue")]
    for ax, (title, rows, colour) in zip(axes, parts, strict=True):
        ax.scatter(*(rows[name] for name in SHOWN), s=6, color=colour)
        ax.set_title(title, fontsize=10)
    return figure


def main() -> None:
    """Fit, fill in, make up, draw."""
    parser = argparse.ArgumentParser(description="A table with gaps, learned and filled in.")
    parser.add_argument("--out", type=Path, default=Path("drmm_gaps.png"))
    parser.add_argument("--smoke", action="store_true", help="fewer draws, in seconds")
    given = parser.parse_args()
    table, gappy = load()
    system = DRMM(preset="small_table").fit(gappy, progress="off")
    filled = {
        "five nearest rows": by_neighbours(gappy),
        "DRMM": system.impute(gappy, num_samples=20 if given.smoke else 200),
    }
    for name, rows in filled.items():
        print(f"{name}: {miss(table, gappy, rows):.3f} standard deviations off, over all gaps of thirty columns")
    picture(table, gappy, filled, made_up(system, len(table))).savefig(given.out, dpi=110)
    print(f"picture: {given.out}")


if __name__ == "__main__":
    main()
