"""Full recipes of recurrent mixture density networks: touch music, controller streams and kanji, on real recordings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture

from phlogiston import datasets
from phlogiston.datasets.base import Dataset, Split
from phlogiston.datasets.fetch import cache_folder
from phlogiston.models.stepwise import valid_steps
from phlogiston.systems.sequence.report import TAP
from phlogiston.systems.sequence.scoring import per_step
from phlogiston.systems.sequence.system import SequenceModel

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


def describe(entry: Entry, system: SequenceModel) -> None:
    c, size = system.config, sum(p.numel() for p in system.model.parameters())
    entry.fields["configuration"] = f"LSTM {c.hidden} x {c.layers}, K = {c.num_components}, {size:,} parameters"
    entry.fields["steps"] = c.steps


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
        must=7.2,
        aim=6.9,
        n_test=int(length.sum()),
    )
    checks: list[dict[str, float]] = []
    seen = Split(data.train[torch.arange(0, len(data.train), 8)])  # how far what is learned goes beyond what was seen
    for seed in entry.seeds:
        with entry.measure(seed) as run:
            system = SequenceModel(preset="tinyperf").fit(data, seed=seed, out=kept("tinyperf", seed), progress="off")
            run.stop(kept("tinyperf", seed))
            steps = torch.cat(
                [torch.nn.functional.pad(v, (0, 400 - v.shape[1])) for v, _ in system.score_steps(x, length)]
            )
            run.value = -float(steps[inside].double().mean())
        whole = torch.where(inside, steps, 0.0).sum(1)
        after = inside.clone()
        after[:, 0] = False
        drawn = system.sample(200, seconds=5.0, seed=seed)
        dt = drawn["x"][valid_steps(drawn["length"], drawn["x"].shape[1])][:, 2]
        real = data.valid.tensors["x"][valid_steps(data.valid.tensors["length"], data.valid.tensors["x"].shape[1])][
            :, 2
        ]
        checks.append(
            {
                "std_error_of_test_rows": float(per_step(whole, length, {}).std_error or 0.0),
                "nats_of_training_rows": system.evaluate(seen, ["nats_per_step"])["nats_per_step"].value,
                "nats_after_first": -float(steps[after].double().mean()),
                "clipped": float((drawn["clipped"] * drawn["length"]).sum() / drawn["length"].sum()),
                "median_dt_ms": 1000 * float(dt.median()),
                "taps": float((dt > TAP).double().mean()),
                "taps_of_data": float((real > TAP).double().mean()),
            }
        )
        describe(entry, system)
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


def without_memory(data: Dataset, columns: list[int], cell: float) -> float:
    """Nats per step of one histogram per column, over steps (`dt`: over values), smoothed by one count in all."""
    total = 0.0
    for column in columns:
        counts: dict[str, np.ndarray] = {}
        for part in ("train", "valid"):
            tensors = getattr(data, part).tensors
            x, length = tensors["x"].double(), tensors["length"]
            value = x[..., column]
            if column:  # controls move from where they are; the first column is the time
                value = torch.cat([value[:, :1], value.diff(dim=1)], 1)
            kept = value[valid_steps(length, x.shape[1])]
            index = (kept / cell).round().long().clamp(-6000, 6000) + 6000
            counts[part] = torch.bincount(index, minlength=12_001).double().numpy()
        law = counts["train"] + 1.0 / 12_001
        total -= float((counts["valid"] * np.log(law / law.sum())).sum() / counts["valid"].sum())
    return total


def test_sequence_control_streams(record: Record, kept: Kept) -> None:
    """Nats per event of a controller, on cells of 1/1000, over all events of five held-out recordings."""
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
            system = SequenceModel(preset="control").fit(data, seed=seed, out=kept("control", seed), progress="off")
            run.stop(kept("control", seed))
            found: dict[str, Any] = system.evaluate(data, ["nats_per_step"])
            run.value = found["nats_per_step"].value
        describe(entry, system)
        entry.fields["baselines"] = {"histograms of steps": without_memory(data, [0, 1, 2, 3], 0.001)}
        if set(entry.seeds) <= set(entry.values):
            entry.save()
    assert entry.mean < entry.fields["baselines"]["histograms of steps"] - 1.0
    entry.check()


def test_sequence_kanji(record: Record, kept: Kept) -> None:
    """Nats per point of 600 held-out characters, offsets divided by their standard deviation, the pen included."""
    data = datasets.load("kanji", root=files("kanji", "kanji"))
    inside = [
        p.tensors["x"][valid_steps(p.tensors["length"], p.tensors["x"].shape[1])] for p in (data.train, data.valid)
    ]
    unit = inside[0][:, :2].double().std(correction=0)
    entry = record(
        "sequence",
        "kanji/points",
        title="kanji, the next pen movement",
        figure=f"nats per point, offsets divided by {float(unit):.3f}",
        kind="exact",
        higher_is_better=False,
        n_test=len(inside[1]),
    )
    law = GaussianMixture(20, random_state=0).fit((inside[0][::10, :2] / unit).numpy())
    lifted = inside[0][:, 2].double().mean()
    pen = -(inside[1][:, 2] * lifted.log() + (1 - inside[1][:, 2]) * (1 - lifted).log()).mean()
    alone = float(pen) - float(law.score((inside[1][:, :2] / unit).numpy()))
    for seed in entry.seeds:
        with entry.measure(seed) as run:
            system = SequenceModel(preset="kanji").fit(data, seed=seed, out=kept("kanji", seed), progress="off")
            run.stop(kept("kanji", seed))
            found: dict[str, Any] = system.evaluate(data, ["nats_per_step"])
            run.value = found["nats_per_step"].value - 2.0 * float(unit.log())
        describe(entry, system)
        entry.fields["baselines"] = {"a mixture of 20 normals without memory": alone}
        if set(entry.seeds) <= set(entry.values):
            entry.save()
    assert entry.mean < alone - 1.0
    entry.check()
