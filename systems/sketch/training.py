"""How the two halves of SketchRNN are trained before they are trained together, and a check at the end.

What holds for drawings in general the decoder learns faster without a latent (`DecoderAlone`). Where the lines of a
drawing go the latent learns fastest without the decoder, which would predict the next point from the last ones and
ignore the latent (`PlanAlone`).
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from phlogiston.errors import TrainingWarning
from phlogiston.guides.sketch import SketchEncoder
from phlogiston.inference.svi import objectives
from phlogiston.inference.svi.callbacks import State
from phlogiston.inference.svi.engine import Stage
from phlogiston.inference.svi.schedules import cosine, piecewise, warmup
from phlogiston.models.sketch import SketchRNN
from phlogiston.models.stepwise import valid_steps
from phlogiston.systems.sketch.config import Config
from phlogiston.systems.sketch.rows import noisy

PLAN = ("model.to_plan.*", "guide.*")  # the parameters of the plan
ALONE = ("model.enter.*", "model.rnn.*", "model.head.*")  # the parameters of a decoder without a latent
WIDTH = 0.5  # standard deviation of positions around the planned ones, in standard deviations of offsets
CHECKED = 500  # drawings whose divergence is checked at the end
COLLAPSED = 0.5  # nats per drawing; a latent with a smaller divergence has collapsed


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

        z ~ N(0, I);   position_t | z ~ N(plan_t(z), (WIDTH unit)^2);   pen_t | z ~ Categorical(plan_t(z))

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


class CollapseCheck:
    """Callback that warns at the end of training when the latent has collapsed.

    Args:
        guide: the guide that is trained.
        dequantise: width of the noise of drawings; see `Config`.
    """

    def __init__(self, guide: SketchEncoder, dequantise: float) -> None:
        self.guide, self.dequantise = guide, dequantise

    @torch.no_grad()
    def on_end(self, state: State) -> None:
        """Compute the divergence of the first training drawings, without the variations of training."""
        if not state.leader:
            return
        x, length = (state.data.tensors[name][:CHECKED] for name in ("x", "length"))
        x = noisy(x, length, self.dequantise).to(self.guide.unit.device)
        loc, scale = self.guide.encode(x, length.to(x.device))
        divergence = float((0.5 * (loc.square() + scale.square() - 1.0) - scale.log()).sum(-1).mean())
        if divergence < COLLAPSED:
            warnings.warn(
                f"the latent has collapsed: its divergence is {divergence:.2f} nats per drawing, so that z says "
                "nothing of what is drawn. Raise free_bits, lower beta, or train longer.",
                TrainingWarning,
                stacklevel=2,
            )


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
