"""Pickles read without running what they say.

A pickle is a program for a machine that can call any function it likes. Published data come in this form all the same.
Here the program is *read*, not run: its instructions build a tree of plain values in which every call is only a note
of who would have been called. `to_array` and `to_bytes` then understand exactly what data need: numpy arrays, numpy
numbers, and bytes written as text. Anything else is refused, and nothing is ever imported or called.
"""

from __future__ import annotations

import math
import pickletools
import reprlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from phlogiston.datasets.base import Array
from phlogiston.datasets.untrusted.limits import check_count, check_unpacked
from phlogiston.errors import DataError

_KINDS = "biuf"  # truth values, integers, floats: all that a data array may hold


@dataclass
class Call:
    """A call that was requested and not made."""

    name: str
    arguments: tuple[Any, ...]
    state: Any = None


@dataclass(frozen=True)
class Name:
    """Something the program would have imported."""

    text: str


@dataclass(frozen=True)
class Persistent:
    """A storage kept outside the program, which only names it.

    Attributes:
        key: its name.
        kind: what type of storage it is, as the program would have imported it.
    """

    key: str
    kind: str


class Budget:
    """Counts what is made of one program, in which a few bytes may name one large thing again and again.

    Args:
        packed: bytes of the program, or of the file it stands in.
    """

    def __init__(self, packed: int) -> None:
        self._packed, self._nodes, self._bytes, self._checked = packed, 0, 0, 0

    def visit(self, depth: int) -> None:
        """Count a visit to a part of the tree.

        Raises:
            DataError: more visits than an honest program of this length asks for, or too deep a nest.
        """
        check_count(depth, "depth", "levels of lists in it")
        self._nodes += 1
        if self._nodes > 16 * self._packed + 1000:
            raise DataError("it holds the same lists within each other again and again.")

    def take(self, size: int) -> None:
        """Count bytes of numbers.

        Raises:
            DataError: far more than the program holds.
        """
        self._bytes += size
        if self._bytes > 1.1 * self._checked:  # asking for the free memory takes a while
            check_unpacked(self._bytes, self._packed, "it")
            self._checked = self._bytes


_MARK = object()
_ARRAYS = {
    "numpy.core.multiarray _reconstruct",
    "numpy._core.multiarray _reconstruct",
}
_BUFFERS = {"numpy.core.numeric _frombuffer", "numpy._core.numeric _frombuffer"}
_SCALARS = {"numpy.core.multiarray scalar", "numpy._core.multiarray scalar"}
_TYPES = {"numpy dtype"}


def to_array(node: Any, budget: Budget, text: bool = False, depth: int = 0) -> Any:
    """Turn the note of an array into an array (of numbers), or a list of them (of objects).

    An array of objects that are all numbers, as `np.array(list, dtype=object)` makes of arrays of equal length, is an
    array of numbers.

    Args:
        node: the note.
        budget: of the program it comes from.
        text: whether byte strings of one length are read, too.
        depth: of the note in others.
    """
    budget.visit(depth)
    if isinstance(node, Call) and node.name in _SCALARS and len(node.arguments) == 2:
        return np.frombuffer(to_bytes(node.arguments[1]), dtype=_dtype(node.arguments[0]), count=1)[0]
    if isinstance(node, Call) and node.name in _BUFFERS and len(node.arguments) == 4:
        content, kind, shape, order = node.arguments
        return _numbers(content, _dtype(kind), shape, order == "F", budget)
    if not (isinstance(node, Call) and node.name in _ARRAYS and isinstance(node.state, tuple)):
        what = node.name if isinstance(node, Call) else type(node).__name__
        raise DataError(f"it holds a {what}; only arrays of numbers are read.")
    state = node.state[1:] if len(node.state) == 5 else node.state  # a version number may come first
    if len(state) != 4:
        raise DataError("an array in it lacks its shape, type or content.")
    shape, dtype, fortran, content = state
    if isinstance(content, list):
        if len(content) != math.prod(shaped(shape)):
            raise DataError("an array of arrays in it holds another number of them than it claims.")
        if content and all(isinstance(entry, bool | int | float) for entry in content):
            return shaped_array(np.array(content), shape)  # object arrays are listed in C order whatever their layout
        entries = [_entry(entry, budget, depth + 1) for entry in content]
        if len(shape) > 1 and entries and all(np.ndim(entry) == 0 for entry in entries):
            return shaped_array(np.array(entries), shape)
        return entries
    return _numbers(content, _dtype(dtype, text), shape, bool(fortran), budget)


