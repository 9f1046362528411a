"""Writing so that a reader finds the old file or the new one, never half of either; and where caches live."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_bytes(path: str | Path, content: bytes) -> Path:
    """Write a file under a temporary name beside its place, flush it to disk, and rename it.

    Returns:
        The path.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    return path


def write_json(path: str | Path, content: Mapping[str, Any]) -> Path:
    """Write strict JSON (no NaN) atomically."""
    text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False)
    return write_bytes(path, f"{text}\n".encode())


def cache_folder() -> Path:
    """Return where judges and reference statistics are kept: $PHLOGISTON_CACHE, or ~/.cache/phlogiston."""
    given = os.environ.get("PHLOGISTON_CACHE")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "phlogiston"
