"""Addresses of trained systems on a hub, hf://user/name or hf://user/name@revision, and the files behind one.

Nothing here loads torch, nor huggingface_hub, which is the extra phlogiston[hub].
"""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from phlogiston.datasets.fetch import sha256
from phlogiston.datasets.untrusted.documents import read_object
from phlogiston.datasets.untrusted.guard import short
from phlogiston.errors import CheckpointError, ConfigError, RunError
from phlogiston.systems.pretrained import shelf

CHECKSUMS = "checksums.json"
NEEDED = ("config.json", "parameters.safetensors")
FILES = (*NEEDED, "metrics.json")
"""All that is ever read of what others have published, besides the checksums."""
CARD = "README.md"
EXTRA = 'pip install "phlogiston[hub]"'
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_ADDRESS = re.compile(rf"hf:/{{1,2}}({_NAME}/{_NAME})(?:@([A-Za-z0-9][A-Za-z0-9._/-]{{0,254}}))?")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Address:
    """Where a trained system lies.

    Attributes:
        repo: `user/name`.
        revision: a commit, a branch or a tag; "" is the newest of the main branch.
    """

    repo: str
    revision: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an address as it is typed; `hf:/user/name`, which is what a `Path` makes of it, means the same.

        Raises:
            ConfigError: it is not one.
        """
        match = _ADDRESS.fullmatch(text)
        if match is None:
            raise ConfigError(
                f"{text!r} is no address of a system: expected hf://user/name or hf://user/name@revision."
            )
        return cls(match[1], match[2] or "")

    @property
    def pinned(self) -> bool:
        """Whether the revision is a commit, behind which no files ever change."""
        return is_commit(self.revision)

    def __str__(self) -> str:
        return f"hf://{self.repo}" + (f"@{self.revision}" if self.revision else "")


def is_address(run: str | Path) -> bool:
    """Say whether a run is one on a hub, not a folder."""
    return (run.as_posix() if isinstance(run, Path) else run).startswith("hf:/")


def shown(run: str | Path) -> str:
    """A run as it was typed: a `Path` takes one of the two slashes of an address away."""
    return str(Address.parse(run.as_posix())) if isinstance(run, Path) and is_address(run) else str(run)


def refuse_address(run: str | Path, what: str) -> None:
    """Refuse to write into a run on a hub or in the package, which stays as it was published.

    Raises:
        ConfigError: it is one.
    """
    if is_address(run) or shelf.holds(run):
        raise ConfigError(f"{shown(run)} stays as it was published: say where {what} is to be written, with --out.")


def is_commit(revision: object) -> bool:
    """Say whether a revision is a whole commit."""
    return isinstance(revision, str) and _COMMIT.fullmatch(revision) is not None


def library(what: str) -> Any:
    """Return the package huggingface_hub.

    Args:
        what: needs it, for the message.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise ConfigError(f"{what} needs huggingface_hub, which is an extra: {EXTRA}") from error


def refused(what: str, error: Exception) -> RunError:
    """The error for a call of the hub that failed, whichever HTTP library is beneath."""
    if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # an upload that failed says no more than that it did
    kind = type(error).__name__
    text = short(f"{kind}: {str(error).split(chr(10) * 2)[-1]}")
    if kind == "RepositoryNotFoundError":
        return RunError(f"{what}: there is no such repository, or it is private (`hf auth login`).")
    if kind == "RevisionNotFoundError":
        return RunError(f"{what}: the repository has no such revision.")
    if getattr(error, "response", None) is not None:
        return RunError(f"{what}: the hub refused ({text}).")
    bases = {base.__name__ for base in type(error).__mro__}
    if bases & {"ConnectionError", "TimeoutError", "TransportError"}:
        return RunError(f"{what}: the hub cannot be reached ({text}).")
    return RunError(f"{what}: the exchange with the hub failed ({text}).")


def describe(folder: Path, names: tuple[str, ...] = FILES) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of the files of these names that a folder holds."""
    found = [path for name in names if (path := folder / name).is_file()]
    return {path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in found}


def read_checksums(path: Path, where: object) -> dict[str, dict[str, Any]]:
    """Read a file of checksums: name -> `bytes` and `sha256`. Names that are not ours are left out.

    Args:
        path: the file.
        where: what it belongs to, for messages.

    Raises:
        CheckpointError: it cannot be read, or one of the needed files is missing.
    """
    content = read_object(path, "checksums of a system", CheckpointError)
    listed = content.get("files")
    entries = {name: listed[name] for name in FILES if name in listed} if isinstance(listed, dict) else {}
    for name in {*NEEDED, *entries}:
        entry = entries.get(name)
        size, digest = (entry.get("bytes"), entry.get("sha256")) if isinstance(entry, dict) else (None, None)
        if type(size) is not int or size < 0 or not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
            raise CheckpointError(f"{where}: {path.name} gives no size and SHA-256 of {name}.")
    return entries


def check(folder: Path, entries: dict[str, dict[str, Any]], where: object, advice: str) -> None:
    """Compare files with their checksums.

    Raises:
        CheckpointError: naming the first file that is missing or another one.
    """
    for name, entry in entries.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{where}: {path} is missing. {advice}")
        found = sha256(path)
        if found != entry["sha256"]:
            raise CheckpointError(
                f"{where}: {name} is altered: its SHA-256 is {found}, expected {entry['sha256']}. {advice}"
            )
