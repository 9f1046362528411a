"""Writing so that a reader finds the old file or the new one, never half of either; and where caches live."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any


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
