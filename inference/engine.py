"""The engine: one loop that trains any pair of model and guide.

    history = fit(model, guide, data, stages=[Stage("all", steps=2000)], out="runs/mine")

The loss is per data point, in nats, whatever the batch size and the number of processes: local sites count once per
row, sites outside the plate "data" count 1/N. Training in a run folder can be killed at any moment and started again
with the same call; the parameters it ends with are those of the uninterrupted run, bit for bit.
"""

from __future__ import annotations

import contextlib
import random
import signal
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor, nn

from phlogiston.errors import ConfigError, TrainingError, TrainingWarning
from phlogiston.inference import checkpoints, parallel, progress, runs, sites
from phlogiston.inference.batches import Order, as_rows, mix, prepare
from phlogiston.inference.callbacks import Callbacks, EarlyStopping, State
from phlogiston.inference.history import History, Interval
from phlogiston.inference.policy import Policy, first_bad_gradient, first_bad_site
from phlogiston.inference.stages import Active, Stage

__all__ = ["EarlyStopping", "History", "Stage", "State", "fit"]


def fit(
    model: nn.Module,
    guide: nn.Module | None,
    data: Any,
    *,
    stages: Sequence[Stage] | Stage,
    seed: int = 0,
    out: str | Path | None = None,
    resume: bool | str = "auto",
    callbacks: Sequence[Any] = (),
    fabric: Any = None,
    valid: Any = None,
    config: Mapping[str, Any] | None = None,
    checkpoint_every: int | None = None,
    log_every: int = 50,
    progress: str = "auto",
    tensorboard: bool = True,
) -> History:
    """Train a pair of model and guide, in place.

    Args:
        model: a module whose `forward(**batch)` is a Pyro program with its data sites under `pyro.plate("data", rows)`.
        guide: a module with the same keyword arguments, or None if the model has no latent site.
        data: a dictionary of tensors with equal first dimension, or rows with `len(data)` and
            `data[LongTensor] -> dict` (its attribute `sequences` names tensors whose axis 1 is time).
        stages: the recipe, one stage after the other.
        seed: determines data order and noise. The caller's own random state is left as it was found.
        out: run folder; None trains in memory, without checkpoints on disk.
        resume: `"auto"` goes on with an existing run of the same settings, True demands one, False refuses one.
        callbacks: objects with some of `on_start`, `on_stage`, `on_step`, `on_checkpoint`, `on_end`; see `callbacks`.
        fabric: a launched Lightning Fabric (`parallel.make_fabric`) for accelerators, other precisions or several
            processes; None is one process where the modules are.
        valid: rows like `data`; their loss is computed at each checkpoint and chooses the best one.
        config: JSON-able settings of the caller, kept in config.json and compared on resume.
        checkpoint_every: steps between checkpoints; by default a twentieth of all steps, at least 100, at most 2000.
            There is one at the end of every stage, too.
        log_every: steps between records in metrics.jsonl and the history.
        progress: `"auto"` (a bar on a terminal), `"bar"`, `"json"` (a line per record on stderr) or `"off"`.
        tensorboard: also write the records as TensorBoard events into the run folder.

    Returns:
        The history: loss and other records over the whole run, including what was done before a resume.

    Raises:
        ConfigError: for arguments that contradict each other or the pair.
        DataError: for data the engine cannot read.
        RunError: if the run folder is in use, holds something else, or another configuration.
        TrainingError: if trainable parameters get no gradient, or losses stay non-finite.
        KeyboardInterrupt: after Ctrl-C, once a checkpoint is written.
        SystemExit: after SIGTERM (code 143), once a checkpoint is written.

    Example:
        >>> import torch, pyro, pyro.distributions as dist
        >>> class Model(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.loc = torch.nn.Parameter(torch.zeros(()))
        ...     def forward(self, x):
        ...         with pyro.plate("data", len(x)):
        ...             pyro.sample("x", dist.Normal(self.loc, 1.0), obs=x)
        >>> model = Model()
        >>> history = fit(model, None, {"x": torch.full((64,), 3.0)}, stages=Stage("all", 200, learning_rate=0.1))
        >>> round(model.loc.item(), 1)
        3.0
    """
    trainer = _Trainer(
        model,
        guide,
        data,
        [stages] if isinstance(stages, Stage) else list(stages),
        int(seed),
        parallel.Processes(fabric),
        Callbacks(callbacks),
        valid,
        checkpoint_every,
        log_every,
    )
    with _world_as_found(trainer.processes.device), trainer.modes_as_found():
        return trainer.run(out, resume, dict(config or {}), progress, tensorboard)


