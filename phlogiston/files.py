"""Writing so that a reader finds the old file or the new one, never half of either; and where caches live."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from phlogiston.errors import RunError

FORMAT = 1
"""Format of config.json that this version writes and reads."""


def write_bytes(path: str | Path, content: bytes) -> Path:
    """Write a file under a temporary name beside its place, flush it to disk, and rename it.

    Returns:
        The path.

    Raises:
        OSError: the disk is full or cannot be written; the old file is untouched and nothing is left behind.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    sync_folder(path.parent)
    return path


def write_json(path: str | Path, content: Any, *, sort_keys: bool = False) -> Path:
    """Write strict JSON (no NaN), as `write_bytes` writes."""
    text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False, sort_keys=sort_keys)
    return write_bytes(path, f"{text}\n".encode())


def read_json(path: Path, most: int = 1 << 28) -> Any:
    """Read strict JSON that anybody may have written.

    Args:
        path: the file.
        most: largest size, bytes.

    Raises:
        OSError: the file is missing or cannot be read.
        ValueError: it is too large, no JSON, nested too deeply, or holds NaN or infinite numbers.
    """
    if path.exists() and not path.is_file():
        raise OSError(f"{path} is no file")  # a pipe would keep its reader waiting for ever
    with open(path, "rb") as file:
        text = file.read(most + 1)
    if len(text) > most:
        raise ValueError(f"more than {most >> 20} MiB")
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def check_writable(folder: Path, size: int = 1 << 16) -> None:
    """Find out, before work is done for it, whether a folder takes a file of `size` bytes. Nothing is left in it.

    Raises:
        OSError: it does not: no such folder, no permission, or no room.
    """
    path = folder / f".probe.{os.getpid()}.{threading.get_ident()}.tmp"
    try:
        with open(path, "wb") as file:
            file.write(bytes(size))
            file.flush()
            os.fsync(file.fileno())
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def keep_earlier(*paths: Path) -> list[Path]:
    """Give the files among `paths` that exist a second name, `NAME-1.SUFFIX` or the first number free for all of them.

    A file that is written over its old name then leaves the earlier one; at no moment is the old name without a file.

    Returns:
        The second names.
    """
    there = [path for path in paths if path.is_file()]
    if not there:
        return []
    for number in itertools.count(1):
        names = [path.with_name(f"{path.stem}-{number}{path.suffix}") for path in paths]
        if any(name.exists() for name in names):
            continue
        kept = [path.with_name(f"{path.stem}-{number}{path.suffix}") for path in there]
        for path, name in zip(there, kept, strict=True):
            try:
                os.link(path, name)
            except OSError:  # a file system without second names
                shutil.copy2(path, name)
        return kept
    raise AssertionError("unreachable")


def sync_folder(folder: Path) -> None:
    """Make a rename inside `folder` survive a power cut (where the system lets a folder be flushed)."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def cache_folder() -> Path:
    """Return where judges and reference statistics are kept: $PHLOGISTON_CACHE, or ~/.cache/phlogiston."""
    given = os.environ.get("PHLOGISTON_CACHE")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "phlogiston"


def identify(content: Mapping[str, Any], where: str | Path) -> str:
    """The system's name in a `config.json`.

    Raises:
        RunError: the file is not one of a system's.
    """
    own = content.get("config", content)
    name = own.get("system") if isinstance(own, Mapping) else None
    if not isinstance(name, str):
        raise RunError(f"{where} holds no system: its config.json names none")
    return name
