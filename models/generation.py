"""Drawing sequences from a stepwise model: whole batches, or one step after the other without end.

Every row draws from a noise stream of its own, so that a row is the same whether it is drawn alone or among others.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from phlogiston.arrays import tensor_of
from phlogiston.errors import ConfigError
from phlogiston.models.stepwise import PLAIN, Choice, Noise, Prediction, Stepwise, rows_of, select

_BLOCK = 32  # steps of noise drawn at a time
Constrain = Callable[[Tensor], Tensor]
Stop = Callable[[Tensor, Tensor], Tensor]
Unfinished = Callable[[Any], Tensor]


def row_seed(seed: int, row: int) -> int:
    """A seed for one row's noise that depends on both numbers."""
    digest = hashlib.blake2b(repr((seed, row)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") & (2**63 - 1)


class RowNoise:
    """Noise for steps, a stream per row.

    Args:
        model: whose steps need it.
        rows: how many rows, or their numbers.
        seed: of all of them.
    """

    def __init__(self, model: Stepwise, rows: int | list[int], seed: int) -> None:
        numbers = list(range(rows)) if isinstance(rows, int) else rows
        self.generators = [torch.Generator().manual_seed(row_seed(seed, row)) for row in numbers]
        self.sizes = (model.num_components, model.targets, max(1, model.pen_states))
        self._left: list[Noise] = []

    def step(self) -> Noise:
        """The noise of the next step: (rows, ...)."""
        if not self._left:
            k, d, s = self.sizes
            uniform = torch.stack([torch.rand(_BLOCK, k + s, generator=g) for g in self.generators], 1)
            normal = torch.stack([torch.randn(_BLOCK, d, generator=g) for g in self.generators], 1)
            self._left = [Noise(u[:, :k], n, u[:, k:]) for u, n in zip(uniform, normal, strict=True)][::-1]
        return self._left.pop()

    def keep(self, index: Tensor) -> None:
        """Go on with some of the rows only."""
        self.generators = [self.generators[i] for i in index.tolist()]
        self._left = [select(noise, index) for noise in self._left]


class Generated(NamedTuple):
    """Drawn sequences.

    Attributes:
        x: (rows, steps, width), zeros after the end of a row.
        length: (rows,), steps that count; an end that is a step of its own is not counted.
        clipped: (rows,), share of a row's steps that a constraint changed.
        state: the state after the last step of every row, to go on from; None if rows ended at different times.
    """

    x: Tensor
    length: Tensor
    clipped: Tensor
    state: Any


@torch.inference_mode()
def generate(
    model: Stepwise,
    state: Any,
    steps: int,
    noise: RowNoise,
    choice: Choice = PLAIN,
    constrain: Constrain | None = None,
    stop: Stop | None = None,
    tolerance: float = 0.0,
    unfinished: Unfinished | None = None,
) -> Generated:
    """Draw steps until every row has ended.

    Args:
        model: whose steps.
        state: to begin from, with a row per sequence.
        steps: at most this many.
        noise: as many rows.
        choice: temperatures and bias.
        constrain: applied to every drawn step before it is fed back: (rows, width) -> (rows, width).
        stop: called with the number of the step () and the step (rows, width); rows where it is True end *before* this
            step. Rows whose pen says so (state 2) end of their own accord.
        tolerance: changes by a constraint of no more than this do not count as clipped: half a cell, where steps are
            known no better than to a cell.
        unfinished: called with the state a step is predicted from; the pen of rows where it is True does not end yet.

    Raises:
        ConfigError: no steps.
    """
    if steps < 1:
        raise ConfigError(f"steps is {steps}; at least 1 is needed")
    rows = rows_of(state)
    ends = model.pen_states == 3
    x = torch.zeros(rows, steps, model.width)
    length = torch.full((rows,), steps, dtype=torch.long)
    live = torch.arange(rows)  # rows that have not ended: computing stops for the others
    clipped = torch.zeros(rows)
    for t in range(steps):
        prediction, state = model.predict(state)
        if unfinished is not None:
            prediction = _not_yet(prediction, unfinished(state))
        value = prediction.draw(noise.step(), choice)
        over = value[:, -1] > 1.5 if ends else torch.zeros(len(value), dtype=torch.bool)
        changed = torch.zeros_like(over)
        if constrain is not None:
            allowed = constrain(value)
            changed = ((allowed - value).abs() > tolerance).any(-1)
            value = allowed
        if stop is not None:
            over = over | stop(torch.tensor(t), value)
        clipped[live] += (changed & ~over).float()
        if bool(over.any()):
            length[live[over]] = t
            keep = (~over).nonzero().squeeze(-1)
            live, value, state = live[keep], value[keep], select(state, keep)
            noise.keep(keep)
            if not len(live):
                break
        x[live, t] = value
        state = model.observe(state, value)
    longest = int(length.max())
    clipped = clipped / length.clamp_min(1)
    return Generated(x[:, :longest].clone(), length, clipped, state if len(live) == rows else None)


def _not_yet(prediction: Prediction, rows: Tensor) -> Prediction:
    """The same distribution without the end, in some of the rows."""
    assert prediction.pen is not None
    ends = torch.arange(prediction.pen.shape[-1]) == 2
    return replace(prediction, pen=prediction.pen.masked_fill(rows.unsqueeze(-1) & ends, -math.inf))


class Stream:
    """A model in real time: take in steps, answer with steps, one at a time, in constant memory.

    Args:
        model: whose steps.
        state: to begin from, one row.
        seed: of the noise.
        choice: temperatures and bias.
        constrain: see `generate`.
    """

    def __init__(
        self, model: Stepwise, state: Any, seed: int = 0, choice: Choice = PLAIN, constrain: Constrain | None = None
    ) -> None:
        self.model, self.state, self.choice, self.constrain = model, state, choice, constrain
        self.noise = RowNoise(model, rows_of(state), seed)
        self.steps = 0  # since this stream began; a model's shortcut needs two to have gone by
        self._turn = getattr(model, "turn", None)

    @torch.inference_mode()
    def hear(self, value: Any) -> None:
        """Take in a step that was made elsewhere: (width,)."""
        seen = tensor_of("value", value).to(torch.get_default_dtype()).reshape(-1, self.model.width)
        _, state = self.model.predict(self.state)
        self.state = self.model.observe(state, seen)
        self.steps += 1

    @torch.inference_mode()
    def step(self) -> Tensor:
        """Draw the next step, feed it back and return it: (width,), or (rows, width)."""
        if self.constrain is None and self._turn is not None:
            value, self.state = self._turn(self.state, self.steps, self.noise.step(), self.choice)
        else:
            prediction, state = self.model.predict(self.state)
            value = prediction.draw(self.noise.step(), self.choice)
            if self.constrain is not None:
                value = self.constrain(value)
            self.state = self.model.observe(state, value)
        self.steps += 1
        return value[0] if len(value) == 1 else value

    @torch.inference_mode()
    def filter(self, value: Any) -> tuple[Any, float]:
        """Take in a step; return the prediction of it and its log probability."""
        seen = tensor_of("value", value).to(torch.get_default_dtype()).reshape(-1, self.model.width)
        prediction, state = self.model.predict(self.state)
        score = float(prediction.log_prob(seen).sum())
        self.state = self.model.observe(state, seen)
        self.steps += 1
        return prediction, score


def export_step(model: Stepwise, state: Any, choice: Choice = PLAIN) -> Any:
    """Export one step through `torch.export`: an `ExportedProgram` that runs without this package.

    It takes `(uniform, normal, pen, state)`, noise as in `models.stepwise.Noise` and the state as a tuple of tensors,
    and returns `(value, state)`.

    Args:
        model: whose step.
        state: any state of it; its shapes are those the function takes.
        choice: temperatures and bias.
    """
    rows = rows_of(state)
    example = (
        torch.rand(rows, model.num_components),
        torch.randn(rows, model.targets),
        torch.rand(rows, max(1, model.pen_states)),
        tuple(part.detach() for part in state),
    )
    wrapped = _Step(model, type(state), choice)
    training = model.training
    try:
        with warnings.catch_warnings():  # torch warns of aliases that its own LSTM keeps of its weights
            warnings.filterwarnings("ignore", ".*were assigned during export", UserWarning)
            return torch.export.export(wrapped.eval(), example)
    finally:
        model.train(training)


class _Step(torch.nn.Module):
    """One step with the state as a plain tuple, the form that an exported function takes."""

    def __init__(self, model: Stepwise, kind: Any, choice: Choice) -> None:
        super().__init__()
        self.model, self.kind, self.choice = model, kind, choice

    def forward(
        self, uniform: Tensor, normal: Tensor, pen: Tensor, state: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Draw one step."""
        prediction, after = self.model.predict(self.kind(*state))
        value = prediction.draw(Noise(uniform, normal, pen), self.choice)
        return value, tuple(self.model.observe(after, value))
