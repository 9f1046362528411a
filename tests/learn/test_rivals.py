"""Ours beside what others would pick: regression on the UCI tables, and tables with gaps.

The figures of packages with other pins are in docs/results/rivals.json, which `make rivals` writes; those of
scikit-learn are measured here.
"""

from __future__ import annotations

import json
import math
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas
import pytest

from phlogiston import datasets
from phlogiston.systems.drmm import DRMM
from phlogiston.systems.mdn.report import pit
from phlogiston.systems.mdn.system import MDN

from .recorder import Entry

pytestmark = pytest.mark.learn
Record = Callable[..., Entry]
RIVALS = Path(__file__).resolve().parents[2] / "docs" / "results" / "rivals.json"


def rivals(group: str) -> dict[str, dict[str, Any]]:
    """What `make rivals` recorded: method -> its entry."""
    entries = json.loads(RIVALS.read_text(encoding="utf-8"))["entries"] if RIVALS.exists() else []
    found = {e["name"].removeprefix(f"{group}/"): e for e in entries if e["name"].startswith(f"{group}/")}
    if not found:
        pytest.skip(f"no figures of {group} in {RIVALS}; `make rivals UCI=FOLDER` makes them")
    return found


# ---- regression

TABLES = ("yacht", "energy", "concrete", "wine_red", "power_plant")
SAID = {"crps": "CRPS", "rmse": "RMSE", "nll": "NLL, nats a row"}


@pytest.mark.parametrize("table", TABLES)
def test_rivals_mdn_one_preset_for_every_table(record: Record, test_data: Callable[[str], Path], table: str) -> None:
    splits = sorted(map(int, rivals(f"uci/{table}")["NGBoost"]["crps"]))
    whole = {"grid": 1.0} if table == "wine_red" else {}  # grades: probabilities of whole numbers, whoever has them
    entries = {
        kind: record(
            "mdn",
            f"beside/{kind}/{table}",
            title=table.replace("_", " "),
            configuration="preset table" + (", grid 1" if whole else ""),
            figure=figure,
            kind="exact",
            higher_is_better=False,
            splits=len(splits),
        )
        for kind, figure in SAID.items()
    }
    held: list[float] = []
    for split in splits:
        data = datasets.load("uci", root=test_data("uci_regression"), table=table, split=split)
        began = time.process_time()
        system = MDN(preset="table", **whole).fit(data, seed=split, progress="off")
        spent = time.process_time() - began
        found = system.evaluate(data, ["crps", "rmse", "log_likelihood"])
        where = pit(system, system.predictive(data.test), data.test.tensors["y"].double())
        held.append(float(((where - 0.5).abs() <= 0.45).double().mean()))
        ours = {"crps": found["crps"].value, "rmse": found["rmse"].value, "nll": -found["log_likelihood"].value}
        for kind, entry in entries.items():
            entry.seeds, entry.fields["n_test"] = splits, len(data.test)
            entry.fields |= {"coverage_90": statistics.fmean(held), "coverage_90_error": _error(held)}
            if split == splits[-1]:
                theirs = kind if kind == "rmse" or not whole else f"{kind}_cells"
                entry.fields |= compared({**entry.values, split: ours[kind]}, rivals(f"uci/{table}"), theirs)
            with entry.measure(split) as run:
                run.value, run.cpu_seconds = ours[kind], spent


def compared(ours: dict[int, float], others: dict[str, dict[str, Any]], kind: str) -> dict[str, Any]:
    """Fields of an entry: what others reach on the same splits, and how far from the best of them ours is."""
    values = {name: [e[kind][str(split)] for split in ours] for name, e in others.items() if kind in e}
    means = {name: statistics.fmean(v) for name, v in values.items()}
    best = min(means, key=means.__getitem__)
    gaps = [mine - theirs for mine, theirs in zip(ours.values(), values[best], strict=True)]
    return {
        "baselines": means,
        "baseline_errors": {name: _error(v) for name, v in values.items()},
        "rival_seconds": {name: others[name]["cpu_seconds"] for name in values},
        "beyond_best": statistics.fmean(gaps),  # paired over the splits: below zero ours is better
        "beyond_best_error": _error(gaps),
    }


def _error(values: list[float]) -> float:
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0


# ---- tables with gaps

SHIPPED = ("wine", "breast_cancer", "diabetes")
OURS: dict[str, Any] = {"preset": "small_table"}
MANY = {"wine": list(range(10))}  # draws of the gaps: among 178 rows three tell too little


