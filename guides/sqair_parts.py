"""What the parts of a SQAIR guide hand to each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from phlogiston.models.sqair_state import Dynamics, State


@dataclass
class Frame:
    """One frame as the guide's parts see it; R = particles x rows, flattened.

    Attributes:
        pixels: (R, channels, height, width).
        lead: leading axes that R stands for.
        before: the state of the frame before, None at the first.
        dynamics: the prior's step from it.
        seen: bool (R,), False where the frame is hidden and the guide falls back on the prior; None if all are seen.
        noise: (*lead, slots + births, 1 + 4 + features), of this frame: uniform in 0 .. 1, then standard normal.
        memory: the guide's own recurrent state (*lead, slots, memory), or None.
        fresh: an encoding of the frame made once per row, or None.
    """

    pixels: Tensor
    lead: Any
    before: State | None
    dynamics: Dynamics | None
    seen: Tensor | None
    noise: Tensor
    memory: Tensor | None
    fresh: Tensor | None


@dataclass
class Kept:
    """What propagation proposes, drawn already.

    Attributes:
        presence, where, what: draws (*lead, slots, ...), zero where nothing stays.
        logits: of presence.
        where_params: loc and scale, or a distribution's factors (see the guide).
        what_params: loc and scale (*lead, slots, features).
        glimpse: decoded (*lead, slots, planes, gh, gw).
        canvas: (R, channels, height, width), what stays, painted.
        memory: the guide's own recurrent state after the frame, or None.
        covered: (R, height, width), how much of each pixel lies in boxes of what stays; None where nobody asks.
    """

    presence: Tensor
    where: Tensor
    what: Tensor
    logits: Tensor
    where_params: tuple[Tensor, Tensor]
    what_params: tuple[Tensor, Tensor]
    glimpse: Tensor
    canvas: Tensor
    memory: Tensor | None = None
    covered: Tensor | None = None


@dataclass
class Born:
    """What discovery proposes, drawn already.

    Attributes:
        births: int64 (*lead).
        logits: of going on, (*lead, most).
        where, what: draws (*lead, most, ...), zero beyond the births.
        where_params, what_params: loc and scale of the same shapes.
        glimpse: (*lead, most, planes, gh, gw).
        canvas: (R, channels, height, width), everything painted.
    """

    births: Tensor
    logits: Tensor
    where: Tensor
    what: Tensor
    where_params: tuple[Tensor, Tensor]
    what_params: tuple[Tensor, Tensor]
    glimpse: Tensor
    canvas: Tensor
