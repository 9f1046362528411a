"""An answer as a notebook shows it: estimates with their intervals, how far to trust them, small histograms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from phlogiston import cards
from phlogiston.datasets.frames import Names

if TYPE_CHECKING:
    from torch import Tensor

LEVELS = (0.05, 0.5, 0.95)
COLUMNS, ROWS, LABELS = 20, 10, 12
"""Columns, rows of evidence and categories that are shown."""


def html(answer: Any) -> str:
    """The card of an `Answer`."""
    names = answer.names or Names()
    several = answer.log_weights.dim() == 2
    parts = _by_row(answer, names) if several else _sites(answer, names)
    rows = f", {answer.log_weights.shape[1]:,} rows of evidence" if several else ""
    return cards.card("Answer", f"{answer.num_samples:,} samples{rows}", cards.facts(_trust(answer)), *parts)


def _trust(answer: Any) -> list[tuple[str, str]]:
    """How the answer was computed, and what its draws are worth."""
    worst, n = float(answer.ess.min()), answer.num_samples
    poor = "; poor: give less evidence, or raise num_samples" if worst < 0.1 * n else ""
    least = "at least " if answer.ess.numel() > 1 else ""
    told = [("method", answer.method), ("worth", f"{least}{worst:,.4g} independent samples of {n:,}{poor}")]
    if answer.log_evidence is None or answer.log_evidence.numel() == 1:
        told.append(("log evidence", _evidence(answer.log_evidence, answer.log_evidence_error)))
    told += [(name.replace("_", " "), text) for name, text in answer.details.items() if isinstance(text, str) and text]
    return told


def _evidence(value: Tensor | None, error: Tensor | None) -> str:
    if value is None:
        return "unknown"
    found = f"{float(value):.4g}"
    if error is None:
        return f"{found} nats, without an error bar"
    return f"{found} nats (exact)" if not float(error) else f"{found} ± {float(error):.2g} nats"


def _sites(answer: Any, names: Names) -> list[str]:
    """A table of all columns with their histograms, and one per categorical site."""
    weights = answer.weights.detach().cpu().numpy()
    rows: list[list[Any]] = []
    blocks, left_out = [], 0
    for site, value in answer.samples.items():
        if site in names.categories and value.dim() == 1:
            blocks.append(_shares(site, names.categories[site], value, answer.weights))
        elif value.dim() > 2 and value[0].numel() > COLUMNS:
            blocks.append(cards.facts([(site, f"{len(value):,} samples of shape {tuple(value.shape[1:])}")]))
        else:
            wide = value.reshape(len(value), -1)
            own = _columns(site, wide.shape[1], names)
            left_out += max(0, len(own) - COLUMNS)
            levels = answer.quantile(site, torch.tensor(LEVELS, dtype=torch.float64))
            for j, name in enumerate(own[:COLUMNS]):
                low, middle, high = _shown(name, levels.reshape(3, -1)[:, j], names)
                picture = cards.histogram(wide[:, j].detach().cpu(), weights, f"{name}: from {low} to {high} with 90 %")
                rows.append([name, middle, "known" if low == high else f"{low} to {high}", picture])
    if rows:
        more = f"; {left_out:,} more columns are not shown" if left_out else ""
        head = ["column", "median", "with probability 90 %", "distribution"]
        blocks.insert(0, cards.table(head, rows, ["median"], f"Given the evidence (dark: the middle 90 %){more}"))
    return blocks


def _shares(site: str, labels: Any, codes: Tensor, weights: Tensor) -> str:
    found = weights.new_zeros(len(labels)).index_add_(0, codes, weights).tolist()
    ordered = sorted(zip(labels, found, strict=True), key=lambda pair: -pair[1])
    rows = [[label, f"{p:.3f}", cards.share(p, f"{label}: {p:.3f}")] for label, p in ordered[:LABELS]]
    rest = sum(p for _, p in ordered[LABELS:])
    rows += [[f"{len(ordered) - LABELS} others", f"{rest:.3f}", cards.share(rest)]] if ordered[LABELS:] else []
    return cards.table([site, "probability", ""], rows, ["probability"])


def _by_row(answer: Any, names: Names) -> list[str]:
    """A line per row of evidence: medians with intervals, the most probable categories, ESS, evidence."""
    count = min(ROWS, answer.log_weights.shape[1])
    lines: list[list[Any]] = [[str(r)] for r in range(count)]
    head = ["row"]
    weights = answer.weights
    for site, value in answer.samples.items():
        if site in names.categories and value.dim() == 2:
            head.append(site)
            labels = names.categories[site]
            found = weights.new_zeros(len(labels), value.shape[1]).scatter_add_(0, value, weights)
            for r in range(count):
                best = int(found[:, r].argmax())
                lines[r].append(f"{labels[best]} ({float(found[best, r]):.2f})")
        elif value.dim() == 3 and value.shape[2] <= COLUMNS:
            own = _columns(site, value.shape[2], names)
            head += own
            levels = answer.quantile(site, torch.tensor(LEVELS, dtype=torch.float64))
            for r in range(count):
                for j, name in enumerate(own):
                    low, middle, high = _shown(name, levels[:, r, j], names)
                    lines[r].append(middle if low == high else f"{middle} ({low} to {high})")
    head.append("worth")
    for r in range(count):
        lines[r].append(f"{float(answer.ess.reshape(-1)[r]):.4g}")
    if answer.log_evidence is not None and answer.log_evidence.numel() > 1:
        head.append("log evidence")
        for r in range(count):
            lines[r].append(f"{float(answer.log_evidence[r]):.4g}")
    rest = answer.log_weights.shape[1] - count
    more = f"; {rest:,} more rows are not shown" if rest else ""
    return [cards.table(head, lines, ["row", "worth"], f"Medians, and where 90 % lie{more}")]


def _columns(site: str, width: int, names: Names) -> list[str]:
    own = list(names.columns.get(site) or ())
    return own if len(own) == width else [site] if width == 1 else [f"{site}_{j}" for j in range(width)]


def _shown(name: str, levels: Tensor, names: Names) -> list[str]:
    return cards.levels(levels.detach().double().cpu().tolist(), names.units.get(name, ""))
