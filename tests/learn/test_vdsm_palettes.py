"""VDSM on figures in three palettes: unseen characters swapped, judged against the clip that should have come out.

Each clip is learned from by itself: no pairs, no recoloured frames. Chosen on validation characters
(`characters=(96, 32, 32)`): how many segments and steps, on palettes 1 and 2; how dear poses are at first and for how
long (`pose_weight`, `pose_places`), on palettes 0 and 2 with seeds 0 and 2, in shorter trainings; how ties are tried,
on six trainings on palettes 1 and 2. Test characters were looked at only here. One training per palette and seed; with
`--runs` they are kept.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from phlogiston import datasets
from phlogiston.datasets.base import Split
from phlogiston.datasets.generated import figures
from phlogiston.systems.vdsm.system import VDSM

from . import drawn
from .recorder import Entry

pytestmark = pytest.mark.learn
Record = Callable[..., Entry]
Kept = Callable[[str, int], Path | None]

# figure -> (title, bar, aim)
FIGURES: dict[str, tuple[str, float, float]] = {
    "skin": ("the donor's skin", 0.95, 0.98),
    "hair": ("the donor's hair", 0.95, 0.98),
    "top": ("the donor's top", 0.95, 0.98),
    "legs": ("the donor's legs", 0.95, 0.98),
    "whole": ("all four of the donor's attributes", 0.80, 0.92),
    "action": ("the action stays", 0.93, 0.97),
    "training": ("characters trained on: the attribute taken over least", 0.99, 1.0),
}


def swapped(system: VDSM, rows: Split, palette: int) -> dict[str, float]:
    """Shares of swaps right, people and actions of all rows, each clip with a donor drawn at random."""
    donor = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    made = system.swap(rows.tensors["frames"][donor], rows.tensors["frames"]).numpy()
    people = np.stack([rows.numpy(name) for name in figures.ATTRIBUTES], 1)[donor.numpy()]
    return {name: float(right.mean()) for name, right in drawn.judge(made, people, rows, palette).items()}


@functools.cache
def trained(palette: int, preset: str, seed: int, out: Path | None) -> tuple[dict[str, float], VDSM, float]:
    """Train and score once, whatever the number of entries."""
    rows = datasets.load("figures", size=32, palette=palette)
    began = time.process_time()
    system = VDSM(preset=preset).fit(rows, seed=seed, progress="off", out=out)
    seconds = time.process_time() - began
    found = swapped(system, rows.test, palette)
    known = swapped(system, rows.train.select(slice(0, 16 * len(figures.ACTIONS))), palette)
    return {**found, "training": min(known[name] for name in figures.ATTRIBUTES)}, system, seconds


@pytest.mark.parametrize("palette", [0, 1, 2])
@pytest.mark.parametrize("figure", FIGURES)
def test_unseen_characters_swapped(record: Record, kept: Kept, figure: str, palette: int) -> None:
    title, must, aim = FIGURES[figure]
    entry = record(
        "vdsm", f"palettes/{palette}/{figure}", title=f"palette {palette}: {title}", figure=f"swap_{figure}", must=must,
        aim=aim, n_test=288, different="told: nothing; each clip by itself",
        configuration="cpu-segments: 96 characters, 32 unseen, judged by what can be drawn",
    )  # fmt: skip
    for seed in entry.seeds:
        found, system, seconds = trained(palette, "cpu-segments", seed, kept(f"vdsm-palette-{palette}", seed))
        with entry.measure(seed) as measured:
            measured.cpu_seconds, measured.value = seconds, found[figure]
        entry.fields["steps"] = system.config.steps
    entry.save()
    entry.check()
