"""What verbs of several systems begin with: evaluation mode, random numbers of their own."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Iterator
from typing import SupportsIndex

import torch
from torch import nn

from phlogiston.arrays import at_least
from phlogiston.errors import ConfigError

__all__ = ["at_least", "checked_seed", "drawn_seed", "evaluating", "seeded"]  # systems of other packages, too


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


def checked_seed(seed: SupportsIndex | None) -> int | None:
    """Return a seed, or refuse what is none.

    Raises:
        ConfigError: neither None nor a whole number below 2^64 either way, which is what torch takes.
    """
    if seed is None:
        return None
    try:
        number = operator.index(seed)
    except (TypeError, ValueError):
        number = 2**64
    if isinstance(seed, bool) or not -(2**63) <= number < 2**64:
        raise ConfigError(f"seed is {seed!r}; it must be None or a whole number from -2^63 up to 2^64 - 1")
    return number


def drawn_seed(seed: SupportsIndex | None) -> int:
    """Return a seed; where none is given, one from torch's generator."""
    given = checked_seed(seed)
    return int(torch.randint(2**31, ())) if given is None else given


@contextlib.contextmanager
def seeded(seed: SupportsIndex | None) -> Iterator[None]:
    """Random numbers of one's own, where a seed is given."""
    given = checked_seed(seed)
    with torch.random.fork_rng(enabled=given is not None):
        if given is not None:
            torch.manual_seed(given)
        yield
