"""What an objective remembers from step to step, so that a resumed run continues with it.

An ELBO object may change attributes of its own while it runs, and Pyro's `TraceGraph_ELBO` keeps running averages of
its costs in the global parameter store. Both go into the checkpoint, and both are as they were after training.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pyro
import torch
from torch import Tensor

State = tuple[dict[str, Tensor], dict[str, Any]]
"""Tensors by name, and the JSON-able skeleton that says where they belong."""

_AVERAGES = "__baseline_avg_downstream_cost_"  # what Pyro calls them in the store
_TENSOR, _TUPLE = "__tensor__", "__tuple__"


class _OpaqueError(Exception):
    """The value is neither a tensor nor a number, nor made of such."""


def _encode(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        tensors[name] = value.detach().clone()
        return {_TENSOR: name}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _encode(part, f"{name}.{key}", tensors) for key, part in value.items()}
    if isinstance(value, list | tuple):
        parts = [_encode(part, f"{name}.{i}", tensors) for i, part in enumerate(value)]
        return parts if isinstance(value, list) else {_TUPLE: parts}
    raise _OpaqueError


def _decode(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_decode(part, tensors) for part in value]
    if not isinstance(value, dict):
        return value
    if _TENSOR in value:
        return tensors[value[_TENSOR]].clone()
    if _TUPLE in value:
        return tuple(_decode(part, tensors) for part in value[_TUPLE])
    return {key: _decode(part, tensors) for key, part in value.items()}


def capture(thing: Any) -> State:
    """Return the attributes of an object that are numbers, text, tensors, or lists and dictionaries of them."""
    tensors: dict[str, Tensor] = {}
    skeleton: dict[str, Any] = {}
    for key, value in vars(thing).items():
        encoded: dict[str, Tensor] = {}
        with contextlib.suppress(_OpaqueError):
            skeleton[key] = _encode(value, key, encoded)
            tensors.update(encoded)
    return tensors, skeleton


def changes(thing: Any, before: State) -> State:
    """Return what `capture` finds that is not as it was `before`."""
    tensors, skeleton = capture(thing)
    changed = {k: v for k, v in skeleton.items() if k not in before[1] or not _same(k, v, tensors, before)}
    return {n: t for n, t in tensors.items() if n.split(".")[0] in changed}, changed


def _same(key: str, value: Any, tensors: dict[str, Tensor], before: State) -> bool:
    names = [n for n in tensors if n.split(".")[0] == key]
    old = [n for n in before[0] if n.split(".")[0] == key]
    return (
        value == before[1][key]
        and names == old
        and all(tensors[n].dtype == before[0][n].dtype and torch.equal(tensors[n], before[0][n]) for n in names)
    )


def put_back(thing: Any, state: State, before: State = ({}, {})) -> None:
    """Set the attributes of an object to those of `before`, then to those of `state`."""
    for tensors, skeleton in (before, state):
        for key, value in skeleton.items():
            new, present = _decode(value, tensors), getattr(thing, key, None)
            if isinstance(new, dict) and isinstance(present, dict):  # every other holder of the object sees the change
                present.clear()
                present.update(new)
            else:
                setattr(thing, key, new)


class Averages:
    """Keeps the running averages of `TraceGraph_ELBO` out of the global store, one set for each number of rows.

    Attributes:
        values: number of rows -> name in the store -> average.
    """

    def __init__(self) -> None:
        self.values: dict[str, dict[str, Tensor]] = {}

    @contextlib.contextmanager
    def in_store(self, rows: int) -> Iterator[None]:
        """Lay out the averages of batches of `rows` rows in the global store, and take them away afterwards."""
        store = pyro.get_param_store()
        others = _take()
        for name, value in self.values.get(str(rows), {}).items():
            store[name] = value
        try:
            yield
        finally:
            averages = _take()
            if averages:
                self.values[str(rows)] = averages
            for name, value in others.items():
                store[name] = value


def _take() -> dict[str, Tensor]:
    store = pyro.get_param_store()
    averages = {name: store[name].detach().clone() for name in list(store.keys()) if name.startswith(_AVERAGES)}
    for name in averages:
        del store[name]
    return averages
