"""Packed files: zip archives, gzip and xz, unpacked piece by piece and never beyond what is allowed."""

from __future__ import annotations

import gzip
import lzma
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import IO, Any

from phlogiston.datasets.untrusted.limits import check_count, check_memory, check_unpacked
from phlogiston.errors import DataError

PIECE = 1 << 20
_CHUNK = 1 << 13  # of packed bytes: what stands behind the end of a stream is copied for each stream
_WINDOW = 1 << 27  # bytes of memory an xz file may ask for its dictionary; level 9 takes half of it
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # of the others, Python unpacks whole pieces whatever they hold


@contextmanager
def open_zip(path: str | PathLike[str] | IO[bytes], what: str | None = None) -> Iterator[zipfile.ZipFile]:
    """Open a zip archive whose members have passed the limits.

    Args:
        path: the file.
        what: what messages call it.

    Raises:
        DataError: too many members, or such as cannot be read piece by piece.
    """
    what = what or repr(str(path))
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        check_count(len(members), "members", f"{what}: members of the archive")
        for member in members:
            if member.compress_type not in _METHODS:
                raise DataError(f"{what}: {member.filename!r} is packed by method {member.compress_type}; use deflate.")
            if member.flag_bits & 1:
                raise DataError(f"{what}: {member.filename!r} is encrypted.")
        yield archive


def zip_size(archive: zipfile.ZipFile) -> int:
    """Bytes of an archive on disk."""
    file: Any = archive.fp
    at = file.tell()
    size = int(file.seek(0, 2))
    file.seek(at)
    return size


def read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo | str, what: str) -> bytes:
    """Read one member whole; no more than it declares is ever unpacked.

    Raises:
        DataError: it would unpack to too much, or is shorter than it declares.
    """
    info = archive.getinfo(member) if isinstance(member, str) else member
    check_unpacked(info.file_size, zip_size(archive), f"{what}: {info.filename!r}")
    with archive.open(info) as file:
        return read_exactly(file, info.file_size, f"{what}: {info.filename!r}")


def read_exactly(file: IO[bytes], size: int, what: str) -> bytes:
    """Read so many bytes, a piece at a time.

    Raises:
        DataError: the file ends before.
    """
    content = bytearray()
    while len(content) < size:
        piece = file.read(min(PIECE, size - len(content)))
        if not piece:
            raise DataError(f"{what} ends after {len(content):,} of {size:,} bytes; it is truncated.")
        content += piece
    return bytes(content)


def read_file(path: str | PathLike[str]) -> bytes:
    """Read a file whole, where the memory suffices."""
    check_memory(Path(path).stat().st_size, repr(str(path)))
    return Path(path).read_bytes()


def read_gzip(path: str | PathLike[str]) -> bytes:
    """Unpack a gzip file.

    Raises:
        DataError: it would unpack to too much.
    """
    size, out = Path(path).stat().st_size, bytearray()
    with gzip.open(path, "rb") as file:
        while piece := file.read(PIECE):
            out += piece
            check_unpacked(len(out), size, repr(str(path)))
    return bytes(out)


class BoundedGzip(gzip.GzipFile):
    """A gzip file read as it is unpacked, up to what it may unpack to.

    Args:
        path: the file.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        super().__init__(path, "rb")
        self._packed, self._what, self._seen = Path(path).stat().st_size, repr(str(path)), 0

    def _counted(self, piece: bytes) -> bytes:
        self._seen += len(piece)
        check_unpacked(self._seen, self._packed, self._what)
        return piece

    def read(self, size: int | None = -1) -> bytes:
        """Read up to so many bytes; a piece where none are named."""
        return self._counted(super().read(PIECE if size is None or size < 0 else size))

    def read1(self, size: int = -1) -> bytes:
        """Read what is at hand, up to so many bytes."""
        return self._counted(super().read1(min(size, PIECE) if size >= 0 else PIECE))

    def rewind(self) -> None:
        """Go back to the beginning, and count anew."""
        self._seen = 0
        super().rewind()


def check_zip(path: str | PathLike[str]) -> None:
    """Refuse an archive (such as a spreadsheet) that unpacks to too much, before another library reads it."""
    with open_zip(path) as archive:
        check_unpacked(sum(m.file_size for m in archive.infolist()), Path(path).stat().st_size, repr(str(path)))


def read_xz(path: str | PathLike[str], most: int = 0) -> bytes:
    """Unpack an xz file, whose dictionary may be as large as those of level 9 at most.

    Args:
        path: the file.
        most: bytes it may unpack to, however small it is.

    Raises:
        DataError: it would unpack to too much, or is truncated.
    """
    size, out = Path(path).stat().st_size, bytearray()
    with open(path, "rb") as file:
        given = file.read(_CHUNK)
        while given.strip(b"\0"):  # streams may follow each other, with zeros between them
            machine = lzma.LZMADecompressor(memlimit=_WINDOW)
            while not machine.eof:
                out += machine.decompress(given, PIECE)
                if len(out) > most:
                    check_unpacked(len(out), size, repr(str(path)))
                given = file.read(_CHUNK) if machine.needs_input else b""
                if machine.needs_input and not given and not machine.eof:
                    raise DataError(f"{str(path)!r} is truncated.")
            given = machine.unused_data.lstrip(b"\0") or file.read(_CHUNK).lstrip(b"\0")
    return bytes(out)
