"""How many operations a step of training makes, and how often it waits for the device: counted, not timed.

A step of a small model is mostly the overhead of its operations. On an accelerator they queue up while the host goes
on, until something reads a number of a tensor: then the host waits until all before it has been computed.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_WAITS = {
    "aten._local_scalar_dense",
    "aten.nonzero",
    "aten.equal",
    "aten.masked_select",
    "aten._unique2",
    "aten.unique_dim",
    "aten.unique_consecutive",
}
_INDEXED = {"aten.index", "aten.index_put", "aten.index_put_"}


@dataclass
class Counts:
    """What was counted.

    Attributes:
        operations: how often each operation of torch was called, views and the backward pass included.
        waits: how often a number of a tensor decided what the host did next, by file and line of the code of ours or
            yours that asked.
    """

    operations: Counter[str] = field(default_factory=Counter)
    waits: Counter[str] = field(default_factory=Counter)


class OperationCounts(TorchDispatchMode):
    """Counts what torch does while it is entered.

    Attributes:
        counts: so far.

    Example:
        >>> with OperationCounts() as counted:
        ...     _ = float(torch.ones(3).sum())
        >>> counted.counts.operations["aten.sum"], sum(counted.counts.waits.values())
        (1, 1)
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts = Counts()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func.overloadpacket)
        self.counts.operations[name] += 1
        if name in _WAITS or (name in _INDEXED and _by_mask(args[1])) or str(func) == "aten.repeat_interleave.Tensor":
            self.counts.waits[f"{name} {_caller()}"] += 1
        return func(*args, **(kwargs or {}))


def _by_mask(indices: Any) -> bool:
    return any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in indices)


def _caller() -> str:
    """File and line of the innermost frame that is neither torch's nor Pyro's."""
    frame = sys._getframe(2)
    while frame is not None and ("site-packages" in frame.f_code.co_filename or frame.f_code.co_filename == __file__):
        frame = frame.f_back  # type: ignore[assignment]
    return "" if frame is None else f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"


class StepCounts:
    """A callback of `fit` that counts the second step of every stage (the first checks what later ones need not).

    Attributes:
        stages: what was counted, by the name of the stage; stages of one step are left out.

    Example:
        >>> import phlogiston as ph
        >>> from phlogiston.testing import StepCounts
        >>> counts = StepCounts()
        >>> _ = ph.fit("mdn", "arcsine", steps=3, callbacks=[counts], progress="off")  # doctest: +SKIP
        >>> sum(counts.stages["fit"].operations.values())  # doctest: +SKIP
        102
    """

    def __init__(self) -> None:
        self.stages: dict[str, Counts] = {}
        self._mode: OperationCounts | None = None
        self._done = 0

    def on_stage(self, state: Any) -> None:
        """A stage begins."""
        self._finish(None)
        self._done = 0

    def on_step(self, state: Any) -> None:
        """A step is done: the next one is counted if it is the second."""
        self._finish(state.stage.name)
        self._done += 1
        if self._done == 1 and state.stage.steps > 1:
            self._mode = OperationCounts()
            self._mode.__enter__()

    def on_end(self, state: Any) -> None:
        """Training is over."""
        self._finish(None)

    def _finish(self, stage: str | None) -> None:
        if self._mode is None:
            return
        self._mode.__exit__(None, None, None)
        if stage is not None:
            self.stages[stage] = self._mode.counts
        self._mode = None
