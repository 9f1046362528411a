"""From the name of a run to its folder: fetched from a hub once per commit and kept in the cache, or in the package.

What others have published and what comes with the package is checked whenever it is loaded.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from phlogiston.datasets.untrusted.limits import check_count, check_memory
from phlogiston.errors import CheckpointError, DataError, PhlogistonError, RunError
from phlogiston.files import cache_folder, sync_folder, write_json
from phlogiston.systems.hub.address import (
    CHECKSUMS,
    NEEDED,
    Address,
    check,
    is_address,
    is_commit,
    library,
    read_checksums,
    refused,
)
from phlogiston.systems.pretrained import shelf

PINNED = "pinned.json"
_SECONDS = 30.0


def local_folder(run: str | Path) -> Path:
    """Return the folder of a run; one on a hub is fetched first where it is not in the cache.

    Args:
        run: a folder, the name of a trained system in the package such as drmm/poses, or an address such as
            hf://user/name@revision.

    Raises:
        ConfigError: no such address can be, or huggingface_hub is not installed.
        RunError: the hub cannot be reached, or has no such system; a name like that of a trained system.
        CheckpointError: a file is not the one that was published.
    """
    if not is_address(run):
        packaged = shelf.find(run)
        if packaged is not None:
            check(packaged, read_checksums(packaged / CHECKSUMS, run), run, "Install phlogiston again.")
        return packaged or Path(run)
    address = Address.parse(run.as_posix() if isinstance(run, Path) else run)
    kept = cache_folder() / "hub" / address.repo
    if address.pinned and (kept / address.revision).is_dir():
        return _checked(kept / address.revision, address)
    hub = library(str(address))
    api = hub.HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, library_name="phlogiston")
    try:
        info = api.model_info(address.repo, revision=address.revision or None, files_metadata=True, timeout=_SECONDS)
    except Exception as error:
        raise _with_kept(refused(str(address), error), kept, address) from error
    if not is_commit(info.sha):
        raise RunError(f"{address}: the hub names no commit ({info.sha!r}).")
    pinned = Address(address.repo, info.sha)
    folder = kept / info.sha
    if not folder.is_dir():
        _fetch(api, pinned, {file.rfilename: file.size for file in info.siblings or []}, folder)
    return _checked(folder, pinned)


def _with_kept(error: RunError, kept: Path, address: Address) -> RunError:
    """Name the newest commit in the cache, which can be loaded without a hub; whether it is meant, the user knows."""
    folders = [path for path in kept.iterdir() if is_commit(path.name)] if kept.is_dir() else []
    if not folders:
        return error
    newest = max(folders, key=lambda path: path.stat().st_mtime)
    return RunError(f"{error} Fetched earlier, and loaded without a hub: {Address(address.repo, newest.name)}")


def _checked(folder: Path, address: Address) -> Path:
    """Return a folder of the cache whose files are those that were fetched."""
    entries = read_checksums(folder / PINNED, address)
    check(folder, entries, address, f"Remove {folder} to fetch it again.")
    return folder


def _fetch(api: Any, address: Address, sizes: Mapping[str, int | None], folder: Path) -> None:
    """Fetch the files of a commit that are ours, check them, and give the folder its name only then."""
    for name in (*NEEDED, CHECKSUMS):
        if name not in sizes:
            raise RunError(
                f"{address} holds no {name}: expected what `System.push_to_hub` publishes, {', '.join(NEEDED)} and "
                f"{CHECKSUMS}; nothing else is read."
            )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetching-") as name:
            temporary = Path(name)
            entries = read_checksums(_one(api, address, CHECKSUMS, sizes, temporary), address)
            for wanted in entries:
                _one(api, address, wanted, sizes, temporary)
            check(temporary, entries, address, "It was changed after it had been published; do not use it.")
            shutil.rmtree(temporary / ".cache", ignore_errors=True)  # notes of huggingface_hub
            write_json(temporary / PINNED, {"format": 1, "address": str(address), "files": entries})
            if not folder.is_dir():  # else another process was faster
                made = temporary.rename(folder)
                sync_folder(made.parent)
                temporary.mkdir()  # for the end of the `with`
    except OSError as error:
        raise RunError(f"{address} cannot be kept in {folder.parent} ({error.strerror or error}).") from error


def _one(api: Any, address: Address, name: str, sizes: Mapping[str, int | None], folder: Path) -> Path:
    """Fetch one file, of a size that is taken."""
    size, what = sizes.get(name), f"{address}: {name}"
    if size is None:
        raise CheckpointError(f"{what} is listed among the checksums, but the repository does not hold it.")
    try:
        if name.endswith(".json"):
            check_count(size, "document", f"{what}, bytes")
        check_memory(size, what)
    except DataError as error:
        raise CheckpointError(str(error)) from error
    if size > (free := shutil.disk_usage(folder).free):
        raise RunError(f"{what} has {size:,} bytes, and {folder.parent} has room for {free:,}.")
    try:
        path = Path(api.hf_hub_download(address.repo, name, revision=address.revision, local_dir=folder))
    except PhlogistonError:
        raise
    except Exception as error:
        raise refused(what, error) from error
    if path != folder / name or path.stat().st_size != size:
        raise CheckpointError(f"{what} has {path.stat().st_size:,} bytes; the hub had announced {size:,}.")
    return path
