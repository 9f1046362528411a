"""Recurrent mixture density networks as a product: sequences of numbers, continued, answered and filled in.

data = phlogiston.datasets.load("tinyperf")
system = SequenceModel(preset="tinyperf").fit(data)
system.sample(8, seconds=5)                performances from nothing
system.complete(start, seconds=5)          ... that go on from given ones
system.respond(performance, seconds=5)     ... that answer given ones
system.stream().step()                     one touch at a time, in real time
system.query({"x": Known(touches, mask)})  what is missing, by a particle filter
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from phlogiston.arrays import at_least
from phlogiston.datasets.base import Meta, Split
from phlogiston.errors import ConfigError, DataError, ShapeError
from phlogiston.evaluate.score import Score
from phlogiston.inference.svi.engine import Stage
from phlogiston.inference.svi.schedules import cosine, warmup
from phlogiston.inference.svi.sequences import Endings, Sequences, Windows
from phlogiston.models.generation import RowNoise, generate
from phlogiston.models.sequence import MDNRNN
from phlogiston.models.stepwise import Prediction, valid_steps
from phlogiston.systems.base import Role
from phlogiston.systems.calls import drawn_seed
from phlogiston.systems.options import from_config
from phlogiston.systems.sequence.config import PRESETS
from phlogiston.systems.sequence.config import Config as SequenceConfig
from phlogiston.systems.sequence.rows import Mirrored, Noisy, clock, columns_of, limits_of, parted
from phlogiston.systems.sequence.training import CarriedLikelihood
from phlogiston.systems.stepwise import StepwiseSystem, consume_rows, make_choice

CHUNK = 64


class SequenceModel(StepwiseSystem):
    """Recurrent mixture density network; options in `systems.sequence.config.Config`.

    Data need `x` (rows, steps, columns), padded, and `length` (rows,). A last column called `pen` holds 0 and 1 and
    becomes a site of its own.

    Example:
        >>> from phlogiston import datasets
        >>> data = datasets.load("script", sizes=(40, 10, 10))
        >>> system = SequenceModel(steps=5, hidden=8).fit(data)
        >>> tuple(system.sample(3, steps=20)["x"].shape)
        (3, 20, 3)
    """

    name: ClassVar[str] = "sequence"
    Config: ClassVar[type] = SequenceConfig
    config: SequenceConfig

    # ----- data ---------------------------------------------------------------------------------------------------

    def set_aside(self, rows: Split) -> tuple[Split, Split | None]:
        """Also of fewer than five sequences the ends; see `parted`."""
        return parted(rows)

    def describe(self, train: Split, meta: Meta | None) -> dict[str, Any]:
        """Columns, how each is modelled, and the limits generated steps are kept within."""
        tensors = train.tensors
        if "x" not in tensors or tensors["x"].ndim != 3:
            raise ShapeError("sequences need a tensor 'x' of shape (rows, steps, columns)")
        if not len(train):
            raise DataError("x has no rows; at least one sequence is needed")
        self.schema = schema = columns_of(self.config, tensors["x"].shape[2], meta)  # sequences() reads it
        x, length = self.sequences(tensors["x"], tensors.get("length"))
        schema["limits"] = limits_of(self.config, schema, x[valid_steps(length, x.shape[1])])
        schema["typical_steps"] = int(length.double().quantile(0.9))
        schema["mean_steps"] = float(length.double().mean())
        return schema

    def sequences(self, x: Any, length: Any = None, **options: Any) -> tuple[Tensor, Tensor]:
        """As `StepwiseSystem.sequences`.

        Raises:
            DataError: also a level outside the bounds of the configuration.
        """
        x, length = super().sequences(x, length, **options)
        if self.config.bounds:
            low, high = self.config.bounds
            for name in self.schema["levels"]:
                column = x[..., self.schema["columns"].index(name)][valid_steps(length, x.shape[1])]
                if not bool(((column >= low) & (column <= high)).all()):
                    raise DataError(
                        f"column {name!r} runs from {float(column.min()):g} to {float(column.max()):g}; the bounds are "
                        f"{low:g} and {high:g}"
                    )
        return x, length

    def prepare(self, split: Split, role: Role = "train") -> Any:
        """Windows of the training sequences; of others the whole, those for validation cut to `valid_length`."""
        x, length = self.sequences(split.tensors["x"], split.tensors.get("length"))
        if role == "score":
            return Sequences({"x": x, "length": length})
        if role == "valid":
            most = self.config.valid_length
            length = length.clamp(max=most)
            order = length.argsort()
            mean_steps = torch.full((len(x),), float(length.double().mean()))
            return Sequences({"x": x[order, :most], "length": length[order], "mean_steps": mean_steps})
        windows: Windows | Endings
        if self.config.mirror:
            columns = [self.schema["columns"].index(name) for name in self.config.mirror]
            low, high = self.config.bounds
            windows = Mirrored(x, length, self.config.window, columns, (low, high))
        else:
            windows = (Endings if self.config.predict == "last" else Windows)(x, length, self.config.window)
        if not self.config.dequantise:
            return windows
        return Noisy(windows, self.config.dequantise, len(self.schema["limits"]))

    # ----- training -----------------------------------------------------------------------------------------------

    def build(self) -> None:
        """The network."""
        c, schema = self.config, self.schema
        numbers = schema["columns"][: len(schema["limits"])]
        kind = c.kind if c.kind != "auto" else "bivariate" if schema["pen"] and len(numbers) == 2 else "diag"
        self.model = from_config(
            MDNRNN,
            c,
            targets=len(numbers),
            pen=schema["pen"],
            levels=[numbers.index(name) for name in schema["levels"]],
            positive=[numbers.index(name) for name in schema["positive"]],
            kind=kind,
            grid=c.grid or None,
            bounds=c.bounds or None,
        )
        self.guide = None

    def initialise(self, train: Any, seed: int) -> None:
        """Standardise from the data; count steps, so that the loss is shown per step."""
        windows = train.windows if isinstance(train, Noisy) else train
        x = windows.x[:, 2:]
        self.model.initialise(x, windows.sizes[: len(x)])  # of mirror images those of the sequences themselves
        self._mean_steps = windows.mean_length if isinstance(windows, Windows) else 1.0

    _mean_steps = 1.0

    def stages(self) -> list[Stage]:
        """Maximum likelihood; gradients stop at the border of a window, the network's state does not."""
        c = self.config
        objective: Callable[..., Any] = partial(
            CarriedLikelihood,
            mean_steps=self._mean_steps,
            tracks=c.batch_size if c.carry and c.predict == "all" else 0,
            last_only=c.predict == "last",
        )
        schedule = {"learning_rate": warmup(c.warmup, cosine(1.0, 0.01), 0.05)}
        return [
            Stage("fit", c.steps, objective, "adam", c.learning_rate, c.batch_size, schedules=schedule, clip=c.clip)
        ]

    # ----- verbs --------------------------------------------------------------------------------------------------

    def constrain(self, value: Tensor) -> Tensor:
        """Keep drawn steps within the limits of the data."""
        columns = []
        for column, (low, high) in zip(value.unbind(-1), self.schema["limits"], strict=False):
            columns.append(column.clamp(low, high) if low is not None or high is not None else column)
        return torch.stack([*columns, *value.unbind(-1)[len(columns) :]], -1)

    def sample(
        self,
        n: int = 1,
        *,
        seed: int | None = None,
        steps: int | None = None,
        seconds: float | None = None,
        pi_temperature: float = 1.0,
        sigma_temperature: float = 1.0,
        pen_temperature: float | None = None,
    ) -> dict[str, Tensor]:
        """Draw sequences from nothing.

        Args:
            n: how many.
            seed: of this call; None draws one from torch's generator. Row i depends on the seed and i alone.
            steps: of each; with `seconds` at most this many. By default the length that nine in ten of the training
                sequences do not exceed.
            seconds: stop when the column `dt` sums to this.
            pi_temperature: divides logits of components; 0 takes the most probable one.
            sigma_temperature: multiplies variances; 0 takes a component's mean.
            pen_temperature: divides the pen's logits; `pi_temperature`, if not given.

        Returns:
            `x` (n, steps, columns), `length` (n,), and `clipped` (n,): the share of a sequence's steps that a limit
            changed by more than half a cell.
        """
        self._need_fit()
        n = at_least("n", n, 1)
        with torch.inference_mode():
            state = self.model.start(n)
        return self._draw(state, n, steps, seconds, seed, (pi_temperature, sigma_temperature, pen_temperature))

    def complete(
        self,
        x: Any,
        length: Any = None,
        *,
        steps: int | None = None,
        seconds: float | None = None,
        pi_temperature: float = 1.0,
        sigma_temperature: float = 1.0,
        pen_temperature: float | None = None,
        seed: int | None = None,
    ) -> dict[str, Tensor]:
        """Go on from given beginnings: what comes next, one continuation per row.

        Args:
            x: beginnings, see `sequences`.
            length: of each.
            steps: as `sample`, of the continuation.
            seconds: as `sample`.
            pi_temperature: as `sample`.
            sigma_temperature: as `sample`.
            pen_temperature: as `sample`.
            seed: as `sample`.

        Returns:
            As `sample`: the continuation alone.
        """
        x, length = self.sequences(x, length)
        with torch.inference_mode():
            state = consume_rows(self.model, x, length, self.model.start(len(x)))
        return self._draw(state, len(x), steps, seconds, seed, (pi_temperature, sigma_temperature, pen_temperature))

    def respond(
        self, performance: Any, *, seconds: float | None = None, steps: int | None = None, **options: Any
    ) -> Any:
        """Answer a performance: take in all of it, then draw one as long, or of the length given.

        Args:
            performance: one or several, see `sequences`.
            seconds: of the answer; those of the performance by default, where there is a column `dt`.
            steps: of the answer, at most.
            **options: as `complete`.
        """
        x, length = self.sequences(performance)
        if seconds is None and steps is None and "dt" in self.schema["columns"]:
            seconds = float(x[..., self.schema["columns"].index("dt")].sum(1).max())
        return self.complete(x, length, seconds=seconds, steps=steps, **options)

    def _draw(
        self,
        state: Any,
        rows: int,
        steps: int | None,
        seconds: float | None,
        seed: int | None,
        temperatures: tuple[float, float, float | None],
    ) -> dict[str, Tensor]:
        stop = None
        if seconds is not None:
            if "dt" not in self.schema["columns"]:
                raise ConfigError("seconds needs a column 'dt'; these data have none. Give steps instead")
            if not seconds > 0:
                raise ConfigError(f"seconds is {seconds}; it must be positive")
            stop = clock(self.schema["columns"].index("dt"), seconds, rows)
            steps = steps or min(20_000, max(50, round(1000 * seconds)))
        steps = steps or self.schema["typical_steps"]
        seed = drawn_seed(seed)
        self.model.eval()
        choice = make_choice(*temperatures)
        noise, half = RowNoise(self.model, rows, seed), 0.5 * self.config.grid
        drawn = generate(self.model, state, steps, noise, choice, self.constrain, stop, half)
        return {"x": drawn.x, "length": drawn.length, "clipped": drawn.clipped}

    def predictive(self, x: Any, length: Any = None) -> Prediction:
        """The distribution of every step given the steps before it: batch (rows, steps)."""
        x, length = self.sequences(x, length)
        with torch.inference_mode():
            prediction, _ = self.model.predictions(x)
        return prediction

    def log_prob(self, data: Any, *, length: Any = None, seed: int = 0, num_particles: int = 1) -> Score:
        """Log probability of whole sequences (of cells, with `grid`; else density), exact, in nats per sequence.

        Args:
            data: see `sequences`.
            length: (rows,), where `data` is a padded array.
            seed: unused, as is `num_particles`: nothing is drawn.
            num_particles: see `seed`.
        """
        return Score(torch.cat([v.sum(-1) for v, _ in self.score_steps(*self.sequences(data, length))]), "exact")

    def score_steps(self, x: Tensor, length: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Log probability of every step, 0 behind the end, and of every column by itself; sequences in chunks.

        Args:
            x: (rows, steps, width); see `sequences`.
            length: (rows,).

        Returns:
            For every chunk (rows, steps) and (rows, steps, targets).
        """
        self.model.eval()
        chunks = []
        with torch.no_grad():
            for part, size in zip(x.split(CHUNK), length.split(CHUNK), strict=True):
                cut = part[:, : int(size.max())]
                prediction, _ = self.model.predictions(cut)
                valid = valid_steps(size, cut.shape[1])
                numbers = cut[..., : self.model.targets]
                parts = torch.where(valid.unsqueeze(-1), prediction.values.log_parts(numbers), 0.0)
                chunks.append((torch.where(valid, prediction.log_prob(cut), 0.0), parts))
        return chunks

    def typical_steps(self) -> int:
        """The length that nine in ten of the training sequences do not exceed."""
        return int(self.schema["typical_steps"])

    @classmethod
    def demo(cls, quick: bool = False) -> list[dict[str, Any]]:
        """Touch-screen music; and pen strokes of the built-in script, predicted point by point."""
        music = {
            "title": "Music on a touch screen, played and answered",
            "text": "A recurrent network has seen performances of one finger: drumming, melodies, swipes, circles and "
            "waves. It predicts where the next touch falls and when, as a mixture; it plays on its own, and answers "
            "what it has heard.",
            "data": "touches",
            "trained": "sequence/touch",
            "data_options": {},
            "options": {**PRESETS["touches"], "steps": 600},
        }
        if quick:
            return [music]  # strokes of the script are scribbles until it has learned for a minute or more
        return [
            music,
            {
                "title": "What comes next: pen strokes, point by point",
                "text": "A recurrent network has seen lines of handwriting, and not what they say. It predicts "
                "the next pen movement as a mixture, draws one, and goes on from there.",
                "data": "script",
                "data_options": {"sizes": (600, 60, 60)},
                "options": {**PRESETS["default"], "carry": False, "window": 80, "steps": 1000},
            },
        ]
