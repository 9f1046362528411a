"""Recurrent mixture density network (MDN-RNN): every step of a sequence is drawn from a mixture that its past chooses.

    h_t = rnn(features(x_{t-1}, x_{t-2}), h_{t-1});   x_t | past ~ mixture(head(h_t), x_{t-1}, x_{t-2})
    pen_t | past ~ Bernoulli(head(h_t))                  where the data have a pen

Every column is modelled in the coordinates that suit it: levels (a finger's position, a knob) by the step from the last
level, positive times by their logarithm, offsets as they are; densities come out in the data's own units. With a
`grid` steps are scored by the probability of the grid's cell, within `bounds` and on the `lattices` of devices, where
there are such (see `distributions.warped`).

One object trains teacher-forced, generates step by step, and streams: `start`, `predict`, `observe` of
`models.stepwise`.

References: Graves, "Generating sequences with recurrent neural networks", arXiv 1308.0850; Martin and Torresen,
"RoboJam", EvoMUSART 2018; Ha and Schmidhuber, "World models", 2018.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, cast

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn

from phlogiston.distributions.mixtures.from_head import mixture
from phlogiston.distributions.mixtures.joint import JointMixture
from phlogiston.distributions.mixtures.noise import pick
from phlogiston.distributions.warped import Warped
from phlogiston.errors import ConfigError
from phlogiston.models.sequence_start import first_components, measure
from phlogiston.models.stepwise import Choice, Noise, Prediction, Stepwise, check_steps, valid_steps
from phlogiston.networks.mixture_heads import check, mixture_parameters, num_outputs
from phlogiston.networks.recurrent import Recurrent

KINDS = ("diag", "bivariate", "full")


class State(NamedTuple):
    """What the past comes down to.

    Attributes:
        hidden: (rows, depth, hidden), of the recurrent stack.
        last: (rows, 2, width), the last two steps, the latest one last.
        seen: (rows,), how many steps there have been.
    """

    hidden: Tensor
    last: Tensor
    seen: Tensor


class MDNRNN(Stepwise):
    """The generative program.

    Args:
        targets: D, numbers per step.
        pen: whether a pen's state (0 or 1) follows the numbers.
        levels, positive: the options of these names, as positions of columns.
        kind, grid, bounds: the options of these names; None for no grid and no bounds.

    The other arguments are options of `systems.sequence.config.Config`, described there.

    Buffers `centre` and `unit` (D,) standardise: location and scale of a column (of its logarithm, of its steps); and
    `level_centre`, `level_unit`, `fine`, `usual` (D,) serve the network's view of the past.
    """

    centre: Tensor
    unit: Tensor
    level_centre: Tensor
    level_unit: Tensor
    fine: Tensor
    usual: Tensor
    bounds: Tensor
    is_level: Tensor
    is_positive: Tensor

    def __init__(
        self,
        targets: int,
        pen: bool = False,
        levels: Sequence[int] = (),
        positive: Sequence[int] = (),
        hidden: int = 64,
        layers: int = 2,
        cell: Literal["lstm", "gru"] = "lstm",
        num_components: int = 10,
        kind: str = "diag",
        grid: float | None = None,
        min_scale: float = 1e-3,
        bounds: tuple[float, float] | None = None,
        lattices: Sequence[int] = (),
    ) -> None:
        super().__init__()
        check(kind, num_components, targets)
        if kind not in KINDS:
            raise ConfigError(f"kind is {kind!r}; sequences take one of {', '.join(KINDS)}")
        if grid is not None and kind != "diag":
            raise ConfigError(f"cells of a grid have no closed form for kind {kind!r}; use 'diag'")
        if set(levels) & set(positive):
            raise ConfigError(f"columns {sorted(set(levels) & set(positive))} cannot be levels and positive at once")
        if (bounds is not None or lattices) and (grid is None or bounds is None or not levels):
            raise ConfigError("bounds and lattices are for levels scored on a grid; lattices need bounds, too")
        self.targets, self.pen_states = targets, 2 if pen else 0
        self.mixture_size, self.num_components = num_components, num_components * (1 + len(lattices))
        self.bounded, self.lattices = bounds is not None, tuple(lattices)
        self.kind, self.grid, self.min_scale = kind, grid, min_scale
        for name in ("centre", "level_centre", "usual"):
            self.register_buffer(name, torch.zeros(targets))
        for name in ("unit", "level_unit", "fine"):
            self.register_buffer(name, torch.ones(targets))
        for name, columns in (("is_level", levels), ("is_positive", positive)):
            mark = torch.zeros(targets, dtype=torch.bool)
            mark[list(columns)] = True
            self.register_buffer(name, mark)
        limits = torch.tensor([[-math.inf], [math.inf]]).repeat(1, targets)
        if bounds is not None:
            limits[:, sorted(levels)] = torch.tensor(bounds, dtype=limits.dtype).unsqueeze(-1)
        self.register_buffer("bounds", limits)
        self._levels, self._positive = sorted(levels), sorted(positive)
        self.rnn = Recurrent(self.num_features, hidden, layers, cell)
        self._outputs = (
            num_outputs(kind, num_components, targets),
            num_components if levels else 0,
            1 + len(lattices) if lattices else 0,
            1 if pen else 0,
        )
        self.head = nn.Linear(hidden, sum(self._outputs))

    @property
    def num_features(self) -> int:
        """Width of the network's input: levels, steps, both in detail, lattices they lie on, pen, beginning."""
        return 3 * self.targets + len(self.lattices) + (1 if self.pen_states else 0) + 2

    # ----- before training ----------------------------------------------------------------------------------------

    @torch.no_grad()
    def initialise(self, x: Tensor, length: Tensor) -> None:
        """Standardise, and start with components of many widths around the middle.

        Args:
            x: (rows, steps, width).
            length: (rows,).
        """
        k, d = self.mixture_size, self.targets
        units, steps = measure(x[..., :d], length, self.is_level, self.is_positive, self.floor, self.grid)
        for name, value in units.items():
            getattr(self, name).copy_(value)
        narrowest = 0.02 if self.grid is not None else 0.1
        loc, widths = first_components((steps - self.centre) / self.unit, k, self.is_level, narrowest)
        self.head.weight.mul_(0.3)
        self.head.bias.zero_()
        self.head.bias[k : k + k * d] = loc.flatten()
        self.head.bias[k + k * d : k + 2 * k * d] = widths.log().unsqueeze(-1).expand(k, d).flatten()

    @property
    def floor(self) -> float:
        """Smallest positive value that the network can distinguish."""
        return 0.5 * self.grid if self.grid is not None else 1e-4

    # ----- densities ----------------------------------------------------------------------------------------------

    def features(self, last: Tensor, before: Tensor, seen: Tensor) -> Tensor:
        """What the network sees: last step (..., width), the one before it, and steps so far (...)."""
        numbers, earlier = last[..., : self.targets], before[..., : self.targets]
        first, second = seen == 0, seen == 1
        step = (numbers - earlier) * (seen > 1).unsqueeze(-1)  # nothing is known of it before there were two
        view = self._view(numbers, step, last[..., self.targets :])
        view = torch.where(first.unsqueeze(-1), 0.0, view)
        return torch.cat([view, torch.stack([first, second], -1).to(view.dtype)], -1)

    def _view(self, numbers: Tensor, step: Tensor, pen: Tensor) -> Tensor:
        """Levels, steps, both in detail, lattices, and the pen: (..., 3 D + lattices + pen)."""
        warped = numbers
        if self._positive:
            warped = torch.where(self.is_positive, numbers.clamp_min(self.floor).log(), numbers)
        gap = torch.where(self.is_level, step, numbers - self.usual) if self._levels else numbers - self.usual
        level = (warped - self.level_centre) / self.level_unit
        coarse, fine = (step / self.unit).clamp(-10.0, 10.0), 0.4 * torch.asinh(gap / self.fine)
        return torch.cat([level, coarse, fine, *self._lies_on(numbers), pen], -1)

    def _lies_on(self, numbers: Tensor) -> list[Tensor]:
        """Whether all levels lie on a lattice, for every lattice: (..., 1) each."""
        flags = []
        for count in self.lattices:
            index = numbers[..., self._levels] * count
            flags.append(((index - index.round()).abs() < 0.02).all(-1, keepdim=True).to(numbers.dtype))
        return flags

    def prediction(self, out: Tensor, last: Tensor, before: Tensor, seen: Tensor) -> Prediction:
        """The distribution of the next step, from the output (..., hidden) and the last two steps (..., width)."""
        raw, momentum, device, lifted = self.head(out).split(self._outputs, -1)
        params = mixture_parameters(raw, self.kind, self.mixture_size, self.targets, "exp", self.min_scale)
        if self._levels:
            # what moves goes on moving: each component keeps a share of the last step, as far as the network says
            step = (last - before)[..., : self.targets] / self.unit
            step = torch.where(self.is_level & (seen > 1).unsqueeze(-1), step, 0.0)
            params = params._replace(loc=params.loc + momentum.unsqueeze(-1) * step.unsqueeze(-2))
        base = cast(JointMixture, mixture(params, validate_args=False))
        level = torch.where((seen > 0).unsqueeze(-1), last[..., : self.targets], self.level_centre)
        shift = torch.where(self.is_level, level, self.centre)
        choices = None
        if self.lattices:
            weight = device.log_softmax(-1).unsqueeze(-1) + base.logits.log_softmax(-1).unsqueeze(-2)
            choices = weight.flatten(-2)
        values = Warped(
            base, shift, self.unit, self.is_positive, self.grid, validate_args=False,
            bounds=self.bounds if self.bounded else None, pitches=[1.0 / n for n in self.lattices], choices=choices,
        )  # fmt: skip
        if not self.pen_states:
            return Prediction(values)
        return Prediction(values, torch.cat([torch.zeros_like(lifted), lifted], -1))

    def predictions(
        self, x: Tensor, last: Tensor | None = None, seen: Tensor | None = None, hidden: Tensor | None = None
    ) -> tuple[Prediction, Tensor]:
        """The distributions of all steps of known sequences at once.

        Args:
            x: (rows, steps, width).
            last: (rows, 2, width), the two steps before the first of `x`, where there are such.
            seen: (rows,), how many steps there were before.
            hidden: (rows, depth, hidden), the network's state before.

        Returns:
            The prediction, batch (rows, steps), and the network's state after the last step.
        """
        rows, steps, _ = x.shape
        first = self.start(rows)
        last = first.last.to(x.dtype) if last is None else last
        seen = first.seen if seen is None else seen
        hidden = first.hidden if hidden is None else hidden
        whole = torch.cat([last, x[:, :-1]], 1)  # shifted by one step: what is known before each step
        before, latest = whole[:, :-1], whole[:, 1:]
        count = seen.unsqueeze(-1) + torch.arange(steps, device=x.device)
        out, hidden = self.rnn(self.features(latest, before, count), hidden)
        return self.prediction(out, latest, before, count), hidden

    def log_likelihood(
        self,
        x: Tensor,
        length: Tensor,
        last: Tensor | None = None,
        seen: Tensor | None = None,
        hidden: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Log probability of each sequence, (rows,) in nats, and the network's state after the last step.

        The same number as the program's, without the program around it. Arguments as `predictions`.
        """
        prediction, hidden = self.predictions(x, last, seen, hidden)
        return torch.where(valid_steps(length, x.shape[1]), prediction.log_prob(x), 0.0).sum(-1), hidden

    # ----- one step at a time -------------------------------------------------------------------------------------

    def start(self, rows: int) -> State:
        """See `Stepwise.start`."""
        hidden = self.rnn.start(rows)
        return State(
            hidden,
            hidden.new_zeros(rows, 2, self.width),
            torch.zeros(rows, dtype=torch.long, device=hidden.device),
        )

    def predict(self, state: State) -> tuple[Prediction, State]:
        """See `Stepwise.predict`."""
        last = state.last[:, 1]
        seen = self.features(last, state.last[:, 0], state.seen)
        out, hidden = self.rnn(seen.unsqueeze(1), state.hidden)
        return self.prediction(out[:, 0], last, state.last[:, 0], state.seen), State(hidden, state.last, state.seen)

    def observe(self, state: State, value: Tensor) -> State:
        """See `Stepwise.observe`."""
        last = torch.stack([state.last[:, 1], value.to(state.last.dtype)], 1)
        return State(state.hidden, last, state.seen + 1)

    def turn(self, state: State, seen: int, noise: Noise, choice: Choice) -> tuple[Tensor, State]:
        """Draw the next step and take it in: `predict`, `draw` and `observe` in as few operations as can be.

        What a stream does in real time, where every microsecond of every small operation counts. The same numbers as
        the three of them give.

        Args:
            state: with `seen` steps in every row.
            seen: at least 2; before that `predict`, `draw` and `observe` are used.
            noise: of this step.
            choice: temperatures and bias.
        """
        if seen < 2 or self.kind != "diag" or self.pen_states or self.bounded or choice.pi_temperature == 0:
            prediction, after = self.predict(state)
            value = prediction.draw(noise, choice)
            return value, self.observe(after, value)
        earlier, numbers = state.last.unbind(1)
        step = numbers - earlier
        none = numbers.new_zeros(len(numbers), 2)
        view = torch.cat([self._view(numbers, step, none[:, :0]), none], -1)
        out, hidden = self.rnn(view.unsqueeze(1), state.hidden)
        raw = self.head(out[:, 0])
        k, d = self.mixture_size, self.targets
        rows = torch.arange(len(raw)) if len(raw) > 1 else 0
        logits = raw[:, :k]
        if choice.pi_temperature != 1.0 or choice.bias:
            logits = logits * ((1.0 + choice.bias) / choice.pi_temperature)
        index = pick(logits, noise.uniform)
        loc = raw[:, k : k + k * d].unflatten(-1, (k, d))[rows, index]
        scale = raw[:, k + k * d : k + 2 * k * d].unflatten(-1, (k, d))[rows, index]
        scale = scale.clamp(-7.0, 7.0).exp() + self.min_scale
        if choice.sigma_temperature != 1.0 or choice.bias:
            scale = scale * (math.sqrt(choice.sigma_temperature) * math.exp(-choice.bias))
        value = (loc + scale * noise.normal) * self.unit
        if self._levels:
            kept = raw[:, self._outputs[0] :][rows, index].unsqueeze(-1)
            value = value + torch.where(self.is_level, numbers + kept * step, self.centre)
        else:
            value = value + self.centre
        if self._positive:
            value = torch.where(self.is_positive, value.clamp_max(60.0).exp(), value)
        return value, State(hidden, torch.stack([numbers, value], 1), state.seen + 1)

    def consume(self, state: State, x: Tensor) -> State:
        """The state after known steps (rows, steps, width), computed in one go."""
        if x.shape[1] == 0:
            return state
        _, hidden = self.predictions(x, state.last, state.seen, state.hidden)
        last = torch.cat([state.last, x], 1)[:, -2:]
        return State(hidden, last, state.seen + x.shape[1])

    # ----- the program --------------------------------------------------------------------------------------------

    def forward(
        self,
        x: Tensor | None = None,
        length: Tensor | None = None,
        last: Tensor | None = None,
        seen: Tensor | None = None,
        place: Tensor | None = None,
        *,
        steps: int | None = None,
        rows: int = 1,
    ) -> Tensor:
        """Run the program.

        With `x` and no `steps`, all steps at once: sites `x` and, in drawings, `pen` under the plates "data" and
        "time". With `steps`, one at a time: `x_0`, `x_1`, ..., of which the first ones are `x`.

        Args:
            x: (rows, given, width), or None.
            length: (rows,), how many steps count; all by default.
            last: as `predictions`, for windows of longer sequences.
            seen: as `predictions`.
            place: unused; the sequence of a window and its number in it.
            steps: run step by step, this far.
            rows: sequences to generate, where `x` is None.

        Returns:
            (rows, steps, width), given or generated.
        """
        if steps is not None or x is None:
            count = rows if x is None else len(x)
            with pyro.plate("data", count, dim=-1):
                return self.unroll(self.start(count), steps if steps is not None else 50, x, length)
        check_steps(x, self.width)
        length = torch.full((len(x),), x.shape[1], dtype=torch.long) if length is None else length
        prediction, _ = self.predictions(x, last, seen)
        valid = cast(torch.BoolTensor, valid_steps(length, x.shape[1]))
        with pyro.plate("data", len(x), dim=-2), pyro.plate("time", x.shape[1], dim=-1), poutine.mask(mask=valid):
            pyro.sample("x", prediction.values, obs=x[..., : self.targets])
            if self.pen_states:
                pyro.sample("pen", prediction.pen_distribution(), obs=x[..., self.targets])
        return x

    def extra_repr(self) -> str:
        """Say what is modelled how."""
        return f"targets={self.targets}, kind={self.kind!r}, levels={self._levels}, grid={self.grid}"
