"""Pyro's modules with parameters of their own.

A `PyroModule` made the ordinary way (every AutoGuide is one) keeps its parameters in step with Pyro's global store, by
name: two of one class in one process overwrite each other, without a word. `own_parameters(model, guide)` ends that for
all `PyroModule`s the programs are made of, whichever way and under whichever setting they were made: from then on
their parameters are their attributes and nothing else, in training, in questions, in `Predictive`, in `guide.median()`.
Values stay as they are, and what the store holds is left alone.

`pyro.param` statements written out in a program are no attributes and are not touched.
"""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import Iterator
from types import FunctionType, MethodType, TracebackType
from typing import Any

import pyro
from pyro.nn.module import PyroModule, _Context
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn


class _Mend(Messenger):
    """Mends two gaps of Pyro's local mode, before plates inside the program see a parameter's message."""

    def _pyro_post_param(self, msg: Any) -> None:
        value = msg["value"]
        if hasattr(value, "unconstrained"):
            return
        if isinstance(value, nn.Parameter):
            value.unconstrained = weakref.ref(value)  # type: ignore[attr-defined]  # by which `SVI` finds it
        else:  # an initial value on its way into a module: a subsampling plate must not cut it down to its rows
            msg["kwargs"]["event_dim"] = None


class OwnParameters(_Context):
    """The context a tree of modules (`PyroModule`) shares: Pyro's local parameter mode while one of them is called."""

    def __enter__(self) -> None:
        if not self.active:
            self._before = pyro.settings.get("module_local_params")
            pyro.settings.set(module_local_params=True)
            self._mend = _Mend()
            self._mend.__enter__()
        self.active += 1
        self.used = True

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.active -= 1
        if not self.active:
            self.cache.clear()
            self._mend.__exit__(kind, value, traceback)
            del self._mend
            pyro.settings.set(module_local_params=self._before)


def own_parameters(*programs: Any) -> None:
    """Let every `PyroModule` in some programs keep its parameters to itself, for good.

    Looks through modules and their submodules, the models AutoGuides hold, handlers around programs, bound methods, and
    what plain functions refer to. Costs little where there is nothing to do, so call it on every program passed in.

    Args:
        programs: modules or functions; None is skipped.
    """
    switched: set[int] = set()
    clones: dict[int, nn.Parameter] = {}
    for module in _pyro_modules(programs, set()):
        context = module._pyro_context
        if not isinstance(context, OwnParameters) and not context.active:
            context.__class__ = OwnParameters  # in place: the whole tree shares this object
            context.param_state = {"params": {}, "constraints": {}}  # Pyro's checks look here
            switched.add(id(context))
        if id(context) in switched:
            _leave_the_store(module, clones)


def _leave_the_store(module: PyroModule, clones: dict[int, nn.Parameter]) -> None:
    """Replace parameters that Pyro's store holds, and so perhaps another module too, by copies."""
    stored = pyro.get_param_store()
    if not len(stored):
        return
    for name, parameter in module._parameters.items():
        if parameter is not None and stored.param_name(parameter) is not None:
            if id(parameter) not in clones:
                clones[id(parameter)] = nn.Parameter(parameter.detach().clone(), parameter.requires_grad)
            module._parameters[name] = clones[id(parameter)]


def _pyro_modules(thing: Any, seen: set[int]) -> Iterator[PyroModule]:
    """Find the `PyroModule`s that something is made of."""
    if id(thing) in seen or isinstance(thing, Tensor):
        return
    seen.add(id(thing))
    parts: list[Any] = []
    if isinstance(thing, PyroModule):
        yield thing
    if isinstance(thing, nn.Module):
        parts = [*thing._modules.values(), *vars(thing).values()]
    elif isinstance(thing, dict):
        parts = list(thing.values())
    elif isinstance(thing, list | tuple):
        parts = list(thing)
    elif isinstance(thing, functools.partial):
        parts = [thing.func, *thing.args, *thing.keywords.values()]
    elif isinstance(thing, MethodType):
        parts = [thing.__self__, thing.__func__]
    elif isinstance(thing, FunctionType):
        parts = _mentioned(thing)
    for part in parts:
        yield from _pyro_modules(part, seen)


def _mentioned(function: FunctionType) -> list[Any]:
    """List what a function closes over, and the modules among the global names it uses."""
    try:
        variables = inspect.getclosurevars(function)
    except ValueError:  # a cell that is still empty
        return []
    return [*variables.nonlocals.values(), *(v for v in variables.globals.values() if isinstance(v, nn.Module))]
