"""NumPy's npy and npz files: what their headers claim is compared with what is there before any memory is taken.

`numpy.load` makes an array as large as a header says and then looks for the numbers. Here a header that claims more
than the file (or the member of the archive) holds is refused first, and objects are never unpickled.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np

from phlogiston.datasets.base import Array
from phlogiston.datasets.untrusted.guard import reading, reason
from phlogiston.datasets.untrusted.limits import check_memory, check_unpacked, limits
from phlogiston.datasets.untrusted.packed import PIECE, open_zip, read_exactly, zip_size
from phlogiston.errors import DataError, PhlogistonError

NPY, NPZ = b"\x93NUMPY", (b"PK\x03\x04", b"PK\x05\x06")
Objects: TypeAlias = Callable[[bytes, tuple[int, ...]], Any]
"""Reads an array of objects: (the pickle, the shape its header claims) -> what it holds."""


@dataclass(frozen=True)
class Header:
    """What an npy header says.

    Attributes:
        shape: of the array.
        fortran: whether the first axis runs fastest.
        dtype: of its entries.
    """

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]

    @property
    def size(self) -> int:
        """Bytes of the content; of an array of objects, nobody knows."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(file: IO[bytes], what: str) -> Header:
    """Read the header at which a file stands.

    Raises:
        DataError: it is none, or describes what no array can be.
    """
    try:
        version = np.lib.format.read_magic(file)  # type: ignore[arg-type]
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)  # type: ignore[arg-type]
    except Exception as error:  # the header is a Python literal: its reader may fail in any way
        raise DataError(f"{what} is no array of NumPy's: {reason(error)}.") from None
    if not all(type(n) is int and 0 <= n < 1 << 48 for n in shape) or len(shape) > 32:
        raise DataError(f"{what} claims the shape {shape}, which no array has.")
    if not dtype.itemsize or (0 in shape and math.prod(n or 1 for n in shape) * dtype.itemsize > limits().unpacked):
        raise DataError(f"{what} claims {shape} entries of {dtype.itemsize} bytes, and holds nothing.")
    return Header(shape, fortran, dtype)


def load(path: str | PathLike[str], names: Collection[str] | None = None, objects: Objects | None = None) -> Any:
    """Read an npy or npz file, by its content.

    Args:
        path: the file.
        names: arrays of an npz to read; all by default.
        objects: reads arrays of objects; refused by default.

    Returns:
        The array of an npy file; name -> array of an npz file.

    Raises:
        DataError: it is neither, claims more than it holds, is damaged, or holds objects.
    """
    with reading(path, "an npz or npy file"):
        with open(path, "rb") as file:
            magic = file.read(len(NPY))
            file.seek(0)
            if magic == NPY:
                what = repr(str(path))
                return _content(file, Path(path).stat().st_size, what, objects)
        if magic[:1] == b"\x80":
            raise DataError(f"{str(path)!r} is a pickle, no npz or npy file; objects are never read.")
        if magic[:4] not in NPZ:
            raise DataError(f"{str(path)!r} is no npz or npy file: it begins with {magic!r}.")
        with open_arrays(path) as archive:
            chosen = {name: info for name, info in archive.items() if names is None or name in names}
            total = sum(info.file_size for info in chosen.values())
            check_unpacked(total, Path(path).stat().st_size, repr(str(path)))
            return {name: archive.read(name, objects) for name in chosen}


def from_bytes(content: bytes, what: str) -> Array:
    """Read an npy file that is in memory already; see `load`."""
    array: Array = _content(io.BytesIO(content), len(content), what, None)
    return array


class Archive(dict[str, zipfile.ZipInfo]):
    """The arrays of an open npz file: name -> member."""

    def __init__(self, file: zipfile.ZipFile, what: str) -> None:
        self.file, self.what = file, what
        super().__init__((info.filename[:-4], info) for info in file.infolist() if info.filename.endswith(".npy"))

    def header(self, name: str) -> Header:
        """What the header of an array says."""
        with self.file.open(self[name]) as member:
            return read_header(member, f"{self.what}: {name!r}")

    def read(self, name: str, objects: Objects | None = None) -> Any:
        """Read one array; see `load`."""
        info, what = self[name], f"{self.what}: {name!r}"
        check_unpacked(info.file_size, zip_size(self.file), what)
        with self.file.open(info) as member:
            return _content(member, info.file_size, what, objects)


@contextmanager
def open_arrays(path: str | PathLike[str]) -> Iterator[Archive]:
    """Open an npz file, whose arrays are read one by one.

    Raises:
        DataError: it is none; also what goes wrong while it is open.
    """
    with reading(path, "an npz file"), open_zip(path) as file:
        yield Archive(file, repr(str(path)))


def headers(path: str | PathLike[str]) -> dict[str, Header]:
    """Return what the headers of a file say, without reading its arrays; {} where it is no npy or npz file.

    The array of an npy file is called `array`.
    """
    try:
        with open(path, "rb") as file:
            magic = file.read(len(NPY))
            file.seek(0)
            if magic == NPY:
                return {"array": read_header(file, repr(str(path)))}
        if magic[:4] not in NPZ:
            return {}
        with open_arrays(path) as archive:
            return {name: archive.header(name) for name in archive}
    except (OSError, PhlogistonError):
        return {}


def map_file(path: Path) -> Any:
    """Map an npy file for reading; its header has been compared with its size.

    Raises:
        DataError: it claims more than it holds, or objects.
    """
    with path.open("rb") as file:
        header = read_header(file, repr(str(path)))
        offset = file.tell()
    size = path.stat().st_size - offset
    if header.dtype.hasobject or header.size > size:
        raise DataError(f"{str(path)!r} claims {header.size:,} bytes of {header.dtype} and holds {size:,}.")
    order: Any = "F" if header.fortran else "C"
    return np.memmap(path, header.dtype, "r", offset, header.shape, order)


def _content(file: IO[bytes], size: int, what: str, objects: Objects | None) -> Any:
    """The array at whose header a file of so many bytes stands."""
    header = read_header(file, what)
    left = size - file.tell()
    if header.dtype.hasobject:
        if objects is None:
            raise DataError(f"{what} holds Python objects, which are never read. Save plain arrays of numbers.")
        if header.dtype != np.dtype(object) or not header.shape:
            raise DataError(f"{what} holds {header.dtype} of shape {header.shape}; expected a list of arrays.")
        return objects(read_exactly(file, left, what), header.shape)
    if header.size > left:
        raise DataError(f"{what} claims {header.size:,} bytes of numbers and holds {max(left, 0):,}; it is truncated.")
    check_memory(header.size, what)
    array = np.empty(header.shape, header.dtype, order="F" if header.fortran else "C")
    flat = (array.T if header.fortran else array).reshape(-1).view(np.uint8)
    at = 0
    while at < len(flat):
        piece = file.read(min(PIECE, len(flat) - at))
        if not piece:
            raise DataError(f"{what} ends after {at:,} of {len(flat):,} bytes of numbers; it is truncated.")
        flat[at : at + len(piece)] = np.frombuffer(piece, np.uint8)
        at += len(piece)
    while file.read(PIECE):  # to the end of the member, where its checksum is compared
        pass
    return array