def imputers(frame: pandas.DataFrame, category: str, seed: int) -> dict[str, Callable[[], tuple[Any, list[str], Any]]]:
    """scikit-learn's ways: categories as one column a label, numbers standardised."""
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer, KNNImputer

    numbers = frame.drop(columns=category)
    labels = sorted(frame[category].dropna().unique())
    marks = np.array(
        [[float(v == label) if isinstance(v, str) else np.nan for label in labels] for v in frame[category]]
    )
    mean, sd = numbers.mean(), numbers.std()
    x = np.column_stack([(numbers - mean) / sd, marks])
    forest = RandomForestRegressor(50, max_features="sqrt", random_state=seed)
    ways = {
        "IterativeImputer": IterativeImputer(random_state=seed),
        "KNNImputer": KNNImputer(),
        "IterativeImputer, random forests": IterativeImputer(forest, max_iter=5, random_state=seed),
    }

    def run(way: Any) -> tuple[Any, list[str], Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # ten rounds are what a user gets
            found = way.fit_transform(x)
        filled = found[:, : len(mean)] * sd.to_numpy() + mean.to_numpy()
        return pandas.DataFrame(filled, columns=numbers.columns), labels, found[:, len(mean) :]

    return {name: lambda way=way: run(way) for name, way in ways.items()}  # type: ignore[misc]


def filled_in(frame: pandas.DataFrame, category: str, seed: int) -> tuple[DRMM, Any, list[str], Any]:
    """Ours: learned from the table with its gaps, filled in by conditional means."""
    system = DRMM(**OURS).fit(frame, seed=seed, progress="off")
    numbers = system.impute(frame, seed=seed).drop(columns=category)
    shares = system.predict_proba(category, frame.drop(columns=category))
    return system, numbers, list(system.schema["categorical"][category]), np.asarray(shares)


@pytest.mark.parametrize("how", ["mcar", "mar"])
@pytest.mark.parametrize("name", SHIPPED)
def test_rivals_drmm_gaps_filled_in(record: Record, script: Callable[[str], ModuleType], name: str, how: str) -> None:
    quality = script("benchmarks/rivals/quality.py")
    table = quality.load(name)
    title = f"{name.replace('_', ' ')}, {'at random' if how == 'mcar' else 'likelier where a known column is high'}"
    figures = {
        "rmse": ("numbers: root mean squared error, standard deviations", False),
        "log_score": (f"{table.category}: mean log probability, nats", True),
    }
    entries = {
        kind: record(
            "drmm",
            f"gaps/{kind}/{name}-{how}",
            title=title,
            configuration="preset small_table",
            figure=figure,
            kind="estimate" if kind == "rmse" else "exact",
            higher_is_better=higher,
        )
        for kind, (figure, higher) in figures.items()
    }
    found: dict[str, list[dict[str, float]]] = {}
    for entry in entries.values():
        entry.seeds = MANY.get(name, entry.seeds)
    for seed in entries["rmse"].seeds:
        hole = quality.gaps(table, seed, how)
        frame = quality.punched(table.frame, hole)
        for other, way in imputers(frame, table.category, seed).items():
            found.setdefault(other, []).append(quality.imputation(table, hole, *way()))
        began = time.process_time()
        _, *ours = filled_in(frame, table.category, seed)
        spent = time.process_time() - began
        scores = quality.imputation(table, hole, *ours)
        found.setdefault("ours", []).append(scores)
        for kind, entry in entries.items():
            others = {n: statistics.fmean(s[kind] for s in runs) for n, runs in found.items() if n != "ours"}
            best = (max if figures[kind][1] else min)(others, key=others.__getitem__)
            gaps = [a[kind] - b[kind] for a, b in zip(found["ours"], found[best], strict=True)]
            entry.fields |= {
                "baselines": others,
                "error_over_entries": statistics.fmean(s[f"{kind}_error"] for s in found["ours"]),
                "accuracy": statistics.fmean(s["accuracy"] for s in found["ours"]),
                "baselines_accuracy": {
                    n: statistics.fmean(s["accuracy"] for s in runs) for n, runs in found.items() if n != "ours"
                },
                "beyond_best": statistics.fmean(gaps),
                "beyond_best_error": _error(gaps),
                "n_test": int(hole.sum()),
            }
            with entry.measure(seed) as run:
                run.value, run.cpu_seconds = scores[kind], spent


def drawn(system: DRMM, n: int, seed: int) -> pandas.DataFrame:
    """Made-up rows as a data frame."""
    rows = system.sample(n, seed=seed)
    frame = pandas.DataFrame(rows["x"].numpy(), columns=system.schema["columns"])
    labels = {name: np.asarray(own, dtype=object) for name, own in system.schema["categorical"].items()}
    return frame.assign(**{name: own[rows[name].numpy()] for name, own in labels.items()})


@pytest.mark.parametrize("name", SHIPPED)
def test_rivals_drmm_made_up_tables(record: Record, script: Callable[[str], ModuleType], name: str) -> None:
    quality = script("benchmarks/rivals/quality.py")
    table, others = quality.load(name), rivals(f"tables/{name}")
    score = "R2" if table.target == "progression" else "accuracy"
    figures = {
        "use": f"{score} on real rows of a forest trained on made-up ones",
        "privacy": "distance to rows learned from over that to others",
    }
    entries = {
        kind: record(
            "drmm",
            f"made-up/{kind}/{name}",
            title=name.replace("_", " "),
            configuration="preset small_table",
            figure=figure,
            kind="estimate",
            baselines={n: statistics.fmean(e[kind].values()) for n, e in others.items()},
            baseline_errors={n: _error(list(e[kind].values())) for n, e in others.items()},
        )
        for kind, figure in figures.items()
    }
    real: list[float] = []
    for seed in entries["use"].seeds:
        learned, other = quality.halves(table, seed)
        frame = quality.punched(learned, quality.gaps(table._replace(frame=learned), seed))
        began = time.process_time()
        system = DRMM(**OURS).fit(frame, seed=seed, progress="off")
        spent = time.process_time() - began
        made_up = drawn(system, len(learned), seed)[list(learned.columns)]
        real.append(quality.use(learned, other, table.target, seed))
        scores = {
            "use": quality.use(made_up, other, table.target, seed),
            "privacy": quality.privacy(made_up, learned, other),
        }
        for kind, entry in entries.items():
            entry.fields["n_test"] = len(other)
            if kind == "use":
                entry.fields["baselines"]["real rows, no gaps"] = statistics.fmean(real)
            with entry.measure(seed) as run:
                run.value, run.cpu_seconds = scores[kind], spent
