"""How much a file may ask for: one table of limits, checked against what a file declares before memory is taken.

A file of a kilobyte may claim an array of a terabyte, and an honest archive may unpack to more than the machine holds.
What a file declares is compared with its size on disk and with the memory there is. The environment variable
`PHLOGISTON_LIMITS` raises a limit where a file is trusted:

    PHLOGISTON_LIMITS="ratio=1000,columns=10000000" phlogiston train drmm --data masks.npz
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path

from phlogiston.errors import ConfigError, DataError

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]

VARIABLE = "PHLOGISTON_LIMITS"


@dataclass(frozen=True)
class Limits:
    """What the content of one file may come to.

    Attributes:
        ratio: bytes a packed file (zip, gzip, xz, PNG, JPEG, ...) may unpack to, per byte of its own.
        video_ratio: the same of videos and moving GIFs, which pack more tightly.
        unpacked: bytes any packed file may unpack to, however small it is.
        picture: the same of the pixels of one picture.
        members: files in one archive.
        depth: levels of nesting in JSON, XML and object arrays.
        document: bytes of one JSON or XML document, or of one line of a file of such lines.
        columns: columns of one table, or pixels times colours of one picture.
        categories: different values of one label.
        sequences: sequences in one file; more are read where the file has a byte for each.
        memory: share of the memory that is free which one file may take.
    """

    ratio: int = 200
    video_ratio: int = 2_000
    unpacked: int = 1 << 23
    picture: int = 1 << 25
    members: int = 4_000
    depth: int = 64
    document: int = 1 << 26
    columns: int = 1 << 21
    categories: int = 100_000
    sequences: int = 1 << 16
    memory: float = 0.8


def limits() -> Limits:
    """Return the limits in force: the defaults, changed by `PHLOGISTON_LIMITS`.

    Raises:
        ConfigError: the variable cannot be read.
    """
    return _parse(os.environ.get(VARIABLE, ""))


@cache
def _parse(text: str) -> Limits:
    known = {field.name: float if field.name == "memory" else int for field in fields(Limits)}
    found: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = part.partition("=")
        try:
            found[name.strip()] = number = known[name.strip()](value)
            if not number > 0:
                raise ValueError(value)
        except (KeyError, ValueError):
            raise ConfigError(
                f"{VARIABLE}={text!r}: {part!r} is no limit; expected name=number of {', '.join(known)}."
            ) from None
    return replace(Limits(), **found)  # type: ignore[arg-type]


def check_unpacked(size: int, packed: int, what: str, kind: str = "") -> None:
    """Refuse content that is far larger than the file it comes from (see `check_packed`), or than the free memory."""
    check_packed(size, packed, what, kind)
    check_memory(size, what)


def check_packed(size: int, packed: int, what: str, kind: str = "") -> None:
    """Refuse content that is far larger than the file it comes from.

    Args:
        size: bytes of the content, as declared or as counted so far.
        packed: bytes of the file.
        what: what messages call it.
        kind: `"picture"` or `"video"` of pixels, which have limits of their own.

    Raises:
        DataError: it is.
    """
    found = limits()
    name = "video_ratio" if kind == "video" else "ratio"
    most = max(found.picture if kind else found.unpacked, getattr(found, name) * packed)
    if size > most:
        raise DataError(
            f"{what} would unpack to {size:,} bytes or more from {packed:,}; up to {most:,} are read. If you trust it, "
            f"set {VARIABLE}={name}={-(-size // max(packed, 1))}."
        )


def check_memory(size: int, what: str) -> None:
    """Refuse content that the machine cannot hold.

    Raises:
        DataError: it cannot.
    """
    if size <= limits().unpacked:
        return
    free = free_memory()
    if size > limits().memory * free:
        raise DataError(f"{what} needs {size:,} bytes of memory; {int(free):,} are free.")


def check_count(count: int, limit: str, what: str) -> None:
    """Refuse more of something than a limit allows.

    Args:
        count: how many there are.
        limit: name of the limit, an attribute of `Limits`.
        what: what is counted and where, as in `"'a.npz': arrays"`.

    Raises:
        DataError: there are more.
    """
    most = getattr(limits(), limit)
    if count > most:
        raise DataError(
            f"{what}: {count:,}; up to {most:,} are read. If that is meant, set {VARIABLE}={limit}={count}."
        )


def free_memory() -> float:
    """Bytes this process may still take: of the machine, of its control group, of its own limit."""
    found = [float("inf")]
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                found.append(1024.0 * int(line.split()[1]))
        soft = resource.getrlimit(resource.RLIMIT_AS)[0] if resource else -1
        if soft >= 0:
            found.append(soft - float(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize())
        group = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        if group.isdigit():
            found.append(float(group) - int(Path("/sys/fs/cgroup/memory.current").read_text()))
    except (OSError, ValueError):  # another system, which does not tell
        pass
    return max(0.0, min(found))
