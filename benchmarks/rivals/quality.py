"""Tables with gaps: which tables, which gaps, and how filled and made-up tables are scored.

numpy, pandas and scikit-learn alone, so that rivals, which `tables.py` runs in
an interpreter of their own, are scored by the same lines as phlogiston.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas
from sklearn import datasets as shipped
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

SHARE = 0.2  # of the entries that are taken out
FLOOR = 0.01  # of a category's probability: nobody is scored by the log of nothing


class Table(NamedTuple):
    """A table that comes with scikit-learn.

    Attributes:
        frame: numbers in their units, categories as text.
        category: the column that holds categories.
        target: the column that the others predict in `use`.
    """

    frame: pandas.DataFrame
    category: str
    target: str


def load(name: str) -> Table:
    """Load `wine`, `breast_cancer` or `diabetes` (in units, sex as a category)."""
    if name == "diabetes":
        frame = shipped.load_diabetes(as_frame=True, scaled=False).frame.rename(columns={"target": "progression"})
        sex = frame["sex"].astype(int).map({1: "first", 2: "second"}).astype(object)
        return Table(frame.assign(sex=sex), "sex", "progression")
    found = {"wine": shipped.load_wine, "breast_cancer": shipped.load_breast_cancer}[name](as_frame=True)
    kind = np.array([str(label) for label in found.target_names], dtype=object)[found.target]
    return Table(found.data.assign(kind=kind), "kind", "kind")


def gaps(table: Table, seed: int, how: str = "mcar") -> Any:
    """Which entries to take out: bool (rows, columns), a fifth of those that may be missing.

    Args:
        table: complete.
        seed: of the draw.
        how: `mcar`, at random; or `mar`: the first two numbers are always known, and the higher the first of them, the
            likelier a gap in the others.
    """
    random = np.random.default_rng(seed)
    rows, columns = table.frame.shape
    share = np.full((rows, columns), SHARE)
    if how == "mar":
        known = [c for c in table.frame.columns if c != table.category][:2]
        rank = table.frame[known[0]].rank().to_numpy() / rows
        share = np.repeat(2 * SHARE * rank[:, None], columns, 1)
        share[:, [table.frame.columns.get_loc(c) for c in known]] = 0.0
    hole = random.random((rows, columns)) < share
    hole[hole.all(1), 0] = False
    return hole


def punched(frame: pandas.DataFrame, hole: Any) -> pandas.DataFrame:
    """The frame with NaN, or None among categories, in the holes."""
    out = {}
    for j, name in enumerate(frame.columns):
        column = frame[name].to_numpy()
        text = column.dtype == object
        out[name] = (
            np.where(hole[:, j], None if text else np.nan, column)
            if text
            else np.where(hole[:, j], np.nan, column.astype(float))
        )
    return pandas.DataFrame(out)


def imputation(
    table: Table, hole: Any, numbers: pandas.DataFrame, labels: list[str], probability: Any
) -> dict[str, float]:
    """Scores of a filled table over its holes.

    Args:
        table: complete.
        hole: bool (rows, columns).
        numbers: the filled columns of numbers.
        labels: of the category.
        probability: (rows, labels), what the method says of the category, whether it was known or not.

    Returns:
        `rmse` in standard deviations of the columns, `accuracy` of the category and `log_score`, its mean log
        probability in nats (floored at FLOOR), each with the standard error over the holes.
    """
    errors = []
    for name in numbers.columns:
        at = hole[:, table.frame.columns.get_loc(name)]
        truth = table.frame[name].to_numpy(float)
        errors.append((numbers[name].to_numpy(float)[at] - truth[at]) / truth.std())
    squared = np.square(np.concatenate(errors))
    at = hole[:, table.frame.columns.get_loc(table.category)]
    share = np.clip(np.asarray(probability, float)[at], FLOOR, None)
    share = share / share.sum(1, keepdims=True)
    truth = np.array([labels.index(v) for v in table.frame[table.category].to_numpy()[at]])
    right, logs = share.argmax(1) == truth, np.log(share[np.arange(len(truth)), truth])
    rmse = float(np.sqrt(squared.mean()))
    return {
        "rmse": rmse,
        "rmse_error": float(squared.std() / np.sqrt(len(squared)) / (2 * rmse or 1.0)),
        "accuracy": float(right.mean()),
        "log_score": float(logs.mean()),
        "log_score_error": float(logs.std() / np.sqrt(len(logs))),
    }


def halves(table: Table, seed: int) -> tuple[pandas.DataFrame, pandas.DataFrame]:
    """Rows to learn from, and as many others to be judged by."""
    order = np.random.default_rng(seed).permutation(len(table.frame))
    half = len(order) // 2
    return tuple(table.frame.iloc[part].reset_index(drop=True) for part in (order[:half], order[half : 2 * half]))  # type: ignore[return-value]


def use(made_up: pandas.DataFrame, real: pandas.DataFrame, target: str, seed: int) -> float:
    """Train on made-up rows, test on real ones: a random forest's accuracy, or R2 where the target is a number."""
    inputs = [c for c in real.columns if c != target]
    x, at = (pandas.get_dummies(f[inputs]).astype(float) for f in (made_up, real))
    at = at.reindex(columns=x.columns, fill_value=0.0)
    if not pandas.api.types.is_numeric_dtype(real[target]):
        if made_up[target].nunique() < 2:
            return float((real[target] == made_up[target].iloc[0]).mean())
        forest: Any = RandomForestClassifier(100, random_state=seed)
    else:
        forest = RandomForestRegressor(100, random_state=seed)
    return float(forest.fit(x, made_up[target]).score(at, real[target]))


def privacy(made_up: pandas.DataFrame, learned: pandas.DataFrame, other: pandas.DataFrame) -> float:
    """Median distance of made-up rows to the nearest row learned from, over that to the nearest of as many others.

    1 where they are no nearer to the rows they were learned from; 0 for copies. Columns in standard deviations.
    """
    numbers = learned.select_dtypes("number").columns
    others = [c for c in learned.columns if c not in numbers]

    def points(frame: pandas.DataFrame) -> Any:
        z = (frame[numbers].to_numpy(float) - learned[numbers].to_numpy(float).mean(0)) / learned[numbers].to_numpy(
            float
        ).std(0)
        marks = [[float(v == label) for label in sorted(set(learned[c]))] for c in others for v in frame[c]]
        return np.column_stack([z, np.array(marks).reshape(len(frame), -1)]) if len(others) == 1 else z

    made, first, second = points(made_up), points(learned), points(other)
    nearest = [np.sqrt(np.square(made[:, None] - near[None]).sum(-1)).min(1) for near in (first, second)]
    with np.errstate(divide="ignore"):
        return float(np.median(nearest[0]) / np.median(nearest[1]))
