"""Callbacks: how code of yours follows and stops a training.

A callback is any object with some of the methods `on_start`, `on_stage`, `on_step`, `on_stage_end`, `on_checkpoint` and
`on_end`, each taking a `State`. `on_stage_end` comes once the last step of a stage is done, or training ends in it for
another reason (`request_stop`), before the checkpoint is written: what a stage leaves behind is put in place there. An
interruption (Ctrl-C, SIGTERM) ends nothing: the same call goes on from its checkpoint.

One that remembers things implements `state_dict() -> JSON-able` and `load_state_dict(state)`; the engine keeps that
with each checkpoint, and what `tensors() -> {name: tensor}` returns, for `load_tensors(tensors)`. With several
processes every process calls its callbacks: look at `state.leader` before writing files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from phlogiston.errors import ConfigError
from phlogiston.inference.svi import checkpoints

EVENTS = ("on_start", "on_stage", "on_step", "on_stage_end", "on_checkpoint", "on_end")


class State:
    """The state of training that callbacks receive. Attributes are current at the time of the call.

    Attributes:
        model: the model.
        guide: the guide.
        data: the training rows.
        valid: the validation rows, or None.
        optimizer: the optimiser of the stage, None before the first.
        objective: the module that gives the loss of the stage, None before the first.
        stage: the current `Stage`, None before the first.
        step: steps done, over all stages.
        total: steps in all.
        progress: share of all steps done.
        stage_progress: 0 at the first step of the stage, 1 at its last.
        loss: loss of the last step, nats per data point.
        valid_loss: last loss of the stage on the validation rows, nats per data point, or None.
        metrics: numbers put here are written with the next record.
        device: where the modules are.
        fabric: the Lightning Fabric, or None.
        leader: True on the one process that writes.
        run: path of the run folder, or None.
        validate: gives the loss on the validation rows, nats per data point; with several processes all must call it.
    """

    def __init__(self, model: nn.Module, guide: nn.Module, data: Any, total: int, valid: Any = None) -> None:
        self.model = model
        self.guide = guide
        self.data, self.valid = data, valid
        self.total = total
        self.optimizer: torch.optim.Optimizer | None = None
        self.objective: nn.Module | None = None
        self.stage: Any = None
        self.step = 0
        self.stage_progress = 0.0
        self.loss = float("nan")
        self.valid_loss: float | None = None
        self.metrics: dict[str, float] = {}
        self.device = torch.device("cpu")
        self.fabric: Any = None
        self.leader = True
        self.run: Any = None
        self.validate: Callable[[], float] = lambda: float("nan")
        self.stop_requested = False

    @property
    def progress(self) -> float:
        """Share of all steps done."""
        return self.step / self.total

    def request_stop(self) -> None:
        """Ask the engine to end training after this step (with several processes: after the next)."""
        self.stop_requested = True


class Callbacks:
    """Calls several callbacks, and skips events that none of them handles.

    Raises:
        ConfigError: for an object with none of the methods.
    """

    PREFIX = "callbacks."  # of the names of what they remember, among a checkpoint's tensors

    def __init__(self, callbacks: Sequence[Any]) -> None:
        self.all = list(callbacks)
        for callback in self.all:
            if not any(callable(getattr(callback, event, None)) for event in EVENTS):
                raise ConfigError(f"callbacks: {type(callback).__name__} has none of the methods {', '.join(EVENTS)}.")
        self._by_event = {e: [getattr(c, e) for c in self.all if callable(getattr(c, e, None))] for e in EVENTS}

    def __call__(self, event: str, state: State) -> None:
        for method in self._by_event[event]:
            method(state)

    def listens(self, event: str) -> bool:
        """Say whether any callback has the method `event`."""
        return bool(self._by_event[event])

    def state_dict(self) -> list[Any]:
        """Return what the callbacks remember, one entry each, None for those that remember nothing."""
        return [[type(c).__name__, c.state_dict() if hasattr(c, "state_dict") else None] for c in self.all]

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the tensors that callbacks remember, by prefix, place and name."""
        return {
            f"{self.PREFIX}{i}.{name}": value
            for i, callback in enumerate(self.all)
            if hasattr(callback, "tensors")
            for name, value in callback.tensors().items()
        }

    def load_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        """Give callbacks the tensors back that they remembered, among others."""
        for i, callback in enumerate(self.all):
            if hasattr(callback, "load_tensors"):
                own = f"{self.PREFIX}{i}."
                callback.load_tensors({n.removeprefix(own): v for n, v in tensors.items() if n.startswith(own)})

    def load_state_dict(self, states: Sequence[Any]) -> None:
        """Give callbacks their memory back, where kind and place agree."""
        for callback, (kind, state) in zip(self.all, states, strict=False):
            if state is not None and type(callback).__name__ == kind and hasattr(callback, "load_state_dict"):
                callback.load_state_dict(state)