def _entry(node: Any, budget: Budget, depth: int) -> Any:
    """An entry of an array of objects: a number, an array, or a list of numbers or arrays."""
    if isinstance(node, bool | int | float):
        return np.asarray(node)
    if isinstance(node, list | tuple):
        budget.visit(depth)
        entries = [_entry(entry, budget, depth + 1) for entry in node]
        budget.take(sum(np.asarray(entry).nbytes for entry in entries))
        return np.array(entries)
    return to_array(node, budget, depth=depth)


def _numbers(content: Any, dtype: np.dtype[Any], shape: Any, fortran: bool, budget: Budget) -> Array:
    raw = to_bytes(content)
    budget.take(len(raw))
    return shaped_array(np.frombuffer(raw, dtype=dtype), shape, fortran)


def shaped(shape: Any) -> tuple[int, ...]:
    """Return a shape (or strides) that a program claims, once it is one.

    Raises:
        DataError: it is none.
    """
    if not (isinstance(shape, tuple) and len(shape) <= 32 and all(type(n) is int and 0 <= n < 1 << 40 for n in shape)):
        raise DataError(f"an array in it claims the shape {reprlib.repr(shape)}.")
    return shape


def shaped_array(array: Array, shape: Any, fortran: bool = False) -> Array:
    """Fold numbers into a shape that a program claims."""
    if math.prod(shaped(shape)) != array.size or (not array.size and math.prod(n or 1 for n in shape) > 1 << 30):
        raise DataError(f"an array in it claims the shape {shape} and holds {array.size:,} numbers.")
    return array.reshape(shape, order="F" if fortran else "C")


def _dtype(node: Any, text: bool = False) -> np.dtype[Any]:
    if not (isinstance(node, Call) and node.name in _TYPES and node.arguments and isinstance(node.arguments[0], str)):
        raise DataError("a number in it has no readable type.")
    if len(node.arguments[0]) > 16:
        raise DataError("a number in it has no readable type.")
    dtype = np.dtype(node.arguments[0])
    if dtype.kind not in (_KINDS + "S" if text else _KINDS) or not dtype.itemsize:
        raise DataError(f"it holds entries of type {dtype}; expected numbers.")
    order: Any = node.state[1] if isinstance(node.state, tuple) and len(node.state) > 1 else "|"
    return dtype.newbyteorder(order) if order in ("<", ">") else dtype


def to_bytes(node: Any) -> bytes:
    """Bytes, or text that stands for them, as older programs wrote them."""
    if isinstance(node, bytes | bytearray):
        return bytes(node)
    if isinstance(node, Call) and node.name == "_codecs encode":
        node = node.arguments[0]
    if isinstance(node, str):
        return node.encode("latin-1")
    raise DataError("the content of an array in it is no bytes.")


def interpret(program: bytes | IO[bytes]) -> Any:
    """Follow the instructions on paper: a stack, a memory, and notes where functions would be called.

    Args:
        program: one pickle, or a file standing at the beginning of one; it is read to the end of that pickle.

    Returns:
        What the program describes, made of tuples, lists, dictionaries, numbers, text, bytes and notes (`Call`).

    Raises:
        DataError: instructions that no data need.
    """
    try:
        return _followed(program)
    except (IndexError, KeyError) as error:  # it takes what was never there
        raise DataError("its instructions take more than they gave.") from error


