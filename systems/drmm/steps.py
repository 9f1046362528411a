"""Steps of training that narrow components survive."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from phlogiston.inference.svi.optimizers import OPTIMIZERS
from phlogiston.networks.frames import Frame, LowRankFrame, ShiftFrame, TriangularFrame

FARTHEST = 2.0
"""How far a mean moves at most in a step, in learning rates of its component's own spread."""


def careful_adam(frames: Sequence[Frame], parameters: Iterable[Tensor], learning_rate: float) -> torch.optim.Optimizer:
    """Adam whose steps move no component's mean far beyond where its rows lie.

    Adam moves every number by about the learning rate. To a component whose spread in some direction is a hundredth
    that is a leap that loses all its rows; where they were explained well before, the whole model goes astray.

    Args:
        frames: the layers whose means are among the parameters; those of frame `shift`, which share one spread, and
            those of factor analysers, which start wide, are left alone.
        parameters: of the optimiser.
        learning_rate: of Adam.
    """
    adam = OPTIMIZERS["adam"](parameters, lr=learning_rate)
    narrow = [frame for frame in frames if not isinstance(frame, ShiftFrame | LowRankFrame)]
    step: Callable[..., Any] = adam.step

    def careful_step(closure: Any = None) -> Any:
        before = [frame.mean.detach().clone() for frame in narrow]
        result = step(closure)
        limit = FARTHEST * float(adam.param_groups[0]["lr"])
        for frame, mean in zip(narrow, before, strict=True):
            hold_back(frame, mean, limit)
        return result

    adam.step = careful_step  # type: ignore[method-assign]
    return adam


@torch.no_grad()
def hold_back(frame: Frame, before: Tensor, limit: float) -> None:
    """Shorten what a step did to means where they moved more than `limit` spreads, entry by entry of `W (mu' - mu)`.

    Args:
        frame: after the step; its means are changed in place.
        before: (K, D), its means before.
        limit: positive.
    """
    if not frame.full:
        most = limit / frame.inverse_scale()
        frame.mean.copy_(torch.minimum(torch.maximum(frame.mean, before - most), before + most))
        return
    assert isinstance(frame, TriangularFrame)
    w = frame.inverse()
    moved = torch.matmul(w, (frame.mean - before).unsqueeze(-1))
    excess = torch.linalg.solve_triangular(w, moved - moved.clamp(-limit, limit), upper=False)
    frame.mean.sub_(excess.squeeze(-1))
