"""Full recipes of SketchRNN on Omniglot's drawings of at most 40 points."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from phlogiston import datasets
from phlogiston.datasets.base import Dataset
from phlogiston.datasets.fetch import cache_folder
from phlogiston.errors import TrainingWarning
from phlogiston.systems.sketch.system import Sketch
from phlogiston.systems.sketch.training import COLLAPSED

from .recorder import Entry

pytestmark = pytest.mark.learn
Record = Callable[..., Entry]
Kept = Callable[[str, int], Path | None]
WITHOUT = -6.61  # nats of a decoder without a latent, by the first recipe below
DISTANCES = {f"frechet_{name.replace('.', '_')}": f"frechet_{name}" for name in ("real", "0.2", "0.6", "1")}
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def omniglot() -> Dataset:
    for place in (SHARED / "omniglot_strokes", cache_folder() / "omniglot"):
        if (place / "train.npz").is_file():
            return datasets.load("omniglot", root=place, max_length=40)
    pytest.skip("Omniglot's strokes are not here; see `phlogiston data info omniglot`")


def begin(record: Record, name: str, data: Dataset, **fields: Any) -> Entry:
    return record(
        "sketch",
        f"omniglot/{name}",
        figure="nats per drawing, offsets divided by 59.005 px and dequantised, the end scored once",
        higher_is_better=False,
        n_test=len(data.valid),
        **fields,
    )


def describe(entry: Entry, system: Sketch) -> None:
    modules = [system.model, *([system.guide] if system.guide is not None else [])]
    size = sum(p.numel() for m in modules for p in m.parameters())
    c = system.config
    entry.fields["configuration"] = f"LSTM {c.hidden}, K = {c.num_components}, {size:,} parameters"
    entry.fields["steps"] = c.alone_steps + c.plan_steps + c.steps
    entry.fields["unit"] = float(system.model.unit[0])


def test_sketch_unconditional(record: Record, kept: Kept) -> None:
    data = omniglot()
    entry = begin(record, "unconditional", data, title="drawings, decoder alone", kind="exact", must=3.0)
    found: list[dict[str, float]] = []
    for seed in entry.seeds:
        with entry.measure(seed) as run:
            system = Sketch(preset="omniglot-unconditional").fit(
                data, seed=seed, out=kept("unconditional", seed), progress="off"
            )
            run.stop(kept("unconditional", seed))
            metrics = system.evaluate(data, ["bound", "frechet"])
            run.value = metrics["negative_bound"].value
            describe(entry, system)
        found.append({key: metric.value for key, metric in metrics.items()})
        for field, key in DISTANCES.items():
            entry.fields[field] = sum(f[key] for f in found) / len(found)
        if set(entry.seeds) <= set(entry.values):
            entry.save()
        assert math.isclose(float(system.model.unit[0]), 59.005, abs_tol=0.01), "the unit the figures are quoted in"
    entry.check()


def conditional(
    record: Record, kept: Kept, name: str, options: dict[str, Any], **fields: Any
) -> tuple[Entry, list[dict[str, float]]]:
    data = omniglot()
    entry = begin(record, name, data, kind="upper bound", **fields)
    found: list[dict[str, float]] = []
    for seed in entry.seeds:
        with entry.measure(seed) as run:
            with warnings.catch_warnings():
                warnings.simplefilter("error", TrainingWarning)  # a collapsed latent is a failure
                system = Sketch(**options).fit(data, seed=seed, out=kept(name, seed), progress="off")
            run.stop(kept(name, seed))
            metrics = system.evaluate(data)
            run.value = metrics["negative_bound"].value
        found.append({key: metric.value for key, metric in metrics.items()})
        describe(entry, system)
        own = {key: key for key in ("reconstruction", "divergence", "recognised_share", "log_likelihood")}
        for field, key in {**own, **DISTANCES}.items():
            entry.fields[field] = sum(f[key] for f in found) / len(found)
        if set(entry.seeds) <= set(entry.values):
            entry.save()
    assert all(f["divergence"] > COLLAPSED for f in found)
    return entry, found


def test_sketch_conditional(record: Record, kept: Kept) -> None:
    entry, found = conditional(
        record, kept, "conditional", {"preset": "omniglot"}, title="drawings with a latent, free bits", must=5.0
    )
    assert all(f["divergence"] >= 5.0 for f in found), found
    entry.check()


def test_sketch_codes(record: Record, kept: Kept) -> None:
    entry, found = conditional(
        record, kept, "codes", {"preset": "omniglot-codes"}, title="drawings with a latent and a plan, beta 1/4"
    )
    entry.check()
    assert all(f["divergence"] >= 8.0 for f in found), found
    assert all(f["reconstruction"] <= WITHOUT - 4.0 for f in found), found
    assert all(f["recognised_share"] >= 0.5 for f in found), found


def test_sketch_without_a_plan(record: Record, kept: Kept) -> None:
    """What the plan is worth: the decoder learns alone before, in its place, and the weight of the latent rises."""
    options = {
        "preset": "omniglot-codes", "latent": 32, "plan": 0, "plan_steps": 0, "wander": 0.0, "alone_steps": 3_000,
        "beta_start": 0.02, "steps": 4_500,
    }  # fmt: skip
    entry, found = conditional(record, kept, "codes-without-plan", options, title="the same without a plan")
    entry.check()
    assert all(f["recognised_share"] < 0.2 for f in found), found
