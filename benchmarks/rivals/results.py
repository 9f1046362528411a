"""Writing what other packages reach to docs/results/rivals.json."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import statistics
from collections.abc import Mapping
from pathlib import Path

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results" / "rivals.json"
PACKAGES = ("ngboost", "catboost", "ctgan", "copulas", "scikit-learn", "numpy", "torch")


def write(name: str, scores: Mapping[int, Mapping[str, float]], path: Path = RESULTS) -> None:
    """Put one method's scores, by split or seed, into the file in the place of the entry of its name, or at the end."""
    kinds = [kind for kind in next(iter(scores.values())) if kind != "cpu_seconds"]
    entry = {
        "name": name,
        **{kind: {str(at): found[kind] for at, found in scores.items()} for kind in kinds},
        "cpu_seconds": round(statistics.fmean(found["cpu_seconds"] for found in scores.values()), 2),
        "versions": {"python": platform.python_version(), **_versions()},
        "machine": f"{os.cpu_count()}-core {platform.machine().replace('_', '-')} CPU",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": "make rivals",
    }
    entries = json.loads(path.read_text(encoding="utf-8"))["entries"] if path.exists() else []
    names = [old["name"] for old in entries]
    at = names.index(name) if name in names else len(names)
    entries[at : at + 1] = [entry]
    text = json.dumps({"system": "rivals", "entries": entries}, indent=1, ensure_ascii=False)
    part = path.with_suffix(".part")
    part.write_text(text + "\n", encoding="utf-8")
    part.replace(path)
    print(name, {kind: round(statistics.fmean(entry[kind].values()), 4) for kind in kinds}, flush=True)


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
