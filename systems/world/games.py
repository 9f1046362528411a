"""Games as a world model takes them, checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

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
    frames = check_frames(torch.as_tensor(tensors["frames"]), schema)
    if frames.dim() != 5:
        raise ShapeError(f"frames have shape {tuple(frames.shape)}; expected five axes, (rows, T, C, H, W)")
    rows, steps = frames.shape[:2]
    action = torch.as_tensor(tensors["action"])
    done = torch.as_tensor(tensors.get("done", torch.zeros(rows, steps, dtype=torch.bool)))
    length = torch.as_tensor(tensors.get("length", torch.full((rows,), steps)))
    for name, value, shape in (
        ("action", action, (rows, steps)),
        ("done", done, (rows, steps)),
        ("length", length, (rows,)),
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
    encoded = frames if frames.dtype == torch.uint8 else (frames * 255.0).round().to(torch.uint8)
    return {"frames": encoded, "action": action.long(), "done": done, "length": length.long()}


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
