"""Room on disk, found out before training: a file system that cannot hold two checkpoints is no place for a run."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from phlogiston.errors import RunError
from phlogiston.inference.svi.run_folder.headers import FOLDER, list_files

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]

_HEADER = 1 << 16  # names, shapes and the JSON part, roughly
_MOMENTS = 2  # tensors that Adam keeps per trainable one


def checkpoint_size(named: Mapping[str, Tensor]) -> int:
    """Estimate the bytes of one checkpoint of these tensors, the optimiser's state included."""
    total = _HEADER
    for value in named.values():
        size = value.numel() * value.element_size()
        total += size * (1 + _MOMENTS) if isinstance(value, nn.Parameter) and value.requires_grad else size
    return total


def require_room(folder: Path, size: int) -> None:
    """Refuse a run folder whose file system cannot hold two checkpoints, those that are there already included.

    Args:
        folder: the run folder; it need not exist yet.
        size: bytes of one checkpoint.

    Raises:
        RunError: there is too little room.
    """
    above = folder.absolute()
    while not above.exists() and above != above.parent:
        above = above.parent
    try:
        free = shutil.disk_usage(above).free
        held = sum(path.stat().st_size for path in list_files(folder / FOLDER))
    except OSError:
        return  # the first checkpoint will tell
    need = max(size, 2 * size - held)  # a new one is written before an old one goes
    if free < need:
        raise RunError(
            f"{above} has {megabytes(free)} of room left; a checkpoint of this run takes some {megabytes(size)}, and "
            f"two must fit. Nothing was trained. Make {megabytes(need - free)} of room, or choose another disk."
        )
    limit = _file_limit()
    if limit is not None and limit < size:
        raise RunError(
            f"this process may write files of {megabytes(limit)} at most (ulimit -f); a checkpoint of this run takes "
            f"some {megabytes(size)}. Nothing was trained."
        )


def _file_limit() -> int | None:
    if resource is None:
        return None
    soft = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return None if soft == resource.RLIM_INFINITY else soft


def megabytes(size: int) -> str:
    """Write a number of bytes for people."""
    return f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size / 1e3:,.1f} kB"
