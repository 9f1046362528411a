"""What verbs of several systems begin with: whole numbers checked, evaluation mode, random numbers of their own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from phlogiston.errors import ConfigError


def at_least(name: str, value: int, least: int) -> int:
    """Return a whole number, or refuse what is none or too small.

    Raises:
        ConfigError: it is not `least` or more.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{name} is {value!r}; it must be a whole number from {least} on")
    return value


@contextlib.contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Evaluation mode, then the mode as found."""
    before = [[m for m in module.modules() if m.training] for module in modules]
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        for found in before:
            for m in found:
                m.training = True


@contextlib.contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Random numbers of one's own, where a seed is given."""
    with torch.random.fork_rng(enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        yield
