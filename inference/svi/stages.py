"""Stages: what to train, towards what, how fast and for how long; and a stage at work.

A recipe is a list of `Stage`s. `Active` is one of them bound to a pair of modules: parameters chosen, schedules
resolved, handlers stacked, optimiser made. It changes the modules' `requires_grad` and handler attributes, and puts
both back when it is closed.
"""

from __future__ import annotations

import contextlib
import fnmatch
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from pyro.infer import ELBO
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from phlogiston.distributions.pyro_modules import own_parameters
from phlogiston.errors import ConfigError, unknown_name
from phlogiston.inference.svi import objectives
from phlogiston.inference.svi.handlers import PerDatum, ScaleSites
from phlogiston.inference.svi.optimizers import OPTIMIZERS
from phlogiston.inference.svi.pair import validity
from phlogiston.inference.svi.pair.sites import Site, check_names
from phlogiston.inference.svi.schedules import Schedule

_RESERVED = ("scale", "objective", "learning_rate")


@dataclass(frozen=True)
class Stage:
    """One stage of a training recipe.

    Attributes:
        name: shown in progress and metrics.
        steps: gradient steps, at least 1.
        objective: a name from `objectives.names()`, a `pyro.infer.ELBO` (such as `objectives.make("iwae",
            num_particles=8)`), or a callable `(model, guide) -> nn.Module` whose `forward(**batch)` is the
            differentiable loss summed over the batch, in nats.
        optimizer: `"adam"`, `"adamw"`, `"sgd"`, `"rmsprop"`, or a callable `(parameters, learning_rate) -> Optimizer`.
            Each stage begins with a fresh one.
        learning_rate: step size before schedules, positive.
        batch_size: rows per step over all processes together.
        trainable: patterns (`*`, `?`, `[...]`) over parameter names `model.*`, `guide.*` and `objective.*`; the others
            are frozen during the stage. A parameter shared by model and guide goes by its name in the model.
        schedules: what changes over the stage, by key: `"learning_rate"` (a factor), `"scale.<site>"` (weight of a
            site's log-density), `"<handler>.<attribute>"`, `"objective.<attribute>"`.
        clip: largest norm of the whole gradient (per-datum loss), or None to leave it alone.
        sequence_length: keep this many entries of axis 1 of the tensors the data name as sequences.
        handlers: Pyro messengers entered around model and guide, by a name of your choice.
        programs: `(model, guide) -> (model, guide)`: what is run in this stage in their stead, made of their parts
            (a simpler program that shares their parameters); what is trained and kept is still `model` and `guide`.
        transform: `batch -> batch`, applied to every batch before the programs see it (random crops, frames drawn from
            a clip, codes of a frozen encoder). Its randomness belongs to the step, like all noise. One whose attribute
            `takes_rows` is true is called `(batch, rows)` with the training or validation rows the batch was read
            from, so that it can keep what it computes once per row.

    Raises:
        ConfigError: for values out of range.
    """

    name: str
    steps: int
    objective: str | ELBO | Callable[[nn.Module, nn.Module], nn.Module] = "elbo"
    optimizer: str | Callable[..., torch.optim.Optimizer] = "adam"
    learning_rate: float = 1e-3
    batch_size: int = 128
    trainable: tuple[str, ...] = ("*",)
    schedules: Mapping[str, Schedule] = field(default_factory=dict)
    clip: float | None = None
    sequence_length: int | None = None
    handlers: Mapping[str, Messenger] = field(default_factory=dict)
    programs: Callable[[nn.Module, nn.Module], tuple[nn.Module, nn.Module]] | None = None
    transform: Callable[..., dict[str, Tensor]] | None = None

    def __post_init__(self) -> None:
        where = f"stage {self.name!r}"
        for name, least in (("steps", 1), ("batch_size", 1), ("sequence_length", 1)):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
                raise ConfigError(f"{where}: {name}={value!r}; an integer of at least {least} is expected.")
        if not self.learning_rate > 0:
            raise ConfigError(f"{where}: learning_rate={self.learning_rate!r}; a positive number is expected.")
        if self.clip is not None and not self.clip > 0:
            raise ConfigError(f"{where}: clip={self.clip!r}; a positive number or None is expected.")
        if isinstance(self.trainable, str):
            object.__setattr__(self, "trainable", (self.trainable,))
        if isinstance(self.optimizer, str) and self.optimizer not in OPTIMIZERS:
            raise unknown_name(f"optimizer in {where}", self.optimizer, OPTIMIZERS)
        if isinstance(self.objective, str) and self.objective not in objectives.names():
            raise unknown_name(f"objective in {where}", self.objective, objectives.names())
        objectives.refuse(self.objective)
        for key, schedule in self.schedules.items():
            if not callable(schedule):
                raise ConfigError(
                    f"{where}: schedules[{key!r}] is a {type(schedule).__name__}; a Schedule is expected."
                )
            head, _, tail = key.partition(".")
            if key != "learning_rate" and (not tail or head not in ("scale", "objective", *self.handlers)):
                choices = ["learning_rate", "scale.<site>", "objective.<attribute>"]
                raise unknown_name(
                    f"schedule in {where}", key, [*choices, *(f"{h}.<attribute>" for h in self.handlers)]
                )
        for name in self.handlers:
            if name in _RESERVED or "." in name:
                raise ConfigError(f"{where}: a handler cannot be called {name!r}; choose a name without a dot.")

    def describe(self) -> dict[str, Any]:
        """Return the stage as JSON-able data, so that two runs can be compared."""
        optimizer = self.optimizer
        return {
            "name": self.name,
            "steps": self.steps,
            "objective": objectives.describe(self.objective),
            "optimizer": optimizer if isinstance(optimizer, str) else getattr(optimizer, "__qualname__", "callable"),
            "learning_rate": float(self.learning_rate),
            "batch_size": self.batch_size,
            "trainable": list(self.trainable),
            "schedules": {k: _describe(v) for k, v in self.schedules.items()},
            "clip": self.clip,
            "sequence_length": self.sequence_length,
            "handlers": {k: _describe(v) for k, v in self.handlers.items()},
            **{k: _describe(v) for k in ("programs", "transform") if (v := getattr(self, k)) is not None},
        }

    def pair(self, model: nn.Module, guide: nn.Module) -> tuple[nn.Module, nn.Module]:
        """Return what runs in this stage: model and guide, or what `programs` makes of them, in the same mode."""
        if self.programs is None:
            return model, guide
        made = self.programs(model, guide)
        own_parameters(*made)
        for program, origin in zip(made, (model, guide), strict=True):
            program.train(origin.training)
        return made


