"""The guide of SketchRNN: a drawing is read from both ends, and what it is follows from the two impressions.

    z | drawing ~ N(loc([f, b]), scale([f, b]))

f is the last state of a network that reads forwards, b that of one that reads backwards. Both read exactly the steps
there are: sequences are turned around within their own length, so that padding never changes a number, without packing.
Where the latent makes a plan, the positions of the first steps are read beside them.
"""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from phlogiston.errors import ConfigError
from phlogiston.models.sketch import SketchRNN
from phlogiston.networks.recurrent import Recurrent


class SketchEncoder(nn.Module):
    """The inference program.

    Args:
        model: the program it belongs to.
        hidden: the option `encoder_hidden`.
    """

    def __init__(self, model: SketchRNN, hidden: int = 64) -> None:
        super().__init__()
        if not model.latent:
            raise ConfigError("a model without latent has nothing to infer; leave the guide out")
        self.register_buffer("unit", model.unit)
        self.forwards = Recurrent(6, hidden)
        self.backwards = Recurrent(6, hidden)
        self.plan = model.plan
        features = 2 * hidden
        if self.plan:
            self.places = nn.Sequential(nn.Linear(3 * self.plan, 4 * hidden), nn.SiLU())
            features += 4 * hidden
        self.to_loc = nn.Linear(features, model.latent)
        self.to_scale = nn.Linear(features, model.latent)
        with torch.no_grad():
            self.to_scale.weight.mul_(0.1)
            self.to_scale.bias.fill_(-3.0)  # precise at first, so that the decoder learns to use z

    unit: Tensor

    def encode(self, x: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """Location and scale of z: (rows, latent) each, for drawings (rows, points, 3)."""
        position = x[..., :2].cumsum(1)
        features = torch.cat([x[..., :2] / self.unit, 0.5 * position / self.unit, x[..., 2:], 1.0 - x[..., 2:]], -1)
        steps = torch.arange(x.shape[1], device=x.device)
        turned = (length.unsqueeze(-1) - 1 - steps).clamp_min(0)
        reverse = features.gather(1, turned.unsqueeze(-1).expand_as(features))
        ends = (length - 1).clamp_min(0)
        seen = [
            net(steps_of, net.start(len(x)))[0][torch.arange(len(x), device=x.device), ends]
            for net, steps_of in ((self.forwards, features), (self.backwards, reverse))
        ]
        if self.plan:
            seen.append(self.places(self._first_positions(x, length)))
        both = torch.cat(seen, -1)
        return self.to_loc(both), (0.5 * self.to_scale(both)).clamp(-7.0, 3.0).exp()

    def _first_positions(self, x: Tensor, length: Tensor) -> Tensor:
        """Where the pen is after each of the first steps, and whether it is lifted: (rows, 3 steps).

        Behind the end of a drawing it stays where it was, lifted. Positions that a plan is to name are read all at
        once: a network that adds them up one by one would have to remember all of them.
        """
        at = torch.minimum(torch.arange(self.plan, device=x.device), (length - 1).clamp_min(0).unsqueeze(-1))
        positions = 0.5 * x[..., :2].cumsum(1) / self.unit
        steps = torch.cat([positions, x[..., 2:]], -1)
        return steps.gather(1, at.unsqueeze(-1).expand(-1, -1, 3)).flatten(1)

    def posterior(self, x: Tensor, length: Tensor) -> Any:
        """q(z | drawing), batch (rows,)."""
        loc, scale = self.encode(x, length)
        return dist.Normal(loc, scale).to_event(1)

    def forward(
        self, x: Tensor | None = None, length: Tensor | None = None, *, steps: int | None = None, rows: int = 1
    ) -> Tensor:
        """Sample z; arguments as the model's."""
        if x is None:
            raise ConfigError("the guide reads drawings: give x")
        length = torch.full((len(x),), x.shape[1], dtype=torch.long) if length is None else length
        loc, scale = self.encode(x, length)
        if steps is not None:
            with pyro.plate("data", len(x), dim=-1):
                return pyro.sample("z", dist.Normal(loc, scale).to_event(1))
        with pyro.plate("data", len(x), dim=-2):
            return pyro.sample("z", dist.Normal(loc.unsqueeze(-2), scale.unsqueeze(-2)).to_event(1))
