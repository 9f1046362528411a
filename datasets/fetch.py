"""Fetching files: resumable, atomic, checked, and a clear word when there is no network.

A file arrives under a temporary name beside its place, is checked, flushed to disk and only then renamed. An
interrupted transfer is resumed by the next call.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

from phlogiston.console import terminal
from phlogiston.errors import DataError

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
) -> Path:
    """Return `path`, fetching it first where it is not there yet.

    Args:
        urls: where the file officially lives, and mirrors, tried in this order.
        path: where the file belongs.
        checksum: what `digest(path)` must say.
        digest: SHA-256 of the bytes by default; of the unpacked content for archives that exist in several packings.
        timeout: seconds without a byte after which a transfer counts as broken.

    Returns:
        `path`.

    Raises:
        DataError: a file is there and is damaged (it is left alone), or it cannot be fetched.
    """
    if path.exists():
        if (found := _digest_or_why(digest, path)) != checksum:
            raise DataError(
                f"{str(path)!r} is damaged or something else: checksum {found}, expected {checksum}. "
                "Move it away and call again to fetch it anew."
            )
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot make the folder {str(path.parent)!r}: {error}") from error
    part = path.with_name(path.name + ".part")
    reasons = []
    for url in urls:
        for _ in range(_ATTEMPTS):
            try:
                complete = _transfer(url, part, timeout)
            except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
                reasons.append(f"{url}: {error}")
                break
            if not complete:
                reasons.append(f"{url}: the connection ended early")
                continue
            if (found := _digest_or_why(digest, part)) == checksum:
                os.replace(part, path)
                return path
            reasons.append(f"{url}: checksum {found}")
            part.unlink()  # resuming a wrong file would only make it longer
    raise DataError(
        f"cannot fetch {path.name!r}. Put it into {str(path.parent)!r} yourself (SHA-256 {checksum}), "
        f"or set PHLOGISTON_DATA to the folder that holds it. Tried: {'; '.join(dict.fromkeys(reasons))}."
    )


def _digest_or_why(digest: Callable[[Path], str], path: Path) -> str:
    try:
        return digest(path)
    except (OSError, EOFError, ValueError) as error:
        return f"unreadable ({error})"


def _transfer(url: str, part: Path, timeout: float) -> bool:
    """Append what is missing to `part`; return whether everything the server promised arrived."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "phlogiston"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if have and error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            return True  # nothing is missing; the checksum decides
        raise
    with response:
        resumed = response.status == http.client.PARTIAL_CONTENT
        have = have if resumed else 0
        promised = response.headers.get("Content-Length")
        total = have + int(promised) if promised else None
        with part.open("ab" if resumed else "wb") as file, _Bar(part.name.removesuffix(".part"), total, have) as bar:
            try:
                while chunk := response.read(_CHUNK):
                    file.write(chunk)
                    have += len(chunk)
                    bar.advance(len(chunk))
            except http.client.IncompleteRead:
                return False
            file.flush()
            os.fsync(file.fileno())
    return total is None or have == total


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
