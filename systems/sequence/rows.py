"""What the columns of sequences are, within which limits they are drawn, with which noise, and until when."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from phlogiston.datasets.base import Meta, Split
from phlogiston.errors import ConfigError, DataError, unknown_name
from phlogiston.inference.svi.sequences import Endings, Windows
from phlogiston.models.generation import Stop
from phlogiston.models.stepwise import valid_steps
from phlogiston.systems.inputs import apart, held_rows
from phlogiston.systems.sequence.config import Config

OFFSETS = ("dt", "dx", "dy", "pen")
LEAST_END = 5
"""Steps that the end of a sequence must have to be worth setting aside."""


def columns_of(config: Config, width: int, meta: Meta | None) -> dict[str, Any]:
    """Names of the columns, and how each is modelled: `columns`, `pen`, `levels`, `positive`.

    Raises:
        DataError: a pen and nothing else.
        UnknownNameError: an option names no column.
    """
    columns = list(meta.columns) if meta is not None and len(meta.columns) == width else []
    columns = columns or [f"x{i}" for i in range(width)]
    pen = columns[-1] == "pen"
    numbers = columns[:-1] if pen else columns
    if not numbers:
        raise DataError("x holds a pen and no numbers")
    for option in ("levels", "positive"):
        for name in getattr(config, option):
            if name not in numbers:
                raise unknown_name(f"column in {option}", name, numbers)
    positive = list(config.positive) or [n for n in numbers if n == "dt"]
    levels = list(config.levels) or ([n for n in numbers if n not in OFFSETS] if config.relative else [])
    levels = [n for n in levels if n not in positive]
    for name in config.mirror:
        if name not in levels:
            raise unknown_name("level in mirror", name, levels)
    return {"columns": columns, "pen": pen, "levels": levels, "positive": positive}


def limits_of(config: Config, schema: dict[str, Any], steps: Tensor) -> list[list[float | None]]:
    """Lowest and highest value of each column of numbers, None where there is none.

    Args:
        config: the configuration.
        schema: see `columns_of`.
        steps: (steps, columns), all of the training data.

    Raises:
        ConfigError: options that do not go with the columns.
    """
    numbers = schema["columns"][:-1] if schema["pen"] else schema["columns"]
    levels, positive = schema["levels"], schema["positive"]
    if config.bounds and not levels:
        raise ConfigError("bounds are for levels; these data have none")
    if config.kind == "bivariate" and len(numbers) != 2:
        raise ConfigError(f"kind 'bivariate' is for two columns of numbers; there are {len(numbers)}")
    if config.dequantise and positive:
        raise ConfigError("dequantise is for offsets; these data have a positive column")
    return [
        [config.min_interval, None]
        if n in positive
        else list(config.bounds) or [float(v.min()), float(v.max())]
        if n in levels
        else [None, None]
        for n, v in zip(numbers, steps.unbind(-1), strict=False)
    ]


class Mirrored(Windows):
    """Windows of sequences and of their mirror images: every one is seen as it is and mirrored in some columns.

    Args:
        x: (rows, steps, width), padded.
        length: (rows,).
        window: steps of a window.
        columns: positions of the columns that are mirrored, each by itself and all together.
        bounds: what they lie between: a value becomes their sum minus itself, on the same lattice.
    """

    def __init__(
        self, x: Tensor, length: Tensor, window: int, columns: Sequence[int], bounds: tuple[float, float]
    ) -> None:
        super().__init__(x, length, window)
        images = 2 ** len(columns)
        self.columns, self.total, self.rows = list(columns), bounds[0] + bounds[1], len(x)
        image = torch.arange(images).repeat_interleave(len(self.place))
        self.place = self.place.repeat(images, 1)
        self.place[:, 0] += self.rows * image
        self.counts, self.sizes = self.counts.repeat(images), length.repeat(images)

    def __getitem__(self, index: Tensor) -> dict[str, Tensor]:
        image, sequence = self.place[index, 0] // self.rows, self.place[index, 0] % self.rows
        batch = self.windows_of(sequence, self.place[index, 1])
        for bit, column in enumerate(self.columns):
            mirrored = (image >> bit) % 2 == 1
            for name in ("x", "last"):
                values = batch[name]
                values[mirrored, :, column] = self.total - values[mirrored, :, column]
        return {**batch, "place": self.place[index]}


class Noisy:
    """Windows whose offsets get uniform noise at every step of training."""

    def __init__(self, windows: Windows | Endings, width: float, targets: int) -> None:
        self.windows, self.width, self.targets = windows, width, targets
        if isinstance(windows, Windows):
            self.arrange = windows.arrange

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: Tensor) -> dict[str, Tensor]:
        batch = self.windows[index]
        x = batch["x"]
        noise = self.width * (torch.rand_like(x[..., : self.targets]) - 0.5)
        inside = valid_steps(batch["length"], x.shape[1]).unsqueeze(-1)
        x = torch.cat([x[..., : self.targets] + torch.where(inside, noise, 0.0), x[..., self.targets :]], -1)
        return {**batch, "x": x}


def clock(column: int, seconds: float, rows: int) -> Stop:
    """Stop a row before the step that would end after so many seconds; rows that ended are no longer passed in."""
    passed = torch.zeros(rows)

    def stop(step: Tensor, value: Tensor) -> Tensor:
        nonlocal passed
        passed = passed + value[:, column]
        over = passed > seconds
        passed = passed[~over]
        return over

    return stop


def parted(rows: Split) -> tuple[Split, Split | None]:
    """Set some rows aside, or of fewer than five the last sixth of each, if that is `LEAST_END` steps.

    Args:
        rows: with `x` (rows, steps, columns) and maybe `length` (rows,).

    Returns:
        What is left for training, and what is set aside; None where nothing can be.
    """
    train, valid = apart(rows, held_rows(len(rows)))
    if valid is not None:
        return train, valid
    x, count = rows.tensors["x"], len(rows)
    length = rows.tensors.get("length", torch.full((count,), x.shape[1]))
    end = length // 6
    if not count or int(end.min()) < LEAST_END:
        return rows, None
    ends = [row[n - e : n] for row, n, e in zip(x, length.tolist(), end.tolist(), strict=True)]
    last = {"x": torch.nn.utils.rnn.pad_sequence(ends, batch_first=True), "length": end}
    begun = length - end
    return (Split({"x": x[:, : int(begun.max())], "length": begun}, rows.sequences), Split(last, rows.sequences))
