"""SketchRNN: drawings as sequences of pen movements, with a latent that says what is drawn, or without one.

    z ~ N(0, I)                                       what the whole drawing is like (left out when latent = 0)
    h_0 = tanh(W z + b);  h_t = rnn([step_{t-1}, place_{t-1}, plan_t(z) - place_{t-1}] + U z, h_{t-1})
    pen_t ~ Categorical(head(h_t))                    0 stays down, 1 lifts after this point, 2 the drawing is over
    offset_t ~ bivariate mixture(head(h_t))           where the pen goes, unless the drawing is over

The end is a step like any other and scored exactly once; padding never is. Beside the last step the network sees where
the pen is, which it could only find out by adding up. With a `plan` the latent also says where the pen is to be after
each of the first steps, roughly, and what it does there; how far off that is leads the decoder back to what is to be
drawn, where errors of steps would add up. Densities are per unit of the data's own offsets. The weight of the latent's
divergence is a handler (`scale_sites({"z": beta})`), its floor an objective (`free_bits`).

Differs on purpose from the reference: z enters as a bias of an input layer rather than tiled next to every step, which
is the same map at a fraction of the cost, and steps behind the end are not trained on.

Reference: Ha and Eck, "A neural representation of sketch drawings", ICLR 2018.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from phlogiston.errors import ConfigError
from phlogiston.models.drawing import Drawing
from phlogiston.models.stepwise import Prediction, valid_steps
from phlogiston.networks.recurrent import Recurrent


class SketchState(NamedTuple):
    """What the past comes down to.

    Attributes:
        hidden: (rows, depth, hidden), of the decoder.
        last: (rows, 3), the last step: offset in data units, state of the pen.
        position: (rows, 2), where the pen is, in data units.
        seen: (rows,), steps so far.
        bias: (rows, inputs), what the latent adds to every input.
        plan: (rows, planned steps, 5), where the pen should be after each step according to the latent, in data units,
            and logits of its states; one step of zeros where there is no plan.
    """

    hidden: Tensor
    last: Tensor
    position: Tensor
    seen: Tensor
    bias: Tensor
    plan: Tensor


class SketchRNN(Drawing):
    """The generative program.

    Its arguments are options of `systems.sketch.config.Config`, described there.
    """

    def __init__(
        self,
        latent: int = 32,
        hidden: int = 128,
        num_components: int = 10,
        inputs: int = 32,
        min_scale: float = 0.003,
        plan: int = 0,
        wander: float = 0.0,
    ) -> None:
        super().__init__(num_components, min_scale)
        if latent < 0 or min(hidden, num_components, inputs) < 1:
            raise ConfigError(
                f"latent={latent}, hidden={hidden}, num_components={num_components}, inputs={inputs}: sizes must be "
                "positive, latent may be 0"
            )
        self.latent, self.wander = latent, wander
        self.plan = plan if latent else 0
        self.enter = nn.Linear(8, inputs)
        self.rnn = Recurrent(inputs, hidden)
        self.head = nn.Linear(hidden, self.num_outputs)
        if latent:
            self.to_state = nn.Linear(latent, self.rnn.depth * hidden)
            self.to_input = nn.Linear(latent, inputs, bias=False)
        if self.plan:
            self.to_plan = nn.Sequential(nn.Linear(latent, 2 * hidden), nn.SiLU(), nn.Linear(2 * hidden, 5 * plan))
            self.to_gap = nn.Linear(5, inputs, bias=False)

    @torch.no_grad()
    def initialise(self, x: Tensor, length: Tensor) -> None:
        """Set the unit, and start with components of several widths around the middle.

        Args:
            x: (rows, points, 3).
            length: (rows,).
        """
        offsets = x[..., :2][valid_steps(length, x.shape[1])].double()
        unit = offsets.std(correction=0)
        self.unit.fill_(float(unit) if float(unit) > 0 else 1.0)
        k = self.num_components
        self.head.weight.mul_(0.3)
        self.head.bias.zero_()
        chosen = torch.randperm(len(offsets))[:k]
        points = (offsets[chosen] / unit.clamp_min(1e-12)).float()
        self.head.bias[k : k + 2 * len(points)] = 0.5 * points.flatten()
        self.head.bias[3 * k : 5 * k] = torch.linspace(-2.0, 0.0, k).repeat_interleave(2)

    def prior(self) -> Any:
        """Prior of z: a standard normal of `latent` numbers."""
        zero = self.unit.new_zeros(self.latent)
        return dist.Normal(zero, torch.ones_like(zero)).to_event(1)

    # ----- steps --------------------------------------------------------------------------------------------------

    def planned(self, z: Tensor) -> Tensor:
        """The plan that latents (rows, latent) make for the first steps: (rows, steps, 5), see `SketchState`.

        One step of zeros where there is no plan.
        """
        if not self.plan:
            return z.new_zeros(len(z), 1, 5)
        raw = self.to_plan(z).unflatten(-1, (self.plan, 5))
        return torch.cat([raw[..., :2] * self.unit, raw[..., 2:]], -1)

    def _lead(self, plan: Tensor, position: Tensor, seen: Tensor) -> Tensor:
        """What a plan adds to inputs, (rows, steps, inputs): how far off the planned position is, the planned pen."""
        at = seen.clamp_max(plan.shape[1] - 1).unsqueeze(-1).expand(-1, -1, 5)
        now = plan.gather(1, at)
        return self.to_gap(torch.cat([(now[..., :2] - position) / self.unit, now[..., 2:].softmax(-1)], -1))

    def _inputs(self, last: Tensor, position: Tensor, seen: Tensor) -> Tensor:
        state = last[..., 2]
        first = (seen == 0).to(last.dtype)
        down, lifted, over = (state == 0).to(last.dtype), (state == 1).to(last.dtype), (state == 2).to(last.dtype)
        scaled, where = last[..., :2] / self.unit, 0.5 * position / self.unit
        flags = torch.stack([down, lifted, over, first], -1)
        return torch.cat([scaled, where, flags], -1)

    def begin(self, z: Tensor | None, rows: int) -> tuple[Tensor, Tensor]:
        """The decoder's first state and what z adds to its inputs: (rows, depth, hidden), (rows, inputs)."""
        if not self.latent or z is None:
            return self.rnn.start(rows), self.unit.new_zeros(rows, self.rnn.features)
        hidden = torch.tanh(self.to_state(z)).unflatten(-1, (self.rnn.depth, self.rnn.hidden))
        return hidden, self.to_input(z)

    def _astray(self, x: Tensor) -> Tensor:
        """How far off the decoder believes the pen to be after each step, (rows, steps, 2), in data units.

        A decoder that has only seen true drawings does not know what to do when its own go wrong. So that it learns to
        come back, it is shown points that lie off the line and asked for the next point of the line all the same. Half
        of the drawings are shown as they are, the others wander by a deviation of their own, up to `wander`.
        """
        size = self.wander * (2.0 * torch.rand(len(x), 1, 1) - 1.0).clamp_min(0.0)
        return size * torch.randn_like(x[..., :2]) * self.unit

    def predictions(self, x: Tensor, z: Tensor | None = None) -> Prediction:
        """The distributions of all steps of known drawings at once.

        Args:
            x: (rows, steps, 3) with the end as a step (see `finish`).
            z: (..., rows, latent), or None for the unconditional model; leading axes are carried along.

        Returns:
            The prediction, batch (..., rows, steps).
        """
        rows, steps, _ = x.shape
        lead = z.shape[:-2] if z is not None else torch.Size()
        flat = None if z is None else z.reshape(-1, z.shape[-1])
        hidden, bias = self.begin(flat, rows)
        last = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)
        astray = None
        if self.training and self.wander:
            off = torch.cat([torch.zeros_like(x[:, :1, :2]), self._astray(x)[:, :-1]], 1)
            before = torch.cat([torch.zeros_like(off[:, :1]), off[:, :-1]], 1)
            last = torch.cat([last[..., :2] + off - before, last[..., 2:]], -1)
            astray = off
        position, count = last[..., :2].cumsum(1), torch.arange(steps, device=x.device).expand(rows, -1)
        inputs = self.enter(self._inputs(last, position, count))
        if lead:
            inputs = inputs.expand(*lead, *inputs.shape).reshape(-1, steps, inputs.shape[-1])
        inputs = inputs + bias.unsqueeze(1)
        if self.plan and flat is not None:
            times = len(flat) // rows
            inputs = inputs + self._lead(self.planned(flat), position.repeat(times, 1, 1), count.repeat(times, 1))
        out, _ = self.rnn(torch.tanh(inputs), hidden)
        # the distribution of the offset from where the pen truly is
        return self._prediction(out.unflatten(0, (*lead, rows)) if lead else out, astray)

    def start(self, rows: int, z: Tensor | None = None) -> SketchState:
        """The state before the first step.

        Args:
            rows: how many drawings.
            z: (rows, latent); drawn from the prior where the model has a latent and none is given.
        """
        if self.latent and z is None:
            z = torch.randn(rows, self.latent, dtype=self.unit.dtype, device=self.unit.device)
        hidden, bias = self.begin(z, rows)
        seen = torch.zeros(rows, dtype=torch.long, device=hidden.device)
        plan = hidden.new_zeros(rows, 1, 5) if z is None else self.planned(z)
        return SketchState(hidden, hidden.new_zeros(rows, 3), hidden.new_zeros(rows, 2), seen, bias, plan)

    def predict(self, state: SketchState) -> tuple[Prediction, SketchState]:
        """See `Stepwise.predict`."""
        inputs = self.enter(self._inputs(state.last, state.position, state.seen)) + state.bias
        if self.plan:
            at, count = state.position.unsqueeze(1), state.seen.unsqueeze(1)
            inputs = inputs + self._lead(state.plan, at, count).squeeze(1)
        out, hidden = self.rnn(torch.tanh(inputs).unsqueeze(1), state.hidden)
        return self._prediction(out[:, 0]), state._replace(hidden=hidden)

    def observe(self, state: SketchState, value: Tensor) -> SketchState:
        """See `Stepwise.observe`."""
        value = value.to(state.last.dtype)
        return state._replace(last=value, position=state.position + value[:, :2], seen=state.seen + 1)

    # ----- the program --------------------------------------------------------------------------------------------

    def forward(
        self,
        x: Tensor | None = None,
        length: Tensor | None = None,
        *,
        steps: int | None = None,
        rows: int = 1,
    ) -> Tensor:
        """Run the program.

        With `x` and no `steps` all steps at once: sites `z`, `offset` and `pen`. With `steps` one at a time: `z`,
        `x_0`, `pen_0`, ..., of which the first ones are `x`.

        Args:
            x: (rows, points, 3): dx, dy, pen 0 or 1; without the end.
            length: (rows,), how many points; all by default.
            steps: run step by step, this far; the end is a step.
            rows: drawings to generate, where `x` is None.

        Returns:
            (rows, steps, 3), with the end as a step.
        """
        if x is not None:
            x, length = self.checked(x, length)
        if steps is not None or x is None:
            count = rows if x is None else len(x)
            with pyro.plate("data", count, dim=-1):
                z = pyro.sample("z", self.prior()) if self.latent else None
                return self.unroll(self.start(count, z), steps if steps is not None else 200, x, length)
        assert length is not None
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", self.prior()) if self.latent else None  # (..., rows, 1, latent)
            self.sample_steps(self.predictions(x, None if z is None else z.squeeze(-2)), x, length)
        return x

    def log_likelihood(self, x: Tensor, length: Tensor, z: Tensor | None = None) -> Tensor:
        """log p(drawing | z) in nats per drawing, (..., rows); arguments as `forward` and `predictions`."""
        x, length = self.finish(x, length)
        return self.steps_log_prob(x, length, z).sum(-1)

    def steps_log_prob(self, x: Tensor, length: Tensor, z: Tensor | None = None) -> Tensor:
        """The same step by step, (..., rows, steps), for drawings with the end as a step."""
        steps = self.predictions(x, z).log_prob(x)
        return torch.where(valid_steps(length, x.shape[1]), steps, 0.0)
