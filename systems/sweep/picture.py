"""The picture of a search: the loss of every trial, and how it goes with each option that was searched."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from phlogiston.evaluate.figures import ACCENT, INK, SOFT, new_figure
from phlogiston.systems.sweep.space import Axis

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST = 8
"""Options that get a panel."""


def draw(trials: Sequence[Mapping[str, Any]], searched: Sequence[Axis], system: str) -> Figure | None:
    """Draw a search; pruned trials at the loss at which they were ended.

    Args:
        trials: `trial`, `state`, `value` and `options` of each.
        searched: the options.
        system: its name.

    Returns:
        The figure; None where no trial has a loss.
    """
    shown = [t for t in trials if t["value"] is not None and math.isfinite(t["value"])]
    if not shown:
        return None
    panels = 1 + min(MOST, len(searched))
    columns = min(3, panels)
    rows = -(-panels // columns)
    figure = new_figure(3.1 * columns, 2.6 * rows, f"validation loss of {len(shown)} trials of {system}")
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    values = np.array([t["value"] for t in shown])
    complete = np.array([t["state"] == "complete" for t in shown])
    _scatter(axes[0], np.array([t["trial"] for t in shown]), values, complete)
    best = np.minimum.accumulate(np.where(complete, values, np.inf))
    known = np.isfinite(best)
    axes[0].step([t["trial"] for t, k in zip(shown, known, strict=True) if k], best[known], where="post", color=INK)
    axes[0].set_xlabel("trial", fontsize=8)
    low, high = values.min(), np.quantile(values, 0.9)
    if len(values) > 4 and high > low:  # a few diverged trials must not flatten the others
        axes[0].set_ylim(low - 0.08 * (high - low), high + 0.25 * (high - low))
    for panel, axis in zip(axes[1:], searched[:MOST], strict=False):
        with_it = [axis.name in t["options"] for t in shown]
        chosen = [t["options"][axis.name] for t, has in zip(shown, with_it, strict=True) if has]
        places = [axis.choices.index(value) for value in chosen] if axis.choices else chosen
        _scatter(panel, np.array(places, dtype=float), values[with_it], complete[with_it])
        if axis.choices:
            panel.set_xticks(range(len(axis.choices)), [str(label) for label in axis.labels])
        if axis.log:
            panel.set_xscale("log")
        panel.set_xlabel(axis.name, fontsize=8)
    for panel in axes:
        panel.tick_params(labelsize=7)
    for panel in axes[panels:]:
        panel.set_visible(False)
    for row in range(rows):
        axes[row * columns].set_ylabel("validation loss, nats per row", fontsize=8)
    if not complete.all():
        axes[0].legend(fontsize=7)
    return figure


def _scatter(panel: Any, places: Any, values: Any, complete: Any) -> None:
    panel.scatter(places[complete], values[complete], s=14, color=ACCENT, label="complete")
    panel.scatter(places[~complete], values[~complete], s=12, color=SOFT, marker="x", label="pruned")
