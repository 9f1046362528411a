"""How the two halves of SketchRNN are trained before they are trained together.

What a decoder knows of drawings in general it need not learn together with a latent, and cheaper steps will do
(`DecoderAlone`). And what a latent can say of where lines go it learns fastest without a decoder, which would do its
best to guess the next point from the last ones and never listen (`PlanAlone`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from phlogiston.guides.sketch import SketchEncoder
from phlogiston.inference.svi import objectives
from phlogiston.inference.svi.engine import Stage
from phlogiston.inference.svi.schedules import cosine, piecewise, warmup
from phlogiston.models.sketch import SketchRNN
from phlogiston.models.stepwise import valid_steps
from phlogiston.systems.sketch.config import Config

PLAN = ("model.to_plan.*", "guide.*")  # what says where lines go
ALONE = ("model.enter.*", "model.rnn.*", "model.head.*")  # what a decoder without a latent is made of
WIDTH = 0.5  # how near a plan should come to the places it names, in standard deviations of offsets


class DecoderAlone(nn.Module):
    """Minus the log likelihood of drawings under the decoder without a latent, summed over the batch, in nats.

    Args:
        model: the program; its latent has no part in this.
        guide: unused.
    """

    def __init__(self, model: nn.Module, guide: nn.Module | None = None) -> None:
        super().__init__()
        assert isinstance(model, SketchRNN)
        self.model = model

    def forward(self, x: Tensor, length: Tensor) -> Tensor:
        """Return the loss of a batch."""
        return -self.model.log_likelihood(x, length).sum()


class PlanAlone(nn.Module):
    """The bound of a model without memory: minus it, summed over the batch, in nats but for a constant.

        z ~ N(0, I);   place_t | z ~ N(plan_t(z), (WIDTH unit)^2);   pen_t | z ~ Categorical(plan_t(z))

    Args:
        model: the program, with a plan.
        guide: its guide.
    """

    def __init__(self, model: nn.Module, guide: nn.Module | None = None) -> None:
        super().__init__()
        assert isinstance(model, SketchRNN)
        assert isinstance(guide, SketchEncoder)
        self.model, self.guide = model, guide

    def forward(self, x: Tensor, length: Tensor) -> Tensor:
        """Return the loss of a batch."""
        loc, scale = self.guide.encode(x, length)
        divergence = (0.5 * (loc.square() + scale.square() - 1.0) - scale.log()).sum()
        ended, over = self.model.finish(x, length)
        steps = min(self.model.plan, ended.shape[1])
        plan, ended = self.model.planned(loc + scale * torch.randn_like(scale))[:, :steps], ended[:, :steps]
        miss = (ended[..., :2].cumsum(1) - plan[..., :2]) / (WIDTH * self.model.unit)
        pen = functional.cross_entropy(plan[..., 2:].flatten(0, 1), ended[..., 2].long().flatten(), reduction="none")
        points, all_steps = valid_steps(length, steps), valid_steps(over, steps)
        return divergence + 0.5 * miss[points].square().sum() + pen.unflatten(0, all_steps.shape)[all_steps].sum()


def stages_of(c: Config) -> list[Stage]:
    """The two halves by themselves, as far as the configuration says, and then both together.

    Together: the bound with a floor under the divergence, whose weight rises; without a latent the likelihood.
    """

    def stage(name: str, steps: int, objective: Any, last_rate: float, **options: Any) -> Stage:
        rate = {"learning_rate": warmup(c.warmup, cosine(1.0, last_rate), 0.05)}
        schedules = {**rate, **options.pop("schedules", {})}
        return Stage(
            name, steps, objective, "adam", c.learning_rate, c.batch_size, schedules=schedules, clip=c.clip, **options
        )

    stages = []
    if c.alone_steps:
        stages.append(stage("decoder", c.alone_steps, DecoderAlone, 0.1, trainable=ALONE))
    if c.plan_steps:
        stages.append(stage("plan", c.plan_steps, PlanAlone, 0.1, trainable=PLAN))
    if not c.latent:
        return [*stages, stage("fit", c.steps, "elbo", 0.01)]
    weight = piecewise([(0.0, c.beta_start), (c.beta_warmup, c.beta), (1.0, c.beta)])
    bound = objectives.make("free_bits", nats=c.free_bits)
    return [*stages, stage("fit", c.steps, bound, 0.01, schedules={"scale.z": weight})]