def _followed(program: bytes | IO[bytes]) -> Any:
    stack: list[Any] = []
    memory: dict[int, Any] = {}
    for code, argument in _instructions(program):
        match code:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "MARK":
                stack.append(_MARK)
            case "GLOBAL":
                stack.append(Name(argument))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(Name(f"{_text(module)} {_text(name)}"))
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
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _put(stack, [(key, value)])
            case "SETITEMS":
                entries = _to_mark(stack)
                _put(stack, list(zip(entries[::2], entries[1::2], strict=True)))
            case "MEMOIZE":
                memory[len(memory)] = stack[-1]
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                memory[argument] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(memory[argument])
            case "REDUCE" | "NEWOBJ":
                arguments, name = stack.pop(), stack.pop()
                if not isinstance(name, Name) or not isinstance(arguments, tuple):
                    raise DataError("it asks for a call that makes no sense.")
                empty = name.text == "collections OrderedDict" and not arguments
                stack.append({} if empty else Call(name.text, arguments))
            case "BINPERSID":
                stack.append(_persistent(stack.pop()))
            case "BUILD":
                state = stack.pop()
                if isinstance(stack[-1], dict):
                    continue  # attributes of an ordered dictionary, such as torch's versions of modules
                if not isinstance(stack[-1], Call):
                    raise DataError("it sets the state of something that is no array.")
                stack[-1].state = state
            case _ if argument is not None and isinstance(argument, int | float | str | bytes | bytearray):
                stack.append(argument)  # every way of writing a number, text or bytes
            case _:
                raise DataError(f"it uses the instruction {code}, which no data need.")
    if len(stack) != 1:
        raise DataError("its instructions end in the middle of something.")
    return stack[0]


def _instructions(program: bytes | IO[bytes]) -> Iterator[tuple[str, Any]]:
    allowed = {
        "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
        "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "UNICODE", "BINUNICODE",
        "SHORT_BINUNICODE", "BINUNICODE8",
    }  # fmt: skip
    structure = {
        "PROTO", "FRAME", "STOP", "MARK", "GLOBAL", "STACK_GLOBAL", "NONE", "NEWTRUE", "NEWFALSE", "EMPTY_TUPLE",
        "EMPTY_LIST", "EMPTY_DICT", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "APPEND", "APPENDS", "MEMOIZE", "PUT",
        "BINPUT", "LONG_BINPUT", "GET", "BINGET", "LONG_BINGET", "REDUCE", "NEWOBJ", "BUILD", "SETITEM",
        "SETITEMS", "BINPERSID",
    }  # fmt: skip
    for opcode, argument, _ in pickletools.genops(program):
        if opcode.name not in allowed and opcode.name not in structure:
            raise DataError(f"it uses the instruction {opcode.name}, which no data need.")
        yield opcode.name, argument


def _persistent(named: Any) -> Persistent:
    """A storage as torch names it: ("storage", type, key, location, size, ...)."""
    if not (isinstance(named, tuple) and len(named) >= 3 and named[0] == "storage" and isinstance(named[1], Name)):
        raise DataError("it names something outside itself that is no storage.")
    return Persistent(_text(named[2]), named[1].text)


def _text(node: Any) -> str:
    """A name, which must be text: written out, notes that stand in each other many times would fill all memory."""
    if not isinstance(node, str):
        raise DataError("it names something by what is no text.")
    return node


def _to_mark(stack: list[Any]) -> list[Any]:
    index = len(stack) - 1
    while stack[index] is not _MARK:
        index -= 1
        if index < 0:
            raise DataError("its instructions lack a beginning.")
    entries = stack[index + 1 :]
    del stack[index:]
    return entries


def _list(stack: list[Any]) -> list[Any]:
    if not stack or not isinstance(stack[-1], list):
        raise DataError("it adds to something that is no list.")
    return stack[-1]


def _put(stack: list[Any], entries: list[tuple[Any, Any]]) -> None:
    if not stack or not isinstance(stack[-1], dict) or not all(isinstance(key, str | int) for key, _ in entries):
        raise DataError("it sets entries of something that is no dictionary.")
    stack[-1].update(entries)


def to_list(node: Any) -> list[Any]:
    """Entries of a list, of a tuple, or of the note of an array of objects, as they stand.

    Raises:
        DataError: anything else.
    """
    if isinstance(node, Call) and node.name in _ARRAYS and isinstance(node.state, tuple):
        node = node.state[-1]
    if not isinstance(node, list | tuple):
        raise DataError("it holds something else where a list is expected.")
    return list(node)
