"""Play in the game beside play in the dream, frame by frame, with the score and how probable the end is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from phlogiston.datasets.base import Array
from phlogiston.models.dreaming import Rollouts
from phlogiston.systems.world.dream_pictures import as_picture

if TYPE_CHECKING:
    from phlogiston.systems.world.system import WorldModel

LEAST = 96  # pixels a side of a frame that text is written above
LINE = 12  # pixels of a line of text


def clips(system: WorldModel, n: int, seed: int, policy: Any = None) -> list[tuple[str, Array, Array, Array]]:
    """Let an agent play n games and n dreams.

    Returns:
        For each "game" or "dream", its frames uint8 (T, H, W, 3), and for each frame the probability that it is the
        end, and the score so far: (T,). Games come first where the game can be played, each before a dream.
    """
    found: list[list[tuple[str, Array, Array, Array]]] = []
    if system.playable:
        found.append(clips_of(system, "game", system.play(policy, n, seed=seed, keep=True)))
    found.append(clips_of(system, "dream", system.dream(policy, n, seed=seed, keep=True)))
    return [clip for pair in zip(*found, strict=True) for clip in pair]


def beside(system: WorldModel, n: int, seed: int) -> dict[str, Tensor]:
    """Videos (clips, T, 3, H, W), bytes: games beside dreams, with a line of text above; the last frame stays."""
    drawn = [_titled(*clip) for clip in clips(system, n, seed)]
    longest = max(map(len, drawn))
    held = [np.concatenate([clip, np.repeat(clip[-1:], longest - len(clip), 0)]) for clip in drawn]
    return {"frames": torch.from_numpy(np.stack(held)).movedim(-1, 2)}


@torch.no_grad()
def clips_of(system: WorldModel, name: str, rollouts: Rollouts) -> list[tuple[str, Array, Array, Array]]:
    """Clips of rollouts that were kept; see `clips`."""
    assert rollouts.code is not None
    assert rollouts.action is not None
    code, model = rollouts.code, system.model
    action = torch.cat([rollouts.action, torch.zeros_like(rollouts.action[:, :1])], 1)[:, : code.shape[1]]
    end = model.predict_all(code, action)[0].end.sigmoid()
    end[:, 0] = 0.0
    assert rollouts.reward is not None
    score = torch.cat([torch.zeros_like(end[:, :1]), rollouts.reward], 1).cumsum(1)  # the game's own, not a guess
    frames = system.render(code) if rollouts.frames is None else rollouts.frames
    return [
        (name, np.stack([as_picture(f) for f in frames[i, :length]]), end[i, :length].numpy(),
         score[i, :length].numpy())
        for i, length in enumerate(rollouts.length.tolist())
    ]  # fmt: skip


def _titled(name: str, frames: Array, end: Array, score: Array) -> Array:
    """Frames enlarged, with a line above: what it is, the score, and a bar as long as the end is probable."""
    from PIL import Image, ImageDraw

    factor = -(-LEAST // frames.shape[1])
    large = np.repeat(np.repeat(frames, factor, 1), factor, 2)
    width = large.shape[2]
    titled = []
    for frame, chance, total in zip(large, end.tolist(), score.tolist(), strict=True):
        strip = Image.new("RGB", (width, LINE + 3), (255, 255, 255))
        draw = ImageDraw.Draw(strip)
        draw.text((2, 0), f"{name}  {total:.0f}", fill=(0, 0, 0))
        draw.rectangle((0, LINE, round(chance * (width - 1)), LINE + 2), fill=(213, 94, 0))
        titled.append(np.concatenate([np.asarray(strip), frame]))
    return np.stack(titled)
