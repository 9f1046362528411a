"""Damage of many kinds, done to small sound files: blind, and by the structure of their formats.

Everything is drawn from one `random.Random`, so that an input is known by its seed and number.
"""

from __future__ import annotations

import gzip
import io
import json
import lzma
import pickle
import random
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from phlogiston.datasets.readers import tfrecord

NUMBERS = (0, 1, 2, 3, 7, 8, 127, 128, 255, 256, 1 << 15, (1 << 16) - 1, 1 << 20, 1 << 24, (1 << 31) - 1, 1 << 31,
           (1 << 32) - 1, 1 << 40, 1 << 48, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)  # fmt: skip
TEXTS = ("0", "-1", "1e999", "-1e999", "nan", "1e-320", "9" * 30, "9" * 5000, "1_000", "0x10", "", '"', "\x00",
         "\x1b[2J\x1b]0;owned\x07", "\u202e", "[/red]", "=cmd|' /C calc'!A0", "2020-13-45", "1,5", "é" * 9)  # fmt: skip
SHAPES = ("()", "(0,)", "(1,)", "(-1,)", "(0, 4)", "(4, 0)", "(1, 1, 1)", "(2, 3, 4, 5, 6)", "(1000000000000,)",
          "(9223372036854775807, 2)", "(4294967296, 4294967296)", "(True,)", "(1.5,)", "('a',)", "[3, 2]", "(" * 300,
          "(1,) * 10", "None", "(" + "1, " * 40 + ")", "(" + "1, " * 70 + ")", "(16777216,)", "(1, 4194304)",
          "(8, 8)", "(4, 2, 8, 8, 3)", "(3, 16, 16)")  # fmt: skip
TYPES = ("'<f8'", "'>f8'", "'<f4'", "'<f2'", "'|u1'", "'|b1'", "'<i8'", "'>i4'", "'<u8'", "'<c16'", "'|O'", "'|S0'",
         "'|S4'", "'<U2'", "'<U0'", "'<M8[s]'", "'<m8[D]'", "'|V4'", "'|V0'", "[('a', '<f8'), ('b', '<i4')]",
         "[('a', '|O')]", "[('x', '<f4', (1000000000,))]", "[('a', '<f8'), ('a', '<f8')]", "'f8,f8'", "'nonsense'",
         "None", "3", "'<f16'", "'<M8'", "'(2,3)f8'", "[('\\x1b[2J', '<f8')]")  # fmt: skip
NAMES = ("x.npy", "mask.npy", "weight.npy", "label.npy", "\x1b[2J.npy", "../x.npy", "frames.npy", "values.npy",
         "train.npy", "images.npy", "y.npy")  # fmt: skip
LEAVES: tuple[Any, ...] = (
    None, True, -1, 0, 1, 10**400, 2**63, 1e308, float("inf"), float("nan"), "", "\x1b[31m", "x" * 1000, [], {}, [[]],
    [1, "a"], {"a": 1}, [[[[[[1]]]]]],
)  # fmt: skip


class Runs:
    """What a pickle must not run: says that it was run."""

    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.system, ("true",)


def nasty_pickles() -> list[bytes]:
    """Pickles no data need: calls, lists within themselves, nests that double at every level."""
    own: list[Any] = []
    own.append(own)
    doubling: Any = np.ones(4)
    for _ in range(40):
        doubling = [doubling, doubling]
    deep: Any = 1.0
    for _ in range(400):
        deep = [deep]

    def objects(*entries: Any) -> Any:
        array = np.empty(len(entries), dtype=object)
        for i, entry in enumerate(entries):
            array[i] = entry
        return array

    same = np.zeros(1 << 16, dtype=np.uint8)
    found = [
        Runs(), [Runs()], objects(Runs()), own, objects(own), doubling, objects(doubling, doubling), objects(deep),
        objects(*[same] * 2000), objects({"a": 1}), objects(None), objects("text"), objects(1, 2.5, True), np.ones(3),
        objects(np.ones((2, 3)), np.ones((0, 3))), objects(np.array(["a"])), {"a": [1, 2]}, 10**2000,
    ]  # fmt: skip
    out = [pickle.dumps(entry, protocol) for entry in found for protocol in (2, 4)]
    out.append(b"c__builtin__\neval\n(S'1'\ntR.")
    out.append(b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b"x.")
    return out


PICKLES = nasty_pickles()


# ---- blind


