"""Publishing a trained system: what `System.save` writes, its figures, a card, and checksums of all that is loaded."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import phlogiston
from phlogiston import datasets, systems
from phlogiston.errors import ConfigError, PhlogistonError
from phlogiston.evaluate.report import write_metrics
from phlogiston.files import read_json, write_bytes, write_json
from phlogiston.inference.svi.run_folder.readers import progress_of
from phlogiston.systems.hub.address import CARD, CHECKSUMS, FILES, Address, describe, library, refused
from phlogiston.systems.hub.card import card


def push(system: Any, repo: str, private: bool, message: str) -> str:
    """Publish a fitted system; see `System.push_to_hub`."""
    address = Address.parse(f"hf://{repo.removeprefix('hf://')}")
    if address.revision:
        raise ConfigError(f"repo={repo!r}: a system is published as the newest revision of user/name; leave out the @.")
    hub = library("push_to_hub")
    with tempfile.TemporaryDirectory() as name:
        folder = system.save(Path(name) / "system")
        write(system, folder, address.repo)
        api = hub.HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, library_name="phlogiston")
        try:
            api.create_repo(address.repo, private=private, exist_ok=True)
            done = api.upload_folder(
                repo_id=address.repo,
                folder_path=folder,
                commit_message=message or f"{system.name}, by phlogiston {phlogiston.__version__}",
                allow_patterns=[*FILES, CHECKSUMS, CARD],
            )
        except Exception as error:
            raise refused(f"{address} cannot be published", error) from error
    return str(Address(address.repo, done.oid))


def write(system: Any, folder: Path, repo: str) -> None:
    """Complete a folder that `System.save` wrote to what is published: data, figures, card, checksums."""
    run = None if system.history is None else system.history.run
    stored: Mapping[str, Any] = {}
    if run is not None:
        try:
            stored = systems.read_config(run)
        except PhlogistonError:  # the run folder is gone; the system is not
            run = None
    content = read_json(folder / "config.json")
    named = (stored.get("config", stored).get("data") or {}) if stored else {"name": system.trained_on or None}
    content["data"] = _public(named)
    write_json(folder / "config.json", content)
    if system.scored:
        write_metrics(folder / "metrics.json", system.scored)
    progress = None if run is None else progress_of(Path(run))
    training = {
        "parameters": system.count_parameters(),
        "steps": None if system.history is None or not len(system.history) else int(system.history.steps[-1]),
        "seconds": None if system.history is None else round(system.history.seconds),
        "seed": stored.get("seed"),
        "unfinished": "" if progress is None else progress.text(),
    }
    told = system.trained_on.replace(str(named.get("name")), str(content["data"]["name"]))
    text = card(system.name, content, f"hf://{repo}", trained_on=told, figures=system.scored or {}, training=training)
    write_bytes(folder / CARD, text.encode())
    write_json(folder / CHECKSUMS, {"format": 1, "phlogiston": phlogiston.__version__, "files": describe(folder)})


def _public(data: Mapping[str, Any]) -> dict[str, Any]:
    """What is said of the data: registered ones whole, of a file its name alone, for a path tells of its owner."""
    name = data.get("name")
    if name in datasets.names():
        return {"name": name, "options": dict(data.get("options") or {})}
    return {"name": None if name is None else Path(str(name)).name, "options": {}}
