"""The lock that keeps a second trainer out of a run folder, and the leftovers of trainers that were killed.

The open folder itself is locked, so that deleting a file in it lets nobody in; the file `.lock` is locked as well, for
file systems that lock files only.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import time
from pathlib import Path

from phlogiston.errors import RunError

try:
    import fcntl
except ImportError:  # not on Windows: two processes in one folder are then the user's care
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
_OURS = re.compile(r"\.(step-\d+\.safetensors|config\.json|environment\.json)\.\d+\.tmp")
_OTHERS = re.compile(r"\.(probe|metrics\.json|report\.html)\.(\d+)(\.\d+)?\.tmp")
_AN_HOUR = 3600.0


class Lock:
    """Holds a folder against any other process, until `release` or the end of this one.

    Args:
        folder: an existing folder.

    Raises:
        RunError: another process, or another call in this one, holds it.
        OSError: the folder cannot be opened or written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._handles: list[int] = []
        try:
            self._handles.append(os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666))
            if fcntl is None:
                return
            self._handles.append(os.open(folder, os.O_RDONLY))
            for handle in self._handles:
                self._take(handle, required=handle == self._handles[0])
        except BaseException:
            self.release()
            raise

    def _take(self, handle: int, required: bool) -> None:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise RunError(f"{self.folder} is in use: another process is training in it.") from error
            if required:
                raise

    def astray(self) -> bool:
        """Say whether the folder's path leads elsewhere now: it was removed, renamed, or replaced by another."""
        if len(self._handles) < 2:
            return not self.folder.is_dir()
        try:
            return not os.path.samestat(os.fstat(self._handles[1]), os.stat(self.folder))
        except OSError:
            return True

    def release(self) -> None:
        """Give the folder back."""
        for handle in self._handles:
            with contextlib.suppress(OSError):
                os.close(handle)
        self._handles = []


def sweep(*folders: Path) -> None:
    """Remove temporary files of trainers that were killed; call it while the folder is locked.

    Those of an evaluation, which takes no lock, go when they are an hour old and their process is no more.
    """
    for folder in folders:
        with contextlib.suppress(OSError):
            for path in folder.iterdir():
                if _OURS.fullmatch(path.name) or _abandoned(path):
                    with contextlib.suppress(OSError):
                        path.unlink()


def _abandoned(path: Path) -> bool:
    match = _OTHERS.fullmatch(path.name)
    if not match or time.time() - path.stat().st_mtime < _AN_HOUR:
        return False
    try:
        os.kill(int(match[2]), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False
