"""What SQAIR's programs hand from frame to frame, and which pixels and videos count."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from phlogiston.networks.occupied import Occupied


@dataclass
class State:
    """What is there after a frame; leading axes are particles (if any) and rows.

    Attributes:
        presence: (..., slots), 1.0 or 0.0.
        where: (..., slots, 4), zero where nothing is; as all that follows.
        what: (..., slots, features).
        glimpse: (..., slots, channels, gh, gw), the decoded appearance.
        memory: (..., slots, memory), of the dynamics.
        step: (..., slots, 4), how `where` changed since the frame before.
        ids: int64 (..., slots), -1 where nothing is.
        born: int64 (...), identities given so far.
        canvas: (..., channels, height, width), mean of the picture.
        cover: (..., height, width), how much of each pixel lies in boxes, or None where nobody needs it.
        time: number of the frame.
    """

    presence: Tensor
    where: Tensor
    what: Tensor
    glimpse: Tensor
    memory: Tensor
    step: Tensor
    ids: Tensor
    born: Tensor
    canvas: Tensor
    cover: Tensor | None
    time: int

    def map(self, function: Any) -> State:
        """Apply a function to every tensor."""
        parts = {k: function(v) for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **parts)


@dataclass
class Dynamics:
    """The prior of propagation; entries of empty slots mean nothing.

    Attributes:
        presence: logits (..., slots).
        where_loc, where_scale: (..., slots, 4).
        what_loc, what_scale: (..., slots, features).
        memory: (..., slots, memory), after the step.
        occupied: the slots that hold something.
        rows: the same for these alone, without leading axes.
        what: (rows, features), before the step, among `rows`.
    """

    presence: Tensor
    where_loc: Tensor
    where_scale: Tensor
    what_loc: Tensor
    what_scale: Tensor
    memory: Tensor
    occupied: Occupied | None = None
    rows: Dynamics | None = None
    what: Tensor | None = None


def pixel_mask(mask: Tensor | None, lengths: Tensor | None, rows: int, frames: int) -> Tensor | None:
    """Which pixels count, bool (rows, frames, 1, height or 1, width or 1), or None for all."""
    known = None
    if mask is not None:
        mask = mask.all(2) if mask.dim() == 5 else mask
        known = mask.reshape(*mask.shape[:2], 1, *(mask.shape[2:] or (1, 1)))
    if lengths is not None:
        long = (torch.arange(frames, device=lengths.device) < lengths.unsqueeze(-1))[:, :, None, None, None]
        known = long if known is None else known & long
    return known


def counted(lengths: Tensor | None, time: int) -> AbstractContextManager[Any]:
    """Mask all sites of videos that have ended."""
    return nullcontext() if lengths is None else poutine.mask(mask=time < lengths)  # type: ignore[call-overload,no-any-return]
