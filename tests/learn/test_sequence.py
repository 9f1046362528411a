"""Full recipes of recurrent mixture density networks: touch music and controller streams, on the real recordings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from phlogiston import datasets
from phlogiston.datasets.fetch import cache_folder
from phlogiston.models.stepwise import valid_steps
from phlogiston.systems.sequence import SequenceModel
from phlogiston.systems.sequence_report import TAP

from .recorder import Entry

pytestmark = pytest.mark.learn
Record = Callable[..., Entry]
Kept = Callable[[str, int], Path | None]
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def files(name: str, folder: str) -> Path:
    """Where the files of a dataset are, or skip: they may not be passed on, or are not here."""
    for place in (SHARED / folder, cache_folder() / name):
        if (place / "train.npz").is_file():
            return place
    pytest.skip(f"the files of {name} are not here; see `phlogiston data info {name}`")


def test_sequence_touch_music(record: Record, kept: Kept) -> None:
    """Nats per touch on cells of 1/1000, over the first 400 touches of 100 held-out performances, all counted."""
    data = datasets.load("tinyperf", root=files("tinyperf", "tinyperf"))
    x, length = data.valid.tensors["x"][:100, :400], data.valid.tensors["length"][:100].clamp(max=400)
    inside = valid_steps(length, 400)
    entry = record(
        "sequence",
        "tinyperf/touches",
        title="touch music, cells of 1/1000",
        figure="nats per touch",
        kind="exact",
        higher_is_better=False,
        must=7.3,
        aim=7.0,
        n_test=int(length.sum()),
    )
    checks: list[dict[str, float]] = []
    for seed in entry.seeds:
        with entry.measure(seed) as run:
            system = SequenceModel(preset="tinyperf").fit(data, seed=seed, out=kept("tinyperf", seed), progress="off")
            run.stop()
            steps = torch.cat([torch.nn.functional.pad(v, (0, 400 - v.shape[1])) for v, _ in system._steps(x, length)])
            run.value = -float(steps[inside].double().mean())
        after = inside.clone()
        after[:, 0] = False
        drawn = system.sample(200, seconds=5.0, seed=seed)
        dt = drawn["x"][valid_steps(drawn["length"], drawn["x"].shape[1])][:, 2]
        real = data.valid.tensors["x"][valid_steps(data.valid.tensors["length"], data.valid.tensors["x"].shape[1])][
            :, 2
        ]
        checks.append(
            {
                "nats_after_first": -float(steps[after].double().mean()),
                "clipped": float(drawn["clipped"]),
                "median_dt_ms": 1000 * float(dt.median()),
                "taps": float((dt > TAP).double().mean()),
                "taps_of_data": float((real > TAP).double().mean()),
            }
        )
        size = sum(p.numel() for p in system.model.parameters())
        c = system.config
        entry.fields["configuration"] = f"LSTM {c.hidden} x {c.layers}, K = {c.num_components}, {size:,} parameters"
        entry.fields["steps"] = c.steps
        # measured once for comparison, on the same touches and machine class
        entry.fields["baselines"] = {"Keras example's recipe": 11.38}
        for key in checks[0]:
            entry.fields[key] = sum(check[key] for check in checks) / len(checks)
        if set(entry.seeds) <= set(entry.values):
            entry.save()
    for check in checks:
        assert check["clipped"] < 0.02, check
        assert 15 <= check["median_dt_ms"] <= 19, check
        assert abs(check["taps"] - check["taps_of_data"]) < 0.02, check
    entry.check()


def test_sequence_control_streams(record: Record) -> None:
    """Nats per event of a controller, on cells of 1/1000, over five held-out recordings."""
    data = datasets.load("control", root=files("control", "control3"))
    entry = record(
        "sequence",
        "control/events",
        title="musical controller, cells of 1/1000",
        figure="nats per event",
        kind="exact",
        higher_is_better=False,
        n_test=int(data.valid.tensors["length"].sum()),
    )
    for seed in entry.seeds:
        with entry.measure(seed) as run:
            system = SequenceModel(preset="control", steps=1500, batch_size=32).fit(data, seed=seed, progress="off")
            run.stop()
            found: dict[str, Any] = system.evaluate(data, ["nats_per_step"])
            run.value = found["nats_per_step"].value
        entry.fields["configuration"] = "LSTM 64 x 2, K = 10"
        entry.fields["steps"] = system.config.steps
    entry.check()
