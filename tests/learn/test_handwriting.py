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
    """Legibility at bias 1 by a reader of shapes; attention, the effect of bias, and what is kept of a prime's hand."""
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
            metrics = system.evaluate(data)
            found = {name: metric.value for name, metric in metrics.items()}
            run.value = found["legible_bias_1"]
        checks.append({**found, "std_error_of_test_rows": float(metrics["legible_bias_1"].std_error or 0.0)})
        c = system.config
        size = sum(p.numel() for p in system.model.parameters())
        entry.fields["configuration"] = (
            f"LSTM {c.hidden} x 3, J = {c.windows}, K = {c.num_components}, {size:,} parameters"
        )
        entry.fields["steps"] = c.steps
        entry.fields["baselines"] = {"the reader on the data": sum(f["legible_data"] for f in checks) / len(checks)}
        for key in (
            "legible_bias_0", "legible_bias_3", "attention_near", "attention_exact", "hand_kept", "style_correlation",
            "log_likelihood", "std_error_of_test_rows",
        ):  # fmt: skip
            entry.fields[key] = sum(f[key] for f in checks) / len(checks)
        if set(entry.seeds) <= set(entry.values):
            entry.save()
    for found in checks:
        assert found["attention_near"] >= 0.90, found
        assert found["legible_bias_0"] < found["legible_bias_1"], found
        assert found["hand_kept"] >= 0.8, found
        assert found["style_correlation"] > 0.6, found
    entry.check()
