"""What systems of sequences share: reading sequences in every accepted form, questions, streams, export."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from phlogiston.arrays import tensor_of
from phlogiston.datasets.base import Dataset, Meta, Split, to_float32
from phlogiston.errors import ConfigError, DataError, ShapeError, unknown_name
from phlogiston.inference.svi.callbacks import KeepBest
from phlogiston.models.generation import Stream, export_step
from phlogiston.models.stepwise import Choice, Stepwise, select
from phlogiston.systems.base import System
from phlogiston.systems.inputs import apart, check_heeded, held_rows, rows_of
from phlogiston.systems.words import in_words

if TYPE_CHECKING:
    from phlogiston.inference.query.answer import Answer

MAX_STEPS = 100_000
METHODS = ("auto", "particle filter")  # of `query`


def is_list(data: Any) -> bool:
    """Say whether data are a list of sequences, (steps, columns) each."""
    if not isinstance(data, Sequence) or isinstance(data, str | bytes) or not len(data):
        return False
    try:
        return bool(np.ndim(data[0]) == 2)
    except ValueError:  # a list whose entries differ: `padded` says so
        return True


def padded(sequences: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """Sequences (steps, columns) of different lengths as one tensor (rows, steps, columns), and their lengths (rows,).

    Raises:
        ShapeError: sequences of different numbers of columns.
    """
    rows = [tensor_of(f"sequence {i}", row) for i, row in enumerate(sequences)]
    for i, row in enumerate(rows):
        if row.ndim != 2 or row.shape[1] != rows[0].shape[1]:
            raise ShapeError(f"sequence {i} has shape {tuple(row.shape)}; expected (steps, {rows[0].shape[1]})")
    to_float32("x", torch.cat(rows))  # padding widens columns
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).float(), torch.tensor([len(row) for row in rows])


class StepwiseSystem(System):
    """A system whose model is a `Stepwise`."""

    HEEDS: ClassVar[tuple[str, ...]] = ("length",)
    model: Any

    @property
    def width(self) -> int:
        """Columns of a step."""
        self._need_fit()
        return len(self.schema["columns"])

    def typical_steps(self) -> int:
        """Steps of a sequence where a question names no number."""
        raise NotImplementedError(f"{type(self).__name__} must define typical_steps()")

    def generating(self) -> dict[str, Any]:
        """The arguments with which `model` generates one row, of two steps: all others have the same sites."""
        return {"steps": 2}

    def accepted(self, data: Any) -> Any:
        """A list of sequences (steps, columns), or one array (rows, steps, columns) of equally long ones."""
        if is_list(data):
            x, length = padded(data)
            return {"x": x, "length": length}
        return {"x": data} if isinstance(data, np.ndarray | Tensor) and data.ndim == 3 else data

    def _coerced(self, data: Any, whole: bool = False) -> tuple[Any, Split | None, Meta | None]:
        """Data taken apart; without validation rows, some of the training rows become them."""
        train, valid, meta = super()._coerced(data, whole)
        x = train.tensors.get("x") if isinstance(train, Split) else None
        if self.config.hold_out and not whole and x is not None and x.ndim == 3 and (valid is None or not len(valid)):
            train, valid = self.set_aside(train)
        return train, valid, meta

    def set_aside(self, rows: Split) -> tuple[Split, Split | None]:
        """Training rows that come without validation rows, parted into both; None where there are too few."""
        return apart(rows, held_rows(len(rows)))

    def callbacks(self) -> list[Any]:
        """The parameters that score the validation rows best are kept."""
        return [KeepBest()]

    def read_rows(self, data: Any) -> Split:
        """Read rows to score: also one sequence, a list of them, or a padded array; see `sequences`."""
        if isinstance(data, Split | Mapping):
            return super().read_rows(data)
        x, length = self.sequences(data)
        return Split({"x": x, "length": length})

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
            check_heeded(self, tensors)
            if "x" not in tensors:
                raise DataError(f"there is no 'x' (rows, steps, {self.width}) in these data; they hold {list(tensors)}")
            x, length = tensors["x"], tensors.get("length", length)
        if is_list(x):
            for i, part in enumerate(x):
                self._check_columns(tensor_of(f"sequence {i}", part), f"sequence {i}")
            x, length = padded(x)
        x = to_float32("x", tensor_of("x", x))
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
        """Keep drawn steps within the limits of the data; what is returned is fed back."""
        return value

    @in_words
    def query(
        self,
        evidence: Any = None,
        ask: Sequence[str] | None = None,
        num_samples: int = 1000,
        *,
        method: str = "auto",
        seed: int | None = None,
        steps: int | None = None,
    ) -> Answer:
        """Sample whole sequences given what is known of them: any steps, any columns, boxes, soft values.

        Particles go through the sequence step by step; known columns of a step condition its mixture exactly, all else
        weighs them, and they are resampled when their weights have become uneven. The site is `x`, its entries
        (steps x columns). Where the end is learned, the pen is 2 at the step that ends the sequence.

        Args:
            evidence: about `x`, each (steps, columns) or flat, or (rows, steps, columns) for as many questions; see
                `inference.query.evidence`.
            ask: `["x"]`.
            num_samples: particles, and samples, of each row.
            method: `"particle filter"`, which is what `"auto"` takes.
            seed: of this call; None draws one from torch's generator.
            steps: length of the sequence; that of the evidence by default.

        Returns:
            The answer; `x` has shape (samples, steps, columns), or (samples, rows, steps, columns).

        Raises:
            EvidenceError: malformed or impossible evidence.
            UnknownNameError: no such method.
        """
        self._need_fit()
        return self._filter(evidence, ask, num_samples, method, seed, steps, self.typical_steps())

    def _filter(
        self,
        evidence: Any,
        ask: Sequence[str] | None,
        num_samples: int,
        method: str,
        seed: int | None,
        steps: int | None,
        typical: int,
        start: Callable[[int], Any] | None = None,
    ) -> Answer:
        from phlogiston.systems.particle_filter import filter_particles

        if method not in METHODS:
            raise unknown_name("query method", method, METHODS)
        columns = self.schema["columns"]
        return filter_particles(self.model, evidence, ask, num_samples, steps, typical, seed, start, columns)

    def stream(self, state: Any = None, *, seed: int = 0, **choice: Any) -> Stream:
        """Draw in real time: `hear` takes in a step that was made elsewhere, `step` draws one, in constant memory.

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

    def export(self, path: str | Path | None = None, *, state: Any = None, **choice: Any) -> Any:
        """Export one step through `torch.export`, to run where this package is not.

        Args:
            path: file to write, `.pt2`; None writes nothing.
            state: its shapes are those the function takes; one row at its beginning by default.
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
        program = export_step(self.model, state, make_choice(**choice))
        if target is not None:
            torch.export.save(program, target)
        return program


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
        model: of the sequences.
        x: (rows, steps, width).
        length: (rows,).
        start: the state before, with as many rows.
    """
    parts: list[Any] = [None] * len(x)
    for size in length.unique().tolist():
        rows = (length == size).nonzero().squeeze(-1)
        after = model.consume(select(start, rows), x[rows, :size])
        for i, row in enumerate(rows.tolist()):
            parts[row] = select(after, torch.tensor([i]))
    return type(start)(*(torch.cat([getattr(p, name) for p in parts]) for name in start._fields))