def _flip(rng: random.Random, data: bytearray) -> None:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _set(rng: random.Random, data: bytearray) -> None:
    data[rng.randrange(len(data))] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))


def _number(rng: random.Random, data: bytearray) -> None:
    size = rng.choice((2, 4, 8))
    if len(data) >= size:
        at = rng.randrange(len(data) - size + 1)
        value = rng.choice(NUMBERS) & ((1 << 8 * size) - 1)
        data[at : at + size] = value.to_bytes(size, rng.choice(("little", "big")))


def _cut(rng: random.Random, data: bytearray) -> None:
    del data[rng.randrange(len(data)) :]


def _drop(rng: random.Random, data: bytearray) -> None:
    at = rng.randrange(len(data))
    del data[at : at + rng.choice((1, 2, 8, 64, 1024))]


def _repeat(rng: random.Random, data: bytearray) -> None:
    at, size = rng.randrange(len(data)), rng.choice((1, 4, 16, 256))
    data[at:at] = data[at : at + size] * rng.choice((1, 2, 64))


def _blank(rng: random.Random, data: bytearray) -> None:
    at, size = rng.randrange(len(data)), rng.choice((4, 16, 256))
    data[at : at + size] = bytes([rng.choice((0, 255))]) * len(data[at : at + size])


BLIND: tuple[Callable[[random.Random, bytearray], None], ...] = (
    _flip, _flip, _flip, _set, _set, _number, _number, _cut, _drop, _repeat, _blank,
)  # fmt: skip


