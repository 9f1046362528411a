"""One step: the loss of this step's rows and its gradient, on one process or several, with the step's own noise."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro.infer import ELBO
from torch import Tensor, nn

from phlogiston.errors import ConfigError, PhlogistonError
from phlogiston.inference.svi import objectives
from phlogiston.inference.svi.batches import Ahead, Order, mix, prepare
from phlogiston.inference.svi.pair import per_row, sites, validity
from phlogiston.inference.svi.pair.gradients import Received
from phlogiston.inference.svi.parallel import Processes
from phlogiston.inference.svi.policy import first_bad_gradient, first_bad_site
from phlogiston.inference.svi.processes.exchange import Bucketed, Flat
from phlogiston.inference.svi.stages import Active, Stage, named_parameters

_NUMBERS = 6  # of a step, that go round with the gradients: loss, failures, rows, three flags
_START, _VALIDATION = -1, -2  # where a step number stands in a seed, for noise that belongs to no step


@dataclass
class Outcome:
    """The result of computing one step's gradient; the same on every process.

    Attributes:
        loss: nats per data point.
        norm: norm of the whole gradient.
        rows: size of the whole batch.
        finite: True if loss and gradient are.
        stop: True if some process is to end training.
        signal: the signal some process got, or None.
    """

    loss: float
    norm: float
    rows: int
    finite: bool
    stop: bool
    signal: int | None


class Stepper:
    """Computes gradients for one pair of modules.

    Args:
        model: the generative program.
        guide: the inference program.
        data: training rows.
        seed: seed of the run.
        processes: the processes it runs on.
        others: whether rows that are not in `data` will be validated on.

    Attributes:
        active: the stage at work.
        received: which of its parameters have got a gradient.
        latents: names of the model's latent sites.
    """

    active: Active
    received: Received
    latents: list[str]

    def __init__(
        self, model: nn.Module, guide: nn.Module, data: Any, seed: int, processes: Processes, others: bool = False
    ) -> None:
        self.others = others
        self.model = model
        self.guide = guide
        self.data = data
        self.seed = seed
        self.processes = processes
        self._cuda = processes.device is not None and processes.device.type == "cuda"
        self._ahead = Ahead(processes.device) if self._cuda and processes.device is not None else None
        self._expect = getattr(data, "expect", None)
        self._batch: dict[str, Tensor] = {}
        self._noise: tuple[int, ...] = ()

    def begin(self, stage: Stage, index: int, start: int) -> None:
        """Make `stage` the current one: inspect the pair's sites, choose parameters, make the optimiser."""
        processes = self.processes
        arrange = getattr(self.data, "arrange", None)
        self._order = Order(len(self.data), stage.batch_size, self.seed, index, processes.rank, processes.size, arrange)
        self._reseed(_START, index)  # parameters made at the first call come out alike on every process
        pair = stage.pair(self.model, self.guide)
        densities = isinstance(stage.objective, str | ELBO)  # what a callable makes of the programs is its own affair
        self._numbered = per_row.asks(*pair)
        result = self._look(stage, pair, densities)
        self.latents = [site.name for site in result if site.program == "model" and not site.observed]
        self._stored = len(pyro.get_param_store())
        if densities:
            sites.check_plate(result)
        self._sites = result
        self.active = Active(stage, index, start, self.model, self.guide, result, processes.device)
        self.parameters = list(self.active.parameters.values())
        self._exchange: Bucketed | Flat | None = None
        if processes.size > 1:
            flat = self.active.bound.own_backward
            named = self.active.parameters
            self._exchange = Flat(self.parameters, _NUMBERS) if flat else Bucketed(named, _NUMBERS)
        self.received = Received(f"stage {stage.name!r}", self.active.parameters, self._order.per_epoch)
        self._validating = True
        if arrange is None:
            with self._precision():
                per_row.check(
                    f"stage {stage.name!r}",
                    self.active.programs,
                    self.active.parameters,
                    lambda index: self._rows(index, stage),
                    -(-self._order.batch_size // processes.size),
                    len(self.data),
                    self.others,
                    [site.name for site in result if site.program == "model" and site.local and not site.observed],
                )

    def _look(self, stage: Stage, pair: tuple[nn.Module, nn.Module], shapes: bool) -> list[sites.Site]:
        """Run a pair on the first rows and list its sites."""
        size, total = self._order.batch_size, len(self.data)
        if self._numbered and self.others:
            raise ConfigError(
                f"stage {stage.name!r}: the programs look things up by the number of a training row "
                f"({sites.ROW_INDEX}); the rows of valid=... have no such number. Leave valid out."
            )
        batch = self._rows(torch.arange(size), stage)
        try:
            with self._precision():
                result = sites.inspect(*pair, batch, (self.model, self.guide), shapes=shapes)
                if shapes and objectives.runs_particles_at_once(stage.objective):
                    sites.check_particles(*pair, batch, max((site.depth for site in result), default=0))
                return result
        except (ValueError, RuntimeError) as error:
            named = named_parameters({"model": self.model, "guide": self.guide})
            text = per_row.explain(error, named, size, total)
            if isinstance(error, PhlogistonError) or text is None:
                raise
            raise ConfigError(f"stage {stage.name!r}: {text}") from error

    def foresee(self, later: Sequence[Stage]) -> None:
        """Refuse a recipe with a later stage whose objective is not valid for the pair, before its first step.

        Stages that run programs of their own are inspected when they begin.
        """
        if self.active.stage.programs is None:
            for stage in later:
                if stage.programs is None:
                    validity.check(stage.objective, self._sites, f"stage {stage.name!r}")

    def _reseed(self, *numbers: int) -> None:
        seed = mix(self.seed, *numbers)
        torch.default_generator.manual_seed(seed)
        if self._cuda:
            torch.cuda.manual_seed(seed)

    def _read(self, index: Tensor, stage: Stage, rows: Any) -> dict[str, Tensor]:
        names = getattr(rows, "sequences", ())
        return prepare(rows[index], self.processes.device, self.processes.dtype, names, stage.sequence_length)

    def _rows(self, index: Tensor, stage: Stage, rows: Any = None, step: int | None = None) -> dict[str, Tensor]:
        """Return the rows `index`, of the training data unless `rows` are given; `step` may have them fetched ahead."""
        rows = self.data if rows is None else rows
        batch = None if self._ahead is None or step is None else self._ahead.take((self.active.index, *self._noise))
        if batch is None:
            batch = self._read(index, stage, rows)
        if stage.transform is not None:
            more = (rows,) if getattr(stage.transform, "takes_rows", False) else ()
            batch = stage.transform(batch, *more)
        if self._numbered and sites.ROW_INDEX not in batch:
            batch = {**batch, sites.ROW_INDEX: index.to(self.processes.device)}
        return batch

    def _precision(self) -> Any:
        fabric = self.processes.fabric
        return contextlib.nullcontext() if fabric is None else fabric.autocast()

    @contextlib.contextmanager
    def _in_force(self) -> Iterator[None]:
        with self._precision(), self.active.entered():
            yield

    def _loss(self, batch: dict[str, Tensor]) -> Any:
        """Return the loss summed over the batch, with handlers, precision and (at first) validation in force."""
        if self._validating:
            with pyro.validation_enabled(True), self._in_force():
                return self.active.bound.module(**batch)
        if self.active.handlers or self.processes.fabric is not None:
            with self._in_force():
                return self.active.bound.module(**batch)
        return self.active.bound.module(**batch)

    def _compute(self, rows: int) -> tuple[Any, bool]:
        """Compute the loss summed over this process's rows; say whether that failed on non-finite numbers."""
        if not rows:
            return 0.0, False
        if self.active.per_datum is not None:
            self.active.per_datum.weight = rows / len(self.data)
        try:
            return self._loss(self._batch), False
        except (ValueError, RuntimeError) as error:
            # Distributions refuse NaN parameters, sampling may too: that is a non-finite step, anything else an error.
            if isinstance(error, PhlogistonError) or self.first_bad() is None:
                raise
            return float("nan"), True

    def _alone(self, rows: int) -> tuple[Any, bool]:
        """Compute loss and gradients on one process, per datum; say whether that failed on non-finite numbers."""
        loss, failed = self._compute(rows)
        if self.active.bound.own_backward:
            grads = [p.grad for p in self.parameters if p.grad is not None]
            if rows != 1 and grads:
                torch._foreach_div_(grads, rows)
            return loss / rows, failed
        if not getattr(loss, "requires_grad", False):  # nothing to learn from these rows; see `Received`
            return loss / rows, failed
        loss = loss / rows
        try:
            loss.backward()  # given a gradient, torch would load a library for symbolic mathematics to check its shape
        except (ValueError, RuntimeError):
            if self.first_bad() is None:
                raise
            return float("nan"), True
        return loss.detach(), failed

    def gradients(self, step: int, rollbacks: int, stop: bool, number: int | None) -> Outcome:
        """Compute the gradient of one step, summed over processes and divided by the rows of the whole batch.

        Args:
            step: the global step.
            rollbacks: returns to an earlier state so far; a step done again gets other noise.
            stop: True if this process is to end training.
            number: the signal this process got, or None.

        Raises:
            TrainingError: if some trainable parameter has got no gradient by the end of a window of steps.
        """
        index, size = self._order.batch(step - self.active.start)
        rows = len(index)
        # Pyro's checked code may round otherwise than ours: a resumed run must not take it in the middle of a stage
        self._validating = self._validating and step == self.active.start
        self._noise = (step, self.processes.rank, rollbacks)
        self._reseed(*self._noise)
        self.grads = []  # the last reference: memory still warm in the cache is used again
        for parameter in self.parameters:
            parameter.grad = None
        self._batch = {}
        if rows:
            self._batch = self._rows(index, self.active.stage, step=step)
            if self._expect is not None:
                self._foretell(step + 1 - self.active.start)
        loss: Any
        if self._exchange is None:
            loss, failed = self._alone(rows)
        else:
            flags = [float(stop), float(number == signal.SIGINT), float(number == signal.SIGTERM)]
            sums = self._exchange(lambda: self._compute(rows), [0.0, float(rows), *flags])
            loss, failed, stop = sums[0] / sums[2], sums[1] > 0, sums[3] > 0
            number = signal.SIGINT if sums[4] > 0 else signal.SIGTERM if sums[5] > 0 else None
        self.grads = [p.grad for p in self.parameters if p.grad is not None]
        if self._exchange is not None and self.grads:  # divided after they are added
            torch._foreach_div_(self.grads, size)
        if len(pyro.get_param_store()) != self._stored:  # a pyro.param that the first look did not come across
            self._stored = sites.check_parameters(named_parameters(self.active.modules).values())
        if self._ahead is not None:
            self._fetch(step + 1, rollbacks)
        value, norm = _numbers(loss, self.grads)
        finite = not failed and abs(value) < float("inf") and norm < float("inf")
        if finite:
            self.received.note()
        self._validating = False
        return Outcome(value, norm, size, finite, stop, number)

    def _foretell(self, step: int) -> None:
        """Let rows that are slow to read know which of them the stage's next step wants, while this one computes."""
        if self._expect is not None and step < self.active.stage.steps:
            self._expect(self._order.batch(step)[0])

    def _fetch(self, step: int, rollbacks: int) -> None:
        """Copy the next step's rows to the accelerator while it is busy with this one, if the stage goes on."""
        stage, at = self.active.stage, step - self.active.start
        if self._ahead is None or at >= stage.steps:
            return
        index, _ = self._order.batch(at)
        noise = (step, self.processes.rank, rollbacks)
        if len(index):
            self._ahead.fetch(
                (self.active.index, *noise), mix(self.seed, *noise), lambda: self._read(index, stage, self.data)
            )

    def update(self, norm: float) -> None:
        """Clip the gradient where the stage sets it, and let the optimiser step."""
        clip = self.active.stage.clip
        if clip is not None and norm > clip:
            torch._foreach_mul_(self.grads, clip / norm)
        self.active.optimizer.step()

    def sound(self) -> bool:
        """Say whether every trainable parameter is finite: an update may overflow where loss and gradient did not."""
        # an empty parameter (the triangle of a 1 x 1 matrix, for one) has no largest entry, and nothing to overflow
        norms = torch._foreach_norm([p.detach() for p in self.parameters if p.numel()], float("inf"))
        return not norms or bool(torch.isfinite(torch.stack(norms)).all())

    def first_bad(self) -> str | None:
        """Name the first site of the last step that is not finite, or else the first such parameter or gradient."""
        result = None
        if self._batch:
            self._reseed(*self._noise)
            with self._in_force():
                result = first_bad_site(*self.active.programs, self._batch)
        return result or first_bad_gradient(self.active.parameters)

    def validate(self, rows: Any) -> float:
        """Return the loss per data point on other rows: evaluation mode, the same noise every time.

        Schedules are as at the end of the stage: a loss whose weights still change says nothing beside an earlier one.
        """
        active = self.active
        training = [module for module in active.bound.modules() if module.training]
        active.bound.eval()
        total = 0.0
        try:
            for number, start in enumerate(range(0, len(rows), active.stage.batch_size)):
                index = torch.arange(start, min(start + active.stage.batch_size, len(rows)))
                index = index[self.processes.rank :: self.processes.size]
                if len(index) == 0:
                    continue
                self._reseed(_VALIDATION, number, self.processes.rank)
                if active.per_datum is not None:
                    active.per_datum.weight = len(index) / len(self.data)
                with active.at_its_end(), self._in_force():
                    total += active.bound.evaluate(self._rows(index, active.stage, rows))
        finally:
            for module in training:
                module.training = True
        return self.processes.sum([total])[0] / len(rows)


def _numbers(loss: Any, grads: list[Tensor]) -> tuple[float, float]:
    """Return loss and gradient norm as floats, with one wait for the device."""
    if not grads:
        return float(loss), 0.0
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
    if isinstance(loss, Tensor) and norm.device.type != "cpu":
        value, length = torch.stack([loss.to(norm.dtype), norm]).tolist()
        return value, length
    return float(loss), norm.item()
