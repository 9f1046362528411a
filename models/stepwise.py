"""What models of sequences share: the distribution of one step, and the program that runs step by step.

A model of sequences can be run in two ways. *Teacher-forced*: the sequence is known, so all steps are computed at once.
*Free-running*: every step is predicted from a state, drawn (or observed), and fed back. Both are the same model; the
second needs no more than `start`, `predict` and `observe`, which is also all that generation, filtering, streaming and
export use.

    state = model.start(rows)
    prediction, state = model.predict(state)       distribution of the next step
    state = model.observe(state, value)            the step was `value`, drawn or seen
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn

from phlogiston.distributions.mixtures.noise import pick
from phlogiston.distributions.warped import Warped
from phlogiston.errors import ShapeError


class Noise(NamedTuple):
    """The noise of one step: what is drawn depends on nothing else.

    Attributes:
        uniform: (rows, K), chooses the component.
        normal: (rows, D), places the value.
        pen: (rows, states), chooses the pen's state; unused where there is no pen.
    """

    uniform: Tensor
    normal: Tensor
    pen: Tensor


@dataclass(frozen=True)
class Choice:
    """How draws are sharpened.

    Attributes:
        pi_temperature: logits of components are divided by it.
        sigma_temperature: variances are multiplied by it.
        pen_temperature: logits of the pen are divided by it.
        bias: of Graves (2013), sharpens components and their widths.
    """

    pi_temperature: float = 1.0
    sigma_temperature: float = 1.0
    pen_temperature: float = 1.0
    bias: float = 0.0


PLAIN = Choice()


@dataclass(frozen=True)
class Prediction:
    """The distribution of one step: numbers from a mixture and, in drawings, the state of the pen.

    Attributes:
        values: distribution of the numbers, event (D,).
        pen: logits of the pen's states (..., S), or None. Two states are 0 (down) and 1 (lifted after this point); a
            third, 2, ends the drawing: then there is no point, and the numbers mean nothing.
    """

    values: Warped
    pen: Tensor | None = None

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density of a step, (..., D) or with the pen's state (..., D + 1): (...), in nats."""
        if self.pen is None:
            return self.values.log_prob(value)
        state = value[..., -1].expand(self.pen.shape[:-1])
        pen = self.pen.log_softmax(-1).gather(-1, state.long().unsqueeze(-1)).squeeze(-1)
        inside = self.values.log_prob(value[..., :-1])
        return pen + (torch.where(state < 1.5, inside, 0.0) if self.pen.shape[-1] == 3 else inside)

    def draw(self, noise: Noise, choice: Choice = PLAIN) -> Tensor:
        """Draw a step: (..., D) or (..., D + 1)."""
        numbers = self.values.place(
            noise.uniform, noise.normal, choice.pi_temperature, choice.sigma_temperature, choice.bias
        )
        if self.pen is None:
            return numbers
        logits = self.pen
        if choice.pen_temperature != 1.0:
            logits = logits / max(choice.pen_temperature, 1e-6)
        state = pick(logits, noise.pen)
        if logits.shape[-1] == 3:
            numbers = torch.where((state == 2).unsqueeze(-1), 0.0, numbers)
        return torch.cat([numbers, state.to(numbers.dtype).unsqueeze(-1)], -1)

    def pen_distribution(self) -> Any:
        """The pen's distribution as Pyro takes it."""
        assert self.pen is not None
        return dist.Categorical(logits=self.pen, validate_args=False)


class Stepwise(nn.Module):
    """A model of sequences that can be taken one step at a time.

    Attributes:
        targets: D, numbers per step.
        pen_states: states of the pen: 0 where there is none.
        num_components: K.
    """

    targets: int
    pen_states: int
    num_components: int

    @property
    def width(self) -> int:
        """Columns of a step: numbers, and the pen's state."""
        return self.targets + (1 if self.pen_states else 0)

    @abstractmethod
    def start(self, rows: int) -> Any:
        """The state before the first step, for so many sequences."""

    @abstractmethod
    def predict(self, state: Any) -> tuple[Prediction, Any]:
        """The distribution of the next step, and the state that goes with it."""

    @abstractmethod
    def observe(self, state: Any, value: Tensor) -> Any:
        """The state after the step was `value`, (rows, width)."""

    def consume(self, state: Any, x: Tensor) -> Any:
        """The state after known steps (rows, steps, width)."""
        for value in x.unbind(1):
            _, state = self.predict(state)
            state = self.observe(state, value)
        return state

    def unroll(self, state: Any, steps: int, x: Tensor | None = None, length: Tensor | None = None) -> Tensor:
        """Run the program step by step; called inside the plate "data", whose dim is -1.

        Args:
            state: to begin from, with a row per sequence.
            steps: how many.
            x: (rows, given, width), the first steps as observations; None draws all.
            length: (rows,), steps from there on count for nothing; None for all steps.

        Returns:
            (rows, steps, width). Sites are `x_0`, `x_1`, ... and, with a pen, `pen_0`, `pen_1`, ...
        """
        given = 0 if x is None else x.shape[1]
        out = []
        rows = rows_of(state)
        ended = torch.zeros(rows, dtype=torch.bool)
        for t in pyro.markov(range(steps)):
            prediction, state = self.predict(state)
            seen = x[:, t] if x is not None and t < given else None
            counts = ~ended if length is None else (t < length)
            with poutine.mask(mask=cast(torch.BoolTensor, counts)):
                if self.pen_states:
                    pen_seen = None if seen is None else seen[:, -1]
                    pen = pyro.sample(f"pen_{t}", prediction.pen_distribution(), obs=pen_seen)
                    draws = pen < 1.5 if self.pen_states == 3 else torch.ones_like(counts)
                    with poutine.mask(mask=cast(torch.BoolTensor, draws)):
                        numbers = pyro.sample(f"x_{t}", prediction.values, obs=None if seen is None else seen[:, :-1])
                    numbers = torch.where(draws.unsqueeze(-1), numbers, 0.0)
                    value = torch.cat([numbers, pen.to(numbers.dtype).unsqueeze(-1)], -1)
                else:
                    value = pyro.sample(f"x_{t}", prediction.values, obs=seen)
            if self.pen_states == 3:
                value = torch.where(ended.unsqueeze(-1), value.new_tensor([0.0] * self.targets + [2.0]), value)
                ended = ended | (value[:, -1] > 1.5)
            state = self.observe(state, value)
            out.append(value)
        return torch.stack(out, 1)


def rows_of(state: Any) -> int:
    """How many sequences a state is about."""
    return len(state[0])


def select(state: Any, index: Tensor) -> Any:
    """The state of some of the rows, in another order or repeated: any NamedTuple of tensors with a row axis first."""
    return type(state)(*(part[index] for part in state))


def merge(keep: Tensor, new: Any, old: Any) -> Any:
    """Take `new` for rows where `keep` is True, else `old`."""
    pairs = zip(new, old, strict=True)
    return type(new)(*(torch.where(keep.reshape(-1, *[1] * (a.dim() - 1)), a, b) for a, b in pairs))


def valid_steps(length: Tensor, steps: int) -> Tensor:
    """Which steps count: (rows,) -> bool (rows, steps)."""
    return torch.arange(steps, device=length.device) < length.unsqueeze(-1)


def check_steps(x: Tensor, width: int) -> None:
    """Refuse sequences of another shape than the model's.

    Raises:
        ShapeError: another number of axes or columns.
    """
    if x.dim() != 3 or x.shape[2] != width:
        raise ShapeError(f"x has shape {tuple(x.shape)}; this model takes (rows, steps, {width})")