def blind(rng: random.Random, content: bytes, others: Sequence[bytes] = ()) -> bytes:
    """Damage bytes without looking at them; sometimes put a part of another file in."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        if not data:
            break
        rng.choice(BLIND)(rng, data)
    if others and rng.random() < 0.1:
        other = rng.choice(others)
        at, start = rng.randrange(len(data) + 1), rng.randrange(len(other) + 1)
        data[at : at + rng.choice((0, 64))] = other[start : start + rng.choice((16, 256, 4096))]
    return bytes(data)


# ---- by structure


def npy(rng: random.Random, content: bytes) -> bytes:
    """Write another header, or damage the numbers."""
    if content[:6] != b"\x93NUMPY" or rng.random() < 0.3:
        return blind(rng, content)
    size = struct.unpack("<H", content[8:10])[0]
    header, body = content[10 : 10 + size].decode("latin-1"), content[10 + size :]
    if rng.random() < 0.6:
        header = re.sub(r"'shape': \([^)]*\)", lambda _: f"'shape': {rng.choice(SHAPES)}", header)
    if rng.random() < 0.4:
        header = re.sub(r"'descr': (\[.*?\]|'[^']*')", lambda _: f"'descr': {rng.choice(TYPES)}", header)
    if rng.random() < 0.1:
        header = header.replace("False", rng.choice(("True", "0", "'x'")))
    if rng.random() < 0.1:
        body = rng.choice(PICKLES)
    told = header.encode("latin-1", "replace")
    return content[:8] + struct.pack("<H", len(told) & 0xFFFF) + told + body


def archive(rng: random.Random, content: bytes) -> bytes:
    """Pack an npz (or a torch file) anew with one member altered, or lie about sizes in its directory."""
    if rng.random() < 0.2:
        return _lies(rng, content)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as old:
            members = [(info.filename, old.read(info)) for info in old.infolist()]
    except Exception:
        return blind(rng, content)
    if not members:
        return blind(rng, content)
    at = rng.randrange(len(members))
    name, inner = members[at]
    match rng.randrange(12):
        case 0:
            del members[at]
        case 1:
            members.append(
                (rng.choice(("x.npy", "mask.npy", "weight.npy", "label.npy", "\x1b[2J.npy", "../x.npy", name)), inner)
            )
        case 2:
            members[at] = (rng.choice(("frames.npy", "values.npy", "train.npy", "images.npy", "y.npy")), inner)
        case 3:
            members[at] = (name, npy(rng, rng.choice(members)[1]))
        case 4:
            members[at] = (name, objects_npy(rng))
        case 5:
            members[at] = (name, rng.choice(PICKLES))
        case _:
            members[at] = (name, npy(rng, inner) if name.endswith(".npy") else blind(rng, inner))
    held = io.BytesIO()
    how = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2))
    with zipfile.ZipFile(held, "w", how) as new:
        for name, inner in members:
            new.writestr(zipfile.ZipInfo(name), inner, compress_type=how)
    return held.getvalue()


def objects_npy(rng: random.Random) -> bytes:
    """An array of objects whose pickle is nasty."""
    held = io.BytesIO()
    shape = rng.choice(((1,), (2,), (3,), (), (0,), (1 << 40,)))
    np.lib.format.write_array_header_1_0(held, {"descr": "|O", "fortran_order": False, "shape": shape})
    return held.getvalue() + rng.choice(PICKLES)


def _lies(rng: random.Random, content: bytes) -> bytes:
    """Alter sizes, flags and offsets of local headers and of the directory."""
    data = bytearray(content)
    places = [m.start() for m in re.finditer(b"PK\x01\x02|PK\x03\x04|PK\x05\x06", content)]
    for _ in range(rng.choice((1, 1, 2))):
        if places:
            at = rng.choice(places) + rng.choice((4, 6, 8, 10, 14, 16, 18, 20, 22, 24, 26, 28, 30, 42))
            size = rng.choice((2, 4))
            data[at : at + size] = (rng.choice(NUMBERS) & ((1 << 8 * size) - 1)).to_bytes(size, "little")
    return bytes(data)


def png(rng: random.Random, content: bytes) -> bytes:
    """Alter a chunk of a PNG and set its checksum right."""
    if content[:4] != b"\x89PNG" or rng.random() < 0.3:
        return blind(rng, content)
    chunks, at = [], 8
    while at + 12 <= len(content):
        size = struct.unpack(">I", content[at : at + 4])[0]
        chunks.append([content[at + 4 : at + 8], content[at + 8 : at + 8 + size]])
        at += 12 + size
    if rng.random() < 0.5:
        head = bytearray(chunks[0][1])
        sides = (0, 1, 5, 4096, 1 << 16, (1 << 31) - 1, (1 << 32) - 1)
        head[:8] = struct.pack(">II", rng.choice(sides), rng.choice(sides))
        if rng.random() < 0.5:
            head[8:10] = bytes([rng.choice((1, 2, 4, 8, 16, 32)), rng.choice((0, 2, 3, 4, 6, 7))])
        chunks[0][1] = bytes(head)
    else:
        chunk = rng.choice(chunks)
        chunk[1] = zlib.compress(bytes(1 << rng.randrange(24))) if rng.random() < 0.2 else blind(rng, chunk[1])
    if rng.random() < 0.1:
        chunks.insert(1, [rng.choice((b"tEXt", b"zTXt", b"iCCP", b"eXIf", b"acTL", b"tRNS")), bytes(rng.randrange(64))])
    out = content[:8]
    for kind, body in chunks:
        out += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return out


def gzipped(inner: Callable[[random.Random, bytes], bytes]) -> Callable[[random.Random, bytes], bytes]:
    """Damage what a gzip file packs, and pack it again."""

    def change(rng: random.Random, content: bytes) -> bytes:
        try:
            return gzip.compress(inner(rng, gzip.decompress(content)), 1) if rng.random() < 0.6 else blind(rng, content)
        except Exception:
            return blind(rng, content)

    return change


def xz(rng: random.Random, content: bytes) -> bytes:
    """Damage the array an xz file packs, and pack it again."""
    if rng.random() < 0.5:
        return blind(rng, content)
    try:
        return lzma.compress(npy(rng, lzma.decompress(content)), preset=0)
    except Exception:
        return blind(rng, content)


def records(rng: random.Random, content: bytes) -> bytes:
    """Damage the payload of a TFRecord and set its checksums right, or lie about its length."""
    if rng.random() < 0.3 or len(content) < 16:
        return blind(rng, content)
    length = struct.unpack("<Q", content[:8])[0]
    if rng.random() < 0.3:
        head = struct.pack("<Q", rng.choice(NUMBERS) & ((1 << 64) - 1))
        return head + struct.pack("<I", tfrecord.masked(tfrecord.crc32c(head))) + content[12:]
    return tfrecord.frame(blind(rng, content[12 : 12 + length]))


def document(rng: random.Random, content: bytes) -> bytes:
    """Put other values into a JSON document (or into one line of several)."""
    if rng.random() < 0.25:
        return blind(rng, content)
    lines = (
        content.splitlines()
        if content.count(b"\n") > 1 and content[:1] == b"{" and content[1:2] != b"\n"
        else [content]
    )
    at = rng.randrange(len(lines))
    try:
        tree = json.loads(lines[at])
    except ValueError:
        return blind(rng, content)
    if rng.random() < 0.03:
        lines[at] = b"[" * 3000 if rng.random() < 0.5 else b'{"a":' * 3000
    else:
        tree = _edited(rng, tree)
        lines[at] = json.dumps(tree).encode()
    return b"\n".join(lines)


def _edited(rng: random.Random, node: Any) -> Any:
    if rng.random() < 0.15 or not isinstance(node, dict | list) or not node:
        return rng.choice(LEAVES)
    if isinstance(node, dict):
        key = rng.choice(sorted(node))
        if rng.random() < 0.1:
            return {k: v for k, v in node.items() if k != key}
        if rng.random() < 0.1:
            return {**node, rng.choice(("\x1b[2J", "", "a/b", "__class__", "x" * 500)): node[key]}
        return {**node, key: _edited(rng, node[key])}
    at = rng.randrange(len(node))
    if rng.random() < 0.1:
        return node[:at] + node[at:] * rng.choice((2, 100))
    return [*node[:at], _edited(rng, node[at]), *node[at + 1 :]]


def tensors(rng: random.Random, content: bytes) -> bytes:
    """Put other values into the header of a safetensors file."""
    if rng.random() < 0.3 or len(content) < 8:
        return blind(rng, content)
    size = struct.unpack("<Q", content[:8])[0]
    try:
        tree = json.loads(content[8 : 8 + size])
    except ValueError:
        return blind(rng, content)
    if "__metadata__" in tree and rng.random() < 0.4:
        key = rng.choice(sorted(tree["__metadata__"]))
        inner = tree["__metadata__"][key]
        tree["__metadata__"][key] = document(rng, inner.encode()).decode("utf-8", "replace")
    else:
        tree = _edited(rng, tree)
    head = json.dumps(tree).encode()
    return (
        struct.pack("<Q", rng.choice(NUMBERS) & ((1 << 64) - 1) if rng.random() < 0.05 else len(head))
        + head
        + content[8 + size :]
    )


def table(rng: random.Random, content: bytes) -> bytes:
    """Put other texts into the fields of a text table."""
    if rng.random() < 0.25:
        return blind(rng, content)
    mark = rng.choice((b",", b";", b"\t", b" ")) if rng.random() < 0.2 else b","
    lines = [line.split(b",") for line in content.split(b"\n")]
    for _ in range(rng.choice((1, 1, 2, 5))):
        line = rng.choice(lines)
        line[rng.randrange(len(line))] = rng.choice(TEXTS).encode()
    if rng.random() < 0.1:
        lines.append(lines[rng.randrange(len(lines))] * rng.choice((2, 300)))
    return b"\n".join(mark.join(line) for line in lines)


def spreadsheet(rng: random.Random, content: bytes) -> bytes:
    """Damage the sheet of a spreadsheet, or any other of its members, and pack it again."""
    if rng.random() < 0.3:
        return _lies(rng, content) if rng.random() < 0.5 else blind(rng, content)
    with zipfile.ZipFile(io.BytesIO(content)) as old:
        members = {info.filename: old.read(info) for info in old.infolist()}
    name = "xl/worksheets/sheet1.xml" if rng.random() < 0.7 else rng.choice(sorted(members))
    if rng.random() < 0.5:
        values = ("A1:XFD1048576", "XFD1048576", "1048576", "999999999999", "-1", "A0", "", "s", "e", "d")
        found = re.findall(rb'"[^"]*"', members[name])
        if found:
            members[name] = members[name].replace(rng.choice(found), b'"' + rng.choice(values).encode() + b'"')
    else:
        members[name] = markup(rng, members[name])
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as new:
        for name, inner in members.items():
            new.writestr(zipfile.ZipInfo(name), inner, compress_type=zipfile.ZIP_DEFLATED)
    return held.getvalue()


def markup(rng: random.Random, content: bytes) -> bytes:
    """Damage an XML document where it says something."""
    match rng.randrange(6):
        case 0:
            return content.replace(b"<?xml", b'<!DOCTYPE a [<!ENTITY b "cc">]><?xml', 1)
        case 1:
            return re.sub(
                rb'"[^"]*"', lambda _: b'"' + rng.choice(TEXTS[:9]).encode() + b'"', content, count=rng.randrange(1, 9)
            )
        case 2:
            return b"<a>" * rng.choice((10, 100, 5000)) + content
        case 3:
            encoding = rng.choice(("utf-16", "utf-32", "latin-1", "cp037"))
            return content.decode("latin-1").encode(encoding)
        case _:
            return blind(rng, content)
