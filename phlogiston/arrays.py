"""Numbers that callers give: as tensors arrays of any memory layout and byte order, lists, data frames; and counts."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any, SupportsIndex, TypeAlias

import numpy as np

from phlogiston.errors import ConfigError, DataError, ShapeError

if TYPE_CHECKING:
    from torch import Tensor

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


def tensor_of(name: str, value: Any) -> Tensor:
    """A tensor of real numbers or bools, in the precision they came in; one that is a tensor already is detached.

    A memory-mapped array, and one in memory that torch can stand on, is not copied.

    Args:
        name: of the argument, for messages.
        value: a tensor, or what numpy makes an array of.

    Raises:
        DataError: text, dates, objects or complex values; a tensor that is sparse, quantised or on the meta device.
        ShapeError: a list of entries that differ in shape.
    """
    import torch

    if isinstance(value, torch.Tensor):
        if value.layout != torch.strided or value.is_meta or value.is_quantized:
            kind = "a meta" if value.is_meta else "a quantised" if value.is_quantized else "a sparse"
            raise DataError(f"{name!r} is {kind} tensor; expected a dense one of numbers.")
        tensor = value.detach()
    else:
        tensor = torch.from_numpy(_plain(name, value if isinstance(value, np.memmap) else _array(name, value)))
    if tensor.is_complex():
        raise DataError(f"{name!r} holds {tensor.dtype} values; expected real numbers.")
    return tensor


def _array(name: str, value: Any) -> Array:
    try:
        if isinstance(value, list | tuple) and value and hasattr(value[0], "detach"):
            value = [entry.detach().cpu() if hasattr(entry, "detach") else entry for entry in value]
        return np.asarray(value)
    except ValueError:
        shapes = list(dict.fromkeys(_shape(entry) for entry in value))
        shown = ", ".join(map(str, shapes[:3])) + (", ..." if len(shapes) > 3 else "")
        told = f"of different shapes: {shown}" if len(shapes) > 1 else "that differ in shape inside"
        raise ShapeError(f"{name!r} is a list of {len(value)} entries {told}. All must have one shape.") from None


def _shape(entry: Any) -> tuple[int, ...]:
    """The shape of an entry of a list; of what has none itself its length."""
    found = getattr(entry, "shape", None)
    return tuple(found) if found is not None else (len(entry),) if hasattr(entry, "__len__") else ()


def _plain(name: str, array: Array) -> Array:
    """An array that torch can stand on."""
    if array.dtype.kind not in "fiubc":
        hint = " Encode text as integer codes first." if array.dtype.kind in "USO" else ""
        raise DataError(f"{name!r} holds {array.dtype} values; expected numbers.{hint}")
    array = _mapped_anew(array)
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    if not array.flags.writeable or any(stride < 0 for stride in array.strides) or not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="), order="C")
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.int64)
    return np.asarray(array, order="C")


def _mapped_anew(array: Array) -> Array:
    """A memory-mapped array that may only be read, mapped so that a tensor may stand on it: nothing is copied.

    A view does not say where in its file it begins, and stays as it is.
    """
    given: Any = array
    mapped = isinstance(given, np.memmap) and given.mode == "r" and type(given.base).__name__ == "mmap"
    if not mapped or given.filename is None or not given.flags.c_contiguous:
        return array
    anew: Array = np.memmap(given.filename, given.dtype, "c", given.offset, given.shape)
    return anew


def at_least(name: str, value: SupportsIndex, least: int) -> int:
    """Return a whole number, or refuse what is none or too small.

    Raises:
        ConfigError: it is not `least` or more.
    """
    try:
        number = operator.index(value)
    except (TypeError, ValueError):  # of an array with several entries it is a ValueError
        number = least - 1
    if isinstance(value, bool) or number < least:
        raise ConfigError(f"{name} is {value!r}; it must be a whole number from {least} on")
    return number