def _describe(thing: Any) -> Any:
    if hasattr(thing, "describe"):
        return thing.describe()
    return getattr(thing, "__qualname__", type(thing).__qualname__)


def named_parameters(modules: Mapping[str, nn.Module]) -> dict[str, nn.Parameter]:
    """Return the parameters of several modules by name, each once, under its first name."""
    out: dict[str, nn.Parameter] = {}
    seen: set[int] = set()
    for prefix, module in modules.items():
        for name, parameter in module.named_parameters():
            if id(parameter) not in seen:
                seen.add(id(parameter))
                out[f"{prefix}.{name}"] = parameter
    return out


class Active:
    """A stage bound to a pair of modules, ready to step; `close` puts back what it changed.

    Args:
        stage: the stage.
        index: its place in the recipe.
        start: global number of its first step.
        model: the generative program.
        guide: the inference program.
        sites: what `sites.inspect` returned for the programs of the stage.
        device: where to put what the objective brings along, None for where it is.

    Attributes:
        programs: what runs in this stage, see `Stage.programs`.
        bound: the objective tied to them.
        modules: model, guide and objective by prefix; their tensors make up a checkpoint.
        parameters: the trainable parameters by name.
        optimizer: the optimiser over them.
        per_datum: the handler that weights global sites, or None where there are none.
    """

    def __init__(
        self,
        stage: Stage,
        index: int,
        start: int,
        model: nn.Module,
        guide: nn.Module,
        sites: list[Site],
        device: torch.device | None = None,
    ) -> None:
        self.stage = stage
        self.index = index
        self.start = start
        self._undo: list[Callable[[], Any]] = []
        where = f"stage {stage.name!r}"
        self.programs = stage.pair(model, guide)
        validity.check(stage.objective, sites, where)
        self.bound = objectives.bind(stage.objective, *self.programs, max((site.depth for site in sites), default=0))
        self._undo.append(self.bound.release)
        if device is not None:
            self.bound.to(device)
        self.modules: dict[str, nn.Module] = {"model": model, "guide": guide, "objective": self.bound.module}
        self._scales = ScaleSites({k.partition(".")[2]: 1.0 for k in stage.schedules if k.startswith("scale.")})
        self.handlers: list[Messenger] = list(stage.handlers.values())
        if self._scales.weights:
            self.handlers.append(self._scales)
        for handler in self.handlers:
            check_names(getattr(handler, "site_names", ()), sites, where)
        self.per_datum: PerDatum | None = None
        if any(not site.local or site.subsampled for site in sites):
            self.per_datum = PerDatum(1.0)
            self.handlers.append(self.per_datum)
        self._actions = list(self._resolve(where))
        self._progress = 0.0
        try:
            self.parameters = self._select(where)
            self._make_optimizer(where)
        except BaseException:
            self.close()
            raise

    def _select(self, where: str) -> dict[str, nn.Parameter]:
        every = named_parameters(self.modules)
        for pattern in self.stage.trainable:
            if every and not any(fnmatch.fnmatchcase(name, pattern) for name in every):
                raise unknown_name(f"parameter pattern in {where}, trainable", pattern, every)
        chosen = {}
        for name, parameter in every.items():
            if not parameter.requires_grad:
                continue  # frozen by its owner, and stays so
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in self.stage.trainable):
                chosen[name] = parameter
            else:
                parameter.requires_grad_(False)
                parameter.grad = None
                self._undo.append(partial(parameter.requires_grad_, True))
        if not chosen:
            raise ConfigError(f"{where}: there is no parameter to train; model and guide have {len(every)} in all.")
        return chosen

    def _make_optimizer(self, where: str) -> None:
        make = self.stage.optimizer
        make = OPTIMIZERS[make] if isinstance(make, str) else make
        optimizer = (
            make(list(self.parameters.values()), lr=self.stage.learning_rate)
            if isinstance(self.stage.optimizer, str)
            else make(list(self.parameters.values()), self.stage.learning_rate)
        )
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise ConfigError(
                f"{where}: optimizer made a {type(optimizer).__name__}; a torch.optim.Optimizer is expected."
            )
        self.optimizer = optimizer
        names = {id(p): n for n, p in self.parameters.items()}
        self.optimizer_names = [names[id(p)] for group in optimizer.param_groups for p in group["params"]]
        # a callable may have given its groups rates of their own: the schedule scales each
        self._rates = [float(group["lr"]) for group in optimizer.param_groups]

    def _resolve(self, where: str) -> Iterator[tuple[Any, str, Schedule]]:
        for key, schedule in self.stage.schedules.items():
            if key == "learning_rate":
                continue
            head, _, tail = key.partition(".")
            if head == "scale":
                yield self._scales.weights, tail, schedule
                continue
            target = self.bound.target if head == "objective" else self.stage.handlers[head]
            if not hasattr(target, tail):
                have = [a for a in vars(target) if not a.startswith("_")]
                raise unknown_name(f"attribute of {head!r} in {where}, schedules", tail, have)
            self._undo.append(partial(setattr, target, tail, getattr(target, tail)))
            yield target, tail, schedule

    def progress(self, step: int) -> float:
        """Return how far global step `step` is in this stage: 0 at its first step, 1 at its last."""
        return min(1.0, (step - self.start) / max(1, self.stage.steps - 1))

    def apply(self, step: int, factor: float) -> float:
        """Set learning rate and scheduled attributes for global step `step`; return the learning rate.

        Args:
            step: the global step.
            factor: what returns to earlier states have left of the learning rate.
        """
        progress = self.progress(step)
        schedule = self.stage.schedules.get("learning_rate")
        share = factor if schedule is None else factor * schedule(progress)
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * share
        self._schedule(progress)
        self._progress = progress
        return self.stage.learning_rate * share

    def _schedule(self, progress: float) -> None:
        """Set scheduled attributes."""
        for target, name, rule in self._actions:
            if target is self._scales.weights:
                target[name] = rule(progress)
            else:
                setattr(target, name, rule(progress))

    @contextlib.contextmanager
    def at_its_end(self) -> Iterator[None]:
        """Scheduled attributes as they are at the last step, so that losses of different steps can be compared."""
        self._schedule(1.0)
        try:
            yield
        finally:
            self._schedule(self._progress)

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Enter all handlers of the stage."""
        with contextlib.ExitStack() as stack:
            for handler in self.handlers:
                stack.enter_context(handler)
            yield

    def close(self) -> None:
        """Unfreeze what the stage froze and put scheduled attributes back."""
        while self._undo:
            self._undo.pop()()
