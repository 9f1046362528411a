"""environment.json: where a run took place, and where it was resumed."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from phlogiston.errors import RunWarning
from phlogiston.files import read_json, write_json

NAME = "environment.json"


def environment(device: str, seed: int) -> dict[str, Any]:
    """Describe where a run takes place: versions, machine, device, threads, seed, command."""
    from importlib import metadata

    import torch

    import phlogiston

    packages = {}
    for name in ("torch", "pyro-ppl", "numpy", "lightning-fabric", "safetensors"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            packages[name] = metadata.version(name)
    return {
        "phlogiston": phlogiston.__version__,
        "packages": packages,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": device,
        "threads": torch.get_num_threads(),
        "seed": seed,
        "command": [os.fspath(a) for a in sys.argv],
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def read_environment(folder: Path) -> dict[str, Any]:
    """Return what environment.json says, {} where it is missing or damaged (a `RunWarning` tells)."""
    path = folder / NAME
    try:
        content = read_json(path)
        if not isinstance(content, dict) or not isinstance(content.get("resumed", []), list):
            raise ValueError("not an object as this program writes it")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        warnings.warn(f"{path} is damaged ({error}) and is written anew.", RunWarning, stacklevel=3)
        return {}
    return content


def describe_environment(folder: Path, device: str, seed: int) -> None:
    """Write environment.json; a resumed run adds its own environment under `"resumed"`. Never an error: a warning."""
    now = environment(device, seed)
    old = read_environment(folder)
    if old:
        now = {**old, "resumed": [*old.get("resumed", []), now]}
    try:
        write_json(folder / NAME, now, sort_keys=True)
    except (OSError, ValueError, TypeError) as error:
        warnings.warn(f"{folder / NAME} could not be written ({error}).", RunWarning, stacklevel=3)
