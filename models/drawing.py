"""Pen movements that come to an end by themselves: what the models of drawings and of handwriting have in common.

pen_t ~ Categorical(head(h_t))                    0 stays down, 1 lifts after this point, 2 it is over
offset_t ~ bivariate mixture(head(h_t))           where the pen goes, unless it is over
"""

from __future__ import annotations

from typing import cast

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn

from phlogiston.distributions.mixtures.from_head import mixture
from phlogiston.distributions.mixtures.joint import JointMixture
from phlogiston.distributions.warped import Warped
from phlogiston.models.stepwise import Prediction, Stepwise, check_steps, valid_steps
from phlogiston.networks.mixture_heads import mixture_parameters, num_outputs

END = 2.0  # the pen's state when the drawing is over


class Drawing(Stepwise):
    """Steps dx, dy, pen of drawings whose end is a step like any other.

    Buffer `unit` (2,) is the standard deviation of offsets, the same for both. A subclass has a layer `head`, from what
    it knows of the past to `num_outputs` numbers.

    Args:
        num_components: K of the offsets' mixture.
        min_scale: smallest standard deviation of a component, in units of the offsets' standard deviation.
    """

    unit: Tensor
    positive: Tensor
    centre: Tensor
    head: nn.Linear

    def __init__(self, num_components: int, min_scale: float) -> None:
        super().__init__()
        self.targets, self.pen_states = 2, 3
        self.num_components, self.min_scale = num_components, min_scale
        self.num_outputs = num_outputs("bivariate", num_components, 2) + 3
        self.register_buffer("unit", torch.ones(2))
        self.register_buffer("centre", torch.zeros(2))
        self.register_buffer("positive", torch.zeros(2, dtype=torch.bool))

    def finish(self, x: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """Add the end as a step of its own: (rows, points + 1, 3) and length + 1."""
        steps = torch.arange(x.shape[1] + 1, device=x.device)
        ended = torch.cat([x, torch.zeros_like(x[:, :1])], 1)
        ended = torch.where((steps >= length.unsqueeze(-1)).unsqueeze(-1), 0.0, ended)
        ended[..., 2] = torch.where(steps == length.unsqueeze(-1), END, ended[..., 2])
        return ended, length + 1

    def checked(self, x: Tensor, length: Tensor | None) -> tuple[Tensor, Tensor]:
        """Drawings given to `forward`, checked and finished; all their points count where there are no lengths."""
        check_steps(x, 3)
        return self.finish(x, torch.full((len(x),), x.shape[1], dtype=torch.long) if length is None else length)

    def sample_steps(self, prediction: Prediction, x: Tensor, length: Tensor) -> None:
        """Observe all steps at once, in the plate "data" (dim -2): sites `offset` and `pen` in a plate "time"."""
        is_step = cast(torch.BoolTensor, valid_steps(length, x.shape[1]))
        is_point = cast(torch.BoolTensor, valid_steps(length - 1, x.shape[1]))
        with pyro.plate("time", x.shape[1], dim=-1):
            with poutine.mask(mask=is_point):
                pyro.sample("offset", prediction.values, obs=x[..., :2])
            with poutine.mask(mask=is_step):
                pyro.sample("pen", prediction.pen_distribution(), obs=x[..., 2])

    def _prediction(self, out: Tensor, shift: Tensor | None = None) -> Prediction:
        raw = self.head(out)
        k = self.num_components
        params = mixture_parameters(raw[..., : 6 * k], "bivariate", k, 2, "exp", self.min_scale)
        base = cast(JointMixture, mixture(params, validate_args=False))
        values = Warped(base, self.centre if shift is None else shift, self.unit, self.positive, validate_args=False)
        return Prediction(values, raw[..., 6 * k :])
