"""How SQAIR is trained: on videos that grow, by the bound of several particles, with the optimiser of the paper."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from pyro.poutine.messenger import Messenger

from phlogiston.guides.sqair import SQAIRGuide
from phlogiston.inference.svi import schedules
from phlogiston.inference.svi.engine import Stage
from phlogiston.inference.svi.optimizers import OPTIMIZERS
from phlogiston.inference.svi.stages import named_parameters
from phlogiston.inference.svi.vimco import VIMCO
from phlogiston.models.sqair import PROPAGATION, SQAIRModel
from phlogiston.systems.sqair.config import Config


class Switch(Messenger):
    """Turns the guide's matched filter on or off; a schedule may move its attribute."""

    def __init__(self, guide: SQAIRGuide) -> None:
        super().__init__()
        self._guide = guide

    @property
    def matching(self) -> float:
        """1.0 or 0.0."""
        return float(self._guide.parts.matching)

    @matching.setter
    def matching(self, value: float) -> None:
        self._guide.parts.matching = value >= 0.5

    def describe(self) -> dict[str, Any]:
        """Return the handler as JSON-able data."""
        return {"handler": "switch the matched filter"}


def stages(config: Config, model: SQAIRModel, guide: SQAIRGuide, frames: int) -> list[Stage]:
    """Plan the training of a pair.

    Args:
        config: of the system.
        model: the model.
        guide: its guide.
        frames: of the videos, where that is less than a stage asks for.

    Returns:
        The stages: videos grow from one to the next, and the matched filter may come later.
    """
    c = config
    cuts = {0.0, 1.0, *(sum(c.shares[:i]) for i in range(1, len(c.shares)))}
    if c.parts == "residual" and c.propagation == "match" and 0 < c.match_from < 1:
        cuts.add(c.match_from)
    if c.decay_to < 1 and 0 < c.decay_from < 1:
        cuts.add(c.decay_from)
    edges = sorted(cuts)
    objective = VIMCO(c.particles, c.signal)
    plan = []
    done = 0
    for begin, end in itertools.pairwise(edges):
        steps = round(end * c.steps) - done
        if steps < 1:
            continue
        done += steps
        index = next(i for i in range(len(c.shares)) if sum(c.shares[: i + 1]) > begin + 1e-9)
        length = min(c.lengths[index], frames)
        moves: dict[str, Any] = {"learning_rate": schedules.linear(_rate(c, begin), _rate(c, end))}
        handlers: dict[str, Messenger] = {}
        if c.match_from > 0 and c.parts == "residual" and c.propagation == "match":
            handlers["propagation"] = Switch(guide)
            moves["propagation.matching"] = schedules.constant(float(begin >= c.match_from - 1e-9))
        plan.append(
            Stage(
                f"{length} frames" + (f" from {begin:.0%}" if begin > 0 else ""),
                steps,
                objective,
                _rmsprop if c.optimizer == "rmsprop" else "adam",
                c.learning_rate,
                c.batch_size,
                _trainable(model, guide, length),
                schedules=moves,
                clip=c.clip,
                sequence_length=length,
                handlers=handlers,
            )
        )
    return plan


def _trainable(model: SQAIRModel, guide: SQAIRGuide, length: int) -> tuple[str, ...]:
    """Names of what a stage trains: in videos of one frame nothing is propagated."""
    if length > 1:
        return ("*",)
    idle = (*(f"model.{name}" for name in PROPAGATION), *(f"guide.parts.{n}" for n in guide.parts.propagation))
    names = named_parameters({"model": model, "guide": guide})
    return tuple(name for name in names if not name.startswith(idle))


def _rate(c: Config, share: float) -> float:
    """Factor of the step size after a share of the training."""
    if share <= c.decay_from or c.decay_from >= 1:
        return 1.0
    return 1.0 + (c.decay_to - 1.0) * (share - c.decay_from) / (1.0 - c.decay_from)


def _rmsprop(parameters: Any, rate: float) -> torch.optim.Optimizer:
    """RMSProp as published: the average of squares starts at one, not at zero as torch has it."""
    chosen = list(parameters)
    optimizer = OPTIMIZERS["rmsprop"](chosen, lr=rate, alpha=0.9, eps=1e-10, momentum=0.9)
    for parameter in chosen:
        optimizer.state[parameter] = {
            "step": torch.zeros(()),
            "square_avg": torch.ones_like(parameter),
            "momentum_buffer": torch.zeros_like(parameter),
        }
    return optimizer
