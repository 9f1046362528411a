"""Files of `torch.save`, read without running what they say.

Two forms are read: five pickles in a row with storages behind them (torch before 1.6, and still on request), and zip
archives with a pickle `data.pkl` beside one member per storage (since 1.6). The pickles are read, not run: see
`datasets.readers.pickle_notes`.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from phlogiston.datasets.base import Array
from phlogiston.datasets.readers.pickle_notes import Budget, Call, Name, Persistent, interpret, shaped, to_array
from phlogiston.datasets.untrusted.limits import check_unpacked
from phlogiston.datasets.untrusted.packed import open_zip, read_member
from phlogiston.errors import DataError

_KINDS = {
    "DoubleStorage": "f8", "FloatStorage": "f4", "HalfStorage": "f2", "LongStorage": "i8", "IntStorage": "i4",
    "ShortStorage": "i2", "CharStorage": "i1", "ByteStorage": "u1", "BoolStorage": "?", "BFloat16Storage": "u2",
}  # fmt: skip
_TENSOR = "torch._utils _rebuild_tensor_v2"
_PARAMETER = "torch._utils _rebuild_parameter"


class TorchFile:
    """What one file holds.

    Attributes:
        content: a tree of plain values and notes of calls, as `pickle_notes.interpret` returns it.
        budget: counts what is made of it.
    """

    def __init__(self, data: bytes) -> None:
        """Read a file's bytes.

        Raises:
            DataError: neither of the two forms, or more than data need.
        """
        self._storages: dict[str, bytes] = {}
        self._order = "<"
        self.budget = Budget(len(data))
        self.content = self._from_zip(data) if data[:4] == b"PK\x03\x04" else self._from_pickles(data)

    def _from_zip(self, data: bytes) -> Any:
        with open_zip(io.BytesIO(data), "the archive") as archive:
            names = [name for name in archive.namelist() if name.split("/")[-1] == "data.pkl"]
            if len(names) != 1:
                raise DataError("this zip archive holds no data.pkl: torch.save did not write it.")
            stem = names[0].removesuffix("data.pkl")
            members = [member for member in archive.infolist() if member.filename.startswith(f"{stem}data/")]
            check_unpacked(sum(member.file_size for member in members), len(data), "the archive")
            for member in members:
                self._storages[member.filename.removeprefix(f"{stem}data/")] = read_member(archive, member, "it")
            if f"{stem}byteorder" in archive.namelist():
                order = read_member(archive, f"{stem}byteorder", "it")
                self._order = ">" if order.strip() == b"big" else "<"
            return interpret(read_member(archive, names[0], "it"))

    def _from_pickles(self, data: bytes) -> Any:
        file = io.BytesIO(data)
        *header, content = [interpret(file) for _ in range(4)]
        for part in header:
            refuse_calls(part)
        self._order = "<" if not isinstance(header[2], Mapping) or header[2].get("little_endian", True) else ">"
        keys = interpret(file) if file.tell() < len(data) else []
        sizes = {node.key: np.dtype(_kind(node)).itemsize for node in _persistents(content)}
        for key in keys if isinstance(keys, list) else []:
            count = int.from_bytes(file.read(8), "little" if self._order == "<" else "big")
            size = count * sizes.get(str(key), 0)
            if size > len(data) - file.tell():
                raise DataError("the file is truncated.")
            self._storages[str(key)] = file.read(size)
        return content

    def is_array(self, node: Any) -> bool:
        """Say whether a part of the tree is the note of a tensor or of a numpy array."""
        return isinstance(node, Call) and (node.name in (_TENSOR, _PARAMETER) or "numpy" in node.name)

    def array(self, node: Any, depth: int = 0) -> Any:
        """Turn the note of a tensor or of a numpy array into an array; lists of numbers likewise.

        Raises:
            DataError: anything else.
        """
        if isinstance(node, list | tuple) and node:
            self.budget.visit(depth)
            entries = [self.array(entry, depth + 1) for entry in node]
            self.budget.take(sum(np.asarray(entry).nbytes for entry in entries))
            return np.array(entries)
        if isinstance(node, bool | int | float):
            return np.asarray(node)
        if isinstance(node, Call) and node.name == _PARAMETER and node.arguments:
            node = node.arguments[0]
        if isinstance(node, Call) and node.name == _TENSOR:
            return self._tensor(node)
        return to_array(node, self.budget, text=True)

    def _tensor(self, node: Call) -> Array:
        if len(node.arguments) < 4:
            raise DataError("a tensor in it lacks its storage, size or stride.")
        storage, offset, size, stride = node.arguments[:4]
        if not isinstance(storage, Persistent) or storage.key not in self._storages:
            raise DataError("a tensor in it has no storage.")
        raw = self._storages[storage.key]
        dtype = np.dtype(_kind(storage)).newbyteorder(self._order)  # type: ignore[arg-type]
        numbers = np.frombuffer(raw, dtype, count=len(raw) // dtype.itemsize)
        if storage.kind.endswith("BFloat16Storage"):
            numbers = (numbers.astype(np.uint32) << 16).view(np.float32)
        if len(shaped(size)) != len(shaped(stride)):
            raise DataError(f"a tensor in it has {len(size)} axes and {len(stride)} strides.")
        if not isinstance(offset, int):
            raise DataError("a tensor in it has no offset.")
        ends = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if 0 not in size else -1
        if offset < 0 or ends >= len(numbers):
            raise DataError("a tensor in it reaches beyond its storage.")
        self.budget.take(math.prod(n or 1 for n in size) * numbers.itemsize)  # strides of 0 repeat a number for nothing
        steps = tuple(step * numbers.itemsize for step in stride)
        return np.lib.stride_tricks.as_strided(numbers[offset:], size, steps, writeable=False).copy()


def refuse_calls(part: Any) -> None:
    """Nothing would be run, but a file that asks for it is not what it claims to be.

    Raises:
        DataError: the part is a call.
    """
    if isinstance(part, Call | Name):
        name = part.name if isinstance(part, Call) else part.text
        raise DataError(f"it asks for {name.replace(' ', '.')}, which is no data.")


def _kind(node: Persistent) -> str:
    kind = node.kind.split(" ")[-1]
    if kind not in _KINDS:
        raise DataError(f"it holds a storage of {kind}; expected numbers.")
    return _KINDS[kind]


def _persistents(node: Any) -> list[Persistent]:
    """Every storage named in a tree, whose parts may be named several times."""
    item, seen, todo = [], set(), [node]
    while todo:
        part = todo.pop()
        if isinstance(part, Persistent):
            item.append(part)
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, Call):
            todo += [part.arguments, part.state]
        elif isinstance(part, Mapping):
            todo += part.values()
        elif isinstance(part, list | tuple):
            todo += part
    return item
