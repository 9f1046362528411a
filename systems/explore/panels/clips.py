"""Clips of people in action: every action with every person, to choose from and to scrub.

A question is `{"first": row}`: from which held-out clip on the rows and columns of the grid are taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from phlogiston.systems.explore.calls import Call, Named
from phlogiston.systems.explore.panels.common import whole
from phlogiston.systems.explore.panels.rows import bytes_of, held_out
from phlogiston.systems.vdsm.pictures import varied

MOST = 5
METHOD = "the encoder's mean codes, rendered anew; no random number"
WHY = "codes are read off the clips by a network, not weighed"


def describe(system: Any, run: str) -> dict[str, Any]:
    """How many held-out clips there are."""
    return {"clips": len(held_out(run).split)}


def ask(system: Any, run: str, question: Mapping[str, Any]) -> dict[str, Any]:
    """The grid of all actions (rows) with all people (columns)."""
    rows = held_out(run)
    first = whole(question, "first", 0, 0, max(0, len(rows.split) - 1))
    order = list(range(first, len(rows.split))) + list(range(first))
    chosen = [order[i] for i in varied(rows.split.select(order), min(MOST, len(order)))]
    clips = rows.split.select(chosen).tensors["frames"]
    given = Named(f'{rows.text}.select({chosen}).tensors["frames"]', clips)
    call = Call("swap_grid", (given,), {}, before=(rows.line,))
    with torch.no_grad():
        grid = call(system)
    return {
        "method": METHOD,
        "log_evidence": None,
        "why_no_evidence": WHY,
        "python": call.text(run),
        "grid": bytes_of(grid),
        "clips": bytes_of(clips),
    }
