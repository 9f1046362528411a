"""Torch's optimisers by name, without the compiler that they load at their first step.

`torch.optim` marks its methods for `torch.compile`, and imports all of it when they are first called: a second and more
that the first fit of a process waits for, whether or not anything is compiled. These classes call the methods beneath
the marks. State, options and updates are torch's, bit by bit.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

_MARKED = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")


def _plain(kind: type[torch.optim.Optimizer]) -> Callable[..., torch.optim.Optimizer]:
    methods: dict[str, Any] = {name: inspect.unwrap(getattr(kind, name)) for name in _MARKED}
    methods["step"] = torch.no_grad()(inspect.unwrap(kind.step))
    return type(kind.__name__, (kind,), {**methods, "__doc__": kind.__doc__, "__module__": __name__})


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": partial(_plain(torch.optim.Adam), fused=True),
    "adamw": partial(_plain(torch.optim.AdamW), fused=True),
    "sgd": partial(_plain(torch.optim.SGD), fused=True),
    "rmsprop": _plain(torch.optim.RMSprop),
}
"""By the names that a `Stage` takes; each is called with parameters and `lr`."""
