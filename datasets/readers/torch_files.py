"""Files of `torch.save`, read without running what they say.

Two forms are read: five pickles in a row with storages behind them (torch before 1.6, and still on request), and zip
archives with a pickle `data.pkl` beside one member per storage (since 1.6). The pickles are read, not run: see
`datasets.readers.pickle_notes`.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from phlogiston.datasets.base import Array
from phlogiston.datasets.readers.pickle_notes import Call, Name, Persistent, interpret, shaped, to_array
from phlogiston.errors import DataError

_MOST = 1 << 31  # bytes of one member
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
    """

    def __init__(self, data: bytes) -> None:
        """Read a file's bytes.

        Raises:
            DataError: neither of the two forms, or more than data need.
        """
        self._storages: dict[str, bytes] = {}
        self._order = "<"
        self.content = self._from_zip(data) if data[:4] == b"PK\x03\x04" else self._from_pickles(data)

    def _from_zip(self, data: bytes) -> Any:
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                names = [name for name in archive.namelist() if name.split("/")[-1] == "data.pkl"]
                if len(names) != 1:
                    raise DataError("this zip archive holds no data.pkl: torch.save did not write it.")
                stem = names[0].removesuffix("data.pkl")
                for member in archive.infolist():
                    if member.file_size > _MOST:
                        raise DataError(f"{member.filename} would unpack to {member.file_size:,} bytes.")
                    if member.filename.startswith(f"{stem}data/"):
                        self._storages[member.filename.removeprefix(f"{stem}data/")] = archive.read(member)
                if f"{stem}byteorder" in archive.namelist():
                    self._order = ">" if archive.read(f"{stem}byteorder").strip() == b"big" else "<"
                return interpret(archive.read(names[0]))
        except zipfile.BadZipFile as error:
            raise DataError(f"the file is truncated or damaged ({error}).") from error

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
            self._storages[str(key)] = file.read(size)
            if len(self._storages[str(key)]) != size:
                raise DataError("the file is truncated.")
        return content

    def is_array(self, node: Any) -> bool:
        """Say whether a part of the tree is the note of a tensor or of a numpy array."""
        return isinstance(node, Call) and (node.name in (_TENSOR, _PARAMETER) or "numpy" in node.name)

    def array(self, node: Any) -> Any:
        """Turn the note of a tensor or of a numpy array into an array; lists of numbers likewise.

        Raises:
            DataError: anything else.
        """
        if isinstance(node, list | tuple) and node:
            return np.array([self.array(entry) for entry in node])
        if isinstance(node, bool | int | float):
            return np.asarray(node)
        if isinstance(node, Call) and node.name == _PARAMETER and node.arguments:
            node = node.arguments[0]
        if isinstance(node, Call) and node.name == _TENSOR:
            return self._tensor(node)
        return to_array(node, text=True)

    def _tensor(self, node: Call) -> Array:
        storage, offset, size, stride = node.arguments[:4]
        if not isinstance(storage, Persistent) or storage.key not in self._storages:
            raise DataError("a tensor in it has no storage.")
        numbers = np.frombuffer(self._storages[storage.key], np.dtype(_kind(storage)).newbyteorder(self._order))  # type: ignore[arg-type]
        if storage.kind.endswith("BFloat16Storage"):
            numbers = (numbers.astype(np.uint32) << 16).view(np.float32)
        for axes in (size, stride):
            shaped(axes)
        ends = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if 0 not in size else -1
        if not isinstance(offset, int) or offset < 0 or ends >= len(numbers):
            raise DataError("a tensor in it reaches beyond its storage.")
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
    """Every storage named in a tree."""
    if isinstance(node, Persistent):
        return [node]
    if isinstance(node, Call):
        return _persistents(node.arguments) + _persistents(node.state)
    if isinstance(node, Mapping):
        return [found for value in node.values() for found in _persistents(value)]
    if isinstance(node, list | tuple):
        return [found for value in node for found in _persistents(value)]
    return []
