"""TFRecord files and the `tf.Example` messages in them, read without TensorFlow.

A record is a little-endian uint64 length, a masked CRC-32C of those eight bytes, the payload, and a masked CRC-32C of
it. The payload is a protocol-buffer message Example { Features { map<string, Feature> } }, a Feature being a list of
byte strings, of floats or of integers; that much of the wire format is decoded here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import cache
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from phlogiston.datasets.base import Array
from phlogiston.errors import DataError

Feature: TypeAlias = list[bytes] | Array
_POLYNOMIAL = 0x82F63B78  # Castagnoli, reflected
_LANES = 1024


@cache
def _table() -> Array:
    """What a byte does to the register, for all bytes."""
    value = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        value = np.where(value & 1, (value >> 1) ^ np.uint32(_POLYNOMIAL), value >> 1)
    return value


def crc32c(data: bytes) -> int:
    """Return the CRC-32C (Castagnoli) of a byte string.

    Long strings are cut into lanes that are worked on side by side; the register is linear in what it has read, so that
    lanes are put together by the matrix of reading as many zeros.

    Example:
        >>> hex(crc32c(b"123456789"))
        '0xe3069283'
    """
    table = _table()
    if len(data) < 4 * _LANES:
        small = table.tolist()
        register = 0xFFFFFFFF
        for byte in data:
            register = small[(register ^ byte) & 255] ^ (register >> 8)
        return register ^ 0xFFFFFFFF
    length = -(-len(data) // _LANES)
    padded = np.zeros(_LANES * length, dtype=np.uint8)
    padded[len(padded) - len(data) :] = np.frombuffer(data, dtype=np.uint8)
    # starting from all ones is starting from zero with the first four bytes inverted; leading zeros leave zero as it is
    first = len(padded) - len(data)
    padded[first : first + 4] ^= 255
    lanes = np.ascontiguousarray(padded.reshape(_LANES, length).T).astype(np.uint32)
    registers = np.zeros(_LANES, dtype=np.uint32)
    for row in lanes:
        registers = table[(registers ^ row) & 255] ^ (registers >> 8)
    matrix = _zeros(length)
    total = 0
    for register in registers.tolist():
        total = _apply(matrix, total) ^ register
    return total ^ 0xFFFFFFFF


def _apply(matrix: list[int], vector: int) -> int:
    """Multiply over GF(2): the exclusive or of the columns where the vector has ones."""
    out, i = 0, 0
    while vector:
        if vector & 1:
            out ^= matrix[i]
        vector >>= 1
        i += 1
    return out


def _zeros(count: int) -> list[int]:
    """What reading `count` zero bytes does to the register, as 32 columns."""
    small = _table().tolist()
    power = [small[(1 << i) & 255] ^ ((1 << i) >> 8) for i in range(32)]  # one byte
    out = [1 << i for i in range(32)]
    while count:
        if count & 1:
            out = [_apply(power, column) for column in out]
        power = [_apply(power, column) for column in power]
        count >>= 1
    return out


def masked(crc: int) -> int:
    """Return the CRC as files hold it: rotated by 15 bits, plus a constant."""
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def records(path: str | PathLike[str]) -> Iterator[bytes]:
    """Yield the payload of every record of a file.

    Raises:
        DataError: the file ends within a record, or a checksum does not agree.
    """
    name, size = Path(path).name, Path(path).stat().st_size
    with Path(path).open("rb") as file:
        number = 0
        while head := file.read(12):
            where = f"{name}, record {number}"
            if len(head) < 12:
                raise DataError(f"{where}: the file ends within a record's length; it is truncated.")
            length, check = struct.unpack("<QI", head)
            if masked(crc32c(head[:8])) != check:
                raise DataError(f"{where}: the checksum of its length does not agree; this is damaged, or no TFRecord.")
            if length + 4 > size - file.tell():
                there = max(0, size - file.tell() - 4)
                raise DataError(f"{where}: {length} bytes are announced, {there} are there; truncated.")
            body = file.read(length + 4)
            payload = body[:length]
            if masked(crc32c(payload)) != struct.unpack("<I", body[length:])[0]:
                raise DataError(f"{where}: the checksum of its content does not agree; the file is damaged.")
            yield payload
            number += 1


def frame(payload: bytes) -> bytes:
    """Return a record as files hold it."""
    head = struct.pack("<Q", len(payload))
    return head + struct.pack("<I", masked(crc32c(head))) + payload + struct.pack("<I", masked(crc32c(payload)))


def example(payload: bytes) -> dict[str, Feature]:
    """Decode a `tf.Example`: name -> byte strings, or numbers.

    Raises:
        DataError: it is no such message.
    """
    result: dict[str, Feature] = {}
    for field, features in _fields(payload):
        if field == 1:
            for inner, entry in _fields(_bytes(features)):
                if inner == 1:
                    parts = dict(_fields(_bytes(entry)))
                    result[_bytes(parts.get(1, b"")).decode("utf-8", "replace")] = _feature(_bytes(parts.get(2, b"")))
    return result


def _feature(message: bytes) -> Feature:
    for kind, content in _fields(message):
        values = [value for field, value in _fields(_bytes(content)) if field == 1]
        if kind == 1:
            return [_bytes(value) for value in values]
        if kind == 2:  # packed, or one after the other
            return np.frombuffer(b"".join(_bytes(value) for value in values), dtype="<f4").copy()
        if kind == 3:
            numbers: list[int] = []
            for value in values:
                numbers += [value] if isinstance(value, int) else list(_varints(value))
            signed = [n - (1 << 64) if n >= 1 << 63 else n for n in numbers]
            return np.array(signed, dtype=np.int64)
    return []


def _bytes(value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise DataError("this record is no tf.Example: a number stands where a message should.")
    return value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise DataError("this record is no tf.Example: it ends within a number.")
        byte = data[at]
        value |= (byte & 127) << shift
        at += 1
        if byte < 128:
            return value, at
        shift += 7


def _varints(data: bytes) -> Iterator[int]:
    at = 0
    while at < len(data):
        value, at = _varint(data, at)
        yield value


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield field numbers and contents of a message; fixed-width numbers come as their bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if kind == 2:
            length, at = _varint(data, at)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise DataError(f"this record is no tf.Example: wire type {kind} is unknown.")
        if at + length > len(data):
            raise DataError("this record is no tf.Example: a field reaches beyond its end.")
        yield key >> 3, data[at : at + length]
        at += length
