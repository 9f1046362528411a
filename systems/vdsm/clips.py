"""What VDSM asks of clips before it looks at them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from phlogiston.errors import DataError, ShapeError
from phlogiston.systems.frames import fit_frames


def check_frames(frames: Tensor, schema: Mapping[str, Any] | None = None) -> Tensor:
    """Refuse what is no batch of clips, or clips of another form.

    Raises:
        ShapeError: wrong axes, channels or size.
        DataError: no clips, or values outside [0, 1].
    """
    if frames.ndim != 5:
        raise ShapeError(f"frames have shape {tuple(frames.shape)}; expected five axes, (rows, T, C, H, W)")
    if frames.shape[2] not in (1, 3) and frames.shape[-1] in (1, 3):
        raise ShapeError(
            f"frames have shape {tuple(frames.shape)}: channels seem to be last. Move them: frames.movedim(-1, 2)"
        )
    if min(frames.shape) < 1:
        raise DataError(f"frames have shape {tuple(frames.shape)}; at least one clip of one frame is needed")
    return fit_frames(frames, schema)


def check_mask(mask: Any, frames: Tensor) -> Tensor | None:
    """Refuse a mask that does not fit.

    Raises:
        ShapeError: another shape.
        DataError: not bool, or a clip without a known frame.
    """
    if mask is None:
        return None
    mask = torch.as_tensor(mask)
    if mask.dtype != torch.bool:
        raise DataError(f"mask holds {mask.dtype} values; expected bool, True where a frame is known")
    if mask.shape != frames.shape[:2]:
        raise ShapeError(f"mask has shape {tuple(mask.shape)}; expected (rows, T) = {tuple(frames.shape[:2])}")
    if not bool(mask.any(1).all()):
        row = int((~mask.any(1)).nonzero()[0])
        raise DataError(f"mask: clip {row} has no known frame")
    return None if bool(mask.all()) else mask
