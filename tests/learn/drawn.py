"""A judge of swapped figures that needs no training: what should have come out can be drawn.

A frame of `figures` is linear in its colours, up to rounding: the sum of shares of a pixel times colours. Shares are
got by drawing in basic colours. Of a made clip, least squares on the shares of the clip that should have come out give
the colour each part has; its attribute is the nearest of the palette's four. The action is that of the nearest among
the nine clips that show the right person, at the right place and phase.
"""

from __future__ import annotations

import functools

import numpy as np

from phlogiston.datasets.base import Split, stream
from phlogiston.datasets.generated import figures

EVERY = 2  # frames of a clip that are looked at: every second, four of eight
BLACK, RED, GREEN, BLUE = (0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255)
EYE, BLADE = (25, 25, 35), (200, 210, 220)  # the two colours of `figures` that no palette changes


@functools.cache
def shares(characters: tuple[int, ...], size: int, frames: int) -> np.ndarray:
    """Shares of skin, hair, top, legs, eye and blade in the clips of characters, drawn in every action.

    Returns:
        float32 (9, clips, frames, 6, size, size), in the order of the data set's rows, of its seed 0.
    """
    who, what = np.repeat(characters, len(figures.ACTIONS)), np.tile(np.arange(len(figures.ACTIONS)), len(characters))
    nuisance = stream(0, "figures", "nuisance").random((256, len(figures.ACTIONS), 3))[who, what]
    offset = (nuisance[:, 1:] * 2 - 1) * (3.0, 2.0)

    def drawn(action: int, *colours: tuple[int, int, int]) -> np.ndarray:
        palette = {name: {"": tint} for name, tint in zip(figures.ATTRIBUTES, colours, strict=True)}
        nobody = np.zeros((len(who), 4), dtype=int)
        moves = np.full(len(who), action)
        return figures.draw(nobody, moves, nuisance[:, 0], offset, frames, size, palette) / np.float32(255)

    out = np.empty((9, len(who), frames, 6, size, size), dtype=np.float32)
    fixed = np.array([EYE, BLADE], dtype=np.float32).T / 255  # (channel, part)
    for action in range(9):
        legs = drawn(action, BLACK, BLACK, BLACK, RED)
        things = np.einsum("pc,ntchw->ntphw", np.linalg.inv(fixed[1:]), legs[:, :, 1:])  # from green and blue alone
        out[action, :, :, 4:] = things
        out[action, :, :, 3] = legs[:, :, 0] - np.einsum("p,ntphw->nthw", fixed[0], things)
        others = np.einsum("cp,ntphw->ntchw", fixed, things)
        out[action, :, :, :3] = drawn(action, RED, GREEN, BLUE, BLACK) - others
    return out


def judge(made: np.ndarray, donor: np.ndarray, actors: Split, palette: int) -> dict[str, np.ndarray]:
    """Say of each swapped clip what is right about it.

    Args:
        made: (n, T, 3, size, size) in [0, 1], the people `donor` in the actions, places and phases of `actors`.
        donor: int (n, 4), attributes in the order of `figures.ATTRIBUTES`.
        actors: rows of the data set, all nine clips of each character.
        palette: of the data set.

    Returns:
        bool (n,) per attribute, `whole` for all four, and `action`.
    """
    made = np.asarray(made, dtype=np.float32)[:, ::EVERY]
    characters = tuple(actors.numpy("group")[:: len(figures.ACTIONS)].tolist())
    parts = shares(characters, made.shape[-1], made.shape[1])
    colours = figures.palette_of(palette)
    table = np.array([list(colours[name].values()) for name in figures.ATTRIBUTES], dtype=np.float32) / 255
    fixed = np.array([EYE, BLADE], dtype=np.float32) / 255
    out = {name: np.zeros(len(made), dtype=bool) for name in (*figures.ATTRIBUTES, "action")}
    for i, action in enumerate(actors.numpy("action")):
        right = np.concatenate([table[np.arange(4), donor[i]], fixed])  # (6, channel)
        weights = parts[action, i].transpose(1, 0, 2, 3).reshape(6, -1)
        seen = made[i].transpose(1, 0, 2, 3).reshape(3, -1)
        found = np.linalg.solve(weights @ weights.T + 1e-3 * np.eye(6), weights @ seen.T)
        for a, name in enumerate(figures.ATTRIBUTES):
            out[name][i] = ((table[a] - found[a]) ** 2).sum(1).argmin() == donor[i, a]
        ideal = np.einsum("atphw,pc->atchw", parts[:, i], right)
        out["action"][i] = ((ideal - made[i]) ** 2).mean((1, 2, 3, 4)).argmin() == action
    return {**out, "whole": np.logical_and.reduce([out[name] for name in figures.ATTRIBUTES])}
