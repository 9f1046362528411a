"""Full recipe of handwriting synthesis on the built-in script."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from phlogiston import datasets
from phlogiston.systems.handwriting.system import HandwritingModel

from .recorder import Entry

pytestmark = pytest.mark.learn
Record = Callable[..., Entry]
Kept = Callable[[str, int], Path | None]


def test_handwriting_script(record: Record, kept: Kept) -> None:
    """Legibility at bias 1 by a reader of shapes; attention, the effect of bias, and primed slant beside it."""
    data = datasets.load("script")
    entry = record(
        "handwriting",
        "script/legible",
        title="synthetic script, read back at bias 1",
        figure="share of characters recovered",
        kind="estimate",
        must=0.85,
        n_test=40,
    )
    checks: list[dict[str, float]] = []
    for seed in entry.seeds:
        with entry.measure(seed) as run:
            system = HandwritingModel().fit(data, seed=seed, out=kept("script", seed), progress="off")
            run.stop(kept("script", seed))
            found = {name: metric.value for name, metric in system.evaluate(data).items()}
            run.value = found["legible_bias_1"]
        checks.append(found)
        c = system.config
        size = sum(p.numel() for p in system.model.parameters())
        entry.fields["configuration"] = (
            f"LSTM {c.hidden} x 3, J = {c.windows}, K = {c.num_components}, {size:,} parameters"
        )
        entry.fields["steps"] = c.steps
        entry.fields["baselines"] = {"the reader on the data": sum(f["legible_data"] for f in checks) / len(checks)}
        for key in ("legible_bias_0", "attention_near", "attention_exact", "style_correlation", "log_likelihood"):
            entry.fields[key] = sum(f[key] for f in checks) / len(checks)
        if set(entry.seeds) <= set(entry.values):
            entry.save()
    for found in checks:
        assert found["attention_near"] >= 0.90, found
        assert found["legible_bias_0"] < found["legible_bias_1"], found
        assert found["style_correlation"] > 0.6, found
    entry.check()
