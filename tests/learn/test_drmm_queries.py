"""The full recipes of the query applications: what the examples show, measured; every figure of docs/drmm-queries.md.

The recipes run the examples' own functions, so that what is measured is what a reader is shown.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from phlogiston import datasets
from phlogiston.datasets.generated import jumper, poses
from phlogiston.systems.drmm.kinematics import HEAD, Kinematics, Poses
from phlogiston.systems.drmm.system import DRMM

pytestmark = [pytest.mark.learn, pytest.mark.timeout(7200)]  # a busy machine may need an hour


def test_kinematics(record: Any, script: Callable[[str], ModuleType]) -> None:
    shown = script("examples/drmm_kinematics.py")
    common: dict[str, Any] = {
        "configuration": "tril, 2 layers of 64",
        "steps": shown.OPTIONS["steps"],
        "n_test": 200,
        "higher_is_better": False,
    }
    distance = "distance from target to forward kinematics, mean over four limbs, body lengths"
    sampled = record("drmm_queries", "kinematics/1-samples", title="samples, mean over all 64", figure=distance,
                     must=0.070, aim=0.050, **common)  # fmt: skip
    best = record("drmm_queries", "kinematics/2-best", title="samples, median of the best of 64", figure=distance,
                  must=0.030, aim=0.018, **common)  # fmt: skip
    refined = record("drmm_queries", "kinematics/3-refined", title="refined, mean over all 64", figure=distance,
                     must=0.010, aim=0.005, **common)  # fmt: skip
    loss = record("drmm_queries", "kinematics/4-loss", title="log density lost by refinement", figure="nats", **common)
    common["higher_is_better"] = True
    head = record("drmm_queries", "kinematics/5-head", title="head limit kept by the sampled variable",
                  figure="share of samples", must=1.0, **common)  # fmt: skip
    true_head = record("drmm_queries", "kinematics/6-head-refined", title="head limit kept by the figure, refined",
                       figure="share of samples", must=0.99, aim=0.995, **common)  # fmt: skip
    entries = (sampled, best, refined, loss, head, true_head)
    nearest: list[float] = []
    for seed in sampled.seeds:
        data = datasets.load("poses", seed=seed)
        with sampled.measure(seed) as run:
            solver = Kinematics(DRMM(**shown.OPTIONS).fit(data, seed=seed))
            run.stop()
            rows = data.test.numpy().astype(np.float64)[:200]
            ends = [poses.COLUMNS.index(f"{name}_{axis}") for name in shown.LIMBS for axis in "xy"]
            off = (rows[:, None, ends] - data.train.numpy()[None][..., ends]).reshape(200, -1, 4, 2)
            nearest.append(float(np.linalg.norm(off, axis=-1).mean(-1).min(1).mean()))
            sampled.fields["baselines"] = {"nearest of 20,000 training poses": float(np.mean(nearest))}
            sampled.fields["published"] = {"original program, 4 layers of 64": 0.212}
            plain = [solver.solve(shown.targets_of(row), seed=i) for i, row in enumerate(rows)]
            run.value = float(np.mean([p.error for p in plain]))
        better = [solver.solve(shown.targets_of(row), refine=True, seed=i) for i, row in enumerate(rows)]
        below = [solver.solve(shown.targets_of(row), row[-1] + 0.05, seed=i) for i, row in enumerate(rows)]
        fixed = [solver.solve(shown.targets_of(row), row[-1] + 0.05, refine=True, seed=i) for i, row in enumerate(rows)]

        def height(found: list[Poses], rows: np.ndarray = rows) -> float:
            return float(np.mean([p.joints[:, HEAD, 1] <= r[-1] + 0.05 for p, r in zip(found, rows, strict=True)]))

        figures = [
            float(np.median([p.error.min() for p in plain])),
            float(np.mean([p.error for p in better])),
            float(np.mean([p.log_prob_loss for p in better])),
            float(np.mean([p.x[:, -1] <= r[-1] + 0.05 for p, r in zip(below, rows, strict=True)])),
            height(fixed),
        ]
        true_head.fields["baselines"] = {"without refinement": height(below), "without limit": height(plain)}
        for entry, value in zip(entries[1:], figures, strict=True):
            with entry.measure(seed) as run:
                run.value = value
        for found in (better, fixed):
            angles = np.concatenate([p.x[:, 2:18] for p in found])
            assert (angles >= poses.LIMITS[2:, 0]).all(), "a refined joint is beyond its limit"
            assert (angles <= poses.LIMITS[2:, 1]).all(), "a refined joint is beyond its limit"
    for entry in entries:
        entry.check()


# What is measured is how well the samples obey; some way-points leave few effective samples, and the answer says so.
@pytest.mark.filterwarnings("ignore::phlogiston.errors.QueryWarning")
def test_trajectories(record: Any, script: Callable[[str], ModuleType]) -> None:
    shown = script("examples/drmm_trajectories.py")
    common: dict[str, Any] = {
        "configuration": "diag, 4 layers of 128",
        "steps": shown.OPTIONS["steps"],
        "n_test": 100,
    }
    obeyed = record("drmm_queries", "trajectories/1-obeyed", title="way-points within 0.02 and no obstacle touched",
                    figure="share of samples", must=0.99, aim=1.0, **common)  # fmt: skip
    drawn = record("drmm_queries", "trajectories/2-violation", title="violation, samples over reconstructions",
                   figure="ratio", must=2.0, aim=1.2, higher_is_better=False, **common)  # fmt: skip
    means = record("drmm_queries", "trajectories/3-violation-means", title="the same without the model's noise",
                   figure="ratio", must=2.0, aim=1.2, higher_is_better=False, **common)  # fmt: skip
    for seed in obeyed.seeds:
        data = datasets.load("jumper", seed=seed)
        with obeyed.measure(seed) as run:
            system = DRMM(**shown.OPTIONS).fit(data, seed=seed)
            run.stop()
            rows = data.test.numpy().astype(np.float64)[:100]
            good: list[float] = []
            off: dict[str, list[float]] = {"model": [], "mean": []}
            for i, row in enumerate(rows):
                points, gaps = shown.held_out_question(row, i)
                for noise, found in off.items():
                    answer = system.query(
                        shown.flight_evidence(points, gaps), num_samples=64, noise=noise, resample=True, seed=i
                    )
                    x = answer.samples["x"].numpy()
                    good.append(float(shown.obeys(x, points, gaps).mean()))
                    found.append(float(jumper.violation(x).mean()))
            run.value = float(np.mean(good))
        for entry, noise in ((drawn, "model"), (means, "mean")):
            own = float(jumper.violation(shown.reconstructed(system, rows, noise == "model")).mean())
            free = system.sample(4000, noise=noise, seed=seed)["x"].numpy()
            with entry.measure(seed) as run:
                entry.fields["baselines"] = {
                    "samples": float(np.mean(off[noise])),
                    "held-out flights reconstructed": own,
                    "unconditional samples": float(jumper.violation(free).mean()),
                }
                run.value = float(np.mean(off[noise])) / own
    for entry in (obeyed, drawn, means):
        entry.check()


def test_completion(record: Any, script: Callable[[str], ModuleType]) -> None:
    shown = script("examples/drmm_completion.py")
    common: dict[str, Any] = {"configuration": shown.CONFIGURATION, "steps": shown.OPTIONS["steps"], "n_test": 397}
    error = record("drmm_queries", "completion/1-error", title="lower half of 8x8 digits, posterior mean",
                   figure="mean squared error of pixels in [0, 1]", higher_is_better=False, **common)  # fmt: skip
    named = record("drmm_queries", "completion/2-judge", title="digits completed by a sample, named by a judge",
                   figure="accuracy", must=0.80, **common)  # fmt: skip
    averaged = record("drmm_queries", "completion/3-judge-mean", title="digits completed by the mean, likewise",
                      figure="accuracy", must=0.80, **common)  # fmt: skip
    others: list[dict[str, float]] = []
    judged: list[dict[str, float]] = []
    for seed in error.seeds:
        data = datasets.load("digits", valid=0, seed=seed)
        train, test, label = data.train.numpy(), data.test.numpy(), data.test.numpy("label")
        judge = shown.judge(data)
        with error.measure(seed) as run:
            system = shown.fit(data, seed=seed)
            run.stop()
            mean, sample = shown.complete(system, test, seed)
            others.append({n: shown.squared_error(c, test) for n, c in shown.imputed(train, test).items()})
            error.fields["baselines"] = {n: float(np.mean([o[n] for o in others])) for n in others[0]}
            run.value = shown.squared_error(mean, test)
        judged.append({"real digits": judge.score(test, label)})
        judged[-1] |= {n: judge.score(c, label) for n, c in shown.imputed(train, test).items()}
        for entry, completed in ((named, sample), (averaged, mean)):
            entry.fields["baselines"] = {n: float(np.mean([j[n] for j in judged])) for n in judged[0]}
            with entry.measure(seed) as run:
                run.value = judge.score(completed, label)
    for rival in ("IterativeImputer", "KNNImputer"):
        assert error.mean < error.fields["baselines"][rival], f"completion is no better than {rival}"
    for entry in (error, named, averaged):
        entry.check()


def test_classification(record: Any, script: Callable[[str], ModuleType]) -> None:
    shown = script("examples/drmm_classification.py")
    common: dict[str, Any] = {"figure": "accuracy", "n_test": 397}
    full = record("drmm_queries", "classification/1-all", title="all 1,400 labels", configuration=shown.CONFIGURATION,
                  must=0.96, **common)  # fmt: skip
    for seed in full.seeds:
        data = datasets.load("digits", valid=0, seed=seed)
        with full.measure(seed) as run:
            system = shown.fit(data.train.tensors, shown.OPTIONS, seed)
            run.stop()
            run.value = shown.accuracy(system, data)
    few = {
        copies: record(
            "drmm_queries",
            f"classification/{2 + (copies > 1)}-few",
            title="10 labels per class, 1,300 rows without",
            configuration=shown.CONFIGURATION_FEW + (f", {copies} copies, all but one noisy" if copies > 1 else ""),
            must=0.88,
            **common,
        )
        for copies in (1, 4)
    }
    for copies, entry in few.items():
        alone: list[float] = []
        for seed in entry.seeds:
            data = datasets.load("digits", valid=0, seed=seed)
            hidden, labelled = shown.hide_labels(data, 10, seed)
            with entry.measure(seed) as run:
                system = shown.fit(hidden, shown.OPTIONS_FEW, seed, copies)
                run.stop()
                alone.append(shown.accuracy(shown.fit(labelled, shown.OPTIONS_FEW, seed, copies), data))
                entry.fields["baselines"] = {"same model, the 100 labelled rows alone": float(np.mean(alone))}
                run.value = shown.accuracy(system, data)
    assert few[1].mean > few[1].fields["baselines"]["same model, the 100 labelled rows alone"] + 0.03
    for entry in (full, *few.values()):
        entry.check()
