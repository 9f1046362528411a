"""What the parts of a SQAIR guide hand to each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from phlogiston.models.sqair import Dynamics, State


@dataclass
class Frame:
    """One frame as the guide's parts see it; R = particles x rows, flattened.

    Attributes:
        pixels: (R, channels, height, width).
        lead: leading axes that R stands for.
        before: the state of the frame before, None at the first.
        dynamics: the prior's step from it.
        seen: bool (R,), False where the frame is hidden and the guide falls back on the prior; None if all are seen.
        noise: standard normal (*lead, places + births, 1 + 4 + features), of this frame.
        memory: the guide's own recurrent state (*lead, places, memory), or None.
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
        presence, where, what: draws (*lead, places, ...), zero where nothing stays.
        logits: of presence.
        where_law: loc and scale, or a distribution's factors (see the guide).
        what_law: loc and scale (*lead, places, features).
        glimpse: decoded (*lead, places, planes, gh, gw).
        canvas: (R, channels, height, width), what stays, painted.
        memory: the guide's own recurrent state after the frame, or None.
    """

    presence: Tensor
    where: Tensor
    what: Tensor
    logits: Tensor
    where_law: tuple[Tensor, Tensor]
    what_law: tuple[Tensor, Tensor]
    glimpse: Tensor
    canvas: Tensor
    memory: Tensor | None = None


@dataclass
class Born:
    """What discovery proposes, drawn already.

    Attributes:
        births: int64 (*lead).
        logits: of going on, (*lead, most).
        where, what: draws (*lead, most, ...), zero beyond the births.
        where_law, what_law: loc and scale of the same shapes.
        glimpse: (*lead, most, planes, gh, gw).
        canvas: (R, channels, height, width), everything painted.
    """

    births: Tensor
    logits: Tensor
    where: Tensor
    what: Tensor
    where_law: tuple[Tensor, Tensor]
    what_law: tuple[Tensor, Tensor]
    glimpse: Tensor
    canvas: Tensor
