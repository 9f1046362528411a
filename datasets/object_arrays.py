"""Object arrays inside npz files, read without running what they say.

NumPy stores an array of arrays as a pickle: a program for a machine that can call any function it likes. Published
stroke data come in this form. Here the program is *read*, not run: its instructions build a tree of plain values in
which every call is only a note of who would have been called, and then exactly three notes are understood: a numpy
array, a numpy number, and bytes written as text. Anything else is refused, and nothing is ever imported or called.
"""

from __future__ import annotations

import pickletools
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from phlogiston.datasets.base import Array
from phlogiston.errors import DataError

_KINDS = "biuf"  # truth values, integers, floats: all that a data array may hold
_MOST = 1 << 31  # bytes of one unpacked member


@dataclass
class _Call:
    """A call that was asked for and not made."""

    name: str
    arguments: tuple[Any, ...]
    state: Any = None


@dataclass(frozen=True)
class _Name:
    """Something the program would have imported."""

    text: str


_MARK = object()
_ARRAYS = {
    "numpy.core.multiarray _reconstruct",
    "numpy._core.multiarray _reconstruct",
}
_BUFFERS = {"numpy.core.numeric _frombuffer", "numpy._core.numeric _frombuffer"}
_SCALARS = {"numpy.core.multiarray scalar", "numpy._core.multiarray scalar"}
_TYPES = {"numpy dtype"}


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


def _member(file: BinaryIO) -> list[Array] | Array:
    version = np.lib.format.read_magic(file)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = header(file)
    if dtype.hasobject:
        if dtype != np.dtype(object) or len(shape) != 1:
            raise DataError(f"it holds {dtype} of shape {shape}; expected a list of arrays.")
        value = _array(_interpret(file.read()))
        if isinstance(value, np.ndarray):  # rows of equal length are sometimes stored as one array
            value = list(value)
        if len(value) != shape[0]:
            raise DataError(f"it holds {len(value)} arrays where its header promises {shape[0]}.")
        return value
    content = file.read()
    count = int(np.prod(shape, dtype=np.int64))
    array = np.frombuffer(content, dtype=dtype, count=count)
    return array.reshape(shape, order="F" if fortran else "C")


def _array(node: Any) -> Any:
    """Turn the note of an array into an array (of numbers), or a list of them (of objects)."""
    if isinstance(node, _Call) and node.name in _SCALARS and len(node.arguments) == 2:
        return np.frombuffer(_bytes(node.arguments[1]), dtype=_dtype(node.arguments[0]), count=1)[0]
    if isinstance(node, _Call) and node.name in _BUFFERS and len(node.arguments) == 4:
        content, kind, shape, order = node.arguments
        return _shaped(np.frombuffer(_bytes(content), dtype=_dtype(kind)), shape, order == "F")
    if not (isinstance(node, _Call) and node.name in _ARRAYS and isinstance(node.state, tuple)):
        what = node.name if isinstance(node, _Call) else type(node).__name__
        raise DataError(f"it holds a {what}; only arrays of numbers are read.")
    state = node.state[1:] if len(node.state) == 5 else node.state  # a version number may come first
    shape, dtype, fortran, content = state
    if isinstance(content, list):
        if not isinstance(shape, tuple) or len(content) != int(np.prod(shape)):
            raise DataError("an array of arrays in it holds another number of them than it claims.")
        return [_array(entry) for entry in content]
    return _shaped(np.frombuffer(_bytes(content), dtype=_dtype(dtype)), shape, bool(fortran))


def _shaped(array: Array, shape: Any, fortran: bool) -> Array:
    if not (isinstance(shape, tuple) and all(isinstance(n, int) and 0 <= n < 1 << 40 for n in shape)):
        raise DataError(f"an array in it claims the shape {shape!r}.")
    return array.reshape(shape, order="F" if fortran else "C")


