"""Object arrays inside npz files, read without running what they say.

NumPy stores an array of arrays as a pickle; published stroke data come in this form. The pickle is read, not run: see
`datasets.readers.pickle_notes`.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from phlogiston.datasets.base import Array
from phlogiston.datasets.readers.pickle_notes import Budget, interpret, to_array
from phlogiston.datasets.untrusted import arrays
from phlogiston.errors import DataError


def read(path: str | Path) -> dict[str, list[Array] | Array]:
    """Read every array of an npz file; object arrays become lists of plain arrays.

    Returns:
        Name -> array, or a list of arrays where the file holds an array of arrays.

    Raises:
        DataError: the file is damaged, too large, or holds anything but arrays of numbers.
    """
    result = arrays.load(path, objects=_listed)
    if not isinstance(result, dict):
        raise DataError(f"{str(path)!r} is an npy file; expected an npz file with named arrays.")
    return result


def array_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Read the shapes of an npz or npy file's arrays without reading the arrays; {} where it is no such file."""
    if path.suffix.lower() not in (".npy", ".npz"):
        return {}
    return {name: header.shape for name, header in arrays.headers(path).items()}


def _listed(program: bytes, shape: tuple[int, ...]) -> list[Array]:
    """The arrays of an array of arrays."""
    value = to_array(interpret(program), Budget(len(program)))
    if isinstance(value, np.ndarray):  # rows of equal length are sometimes stored as one array
        value = list(value)
    if len(value) != shape[0] and len(value) != math.prod(shape):  # arrays in a table are taken in its order
        raise DataError(f"it holds {len(value)} arrays where its header promises {shape[0]}.")
    return value
