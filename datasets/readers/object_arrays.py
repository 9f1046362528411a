"""Object arrays inside npz files, read without running what they say.

NumPy stores an array of arrays as a pickle; published stroke data come in this form. The pickle is read, not run: see
`datasets.readers.pickle_notes`.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from phlogiston.datasets.base import Array
from phlogiston.datasets.readers.pickle_notes import interpret, to_array
from phlogiston.errors import DataError

_MOST = 1 << 31  # bytes of one unpacked member


def read(path: str | Path, *, most: int = _MOST) -> dict[str, list[Array] | Array]:
    """Read every array of an npz file; object arrays become lists of plain arrays.

    Args:
        path: the file.
        most: bytes one array may unpack to.

    Returns:
        Name -> array, or a list of arrays where the file holds an array of arrays.

    Raises:
        DataError: the file is damaged, too large, or holds anything but arrays of numbers.
    """
    path = Path(path)
    found: dict[str, list[Array] | Array] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if not member.filename.endswith(".npy"):
                    continue
                if member.file_size > most:
                    raise DataError(f"{str(path)!r}: {member.filename} would unpack to {member.file_size:,} bytes.")
                with archive.open(member) as file:
                    found[member.filename[:-4]] = _member(file)  # type: ignore[arg-type]
    except DataError as error:
        raise DataError(f"{str(path)!r}: {error}") from error
    except (OSError, EOFError, ValueError, IndexError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise DataError(f"{str(path)!r} is damaged or no npz file ({type(error).__name__}: {error}).") from error
    except Exception as error:  # zlib.error and what a broken archive may make of the reader
        raise DataError(f"{str(path)!r} is damaged ({type(error).__name__}: {error}).") from error
    return found


def array_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Read the shapes of an npz or npy file's arrays without reading the arrays; {} where it is no such file."""
    try:
        if path.suffix.lower() == ".npy":
            with path.open("rb") as plain:
                return {"array": _header(plain)[0]}
        if path.suffix.lower() != ".npz":
            return {}
        found = {}
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith(".npy"):
                    with archive.open(name) as file:
                        found[name[:-4]] = _header(file)[0]  # type: ignore[arg-type]
        return found
    except (OSError, EOFError, ValueError, zipfile.BadZipFile):
        return {}


def _header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return header(file)


def _member(file: BinaryIO) -> list[Array] | Array:
    shape, fortran, dtype = _header(file)
    if dtype.hasobject:
        if dtype != np.dtype(object) or not shape:
            raise DataError(f"it holds {dtype} of shape {shape}; expected a list of arrays.")
        value = to_array(interpret(file.read()))
        if isinstance(value, np.ndarray):  # rows of equal length are sometimes stored as one array
            value = list(value)
        if len(value) != shape[0] and len(value) != np.prod(shape):  # arrays in a table are taken in its order
            raise DataError(f"it holds {len(value)} arrays where its header promises {shape[0]}.")
        return value
    content = file.read()
    count = int(np.prod(shape, dtype=np.int64))
    array = np.frombuffer(content, dtype=dtype, count=count)
    return array.reshape(shape, order="F" if fortran else "C")
