"""Errors that come from the values of single draws rather than from a program: a matrix that has no factor."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from phlogiston.errors import PhlogistonError

T = TypeVar("T")
_WORDS = ("cholesky", "singular", "positive-definite", "positive definite", "converge")
_TRIES = 30


def is_factorisation(error: Exception) -> bool:
    """Whether an error says that a matrix could not be factorised or inverted."""
    if isinstance(error, LinAlgError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _WORDS)


def is_numerical(error: Exception) -> bool:
    """Whether an error can come from the values of single particles: a factorisation, a parameter out of range."""
    if isinstance(error, PhlogistonError):
        return False
    return is_factorisation(error) or isinstance(error, ArithmeticError | ValueError)


def retried(run: Callable[[], T]) -> T:
    """Run a random program again when a draw of its own gave a matrix that cannot be factorised.

    Raises:
        Exception: what the last of 30 tries raised, or any other error at once.
    """
    for _ in range(_TRIES - 1):
        try:
            return run()
        except Exception as error:
            if not is_factorisation(error):
                raise
    return run()
