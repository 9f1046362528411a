"""How many operations of torch a training step takes: what a small model's step costs is mostly their number.

python -P -m pytest benchmarks/test_steps.py -m bench
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from phlogiston import datasets
from phlogiston.models.handwriting import Handwriting, WritingState
from phlogiston.models.handwriting_scan import Scanned
from phlogiston.networks.occupied import Occupied
from phlogiston.systems.handwriting.system import HandwritingModel
from phlogiston.systems.sqair.system import SQAIR
from phlogiston.testing import StepCounts

from .rows import Rows

pytestmark = pytest.mark.bench
OPERATIONS = "operations of torch in one step, backward pass included, ours over the alternative"


def one_by_one(self: Handwriting, entered: Tensor, state: WritingState) -> Scanned:
    """The first layer as its equations are written, one step after the other."""
    h, c = state.first.unbind(1)
    window, kappa, out = state.window, state.kappa, []
    index = torch.arange(state.text.shape[1], dtype=h.dtype)
    for t in range(entered.shape[1]):
        h, c = self._advance(entered[:, t], window, h, c)
        window, phi, kappa = self._look(h, kappa, state.text, index)
        out.append((h, window, phi))
    return Scanned(*(torch.stack(part, 1) for part in zip(*out, strict=True)), c, kappa)


def test_a_step_of_handwriting(row: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    data = datasets.load("script", sizes=(64, 4, 4))

    def count() -> tuple[int, int]:
        counts = StepCounts()
        HandwritingModel(hidden=80, batch_size=64, steps=3).fit(data, seed=0, progress="off", callbacks=[counts])
        found = counts.stages["fit"]
        return sum(found.operations.values()), sum(found.waits.values())

    ours, waits = count()
    monkeypatch.setattr(Handwriting, "first_layer", one_by_one)
    plain, _ = count()
    row.figure(
        "steps/handwriting",
        "a training step of handwriting, batch 64, lines of 116 points at most",
        ours / plain,
        0.286,
        f"{ours:,} operations, {waits} waits",
        f"one step after the other: {plain:,} operations",
        figure=OPERATIONS,
    )


@pytest.mark.parametrize(("frames", "before", "bar"), [(3, 7_986, 3_000), (10, 24_103, 9_000)])
def test_a_step_of_sqair(row: Rows, monkeypatch: pytest.MonkeyPatch, frames: int, before: int, bar: int) -> None:
    data = datasets.load("moving_digits", sizes=(64, 1, 1))
    found = []
    for gathers in (True, False):  # on a CPU, and as accelerators do it
        monkeypatch.setattr(Occupied, "gathers", gathers)
        counts = StepCounts()
        system = SQAIR(lengths=(frames,), shares=(1.0,), decay_to=1.0, steps=2)
        system.fit(data, seed=0, progress="off", callbacks=[counts])
        ((_, count),) = counts.stages.items()
        found.append((sum(count.operations.values()), sum(count.waits.values())))
    (ours, _), (dense, waits) = found
    row.figure(
        f"steps/sqair-{frames}",
        f"a training step of SQAIR `cpu`, {frames} frames",
        ours / before,
        bar / before,
        f"{ours:,} operations; on an accelerator {dense:,}, {waits} waits",
        f"each slot and density by itself: {before:,} operations",
        figure=OPERATIONS,
    )
