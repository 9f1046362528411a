"""What a score is worth: how far play without sight gets, and whether the frames' codes hold small things.

A game may reward whoever moves at all: in VizDoom's *take cover* a blind sweep from left to right and back lasts longer
than many an agent. An agent that sees must be better than the best of these, and worse with another game before its
eyes.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from phlogiston.datasets.base import Array
from phlogiston.models.dreaming import Rollouts
from phlogiston.models.world import World
from phlogiston.systems.world.playing import play_all

HOLDS = (1, 2, 4, 8, 16, 32, 64)  # steps an action of a sweep is kept
MOST_ACTIONS = 6  # of which pairs are swept between


@dataclass(frozen=True)
class Sweep:
    """Plays blind: some actions in turn, each for as long.

    Attributes:
        actions: in their order; a single one is kept for good.
        hold: steps of each.
    """

    actions: tuple[int, ...]
    hold: int = 1

    def begin(self) -> BlindAgent:
        """The agent at the beginning of its games."""
        return BlindAgent(self)


class BlindAgent:
    """A sweep at work; see `models.dreaming.Agent`."""

    def __init__(self, sweep: Sweep, time: int = 0) -> None:
        self.sweep, self._time = sweep, time

    def act(self, code: Tensor, out: Tensor, generator: torch.Generator) -> Tensor:
        """The action of this step, whatever there is to see."""
        turn = self._time // self.sweep.hold % len(self.sweep.actions)
        self._time += 1
        return torch.full((len(code),), self.sweep.actions[turn])

    def select(self, index: Tensor) -> BlindAgent:
        """The same for some rows."""
        return BlindAgent(self.sweep, self._time)


def sweeps(actions: int) -> list[Sweep]:
    """Sweeps to try: every action for good, and every two of the first six to and fro at several paces."""
    pairs = list(itertools.combinations(range(min(actions, MOST_ACTIONS)), 2))
    return [Sweep((a,)) for a in range(actions)] + [Sweep(pair, hold) for hold in HOLDS for pair in pairs]


def best_sweep(world: World, game: Any, games: Tensor, steps: int, seed: int = 0) -> tuple[Sweep, float]:
    """Find the best way to play blind.

    Args:
        world: of which only the number of actions counts.
        game: where.
        games: numbers of the games to compare them in; score the best one in others.
        steps: longest game.
        seed: of the games.

    Returns:
        The sweep, and its mean score, which flatters: it is the best of many.
    """
    scores = {s: float(play_blind(world, game, s, games, steps, seed).score.mean()) for s in sweeps(world.actions)}
    best = max(scores, key=lambda s: scores[s])
    return best, scores[best]


def play_blind(world: World, game: Any, sweep: Sweep, games: Tensor, steps: int, seed: int = 0) -> Rollouts:
    """Play games blind."""
    return play_all(_Deaf(world), _no_codes, sweep.begin(), game, games, steps, seed=seed)  # type: ignore[arg-type]


class _Deaf:
    """In place of a `World`: a memory of nothing, which takes no time."""

    def __init__(self, world: World) -> None:
        self._state = world.start(1)

    def start(self, rows: int) -> Any:
        return type(self._state)(*(part.expand(rows, *part.shape[1:]) for part in self._state))

    def observe(self, state: Any, code: Tensor, action: Tensor) -> Any:
        return state


def _no_codes(frames: Tensor) -> tuple[Tensor, None]:
    return frames.new_zeros(len(frames), 1), None


# ---- small bright things


def small_bright(frames: Array, again: Array, least: float = 0.2) -> dict[tuple[int, int], tuple[int, int]]:
    """Count small bright things in frames, and those that are there in their reconstructions.

    A thing is a patch of pixels (neighbours by side or corner) brighter than their surroundings by `least`; it is there
    again if the reconstruction is brighter than its surroundings there by half as much on average.

    Args:
        frames: (n, C, H, W), in [0, 1]; brightness is that of the brightest channel.
        again: the same, reconstructed.
        least: see above.

    Returns:
        By smallest and largest number of pixels, (1, 2), (3, 5) and (6, 12): how many, and how many of them are there.
    """
    from scipy import ndimage

    sizes = {(1, 2): [0, 0], (3, 5): [0, 0], (6, 12): [0, 0]}
    excess, found = (_excess(part) for part in (frames, again))
    for one, other in zip(excess, found, strict=True):
        labels, count = ndimage.label(one > least, structure=np.ones((3, 3)))
        if not count:
            continue
        index = np.arange(1, count + 1)
        areas = ndimage.sum_labels(np.ones_like(one), labels, index)
        bright, there = (ndimage.mean(part, labels, index) for part in (one, other))
        for (low, high), tally in sizes.items():
            chosen = (areas >= low) & (areas <= high)
            tally[0] += int(chosen.sum())
            tally[1] += int((chosen & (there >= 0.5 * bright)).sum())
    return {size: (tally[0], tally[1]) for size, tally in sizes.items()}


def _excess(frames: Array) -> Array:
    """Brightness above that of the surroundings, the median of 9 x 9 pixels: (n, H, W)."""
    from scipy import ndimage

    grey = frames.max(1)
    excess: Array = grey - ndimage.median_filter(grey, size=(1, 9, 9), mode="nearest")
    return excess
