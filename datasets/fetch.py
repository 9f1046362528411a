"""Fetching files: resumable, atomic, checked, and a clear word when there is no network.

A file arrives under a temporary name beside its place, is checked, flushed to disk and only then renamed. An
interrupted transfer is resumed by the next call. Processes that want the same file wait for the one that fetches it,
and no server can send more, or take longer, than it may.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import queue
import shutil
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phlogiston.console import tell, terminal
from phlogiston.errors import DataError

try:
    import fcntl
except ImportError:  # not on Windows: two processes may then fetch the same file twice
    fcntl = None  # type: ignore[assignment]

_CHUNK = 1 << 16
_ATTEMPTS = 3


def cache_folder() -> Path:
    """Return where fetched data live: $PHLOGISTON_DATA, or ~/.cache/phlogiston."""
    given = os.environ.get("PHLOGISTON_DATA")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "phlogiston"


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(
    urls: Sequence[str],
    path: Path,
    checksum: str,
    *,
    digest: Callable[[Path], str] = sha256,
    timeout: float = 30.0,
    most: int = 32 << 30,
    seconds: float = 6 * 3600.0,
) -> Path:
    """Return `path`, fetching it first where it is not there yet. Of several processes one fetches, the others wait.

    Args:
        urls: where the file officially lives, and mirrors, tried in this order.
        path: where the file belongs.
        checksum: what `digest(path)` must say.
        digest: SHA-256 of the bytes by default; of the unpacked content for archives that exist in several packings.
        timeout: seconds without a byte after which a transfer counts as broken.
        most: largest size of the file, bytes.
        seconds: time for everything, waiting for another process included.

    Returns:
        `path`.

    Raises:
        DataError: a file is there and is damaged (it is left alone), or it cannot be fetched.
    """
    if _there(path, checksum, digest):
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot make the folder {str(path.parent)!r}: {error}") from error
    deadline = time.monotonic() + seconds
    try:
        with _alone(path, deadline):
            if _there(path, checksum, digest):  # another process has fetched it meanwhile
                return path
            reasons = _fetch(urls, path, checksum, digest, Limits(timeout, most, deadline))
    except OSError as error:
        reasons = [str(error)]
    if not reasons:
        return path
    raise DataError(
        f"cannot fetch {path.name!r}. Put it into {str(path.parent)!r} yourself (SHA-256 {checksum}), "
        f"or set PHLOGISTON_DATA to the folder that holds it. Tried: {'; '.join(dict.fromkeys(reasons))}."
    )


@dataclass(frozen=True)
class Limits:
    """What a transfer may take.

    Attributes:
        timeout: seconds without a byte.
        most: bytes of the whole file.
        deadline: when everything must be over, on the clock of `time.monotonic`.
    """

    timeout: float
    most: int
    deadline: float

    def left(self) -> float:
        """Return the seconds left.

        Raises:
            TimeoutError: there are none.
        """
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("it took too long; what has arrived is kept, and the next call resumes it")
        return left

    def check(self, size: int, folder: Path, have: int = 0) -> None:
        """Refuse a file that is too large, or has no room beside the `have` bytes that are there.

        Raises:
            TooLargeError: it is.
        """
        if size > self.most:
            raise TooLargeError(f"it has {size:,} bytes, more than the {self.most:,} allowed")
        if size - have > (free := shutil.disk_usage(folder).free):
            raise TooLargeError(f"{size - have:,} bytes are missing, and {str(folder)!r} has room for {free:,}")


class TooLargeError(OSError):
    """A file is larger than it may be."""


def _there(path: Path, checksum: str, digest: Callable[[Path], str]) -> bool:
    if not path.exists():
        return False
    if (found := _digest_or_why(digest, path)) != checksum:
        raise DataError(
            f"{str(path)!r} is damaged or something else: checksum {found}, expected {checksum}. "
            "Move it away and call again to fetch it anew."
        )
    return True


@contextlib.contextmanager
def _alone(path: Path, deadline: float) -> Iterator[None]:
    """Keep other processes, and other threads, from fetching the same file meanwhile.

    Raises:
        TimeoutError: another one was at it until the deadline.
    """
    lock = path.with_name(f".{path.name}.lock")
    told = False
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if fcntl is not None:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(handle), os.stat(lock)):  # else its holder has just taken it away
                break
        except (BlockingIOError, FileNotFoundError):
            pass
        os.close(handle)
        if time.monotonic() > deadline:
            raise TimeoutError(f"another process has been fetching it all the time; {str(lock)!r} is its lock")
        if not told:
            told = tell(f"another process is fetching {path.name}; waiting for it")
        time.sleep(0.1)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            lock.unlink()
        os.close(handle)


def _fetch(urls: Sequence[str], path: Path, checksum: str, digest: Callable[[Path], str], limits: Limits) -> list[str]:
    """Fetch the file from the first source that has it; return why that failed, [] if it did not."""
    part = path.with_name(path.name + ".part")
    reasons = []
    for url in urls:
        for _ in range(_ATTEMPTS):
            try:
                complete = _transfer(url, part, limits)
            except TooLargeError as error:
                part.unlink(missing_ok=True)
                reasons.append(f"{url}: {error}")
                break
            except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
                reasons.append(f"{url}: {error}")
                break
            if not complete:
                reasons.append(f"{url}: the connection ended early")
                continue
            if (found := _digest_or_why(digest, part)) == checksum:
                os.replace(part, path)
                return []
            reasons.append(f"{url}: checksum {found}")
            part.unlink()  # resuming a wrong file would only make it longer
    return reasons or ["no source is known"]


def _digest_or_why(digest: Callable[[Path], str], path: Path) -> str:
    try:
        return digest(path)
    except (OSError, EOFError, ValueError) as error:
        return f"unreadable ({error})"


def _transfer(url: str, part: Path, limits: Limits) -> bool:
    """Append what is missing to `part`; return whether everything the server promised arrived."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "phlogiston"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = _open(request, limits)
    except urllib.error.HTTPError as error:
        error.close()
        if have and error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            return True  # nothing is missing; the checksum decides
        raise
    with response:
        resumed = response.status == http.client.PARTIAL_CONTENT
        have = have if resumed else 0
        promised = response.headers.get("Content-Length") or ""
        total = have + int(promised) if promised.isdecimal() else None
        limits.check(total or have, part.parent, have)
        with part.open("ab" if resumed else "wb") as file, _Bar(part.name.removesuffix(".part"), total, have) as bar:
            try:
                while chunk := response.read1(_CHUNK):  # what there is; `read` would wait for a whole chunk
                    file.write(chunk)
                    have += len(chunk)
                    bar.advance(len(chunk))
                    limits.left()
                    if have > limits.most:
                        limits.check(have, part.parent, have)
            except http.client.IncompleteRead:
                return False
            file.flush()
            os.fsync(file.fileno())
    return total is None or have == total


def _open(request: urllib.request.Request, limits: Limits) -> Any:
    """Send a request; return the response once its head is here. A head may come byte by byte for days: not here."""
    answer: queue.SimpleQueue[Any] = queue.SimpleQueue()
    over = threading.Event()

    def ask() -> None:
        try:
            response = urllib.request.urlopen(request, timeout=limits.timeout)
        except Exception as error:
            answer.put(error)
            return
        if over.is_set():
            response.close()
        else:
            answer.put(response)

    threading.Thread(target=ask, daemon=True).start()
    try:
        found = answer.get(timeout=limits.left())
    except queue.Empty:
        over.set()
        raise TimeoutError("no answer came in time") from None
    if isinstance(found, Exception):
        raise found
    return found


class _Bar:
    """A progress bar on stderr; silent where stderr is no terminal."""

    def __init__(self, title: str, total: int | None, have: int) -> None:
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

        console = terminal()
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        self.progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self.task = self.progress.add_task(f"fetching {title}", total=total, completed=have)

    def __enter__(self) -> _Bar:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def advance(self, count: int) -> None:
        self.progress.advance(self.task, count)
