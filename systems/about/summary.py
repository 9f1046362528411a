"""The summary of a system: parameters, columns, sites, data, stages and last figures, as text and for notebooks."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from phlogiston import cards, systems
from phlogiston.evaluate.metric import as_table
from phlogiston.systems.about import sites

SHOWN = 12
"""Columns and categories that are named."""


class Summary(str):
    """A summary as text, which a notebook shows as tables.

    Attributes:
        html: what it shows.
    """

    html: str

    def _repr_html_(self) -> str:
        return self.html


def of(system: Any) -> Summary:
    """The summary of a fitted system."""
    shapes = _shapes(system)
    facts = [*_facts(system), *_training(system)]
    lines = [*facts, *((f"site {site.name}", site.text()) for site in shapes), *_stages(system), *_scored(system)]
    width = max(len(name) for name, _ in lines)
    summary = Summary("\n".join(f"{name:{width}}  {value}" for name, value in lines))
    summary.html = _card(system, facts, shapes)
    return summary


def _shapes(system: Any) -> list[sites.Shape]:
    """The sites of the model; none where a program of somebody else's does not run without data."""
    try:
        return sites.shapes(system.model, system.generating())
    except Exception:  # it may fail in any way, and a summary is no reason to
        return []


def card(system: Any) -> str:
    """The card of a system; of one that is not fitted, its options."""
    if system.schema:
        return of(system).html
    told = [("", "not fitted yet: call .fit(data)"), *_options(system)]
    return cards.card(type(system).__name__, systems.summary(system.name), cards.facts(told))


def _card(system: Any, facts: Iterable[tuple[str, str]], shapes: Iterable[sites.Shape]) -> str:
    rows = [[s.name, s.kind, str(s.event), s.inside()] for s in shapes]
    blocks = [
        cards.facts([pair for pair in facts if pair[0] != "system"]),
        cards.table(["site of the model", "distribution", "shape", "plates (size)"], rows) if rows else "",
        cards.table(["stage", "steps"], [[s.name, f"{s.steps:,}"] for s in system.stages()], ["steps"]),
    ]
    if system.history is not None:
        blocks.append(system.history.curve())
    if system.scored:
        blocks.append(as_table(system.scored))
    return cards.card(type(system).__name__, systems.summary(system.name), *blocks)


def _facts(system: Any) -> list[tuple[str, str]]:
    names = system.names()
    told = [("system", f"{system.name}: {systems.summary(system.name)}")]
    told.append(("parameters", f"{system.count_parameters():,}"))
    told += _options(system)
    chosen = system.schema.get("chosen") or system.schema.get("sizes")  # what "auto" came to
    told += [("chosen", ", ".join(f"{name}={value!r}" for name, value in chosen.items()))] if chosen else []
    for site, own in names.columns.items():
        if own:
            units = [f"{name} [{names.units[name]}]" if name in names.units else name for name in own]
            told.append((f"columns of {site}", _listed(units)))
    told += [(f"categories of {name}", _listed(labels)) for name, labels in names.categories.items()]
    return told


def _options(system: Any) -> list[tuple[str, str]]:
    """Options that are not at their defaults."""
    config, default = system.config, type(system.config)()
    names = [field.name for field in dataclasses.fields(config)]
    changed = [name for name in names if getattr(config, name) != getattr(default, name)]
    return [("options", ", ".join(f"{name}={getattr(config, name)!r}" for name in changed) or "all at their defaults")]


def _listed(names: Iterable[str]) -> str:
    own = list(names)
    return f"{len(own)}: {', '.join(own[:SHOWN])}{' ...' * (len(own) > SHOWN)}"


def _training(system: Any) -> list[tuple[str, str]]:
    told = [("data", system.trained_on)] if system.trained_on else []
    if system.history is not None and len(system.history):
        figures = ", ".join(f"{k.replace('_', ' ')} {v:.4f}" for k, v in system.history.last().items())
        told.append(("trained", f"{int(system.history.steps[-1]):,} steps, {figures} {system.loss_unit()}"))
    return told


def _stages(system: Any) -> list[tuple[str, str]]:
    return [(f"stage {stage.name}", f"{stage.steps:,} steps") for stage in system.stages()]


def _scored(system: Any) -> list[tuple[str, str]]:
    return [(name, str(metric)) for name, metric in (system.scored or {}).items()]
