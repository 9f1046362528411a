"""What a program asks of tensors without waiting for the device they are on.

A step of training that reads a number of a tensor makes the host wait until the device has computed it: these functions
check input and make tables where the tensors are.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def require(condition: Tensor, error: Callable[[], Exception]) -> None:
    """Refuse unless a condition holds.

    Args:
        condition: bool, one entry.
        error: makes the error to raise. On an accelerator the program ends with the error of a failed device
            assertion instead, at a later operation.
    """
    if condition.device.type != "cpu":
        torch._assert_async(condition)
        return
    try:
        torch._assert_async(condition)
    except RuntimeError:
        raise error() from None


def one_hot(codes: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    """Codes (...) as (..., classes) of zeros and ones; all zero where a code is none of 0 .. classes - 1."""
    return (codes.unsqueeze(-1) == torch.arange(classes, device=codes.device)).to(dtype)
