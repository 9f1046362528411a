"""Games as a world model takes them, checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from phlogiston.arrays import tensor_of
from phlogiston.datasets.recording.store import RecordedGames
from phlogiston.errors import DataError, ShapeError
from phlogiston.systems.frames import fit_frames


def check_games(tensors: Mapping[str, Any], schema: Mapping[str, Any] | None = None) -> dict[str, Tensor]:
    """Return games as they are trained on: bytes, whole numbers, bools.

    Raises:
        ShapeError: a tensor is missing or has another shape.
        DataError: no frames, an unknown action, or an end before the last frame.
    """
    for name in ("frames", "action"):
        if name not in tensors:
            raise ShapeError(
                "a world model needs 'frames' (rows, T, C, H, W) and 'action' (rows, T); the data hold "
                f"{sorted(tensors)}"
            )
    frames = check_frames(tensor_of("frames", tensors["frames"]), schema)
    if frames.dim() != 5:
        raise ShapeError(f"frames have shape {tuple(frames.shape)}; expected five axes, (rows, T, C, H, W)")
    rows, steps = frames.shape[:2]
    action = tensor_of("action", tensors["action"])
    done = tensor_of("done", tensors.get("done", torch.zeros(rows, steps, dtype=torch.bool)))
    length = tensor_of("length", tensors.get("length", torch.full((rows,), steps)))
    reward = tensor_of("reward", tensors["reward"]) if "reward" in tensors else None
    for name, value, shape in (
        ("action", action, (rows, steps)),
        ("done", done, (rows, steps)),
        ("length", length, (rows,)),
        ("reward", done if reward is None else reward, (rows, steps)),
    ):
        if tuple(value.shape) != shape:
            raise ShapeError(f"{name} has shape {tuple(value.shape)}; expected {shape}")
    if action.is_floating_point() or action.dtype == torch.bool or int(action.min()) < 0:
        raise DataError("action must hold whole numbers from 0 on, one per frame")
    if schema is not None and int(action.max()) >= schema["actions"]:
        raise DataError(f"action holds {int(action.max())}; this model has {schema['actions']} actions")
    if int(length.min()) < 2 or int(length.max()) > steps:
        row = int(((length < 2) | (length > steps)).nonzero()[0])
        raise DataError(f"game {row} has length {int(length[row])}; expected 2 to {steps} frames")
    done = done.bool()
    early = done & (torch.arange(steps) < length.unsqueeze(1) - 1)
    if bool(early.any()):
        row = int(early.any(1).nonzero()[0])
        raise DataError(f"game {row} goes on after its end: 'done' may be True at the last frame only")
    vector = frames.shape[-3:-1] == (1, 1) or frames.dtype == torch.uint8
    encoded = frames if vector else (frames * 255.0).round().to(torch.uint8)
    found = {"frames": encoded, "action": action.long(), "done": done, "length": length.long()}
    return found if reward is None else {**found, "reward": reward.float()}


def describe_rewards(reward: Tensor, length: Tensor) -> dict[str, Any]:
    """What must be known of rewards: `each`, where every step is worth the same; else `rewards`, mean and deviation.

    The last step of a game may bring less: an action that is repeated is cut short by the end.

    Args:
        reward: (rows, T), what came with each frame; the first frame's counts for nothing.
        length: (rows,).

    Returns:
        {} where there are none at all.
    """
    step = torch.arange(reward.shape[1])
    last = length.unsqueeze(1) - 1
    counts = reward[(step > 0) & (step <= last)].double()
    inner = reward[(step > 0) & (step < last)].double()
    ends = reward[step == last].double()
    if not bool((counts != 0).any()):
        return {}
    usual = float(inner[0]) if len(inner) else float(ends[0])
    alike = bool((inner == usual).all()) and usual != 0
    if alike and bool((ends.abs() <= abs(usual)).all()) and bool((ends * usual >= 0).all()):
        return {"each": usual}
    return {"rewards": [float(counts.mean()), max(float(counts.std(unbiased=False)), 1e-6)]}


def first_moves(action: Tensor, length: Tensor, actions: int) -> list[list[float]]:
    """How often each action followed each, (actions, actions); every action is a little likely."""
    step = torch.arange(1, action.shape[1])
    follows = step < length.unsqueeze(1) - 1
    pairs = action[:, :-1][follows] * actions + action[:, 1:][follows]
    counts = torch.bincount(pairs, minlength=actions**2).double().reshape(actions, actions) + 1.0 / actions
    shares: list[list[float]] = (counts / counts.sum(1, keepdim=True)).tolist()
    return shares


def check_frames(frames: Tensor, schema: Mapping[str, Any] | None = None) -> Tensor:
    """Check frames: their axes, size and values.

    Raises:
        ShapeError: wrong axes, channels or size.
        DataError: no frames, or values outside [0, 1].
    """
    if frames.dim() < 4:
        raise ShapeError(f"frames have shape {tuple(frames.shape)}; expected (..., C, H, W) with at least four axes")
    if frames.shape[-3] not in (1, 3) and frames.shape[-1] in (1, 3):
        raise ShapeError(
            f"frames have shape {tuple(frames.shape)}: channels seem to be last. Move them: frames.movedim(-1, -3)"
        )
    if min(frames.shape) < 1:
        raise DataError(f"frames have shape {tuple(frames.shape)}; at least one frame is needed")
    return fit_frames(frames, schema)


def describe_recording(games: RecordedGames) -> dict[str, Any]:
    """What must be known of a recording: all its games count, though only some are in memory."""
    actions, longest = len(games.spec.actions), int(games.lengths.max())
    length = torch.from_numpy(games.lengths)
    rows = np.arange(len(games))
    action, reward, _ = (torch.from_numpy(part) for part in games.labels(rows, np.zeros_like(rows), longest))
    about = games.recordings[0].about
    own = torch.from_numpy(games.games < len(games.recordings[0]))  # further ones are an agent's, not the policy's
    keep = about.get("keep")
    limit = about.get("limit", games.spec.cap)
    steps = -(-limit // games.spec.skip) if isinstance(limit, int) and limit > 0 else 0
    played = (
        {"keep": float(keep)}
        if isinstance(keep, int | float)
        else {"moves": first_moves(action[own], length[own], actions)}
    )
    return {
        "actions": actions,
        "longest": longest - 1,
        "limit": max(steps, longest - 1),
        "env": games.spec.describe(),
        "recorded_score": float(reward[own].double().sum(1).mean()),
        **played,
        **describe_rewards(reward, length),
    }
