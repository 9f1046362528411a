"""Buffers that keep float64 while everything around them is float32, float16 or bfloat16."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn


class KeepsFloat64(nn.Module):
    """A module whose own float64 buffers move between devices but are never rounded.

    Locations and scales of data are such buffers: `x - location` loses all digits of a column far from zero as soon as
    either is rounded to float32. `.float()`, `.half()` and `.to(torch.bfloat16)` leave them as they are.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        kept = {name: b for name, b in self._buffers.items() if b is not None and b.dtype == torch.float64}
        module: Any = super()._apply(fn, recurse)
        for name, buffer in kept.items():
            now = self._buffers[name]
            if now is not None and now.dtype != torch.float64:
                self._buffers[name] = buffer.to(now.device)
        return module  # type: ignore[no-any-return]
