"""Results that two programs need and one computes: a guide renders what it drew, the model need not do it again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


class Shared:
    """Remembers results by name until it is cleared, each for the very tensors it was computed from.

    With other tensors, or when a gradient is needed and was not, it computes again. It is no parameter and no
    state: a copy of a module that has one starts empty, and nothing of it is saved.
    """

    def __init__(self) -> None:
        self._kept: dict[str, tuple[bool, tuple[Tensor, ...], Any]] = {}

    def __call__(self, name: str, tensors: Sequence[Tensor], compute: Callable[[], Any]) -> Any:
        """Return what is stored under `name` for `tensors`, or compute and keep it."""
        kept = self._kept.get(name)
        fits = kept is not None and kept[0] == torch.is_grad_enabled() and len(kept[1]) == len(tensors)
        if kept is not None and fits and all(a is b for a, b in zip(kept[1], tensors, strict=True)):
            return kept[2]
        result = compute()
        self.keep(name, tensors, result)
        return result

    def keep(self, name: str, tensors: Sequence[Tensor], result: Any) -> None:
        """Keep a result under `name` for `tensors`."""
        self._kept[name] = (torch.is_grad_enabled(), tuple(tensors), result)

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()

    def __deepcopy__(self, memo: Any) -> Shared:
        return Shared()

    def __getstate__(self) -> dict[str, Any]:
        return {"_kept": {}}
