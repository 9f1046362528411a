"""A function that torch.compile may fuse, and that works as well where it cannot."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch.distributions import Distribution

from phlogiston.errors import TrainingWarning


class Compiled:
    """Calls functions, through torch.compile where `enabled`.

    What torch.compile makes is kept as long as this object; copies and pickles of it begin anew. A function that cannot
    be compiled (no C++ compiler, code that torch cannot take) is called as it is from then on, after one warning.

    Args:
        enabled: whether to compile at all.
        what: what messages call the function.
    """

    def __init__(self, enabled: bool, what: str) -> None:
        self.enabled, self.what = enabled, what
        self._compiled: Callable[..., Any] | None = None

    def __call__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Return `function(*args, **kwargs)`; it must be the same function in every call."""
        if not self.enabled:
            return function(*args, **kwargs)
        validates = Distribution._validate_args  # which torch.compile switches off for the whole process
        if self._compiled is None:
            # one function: to start processes that compile several at once takes longer than it saves
            self._compiled = torch.compile(function, options={"compile_threads": 1})
        try:
            return self._compiled(*args, **kwargs)
        except Exception as error:
            result = function(*args, **kwargs)  # an error of its own appears here as it is
            self.enabled, self._compiled = False, None
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            warnings.warn(
                f"{self.what} cannot be compiled here and is computed without: same numbers, slower. "
                f"compile=true needs a C++ compiler such as g++ ({type(error).__name__}: {reason[:200]})",
                TrainingWarning,
                stacklevel=2,
            )
            return result
        finally:
            Distribution.set_default_validate_args(validates)

    def __deepcopy__(self, memo: dict[int, Any]) -> Compiled:
        return Compiled(self.enabled, self.what)

    def __reduce__(self) -> Any:
        return Compiled, (self.enabled, self.what)
