"""Regressions: inputs by slider, the density of each target with its branches and intervals; and the table's panel.

Targets may be known instead, and inputs asked for: the questions are those of `panels.table`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from phlogiston.systems.explore.panels import table
from phlogiston.systems.explore.panels.common import numbers

ACROSS, UP = 96, 72  # cells of the map of the density
FINE = 240  # points of a density's line
LEVEL = 0.9


def describe(system: Any, run: str) -> dict[str, Any]:
    """The table's description; with one input, the density of the first target over the whole range of it."""
    told = table.describe(system, run)
    inputs = [c for c in told["columns"] if c["site"] == "x"]
    target = next(c for c in told["columns"] if c["site"] == "y")
    grid = None
    if len(inputs) == 1:
        x, y = _middles(inputs[0], ACROSS), _middles(target, UP)
        mixture = system.predictive_at(x.unsqueeze(-1)).marginal(0)
        grid = numbers(mixture.log_prob(y[:, None, None]).exp(), 5)  # (UP, ACROSS)
    return {**told, "inputs": [c["name"] for c in inputs], "grid": grid}


def ask(system: Any, run: str, question: Mapping[str, Any]) -> dict[str, Any]:
    """Answer a question; where all inputs are fixed and nothing else is said, with the densities of the targets."""
    call = table.call_of(system, question)
    answer = call(system)
    content = table.content(system, answer, question, call, run)
    marks, names = question.get("columns") or {}, system.vocabulary()
    fixed = [marks.get(name, {}).get("fix") for name in names[0]["x"]]
    if None in fixed or len(call.positional) != len(fixed):
        return {**content, "densities": {}}
    mixture = system.predictive_at(torch.tensor([fixed], dtype=torch.float64), question.get("seed") or 0)
    edges = question.get("edges") or {}
    densities = {}
    for d, name in enumerate(names[0]["y"]):
        if name not in edges:
            continue
        low, high = map(float, edges[name])
        y, own = torch.linspace(low, high, FINE, dtype=torch.float64), mixture.marginal(d)
        modes, regions = own.modes(), own.interval(LEVEL, "hpd")
        densities[name] = {
            "density": numbers(own.log_prob(y[:, None, None])[:, 0].exp(), 6),
            "branches": numbers(modes.points[0, :, 0][modes.mask[0]]),
            "regions": [
                numbers(torch.stack([a, b]))
                for a, b, there in zip(regions.lower[0, 0], regions.upper[0, 0], regions.mask[0, 0], strict=True)
                if bool(there)
            ],
        }
    return {**content, "densities": densities, "level": LEVEL}


def _middles(column: Mapping[str, Any], n: int) -> torch.Tensor:
    """Middles of n cells between a column's ends."""
    width = (column["high"] - column["low"]) / n
    return column["low"] + width * (torch.arange(n, dtype=torch.float64) + 0.5)