class _NoGuide(nn.Module):
    """The guide of a model without latent sites."""

    def forward(self, **batch: Any) -> None:
        """Sample nothing."""


class _Trainer:
    """One call of `fit`."""

    def __init__(
        self,
        model: nn.Module,
        guide: nn.Module | None,
        data: Any,
        stages: list[Stage],
        seed: int,
        processes: parallel.Processes,
        callbacks: Callbacks,
        valid: Any,
        checkpoint_every: int | None,
        log_every: int,
    ) -> None:
        guide = _NoGuide() if guide is None else guide
        for name, module in (("model", model), ("guide", guide)):
            if not isinstance(module, nn.Module):
                raise ConfigError(f"{name}: a {type(module).__name__} was given; a torch.nn.Module is expected.")
        if not stages or not all(isinstance(stage, Stage) for stage in stages):
            raise ConfigError("stages: give at least one Stage.")
        if checkpoint_every is not None and checkpoint_every < 1:
            raise ConfigError(f"checkpoint_every={checkpoint_every}: at least 1 is needed.")
        if log_every < 1:
            raise ConfigError(f"log_every={log_every}: at least 1 is needed.")
        self.model, self.guide = model, guide
        self.data = as_rows(data)
        self.valid = None if valid is None or len(valid) == 0 else as_rows(valid, "valid")
        self.stages = stages
        self.seed = seed
        self.processes = processes
        self.callbacks = callbacks
        self.ends = [sum(s.steps for s in stages[: i + 1]) for i in range(len(stages))]
        self.total = self.ends[-1]
        self.checkpoint_every = checkpoint_every or min(2000, max(100, self.total // 20))
        self.log_every = log_every
        self.policy = Policy()
        self.interval = Interval()
        self.since_checkpoint = Interval()
        self.history = History()
        self.state = State(model, guide, self.data, self.total)
        self.step = 0
        self.seconds = 0.0
        self.owed = False  # a checkpoint is due, and waits for a finite step
        self.signal: int | None = None
        self.active: Active | None = None
        self.run_folder: runs.Run | None = None
        self.keeper: checkpoints.Keeper | None = None
        self.good: tuple[dict[str, Tensor], dict[str, Any]] | None = None

    # ---- around the loop ---------------------------------------------------------------------------------------------

    def run(self, out: Any, resume: Any, config: dict[str, Any], style: str, tensorboard: bool) -> History:
        """Open the run folder, go on from where it stands, train, and leave everything in order."""
        if resume not in (True, False, "auto"):
            raise ConfigError(f"resume={resume!r}: choose 'auto', True or False.")
        if out is None and resume is True:
            raise ConfigError("resume=True needs the run folder: give out=...")
        self.progress = progress.make(style if self.processes.leader else "off", self.total)
        self.tensorboard = tensorboard
        try:
            for module in (self.model, self.guide):
                if self.processes.device is not None or self.processes.dtype is not None:
                    module.to(device=self.processes.device, dtype=self.processes.dtype)
                module.train()
            self._open(out, resume, config)
            self._resume()
            if self.step < self.total and not self.history.finished:
                with self._signals():
                    self._train()
            return self.history
        finally:
            if self.active is not None:
                self.active.close()
            self.progress.close()
            if self.run_folder is not None:
                self.run_folder.close()

    def _open(self, out: Any, resume: Any, config: dict[str, Any]) -> None:
        first = next(iter(self.model.parameters()), torch.empty(0))
        self.state.device = self.processes.device or first.device
        self.state.fabric, self.state.leader = self.processes.fabric, self.processes.leader
        if out is None:
            return
        described = [stage.describe() for stage in self.stages]
        settings = {"config": config, "stages": described, "seed": self.seed, "rows": len(self.data)}

        def action() -> None:
            self.run_folder = runs.Run(out, settings, resume)
            self.run_folder.describe_environment(str(self.state.device), self.seed)
            self.keeper = checkpoints.Keeper(self.run_folder.path / checkpoints.FOLDER)

        self.processes.together(action)
        self.state.run = self.history.run = Path(out)

    def _resume(self) -> None:
        """Take up the newest good checkpoint, if there is one; else begin."""
        found: tuple[dict[str, Tensor] | None, dict[str, Any] | None] = (None, None)

        def action() -> bool:
            nonlocal found
            if self.keeper is None:
                return False
            newest = checkpoints.newest_good(self.keeper.folder)
            if newest is not None:
                found = (newest[1], newest[2])
            return newest is not None

        exists = self.processes.together(action)
        if not exists:
            self._begin(0)
            self.processes.align([*self._modules().values()])
            self.good = (self._capture(), self._describe(None))
            if self.keeper is not None:
                self.keeper.save(*self.good)
            return
        tensors, state = self.processes.share(*found)
        self.good = (tensors, state)
        self.step = int(state["step"])
        self._begin(min(state["stage_index"], len(self.stages) - 1))
        self._restore()
        self.history.finished = bool(state["finished"])
        if self.run_folder is not None:
            records = runs.read_metrics(self.run_folder.path / "metrics.jsonl")
            self.history.records = [r for r in records if r["step"] <= self.step]
            if not self.history.finished:
                event = {"event": "resume", "step": self.step, "processes": self.processes.size}
                self._write(event)
                if state["processes"] != self.processes.size:
                    self.progress.say(
                        f"resumed at step {self.step} on {self.processes.size} processes instead of "
                        f"{state['processes']}: the noise differs from there on, the data order does not."
                    )

    @contextlib.contextmanager
    def modes_as_found(self) -> Iterator[None]:
        """Put the train or eval mode of every submodule back."""
        modes = [(m, m.training) for top in (self.model, self.guide) for m in top.modules()]
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Turn SIGTERM and Ctrl-C into a wish the loop looks at after each step."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def note(number: int, frame: Any) -> None:
            if self.signal is not None and number == signal.SIGINT:
                raise KeyboardInterrupt  # the second Ctrl-C does not wait
            self.signal = number

        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    # ---- stages ------------------------------------------------------------------------------------------------------

    def _begin(self, index: int) -> None:
        """Make stage `index` the current one."""
        if self.active is not None:
            self.active.close()
        stage, start = self.stages[index], self.ends[index] - self.stages[index].steps
        rank, size = self.processes.rank, self.processes.size
        self.order = Order(len(self.data), stage.batch_size, self.seed, index, rank, size)
        self._reseed(-1, index)  # parameters made at the first call come out alike on every process
        every = torch.arange(min(len(self.data), self.order.batch_size))
        found = sites.inspect(self.model, self.guide, self._batch(every, stage))
        if not callable(stage.objective) or hasattr(stage.objective, "loss_and_grads"):
            sites.check_plate(found)
        self.active = Active(stage, index, start, self.model, self.guide, found)
        if self.processes.device is not None:
            self.active.bound.to(self.processes.device)
        self.parameters = list(self.active.parameters.values())
        self.reducer = parallel.Reducer(self.parameters, 6) if size > 1 else None
        self.unchecked = True  # the first finite step of a stage shows whether every parameter gets a gradient
        self.validating = True
        self.state.stage, self.state.optimizer = stage, self.active.optimizer

    def _modules(self) -> dict[str, nn.Module]:
        assert self.active is not None
        return self.active.modules

    def _batch(self, index: Tensor, stage: Stage, rows: Any = None) -> dict[str, Tensor]:
        rows = self.data if rows is None else rows
        names = getattr(rows, "sequences", ())
        return prepare(rows[index], self.processes.device, self.processes.dtype, names, stage.sequence_length)

    def _train(self) -> None:
        assert self.active is not None
        self.callbacks("on_start", self.state)
        index = self.active.index
        self.callbacks("on_stage", self.state)
        while True:
            if self.step >= self.ends[index]:
                index += 1
                self._begin(index)
                self.callbacks("on_stage", self.state)
            if self._advance():
                break
        self.history.finished = True
        self.callbacks("on_end", self.state)

    # ---- one step ----------------------------------------------------------------------------------------------------

    def _reseed(self, *numbers: int) -> None:
        seed = mix(self.seed, *numbers)
        torch.default_generator.manual_seed(seed)
        if self.processes.device is not None and self.processes.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _loss(self, batch: dict[str, Tensor]) -> Any:
        """Return the loss summed over the batch, with handlers, precision and (at first) validation in force."""
        active = self.active
        assert active is not None
        if not (active.handlers or self.validating or self.processes.fabric is not None):
            return active.bound.module(**batch)
        with contextlib.ExitStack() as stack:
            if self.processes.fabric is not None:
                stack.enter_context(self.processes.fabric.autocast())
            if self.validating:
                stack.enter_context(pyro.validation_enabled(True))
            if active.handlers:
                stack.enter_context(active.entered())
            return active.bound.module(**batch)

    def _gradients(self, batch: dict[str, Tensor], rows: int, size: int) -> tuple[Any, bool]:
        """Compute loss and gradients of this process's rows; say whether that failed on non-finite numbers."""
        active = self.active
        assert active is not None
        if active.per_datum is not None:
            active.per_datum.weight = rows / len(self.data)
        share = size if self.reducer is None else 1  # with several processes the sum is divided after the reduction
        try:
            loss = self._loss(batch)
            if active.bound.own_backward:
                if share != 1:
                    torch._foreach_div_([p.grad for p in self.parameters if p.grad is not None], share)
                return loss / share, False
            if not getattr(loss, "requires_grad", False):
                raise TrainingError(
                    f"stage {active.stage.name!r}: the loss does not depend on any trainable parameter."
                )
            loss = loss / share
            loss.backward()
            return loss.detach(), False
        except (ValueError, RuntimeError) as error:
            # Distributions refuse NaN parameters, sampling may too: that is a non-finite step, anything else an error.
            if isinstance(error, TrainingError | ConfigError) or self._diagnose(batch) is None:
                raise
            return float("nan"), True

    def _advance(self) -> bool:
        """Do one step and what is due after it; return True when training is over."""
        active = self.active
        assert active is not None
        began = time.perf_counter()
        rate = active.apply(self.step, self.policy.factor)
        index, size = self.order.batch(self.step - active.start)
        rows = len(index)
        self._reseed(self.step, self.processes.rank, self.policy.rollbacks)
        for parameter in self.parameters:
            parameter.grad = None
        loss: Any = 0.0
        failed = False
        batch: dict[str, Tensor] = {}
        if rows:
            batch = self._batch(index, active.stage)
            loss, failed = self._gradients(batch, rows, size)
        stop = self.state.stop_requested
        number = self.signal
        if self.reducer is not None:
            wishes = [float(stop), float(number == signal.SIGINT), float(number == signal.SIGTERM)]
            sums, _ = self.reducer.reduce([float(loss), float(rows), float(failed), *wishes])
            loss, failed, stop = sums[0] / size, sums[2] > 0, sums[3] > 0
            number = signal.SIGINT if sums[4] > 0 else signal.SIGTERM if sums[5] > 0 else None
        grads = [p.grad for p in self.parameters if p.grad is not None]
        if self.reducer is not None and grads:
            torch._foreach_div_(grads, size)
        value, norm = _numbers(loss, grads)
        if failed or not (abs(value) < float("inf") and norm < float("inf")):
            self._bad_step(batch)
        else:
            if self.unchecked:
                self._check_gradients()
            if active.stage.clip is not None and norm > active.stage.clip:
                torch._foreach_mul_(grads, active.stage.clip / norm)
            active.optimizer.step()
            self.policy.good()
            self.interval.add(value, norm, size)
            self.since_checkpoint.add(value, norm, size)
            self.step += 1
        self.validating = False
        self.seconds += time.perf_counter() - began
        return self._after(value, rate, stop, number)

    def _check_gradients(self) -> None:
        assert self.active is not None
        self.unchecked = False
        lacking = [name for name, p in self.active.parameters.items() if p.grad is None]
        if lacking:
            raise TrainingError(
                f"stage {self.active.stage.name!r}: {len(lacking)} trainable parameters got no gradient at the first "
                f"step: {', '.join(lacking[:8])}{' ...' if len(lacking) > 8 else ''}. Usual causes: the module is never "
                "called in forward; its output is detached, or sampled without reparameterisation under an objective "
                "that needs it; or this stage should not train it (Stage(trainable=...))."
            )

    def _diagnose(self, batch: dict[str, Tensor]) -> str | None:
        assert self.active is not None
        if not batch:
            return None
        self._reseed(self.step, self.processes.rank, self.policy.rollbacks)
        with self.active.entered():
            return first_bad_site(self.model, self.guide, batch)

    def _bad_step(self, batch: dict[str, Tensor]) -> None:
        """Skip a non-finite step; after three in a row go back; after twenty give up."""
        assert self.active is not None
        verdict = self.policy.bad()
        self.step += 1
        self.owed = self.owed or self.step % self.checkpoint_every == 0
        if verdict == "skip":
            return
        self.step -= 1  # the diagnosis repeats this step's noise
        found = self._diagnose(batch) or first_bad_gradient(self.active.parameters) or "nothing on this process"
        at = self.step
        self._restore()
        text = f"stage {self.active.stage.name!r}, step {at}: loss or gradient is not finite; first bad: {found}"
        if verdict == "stop":
            raise TrainingError(
                f"{text}. {self.policy.skipped} steps were skipped and {self.policy.rollbacks} returns to an earlier "
                f"state with a smaller learning rate did not help. The modules are back at the last good state "
                f"(step {self.step}). Check the data for extreme values, lower the learning rate, or set Stage(clip=...)."
            )
        if self.processes.leader:
            warnings.warn(
                f"{text}. Back to step {self.step} with {self.policy.factor:g} of the learning rate.",
                TrainingWarning,
                stacklevel=2,
            )
            self._write({"event": "rollback", "step": self.step, "reason": found, "factor": self.policy.factor})
        self.history.records = [r for r in self.history.records if r["step"] <= self.step]

    # ---- after a step ------------------------------------------------------------------------------------------------

    def _after(self, value: float, rate: float, stop: bool, number: int | None) -> bool:
        """Log, call back, write checkpoints; return True when training is over."""
        active, state = self.active, self.state
        assert active is not None
        state.step, state.loss = self.step, value
        state.stage_progress = active.progress(self.step - 1)
        self.history.skipped, self.history.rollbacks = self.policy.skipped, self.policy.rollbacks
        self.history.seconds = self.seconds
        if self.callbacks.listens("on_step"):
            self.callbacks("on_step", state)
        if self.processes.size == 1:
            stop, number = state.stop_requested, self.signal
        end_of_stage = self.step >= self.ends[active.index]
        over = self.step >= self.total or stop
        if self.step % self.log_every == 0 or end_of_stage or over:
            self._log(rate)
        due = self.step % self.checkpoint_every == 0 or self.owed
        if end_of_stage or over or number is not None or (due and self.policy.streak == 0):
            self._checkpoint(over)
        if self.progress.every < float("inf"):
            now = time.perf_counter()
            if now - getattr(self, "_shown", 0.0) > self.progress.every or over:
                self._shown = now
                self.progress.update(self.step, active.stage.name, value)
        if number is not None and not over:
            self._leave(number)
        self.history.interrupted = stop and self.step < self.total
        return over

    def _leave(self, number: int) -> None:
        where = f"checkpoint of step {self.step} is in {self.history.run}; the same call goes on from there"
        self.progress.say(f"interrupted: {where if self.history.run else 'nothing is kept without a run folder'}.")
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(143)

    def _log(self, rate: float) -> None:
        assert self.active is not None
        if self.interval.rows == 0:
            return
        record: dict[str, Any] = {
            "step": self.step,
            "stage": self.active.stage.name,
            **self.interval.summary(self.seconds),
            "learning_rate": rate,
            "seconds": self.seconds,
            "skipped": self.policy.skipped,
        }
        record.update({k: float(v) for k, v in self.state.metrics.items()})
        self.interval = Interval(began=self.seconds)
        self.history.records.append(record)
        self._write(record)
        self.progress.record(record)

    def _write(self, record: dict[str, Any]) -> None:
        if self.run_folder is None:
            return
        try:
            self.run_folder.record(record)
            if self.tensorboard and "event" not in record:
                self.run_folder.board(int(record["step"]), record)
        except OSError as error:
            warnings.warn(f"metrics could not be written ({error}). Training goes on.", TrainingWarning, stacklevel=2)

    # ---- checkpoints -------------------------------------------------------------------------------------------------

    def _capture(self) -> dict[str, Tensor]:
        assert self.active is not None
        tensors = checkpoints.named_tensors(self._modules())
        state, self._numbers = checkpoints.optimizer_tensors(self.active.optimizer, self.active.optimizer_names)
        return checkpoints.capture({**tensors, **state})

    def _describe(self, score: float | None, finished: bool = False) -> dict[str, Any]:
        assert self.active is not None
        return {
            "step": self.step,
            "stage": self.active.stage.name,
            "stage_index": self.active.index,
            "score": score,
            "loss": None if self.since_checkpoint.rows == 0 else self.since_checkpoint.loss,
            "valid_loss": self.state.valid_loss,
            "finished": finished,
            "policy": asdict(self.policy),
            "interval": asdict(self.interval),
            "seconds": self.seconds,
            "seed": self.seed,
            "processes": self.processes.size,
            "optimizer": self._numbers,
            "callbacks": self.callbacks.state_dict(),
        }

    def _checkpoint(self, over: bool) -> None:
        self.owed = False
        self.policy.checkpoint()
        if self.valid is not None:
            self.state.valid_loss = self.state.metrics["valid_loss"] = self._validate()
        self.callbacks("on_checkpoint", self.state)
        score = self.state.valid_loss
        if score is None and self.since_checkpoint.rows:
            score = self.since_checkpoint.loss
        over = over or (self.state.stop_requested and self.processes.size == 1)
        self.good = (self._capture(), self._describe(score, finished=over))
        self.since_checkpoint = Interval()
        if self.keeper is not None:
            self.keeper.save(*self.good)
        self.processes.barrier()

    def _restore(self) -> None:
        """Put modules, optimiser, callbacks and step back to the last good state."""
        assert self.good is not None
        assert self.active is not None
        tensors, state = self.good
        source = f"the checkpoint of step {state['step']}"
        own = {n: t for n, t in tensors.items() if not n.startswith("optimizer.")}
        named = checkpoints.named_tensors(self._modules())
        same_stage = state["stage_index"] == self.active.index
        if not same_stage:  # an objective's own tensors belong to its stage
            named = {n: t for n, t in named.items() if not n.startswith("objective.")}
        checkpoints.restore(named, own, source, ignore="" if same_stage else "objective.")
        kept = (tensors, state["optimizer"]) if same_stage else ({}, {})
        checkpoints.restore_optimizer(self.active.optimizer, self.active.optimizer_names, *kept)
        resumed = self.policy.rollbacks == 0  # after a rollback the counts of this process go on
        if resumed:
            self.policy = Policy(**state["policy"])
            self.seconds = float(state["seconds"])
        self.step = int(state["step"])
        self.interval = Interval(**state["interval"])
        self.since_checkpoint = Interval()
        self.state.step, self.state.valid_loss = self.step, state["valid_loss"]
        self.callbacks.load_state_dict(state["callbacks"])

    def _validate(self) -> float:
        """Return the loss per data point on the validation rows: evaluation mode, the same noise every time."""
        active = self.active
        assert active is not None
        assert self.valid is not None
        training = [m for m in active.bound.modules() if m.training]
        active.bound.eval()
        total = 0.0
        try:
            for place, start in enumerate(range(0, len(self.valid), active.stage.batch_size)):
                stop = min(start + active.stage.batch_size, len(self.valid))
                index = torch.arange(start, stop)[self.processes.rank :: self.processes.size]
                if len(index) == 0:
                    continue
                self._reseed(-2, place, self.processes.rank)
                if active.per_datum is not None:
                    active.per_datum.weight = len(index) / len(self.data)
                with contextlib.ExitStack() as stack:
                    if self.processes.fabric is not None:
                        stack.enter_context(self.processes.fabric.autocast())
                    stack.enter_context(active.entered())
                    total += active.bound.evaluate(self._batch(index, active.stage, self.valid))
        finally:
            for module in training:
                module.training = True
        return self.processes.sum([total])[0] / len(self.valid)


def _numbers(loss: Any, grads: list[Tensor]) -> tuple[float, float]:
    """Return loss and gradient norm as floats, with one wait for the device."""
    if not grads:
        return float(loss), 0.0
    norm = torch.nn.utils.get_total_norm(grads)
    if isinstance(loss, Tensor):
        if norm.device.type != "cpu":
            value, length = torch.stack([loss.to(norm.dtype), norm]).tolist()
            return value, length
        return loss.item(), norm.item()
    return float(loss), norm.item()


@contextlib.contextmanager
def _world_as_found(device: torch.device | None) -> Iterator[None]:
    """Leave random states, Pyro's settings and warning filters as they were."""
    cuda = device if device is not None and device.type == "cuda" else None
    before = (random.getstate(), np.random.get_state(), torch.get_rng_state())
    on_device = torch.cuda.get_rng_state(cuda) if cuda is not None else None
    try:
        with (
            warnings.catch_warnings(),
            pyro.validation_enabled(False),
            pyro.settings.context(module_local_params=True),
        ):
            # the engine looks at every loss itself
            warnings.filterwarnings("ignore", message="Encountered NaN", category=UserWarning)
            yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])
        if cuda is not None and on_device is not None:
            torch.cuda.set_rng_state(on_device, cuda)
