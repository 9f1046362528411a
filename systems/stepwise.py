"""What systems of sequences share: sequences in whatever form a user has them, and the verbs that draw and stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from phlogiston.datasets.base import Dataset, Split
from phlogiston.errors import ConfigError, DataError, ShapeError
from phlogiston.models.generation import Stream, export_step
from phlogiston.models.stepwise import Choice, Stepwise, select
from phlogiston.systems.base import System, rows_of

MAX_STEPS = 100_000


class StepwiseSystem(System):
    """A system whose model is a `Stepwise`."""

    model: Any

    @property
    def width(self) -> int:
        """Columns of a step."""
        self._need_fit()
        return len(self.schema["columns"])

    def sequences(self, x: Any, length: Any = None, *, most: int = MAX_STEPS) -> tuple[Tensor, Tensor]:
        """Take sequences in any form: (rows, steps, width) and (rows,).

        Args:
            x: one sequence (steps, width), a list of such, a padded tensor (rows, steps, width) with `length`, or a
                dataset (its test rows, else validation rows), split or dict with `x` and `length`.
            length: (rows,), steps that count.
            most: longest sequence accepted.

        Raises:
            ShapeError: another number of columns.
            DataError: an empty or overlong sequence, a number that is not finite, a pen that is neither 0 nor 1.
        """
        self._need_fit()
        if isinstance(x, Dataset | Split | Mapping):
            tensors = rows_of(x)
            if "length" in tensors:
                x, length = tensors["x"], tensors["length"]
            else:
                x = tensors["x"]
        if isinstance(x, Sequence) and not isinstance(x, str) and len(x) and np.ndim(x[0]) == 2:
            rows = [torch.as_tensor(np.asarray(row, dtype=np.float32)) for row in x]
            length = torch.tensor([len(row) for row in rows])
            for i, part in enumerate(rows):
                self._check_columns(part, f"sequence {i}")
            x = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        x = torch.as_tensor(np.asarray(x, dtype=np.float32)) if not isinstance(x, Tensor) else x.float()
        if x.dim() == 2:
            x = x.unsqueeze(0)
        if x.dim() != 3:
            raise ShapeError(f"x has shape {tuple(x.shape)}; expected (rows, steps, {self.width})")
        self._check_columns(x, "x")
        length = torch.full((len(x),), x.shape[1]) if length is None else torch.as_tensor(length).long()
        if length.shape != (len(x),):
            raise ShapeError(f"length has shape {tuple(length.shape)}; expected ({len(x)},)")
        if not len(x) or int(length.min()) < 1:
            first = int((length < 1).nonzero()[0]) if len(x) else 0
            raise DataError(f"sequence {first} is empty: there must be at least one step")
        if int(length.max()) > x.shape[1]:
            raise DataError(f"length {int(length.max())} goes beyond the {x.shape[1]} steps of x")
        if int(length.max()) > most:
            raise DataError(
                f"sequence {int(length.argmax())} has {int(length.max()):,} steps; at most {most:,} are taken"
            )
        x = x[:, : int(length.max())]
        valid = torch.arange(x.shape[1]) < length.unsqueeze(1)
        if not bool(torch.isfinite(x[valid]).all()):
            raise DataError("x holds a number that is not finite")
        if self.schema.get("pen") and not bool(torch.isin(x[valid][:, -1], torch.tensor([0.0, 1.0])).all()):
            raise DataError("the pen's column holds a number that is neither 0 nor 1")
        return torch.where(valid.unsqueeze(-1), x, 0.0), length

    def _check_columns(self, x: Tensor, what: str) -> None:
        if x.shape[-1] != self.width:
            names = ", ".join(self.schema["columns"])
            raise ShapeError(f"{what} has {x.shape[-1]} columns; this model takes {self.width}: {names}")

    def constrain(self, value: Tensor) -> Tensor:
        """Keep drawn steps where data can be; feed them back so."""
        return value

    def stream(self, state: Any = None, *, seed: int = 0, **choice: float) -> Stream:
        """Play along in real time: `hear` what somebody does, `step` to answer, in constant memory.

        Args:
            state: to begin from; the beginning by default.
            seed: of the noise.
            **choice: `pi_temperature`, `sigma_temperature`, `pen_temperature`, `bias`.
        """
        self._need_fit()
        self.model.eval()
        with torch.inference_mode():
            state = self.model.start(1) if state is None else state
        return Stream(self.model, state, seed, make_choice(**choice), self.constrain)

    def export(self, path: str | Path | None = None, *, state: Any = None, **choice: float) -> Any:
        """Export one step through `torch.export`, to run where this package is not.

        Args:
            path: file to write, `.pt2`; None writes nothing.
            state: whose shapes the function takes; one row at its beginning by default.
            **choice: as `stream`; fixed in the exported function.

        Returns:
            The `ExportedProgram`; see `models.generation.export_step` for what goes in and comes out.

        Raises:
            ConfigError: a file that exists.
        """
        self._need_fit()
        target = None if path is None else Path(path)
        if target is not None and target.exists():
            raise ConfigError(f"{str(target)!r} exists already; choose another name, nothing was written")
        state = self.model.start(1) if state is None else state
        found = export_step(self.model, state, make_choice(**choice))
        if target is not None:
            torch.export.save(found, target)
        return found


def make_choice(
    pi_temperature: float = 1.0,
    sigma_temperature: float = 1.0,
    pen_temperature: float | None = None,
    bias: float = 0.0,
    temperature: float | None = None,
) -> Choice:
    """Check and collect what sharpens draws.

    Args:
        pi_temperature: divides logits of components.
        sigma_temperature: multiplies variances.
        pen_temperature: divides logits of the pen; that of the components, if not given.
        bias: of Graves.
        temperature: sketch-rnn's single one; stands for all three.

    Raises:
        ConfigError: a negative number.
    """
    if temperature is not None:
        pi_temperature = sigma_temperature = pen_temperature = temperature
    pen = pi_temperature if pen_temperature is None else pen_temperature
    for name, value in (
        ("pi_temperature", pi_temperature),
        ("sigma_temperature", sigma_temperature),
        ("pen_temperature", pen),
        ("bias", bias),
    ):
        if not value >= 0:
            raise ConfigError(f"{name} is {value}; it must not be negative")
    return Choice(float(pi_temperature), float(sigma_temperature), float(pen), float(bias))


def consume_rows(model: Stepwise, x: Tensor, length: Tensor, start: Any) -> Any:
    """The state after known sequences of different lengths.

    Args:
        model: with a `consume`.
        x: (rows, steps, width).
        length: (rows,).
        start: the state before, with as many rows.
    """
    parts: list[Any] = [None] * len(x)
    for size in length.unique().tolist():
        rows = (length == size).nonzero().squeeze(-1)
        after = model.consume(select(start, rows), x[rows, :size])  # type: ignore[operator]
        for place, row in enumerate(rows.tolist()):
            parts[row] = select(after, torch.tensor([place]))
    return type(start)(*(torch.cat([getattr(p, name) for p in parts]) for name in start._fields))