def _dtype(node: Any) -> np.dtype[Any]:
    if not (isinstance(node, _Call) and node.name in _TYPES and node.arguments and isinstance(node.arguments[0], str)):
        raise DataError("a number in it has no readable type.")
    dtype = np.dtype(node.arguments[0])
    if dtype.kind not in _KINDS:
        raise DataError(f"it holds entries of type {dtype}; expected numbers.")
    order: Any = node.state[1] if isinstance(node.state, tuple) and len(node.state) > 1 else "|"
    return dtype.newbyteorder(order) if order in ("<", ">") else dtype


def _bytes(node: Any) -> bytes:
    """Bytes, or text that stands for them, as older programs wrote them."""
    if isinstance(node, bytes | bytearray):
        return bytes(node)
    if isinstance(node, _Call) and node.name == "_codecs encode":
        node = node.arguments[0]
    if isinstance(node, str):
        return node.encode("latin-1")
    raise DataError("the content of an array in it is no bytes.")


def _interpret(program: bytes) -> Any:
    """Follow the instructions on paper: a stack, a memory, and notes where functions would be called."""
    stack: list[Any] = []
    memory: dict[int, Any] = {}
    for code, argument in _instructions(program):
        match code:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "MARK":
                stack.append(_MARK)
            case "GLOBAL":
                stack.append(_Name(argument))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(_Name(f"{module} {name}"))
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(code == "NEWTRUE")
            case "EMPTY_TUPLE":
                stack.append(())
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "TUPLE":
                stack.append(tuple(_to_mark(stack)))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(code[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "APPEND":
                entry = stack.pop()
                _list(stack).append(entry)
            case "APPENDS":
                entries = _to_mark(stack)
                _list(stack).extend(entries)
            case "MEMOIZE":
                memory[len(memory)] = stack[-1]
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                memory[argument] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(memory[argument])
            case "REDUCE":
                arguments, name = stack.pop(), stack.pop()
                if not isinstance(name, _Name) or not isinstance(arguments, tuple):
                    raise DataError("it asks for a call that makes no sense.")
                stack.append(_Call(name.text, arguments))
            case "BUILD":
                state = stack.pop()
                if not isinstance(stack[-1], _Call):
                    raise DataError("it sets the state of something that is no array.")
                stack[-1].state = state
            case _ if argument is not None and isinstance(argument, int | float | str | bytes | bytearray):
                stack.append(argument)  # every way of writing a number, text or bytes
            case _:
                raise DataError(f"it uses the instruction {code}, which no array of numbers needs.")
    if len(stack) != 1:
        raise DataError("its instructions end in the middle of something.")
    return stack[0]


def _instructions(program: bytes) -> Iterator[tuple[str, Any]]:
    allowed = {
        "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
        "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "UNICODE", "BINUNICODE",
        "SHORT_BINUNICODE", "BINUNICODE8",
    }  # fmt: skip
    structure = {
        "PROTO", "FRAME", "STOP", "MARK", "GLOBAL", "STACK_GLOBAL", "NONE", "NEWTRUE", "NEWFALSE", "EMPTY_TUPLE",
        "EMPTY_LIST", "EMPTY_DICT", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "APPEND", "APPENDS", "MEMOIZE", "PUT",
        "BINPUT", "LONG_BINPUT", "GET", "BINGET", "LONG_BINGET", "REDUCE", "BUILD",
    }  # fmt: skip
    for opcode, argument, _ in pickletools.genops(program):
        if opcode.name not in allowed and opcode.name not in structure:
            raise DataError(f"it uses the instruction {opcode.name}, which no array of numbers needs.")
        yield opcode.name, argument


def _to_mark(stack: list[Any]) -> list[Any]:
    place = len(stack) - 1
    while stack[place] is not _MARK:
        place -= 1
        if place < 0:
            raise DataError("its instructions lack a beginning.")
    entries = stack[place + 1 :]
    del stack[place:]
    return entries


def _list(stack: list[Any]) -> list[Any]:
    if not stack or not isinstance(stack[-1], list):
        raise DataError("it adds to something that is no list.")
    return stack[-1]
