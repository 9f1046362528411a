"""The loop around the steps: stages in turn, records, checkpoints, returns to earlier states, and leaving in order."""

from __future__ import annotations

import signal
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from phlogiston.errors import CheckpointError, PhlogistonError, ProcessLostError, TrainingError, TrainingWarning
from phlogiston.inference.svi import checkpoints, runs
from phlogiston.inference.svi.callbacks import Callbacks, State
from phlogiston.inference.svi.history import History, Interval
from phlogiston.inference.svi.isolation import Signals
from phlogiston.inference.svi.parallel import Processes
from phlogiston.inference.svi.policy import Policy
from phlogiston.inference.svi.progress import Progress
from phlogiston.inference.svi.run_folder.identity import check_precision, identity
from phlogiston.inference.svi.run_folder.metrics import read_metrics
from phlogiston.inference.svi.run_folder.space import checkpoint_size, require_room
from phlogiston.inference.svi.run_folder.store import Store
from phlogiston.inference.svi.stages import Stage
from phlogiston.inference.svi.step import Outcome, Stepper

_MEMORY = "remembered."  # prefix of the tensors an objective remembers from step to step
_APART = ("optimizer.", _MEMORY, Callbacks.PREFIX)  # prefixes of what belongs to no module


class Loop:
    """One call of `fit`, from opening the run folder to the history it returns.

    Args:
        model: the generative program.
        guide: the inference program.
        data: training rows.
        valid: validation rows, or None.
        stages: the recipe.
        seed: seed of the run.
        processes: the processes it runs on.
        callbacks: called at each event.
        progress: the display.
        checkpoint_every: steps between checkpoints, None for the default.
        log_every: steps between records.
        tensorboard: True to write TensorBoard events into the run folder.
        lr_resume: factor on all learning rates from a resume on.
        source: training and validation rows whose content a resumed run must share; those above by default.
    """

    def __init__(
        self,
        model: nn.Module,
        guide: nn.Module,
        data: Any,
        valid: Any,
        stages: Sequence[Stage],
        seed: int,
        processes: Processes,
        callbacks: Callbacks,
        progress: Progress,
        checkpoint_every: int | None,
        log_every: int,
        tensorboard: bool,
        lr_resume: float = 1.0,
        source: tuple[Any, Any] | None = None,
    ) -> None:
        self.data, self.valid = data, valid
        self.source = (data, valid) if source is None else source
        self.stages = list(stages)
        self.seed = seed
        self.processes = processes
        self.callbacks = callbacks
        self.progress = progress
        self.log_every = log_every
        self.tensorboard = tensorboard
        self.lr_resume = lr_resume
        self.ends = [sum(s.steps for s in stages[: i + 1]) for i in range(len(stages))]
        self.total = self.ends[-1]
        self.checkpoint_every = checkpoint_every or min(2000, max(100, self.total // 20))
        self.stepper = Stepper(model, guide, data, seed, processes, valid is not None)
        self.signals = Signals()
        self.policy = Policy()
        self.interval = Interval()  # since the last record
        self.stretch = Interval()  # since the last checkpoint
        self.history = History()
        self.state = State(model, guide, data, self.total, valid)
        self.state.validate = lambda: self.stepper.validate(self.valid)
        self.step = 0
        self.seconds = 0.0
        self.forced = False  # a run of other data or precision may be gone on with
        self.owed = False  # a checkpoint was due at a bad step, and waits for a good one
        self.shown = 0.0
        self.store: Store | None = None  # on the process that writes
        self.settings: dict[str, Any] = {}  # of the run folder
        self.unwritten = ""  # why the last checkpoint could not be written
        self.good: tuple[dict[str, Tensor], dict[str, Any]] = ({}, {})  # the last good state, on the CPU

    # ---- beginning and end -------------------------------------------------------------------------------------------

    def train(self, out: Any, resume: bool | str, config: dict[str, Any]) -> History:
        """Open the run folder, continue from its last checkpoint, train, and write the results."""
        try:
            self._open(out, resume, config)
            self._start()
            if not self.history.finished:
                with self.signals.watched():
                    self._stages()
            return self.history
        except ProcessLostError as error:
            raise ProcessLostError(f"{error} {self._salvage()}") from error
        finally:
            if hasattr(self.stepper, "active"):
                self.stepper.active.close()
            self.progress.close()
            if self.store is not None:
                self.store.close()

    def _open(self, out: Any, resume: bool | str, config: dict[str, Any]) -> None:
        first = next(self.state.model.parameters(), torch.empty(0))
        self.state.device = self.processes.device or first.device
        self.state.fabric, self.state.leader = self.processes.fabric, self.processes.leader
        if out is None:
            return
        described = [stage.describe() for stage in self.stages]
        settings = {"config": config, "stages": described, "seed": self.seed, "rows": len(self.data)}
        self.settings = settings

        def action() -> None:
            require_room(Path(out), self._size())
            run = runs.Run(out, settings, resume, identity(self.processes, *self.source))
            self.store = Store(run, str(self.state.device), self.seed)

        self.processes.together(action)
        self.forced = resume == "force"
        self.state.run = self.history.run = Path(out)

    def _size(self) -> int:
        """Estimate the bytes of a checkpoint, from what there is of the pair now."""
        named = checkpoints.named_tensors({"model": self.state.model, "guide": self.state.guide})
        return checkpoint_size({name: value for name, value in named.items() if not is_lazy(value)})

    def _start(self) -> None:
        """Take up the newest good checkpoint if there is one, else begin."""
        tensors: dict[str, Tensor] | None = None
        state: dict[str, Any] | None = None

        def look() -> bool:
            nonlocal tensors, state
            newest = None if self.store is None else checkpoints.newest_good(self.store.keeper.folder)
            if newest is not None:
                _, tensors, state = newest
            return newest is not None

        if not self.processes.together(look):
            self._begin(0)
            self.stepper.foresee(self.stages[1:])
            self.processes.align(list(self.stepper.active.modules.values()))
            self._keep(None, finished=False, wait=True)
            return
        self.good = self.processes.share(tensors, state)
        saved = self.good[1]
        try:
            self._take_up(saved)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            if isinstance(error, PhlogistonError):
                raise
            where = f"the checkpoint of step {saved['step']} in {self.history.run}"
            raise CheckpointError(f"{where} is altered: {type(error).__name__}: {error}.") from error
        if not self.history.finished:
            self._write({"event": "resume", "step": self.step, "processes": self.processes.size})
            if saved["processes"] != self.processes.size and self.processes.leader:
                self.progress.say(
                    f"resumed at step {self.step} on {self.processes.size} processes instead of {saved['processes']}: "
                    "the noise differs from here on, the data order does not."
                )

    def _take_up(self, saved: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.step = int(saved["step"])
        self._preload()
        self._begin(int(saved["stage_index"]))
        if not self.forced:
            check_precision(checkpoints.named_tensors(self.stepper.active.modules), self.good[0])
        self.policy = Policy(**saved["policy"])
        self.policy.factor *= self.lr_resume
        self.seconds = float(saved["seconds"])
        self._restore()
        self._tell()
        self.history.finished = bool(saved["finished"])
        if self.history.run is not None:
            self.history.records = read_metrics(self.history.run / "metrics.jsonl")
            self._forget()

    def _preload(self) -> None:
        """Give the pair the parameters of the checkpoint, as far as it has them before its first call.

        A stage is looked at when it begins, and its transform may keep what it computes with the pair: the codes of an
        encoder that was trained in an earlier stage.
        """
        named = checkpoints.named_tensors({"model": self.state.model, "guide": self.state.guide})
        saved = self.good[0]
        for name, value in named.items():
            if not is_lazy(value) and name in saved and saved[name].shape == value.shape:
                value.data.copy_(saved[name])

    def _begin(self, index: int) -> None:
        """Make stage `index` the current one."""
        if hasattr(self.stepper, "active"):
            self.stepper.active.close()
        self.stepper.begin(self.stages[index], index, self.ends[index] - self.stages[index].steps)
        self.state.stage, self.state.optimizer = self.stages[index], self.stepper.active.optimizer
        self.state.objective = self.stepper.active.bound.module

    def _stages(self) -> None:
        self.callbacks("on_start", self.state)
        index = self.stepper.active.index
        announced = False
        over = False
        while not over:
            if self.step >= self.ends[index]:
                index, announced = index + 1, False
                self._begin(index)
                self.state.valid_loss = None  # that of the stage before says nothing about this one
                self.state.metrics.pop("valid_loss", None)
            if not announced:
                announced = True
                self.callbacks("on_stage", self.state)
            over = self._advance()
        self.history.finished = True
        self.callbacks("on_end", self.state)

    # ---- one step ----------------------------------------------------------------------------------------------------

    def _advance(self) -> bool:
        """Do one step and what is due after it; return True when training is over."""
        began = time.perf_counter()
        rate = self.stepper.active.apply(self.step, self.policy.factor)
        stop, number = self.state.stop_requested, self.signals.number
        outcome = self.stepper.gradients(self.step, self.policy.rollbacks, stop, number)
        if outcome.finite:
            self.stepper.update(outcome.norm)
            self.policy.good()
            self.interval.add(outcome.loss, outcome.norm, outcome.rows)
            self.stretch.add(outcome.loss, outcome.norm, outcome.rows)
        else:
            verdict = self.policy.bad()
            if verdict != "skip":
                self._go_back(giving_up=verdict == "stop")
                return False
        self.step += 1
        self.seconds += time.perf_counter() - began
        self._tell()
        self.state.loss = outcome.loss
        self.state.stage_progress = self.stepper.active.progress(self.step - 1)
        if self.callbacks.listens("on_step"):
            self.callbacks("on_step", self.state)
        return self._after(outcome, rate)

    def _tell(self) -> None:
        self.state.step = self.step
        self.history.skipped, self.history.rollbacks = self.policy.skipped, self.policy.rollbacks
        self.history.seconds = self.seconds

    def _go_back(self, giving_up: bool) -> None:
        """Return to the last good state after too many bad steps, or end the run."""
        name, at = self.stepper.active.stage.name, self.step
        bad = self.stepper.first_bad() or "nothing on this process"
        self._restore()
        self._forget()
        self._tell()
        text = f"stage {name!r}, step {at}: loss, gradient or parameters are not finite; first bad: {bad}"
        if giving_up:
            raise TrainingError(
                f"{text}. {self.policy.skipped} steps were skipped, and {self.policy.rollbacks} returns to an earlier "
                f"state with a smaller learning rate did not help. The modules are back at the last good state (step "
                f"{self.step}). Look for extreme values in the data, lower the learning rate, or set Stage(clip=...)."
            )
        if self.processes.leader:
            warnings.warn(
                f"{text}. Back to step {self.step} with {self.policy.factor:g} of the learning rate.",
                TrainingWarning,
                stacklevel=2,
            )
            self._write({"event": "rollback", "step": self.step, "reason": bad, "factor": self.policy.factor})

    def _forget(self) -> None:
        """Drop records of steps that will be done again."""
        self.history.records = [r for r in self.history.records if r["step"] <= self.step]

    # ---- after a step ------------------------------------------------------------------------------------------------

    def _after(self, outcome: Outcome, rate: float) -> bool:
        """Log, show, write checkpoints; return True when training is over."""
        stop, number = outcome.stop, outcome.signal
        if self.processes.size == 1:  # what callbacks and signals requested since; several processes agree a step later
            stop, number = self.state.stop_requested, self.signals.number
        end_of_stage = self.step >= self.ends[self.stepper.active.index]
        over = self.step >= self.total or stop
        logged = self.step % self.log_every == 0 or end_of_stage or over
        self.owed = self.owed or self.step % self.checkpoint_every == 0
        if end_of_stage:
            self.stepper.received.finish()
        if end_of_stage or over or number is not None or (self.owed and outcome.finite):
            if not self.stepper.sound():
                self._go_back(giving_up=self.policy.unsound() == "stop")
                return False
            over = self._checkpoint(over, end_of_stage or over, rate if logged else None, leaving=number is not None)
            if over:
                self._log(rate)  # a callback may have ended training just now; otherwise there is nothing left to log
        elif logged:
            self._log(rate)
        if self.progress.every < float("inf"):
            now = time.perf_counter()
            if now - self.shown > self.progress.every or over:
                self.shown = now
                self.progress.update(self.step, self.stepper.active.stage.name, outcome.loss)
        if number is not None:
            self._leave(number)
        self.history.interrupted = over and self.step < self.total
        return over

    def _leave(self, number: int) -> None:
        if self.processes.leader:
            announced = "nothing is kept without a run folder"
            if self.history.run:
                announced = f"the checkpoint is in {self.history.run}, and the same call resumes from there"
            if self.unwritten:
                announced = f"{self.unwritten}; the same call goes on from an earlier one in {self.history.run}"
            self.progress.say(f"interrupted at step {self.step}: {announced}.")
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

    def _log(self, rate: float) -> None:
        if self.interval.rows == 0:
            return
        record: dict[str, Any] = {
            "step": self.step,
            "stage": self.stepper.active.stage.name,
            **self.interval.summary(self.seconds),
            "learning_rate": rate,
            "seconds": self.seconds,
            "skipped": self.policy.skipped,
            **{name: float(value) for name, value in self.state.metrics.items()},
        }
        self.interval = Interval(began=self.seconds)
        self.history.records.append(record)
        self._write(record)
        self.progress.record(record)

    def _write(self, record: dict[str, Any]) -> None:
        if self.store is None:
            return
        try:
            self.store.run.record(record)
            if self.tensorboard and "event" not in record:
                self.store.run.board(int(record["step"]), record)
        except OSError as error:
            warnings.warn(f"metrics could not be written ({error}). Training continues.", TrainingWarning, stacklevel=2)

    # ---- checkpoints -------------------------------------------------------------------------------------------------

    def _checkpoint(self, over: bool, stage_over: bool, rate: float | None, leaving: bool = False) -> bool:
        """Validate, log where a learning rate is given, call back, write; return whether training is over now."""
        self.owed = False
        self.policy.checkpoint()
        if stage_over:
            self.callbacks("on_stage_end", self.state)
        self._validate()
        if rate is not None:
            self._log(rate)  # with the loss just found; what callbacks find next joins the next record
        self.callbacks("on_checkpoint", self.state)
        over = over or (self.state.stop_requested and self.processes.size == 1)
        if over and not stage_over:  # a callback has just ended training, perhaps for this validation loss
            self.callbacks("on_stage_end", self.state)
            self._validate()
        score = self.state.valid_loss
        self._keep(self.stretch.loss if score is None and self.stretch.rows else score, over, over or leaving)
        self.stretch = Interval()
        return over

    def _validate(self) -> None:
        if self.valid is not None:
            loss = self.stepper.validate(self.valid)
            self.state.valid_loss = self.state.metrics["valid_loss"] = loss

    def _keep(self, score: float | None, finished: bool, wait: bool) -> None:
        """Remember the present state as the last good one, and write it: while training goes on, unless `wait`."""
        if self.store is not None:
            self.store.wait()  # for the memory of the last good state, which is written over
        self.good = tensors, state = self._snapshot(score, finished)
        if self.history.run is None:
            return
        store, records = self.store, self.history.records

        def action() -> str:
            if store is None:
                return ""
            told = store.saved()
            if wait:
                return store.save(tensors, state, records)
            store.begin_saving(tensors, state, records)
            return told

        self.unwritten = self.processes.together(action)

    def _snapshot(self, score: float | None, finished: bool) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Copy the present state to the CPU."""
        active = self.stepper.active
        moments, numbers = checkpoints.optimizer_tensors(active.optimizer, active.optimizer_names)
        named = checkpoints.named_tensors(active.modules)
        memory, remembered = active.bound.state()
        memory = {f"{_MEMORY}{name}": value for name, value in memory.items()}
        tensors = checkpoints.capture({**named, **moments, **memory, **self.callbacks.tensors()}, self.good[0])
        state = {
            "step": self.step,
            "stage": active.stage.name,
            "stage_index": active.index,
            "score": score,
            "loss": self.stretch.loss if self.stretch.rows else None,
            "valid_loss": self.state.valid_loss,
            "metrics": {name: float(value) for name, value in self.state.metrics.items()},
            "finished": finished,
            "policy": asdict(self.policy),
            "interval": asdict(self.interval),
            "seconds": self.seconds,
            "seed": self.seed,
            "processes": self.processes.size,
            "optimizer": numbers,
            "names": list(named),  # in the modules' own order, which the file does not keep
            "buffers": [name for name, value in named.items() if not isinstance(value, torch.nn.Parameter)],
            "not_finite": checkpoints.not_finite(named),
            "latents": self.stepper.latents,
            "gradients": self.stepper.received.state_dict(),
            "objective": remembered,
            "callbacks": self.callbacks.state_dict(),
        }
        return tensors, state

    def _salvage(self) -> str:
        """Write the state of the last whole step after another process has gone, and say where the run stands.

        Where the process that writes is the one that has gone, one of the others takes over, if it can get at the
        folder.
        """
        run = self.history.run
        if run is None:
            return "Nothing is kept without a run folder."
        kept = "the newest checkpoint"
        try:
            if self.store is None:
                self.store = Store(runs.Run(run, self.settings, resume=True), str(self.state.device), self.seed)
                known = {record["step"] for record in read_metrics(run / "metrics.jsonl")}
                for record in self.history.records:
                    if record["step"] not in known:
                        self._write(record)
            self.store.wait()
            if self.step > self.good[1]["step"] and self.stepper.sound():
                self.store.save(*self._snapshot(None, finished=False), self.history.records)
                kept = f"step {self.step}"
        except (PhlogistonError, OSError, KeyError):  # another one has it, or it is on another machine
            pass
        return f"Start the same command again (with --resume): it continues from {kept} in {run}."

    def _restore(self) -> None:
        """Put modules, optimiser, callbacks and step back to the last good state; what the policy counted stays."""
        tensors, state = self.good
        active = self.stepper.active
        own = {name: value for name, value in tensors.items() if not name.startswith(_APART)}
        named = checkpoints.named_tensors(active.modules)
        same_stage = state["stage_index"] == active.index
        if not same_stage:  # an objective's own tensors, and the optimiser, belong to one stage
            named = {name: value for name, value in named.items() if not name.startswith("objective.")}
        source = f"the checkpoint of step {state['step']}"
        checkpoints.restore(named, own, source, ignore="" if same_stage else "objective.")
        moments, numbers = (tensors, state["optimizer"]) if same_stage else ({}, {})
        checkpoints.restore_optimizer(active.optimizer, active.optimizer_names, moments, numbers)
        if same_stage and "gradients" in state:
            self.stepper.received.load_state_dict(state["gradients"])
        if same_stage:
            memory = {n.removeprefix(_MEMORY): value for n, value in tensors.items() if n.startswith(_MEMORY)}
            active.bound.load_state(memory, state.get("objective", {}))
        self.step = int(state["step"])
        self.interval = Interval(**state["interval"])
        self.stretch = Interval()
        self.owed = False
        self.state.valid_loss = state["valid_loss"]
        self.state.metrics = dict(state["metrics"])
        self.callbacks.load_state_dict(state["callbacks"])
        self.callbacks.load_tensors(tensors)
