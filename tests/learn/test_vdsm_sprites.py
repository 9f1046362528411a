"""VDSM on Liberated Pixel Cup sprites of 64 pixels: unseen characters re-created and swapped.

The judge is not trained: of every clip that was made, the one that should have come out is among the data, and so are
most that differ from it in one attribute, or in the action. What is nearest is what it shows.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from phlogiston import datasets
from phlogiston.datasets.base import Dataset, Split
from phlogiston.datasets.fetched.sprites import ACTIONS, ATTRIBUTES, VALUES
from phlogiston.systems.vdsm.system import VDSM

from .recorder import Entry

pytestmark = pytest.mark.learn
Record = Callable[..., Entry]
Kept = Callable[[str, int], Path | None]
SPRITES = Path(__file__).resolve().parents[3] / "shared" / "data" / "sprites"
TRAINED, TESTED = 200, 64  # characters
EVERY = 2  # frames of a clip that are looked at
MUST = {**dict.fromkeys(ATTRIBUTES, 0.97), "action": 0.99}


def characters(rows: Split, count: int) -> Split:
    """Some characters, drawn at random, with all their clips."""
    chosen = np.random.default_rng(0).permutation(len(rows) // len(ACTIONS))[:count]
    return rows.select(torch.as_tensor((chosen[:, None] * len(ACTIONS) + np.arange(len(ACTIONS))).ravel()))


def shown(
    made: Tensor, people: np.ndarray, actions: np.ndarray, clips: dict[tuple[int, ...], Tensor]
) -> dict[str, float]:
    """Shares of made clips that show what they should, by attribute and for the action.

    Args:
        made: (n, T, 3, 64, 64) in [0, 1].
        people: (n, 4), attributes that should be seen.
        actions: (n,), the action that should be.
        clips: of all characters there are, bytes by attributes and action.
    """
    right: dict[str, list[bool]] = {name: [] for name in MUST}
    for clip, who, what in zip(made[:, ::EVERY], people.tolist(), actions.tolist(), strict=True):

        def far(key: tuple[int, ...], clip: Tensor = clip) -> float:
            return float((clip - clips[key][::EVERY] / 255.0).square().mean())

        target = far((*who, what))
        for i, name in enumerate(ATTRIBUTES):
            others = [(*who[:i], value, *who[i + 1 :], what) for value in range(VALUES) if value != who[i]]
            right[name].append(all(target < far(key) for key in others if key in clips))
        right["action"].append(all(target < far((*who, other)) for other in range(len(ACTIONS)) if other != what))
    return {name: float(np.mean(found)) for name, found in right.items()}


def lookup(rows: Dataset) -> dict[tuple[int, ...], Tensor]:
    """All clips by attributes and action."""
    found = {}
    for part in (rows.train, rows.test):
        keys = np.stack([part.numpy(name) for name in (*ATTRIBUTES, "action")], 1).tolist()
        found.update({tuple(key): clip for key, clip in zip(keys, part.tensors["frames"], strict=True)})
    return found


@functools.cache
def trained(seed: int, out: Path | None) -> tuple[dict[str, float], VDSM, float]:
    """Train and score once, whatever the number of entries."""
    rows = datasets.load("sprites", folder=str(SPRITES))
    began = time.process_time()
    data = replace(rows, train=characters(rows.train, TRAINED))
    system = VDSM(preset="cpu-basis").fit(data, seed=seed, progress="off", out=out)
    seconds = time.process_time() - began
    test, clips = characters(rows.test, TESTED), lookup(rows)
    frames, people = test.tensors["frames"], np.stack([test.numpy(name) for name in ATTRIBUTES], 1)
    donor = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))
    made = {"recreated": (system.reconstruct(frames), people)}
    made["swapped"] = system.swap(frames[donor], frames), people[donor.numpy()]
    found = {}
    for kind, (pictures, who) in made.items():
        right = shown(pictures, who, test.numpy("action"), clips)
        found.update({f"{kind}_{name}": value for name, value in right.items()})
    return found, system, seconds


@pytest.mark.skipif(not SPRITES.is_dir(), reason="the sprites are not shipped: ../shared/data/sprites")
@pytest.mark.parametrize("factor", MUST)
@pytest.mark.parametrize("kind", ["recreated", "swapped"])
def test_sprites_of_64_pixels(record: Record, kept: Kept, kind: str, factor: str) -> None:
    title = {"recreated": "re-created", "swapped": "swapped"}[kind]
    entry = record(
        "vdsm", f"sprites64/{kind}_{factor}", title=f"{title}: {factor}", figure=f"{kind}_{factor}", must=MUST[factor],
        n_test=9 * TESTED, different="told: pairs of clips of one individual",
        configuration=f"cpu-basis: {TRAINED} characters, {TESTED} unseen, judged by the nearest clip",
    )  # fmt: skip
    for seed in entry.seeds:
        found, system, seconds = trained(seed, kept("vdsm-sprites64", seed))
        with entry.measure(seed) as measured:
            measured.cpu_seconds, measured.value = seconds, found[f"{kind}_{factor}"]
        entry.fields["steps"] = system.config.steps
    entry.save()
    entry.check()
