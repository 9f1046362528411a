"""The sites of a system's generative program, seen in one run that generates a row."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.util import site_is_subsample

from phlogiston.inference.svi.pair.sites import innermost
from phlogiston.systems.calls import evaluating, seeded

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Shape:
    """A sample site of a model.

    Attributes:
        name: its name.
        kind: class of its distribution.
        event: shape of one value of it.
        plates: name -> size, of the plates it lies in, outermost first; rows are those of one generated row.
    """

    name: str
    kind: str
    event: tuple[int, ...]
    plates: dict[str, int]

    def text(self) -> str:
        """Return shape and plates in words: "Normal, shape (2,), plates: data (1)"."""
        return f"{self.kind}, shape {self.event}, plates: {self.inside()}"

    def inside(self) -> str:
        """Return the plates in words: "data (1), time (10)"."""
        return ", ".join(f"{name} ({size})" for name, size in self.plates.items()) or "none"


def shapes(model: nn.Module, arguments: dict[str, Any]) -> list[Shape]:
    """Run a program once, without gradients and without touching any random state, and list its sites.

    Args:
        model: the program.
        arguments: with which it generates one row.
    """
    with torch.no_grad(), seeded(0), pyro.validation_enabled(False), evaluating(model):
        trace = poutine.trace(model).get_trace(**arguments)
    found = []
    nodes: dict[str, Any] = trace.nodes
    for name, site in nodes.items():
        if site["type"] != "sample" or site_is_subsample(site) or site["infer"].get("_deterministic"):
            continue
        plates = sorted((f for f in site["cond_indep_stack"] if f.dim is not None), key=lambda frame: int(frame.dim))
        value = site["value"]
        event = tuple(value.shape[value.dim() - site["fn"].event_dim :])
        sizes = {frame.name: int(frame.size) for frame in plates}
        found.append(Shape(name, type(innermost(site["fn"])).__name__, event, sizes))
    return _series(found)


def _series(found: list[Shape]) -> list[Shape]:
    """Sites that differ by a number in their names alone, as one: `x_0 ... x_9`."""
    alike: dict[tuple[Any, ...], list[Shape]] = {}
    for site in found:
        stem = re.sub(r"\d+", "#", site.name)
        alike.setdefault((stem, site.kind, site.event, tuple(site.plates.items())), []).append(site)
    return [
        sites[0] if len(sites) == 1 else replace(sites[0], name=f"{sites[0].name} ... {sites[-1].name}")
        for sites in alike.values()
    ]