class EarlyStopping:
    """Ends training when the validation loss has not improved for some checkpoints of a stage.

    Args:
        patience: checkpoints without improvement that end training, at least 1.
        least: improvement that counts, in nats per data point.

    Raises:
        ConfigError: if `patience` is less than 1; at the first checkpoint, if `fit` got no `valid` rows.
    """

    def __init__(self, patience: int = 5, least: float = 0.0) -> None:
        if patience < 1:
            raise ConfigError(f"EarlyStopping(patience={patience}): at least 1 is needed.")
        self.patience = patience
        self.least = least
        self.best = float("inf")
        self.waited = 0
        self.stage = ""

    def on_stage(self, state: State) -> None:
        """Begin anew: losses of different stages say nothing beside each other."""
        if state.stage.name != self.stage:
            self.stage, self.best, self.waited = state.stage.name, float("inf"), 0

    def on_checkpoint(self, state: State) -> None:
        """Compare the validation loss with the best one."""
        if state.valid_loss is None:
            raise ConfigError("EarlyStopping needs the validation loss; give fit(..., valid=rows).")
        if state.valid_loss < self.best - self.least:
            self.best, self.waited = state.valid_loss, 0
            return
        self.waited += 1
        if self.waited >= self.patience:
            state.request_stop()

    def state_dict(self) -> dict[str, Any]:
        """Return the stage, its best loss, and patience used up."""
        best = None if self.best == float("inf") else self.best
        return {"stage": self.stage, "best": best, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved memory."""
        self.best = float("inf") if state["best"] is None else state["best"]
        self.waited = state["waited"]
        self.stage = state.get("stage", "")


class KeepBest:
    """Ends every stage of training at the parameters with the lowest validation loss.

    It looks every 10 steps at first, then about every tenth of the steps so far, for what a few rows have to say is
    soon learned; but no more often than all rows have been seen once, for before they cannot be known by heart. Without
    validation rows it does nothing.
    """

    def __init__(self) -> None:
        self.best = float("inf")
        self.kept: dict[str, torch.Tensor] = {}
        self.stage = ""

    def on_stage(self, state: State) -> None:
        """Begin anew: losses of different stages say nothing beside each other."""
        if state.stage.name != self.stage:
            self.stage, self.best, self.kept = state.stage.name, float("inf"), {}

    def on_step(self, state: State) -> None:
        """Keep what is better than all before, when it is time to look."""
        if state.valid is None:
            return
        done = 1 + round(state.stage_progress * (state.stage.steps - 1))
        epoch = -(-len(state.data) // state.stage.batch_size)
        if done % max(10, done // 100 * 10, epoch) == 0:
            self._compare(state)

    @torch.no_grad()
    def on_stage_end(self, state: State) -> None:
        """Look once more, and put the best in place."""
        if state.valid is None:
            return
        self._compare(state)
        for name, value in self._named(state).items():
            value.copy_(self.kept[name])

    def _compare(self, state: State) -> None:
        loss = state.validate()
        if loss < self.best or not self.kept:
            self.best = loss
            self.kept = {name: value.detach().clone() for name, value in self._named(state).items()}

    @staticmethod
    def _named(state: State) -> dict[str, torch.Tensor]:
        return checkpoints.named_tensors({"model": state.model, "guide": state.guide})

    def state_dict(self) -> dict[str, Any]:
        """Return the stage and its best loss."""
        return {"stage": self.stage, "best": None if self.best == float("inf") else self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved loss."""
        self.best = float("inf") if state["best"] is None else state["best"]
        self.stage = state.get("stage", "")

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the best parameters."""
        return self.kept

    def load_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        """Take up saved parameters."""
        self.kept = {name: value.clone() for name, value in tensors.items()}
