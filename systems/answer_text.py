"""Answers in words, for the terminal and for reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from phlogiston.cards import apart

if TYPE_CHECKING:
    from phlogiston.inference.query.answer import Answer

Names = Mapping[str, Sequence[str]]


def describe(answer: Answer, columns: Names, categories: Names) -> tuple[dict[str, Any], str]:
    """What is worth knowing of an answer, as JSON and as text.

    Args:
        answer: to a question.
        columns: site -> names of its columns.
        categories: categorical site -> names of its values.
    """
    found = None if answer.log_evidence is None else answer.log_evidence.detach().tolist()
    ess = answer.ess.tolist()
    summary = {"method": answer.method, "ess": ess, "log_evidence": found, "num_samples": answer.num_samples}
    lines = [
        f"method        {answer.method}",
        f"samples       {answer.num_samples}, worth {numbers(ess)} independent ones",
        f"log evidence  {'unknown' if found is None else numbers(found)} nats",
    ]
    for site, names in columns.items():
        if site in answer.samples and answer.samples[site].ndim == 2:
            low, middle, high = (answer.quantile(site, q) for q in (0.05, 0.5, 0.95))
            rows = zip(names, middle.tolist(), low.tolist(), high.tolist(), strict=False)
            for name, m, a, b in list(rows)[:20]:
                lines.append(f"{name}: median {apart(m, b - a)}, 90 % in [{apart(a, b - a)}, {apart(b, b - a)}]")
    for site, labels in categories.items():
        if site in answer.samples and answer.samples[site].ndim == 1:
            share = answer.weights.new_zeros(len(labels)).index_add_(0, answer.samples[site], answer.weights)
            lines.append(f"{site}: " + ", ".join(f"{v} {p:.3f}" for v, p in zip(labels, share.tolist(), strict=True)))
    return summary, "\n".join(lines)


def numbers(value: float | list[float]) -> str:
    """Write a number, or the first eight of several."""
    values = value if isinstance(value, list) else [value]
    return ", ".join(f"{v:.4g}" for v in values[:8]) + (", ..." if len(values) > 8 else "")
