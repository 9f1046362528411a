"""What comes before training by the command line: the run to resume, the folder, the processes, the steps."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from phlogiston import systems
from phlogiston.console import tell
from phlogiston.errors import ConfigError, RunError
from phlogiston.inference.svi.parallel import make_fabric
from phlogiston.inference.svi.processes.launchers import check_nodes, checked, launched
from phlogiston.inference.svi.runs import never_begun
from phlogiston.systems.base import System
from phlogiston.systems.options import shared_steps


def holds_run(out: Path | None) -> bool:
    """Say whether there is a run in the folder to go on with; for a command that is to begin it otherwise."""
    if out is None:
        raise ConfigError("--auto-resume needs --out: the run folder to go on with, or to begin.")
    return (out / "config.json").is_file() and not never_begun(out)


def stored_run(run: Path | None, system: str, resume: bool, lr_resume: float | None) -> dict[str, Any]:
    """Return options, data and seed of a run to resume; empty ones for a new run."""
    if not resume:
        if lr_resume is not None:
            raise ConfigError("--lr-resume is for a run that is gone on with: it needs --resume.")
        return {"options": {}, "data": {}, "seed": 0}
    if run is None:
        raise ConfigError("--resume needs --out: the run folder to go on with.")
    if run.is_dir() and not (run / "config.json").exists() and never_begun(run):
        raise RunError(f"{run} holds a run that was killed before it began: give the whole command, without --resume.")
    content = systems.read_config(run)
    own = content.get("config", content)
    name = own.get("system")
    if name != system:
        raise ConfigError(f"{run} holds a run of {name}, not of {system}.")
    seed = content.get("seed", 0)
    if not isinstance(seed, int):
        raise RunError(f"{run}/config.json is damaged: seed {seed!r} is no whole number.")
    return {"options": own.get("options") or {}, "data": own.get("data") or {}, "seed": seed}


def check_processes(devices: str, nodes: int) -> int | str:
    """Refuse a number of processes that nothing will start, before any work is done.

    Returns:
        Devices per machine, or "auto".

    Raises:
        ConfigError: so many cannot be; a launcher is missing, or has started another number of them.
    """
    if devices != "auto" and not re.fullmatch(r"[1-9]\d*", devices):
        raise ConfigError(f"--devices {devices!r}: expected a number from 1 on, or auto.")
    check_nodes(nodes, devices)
    launch = launched()
    if launch is not None:
        checked(launch, devices)
    return int(devices) if devices != "auto" else devices


def started_fabric(devices: int | str, nodes: int, precision: str, accelerator: str) -> Any:
    """Start the processes requested; None for the plain case, which spares the seconds Fabric takes to load."""
    plain = devices == 1 and nodes == 1 and precision == "32-true" and launched() is None
    if accelerator == "auto" and plain:
        import torch

        if not torch.cuda.is_available():
            return None
    elif accelerator == "cpu" and plain:
        return None
    return make_fabric(devices, nodes, precision, accelerator)


def run_folder(out: Path | None, system: str, data: str, resume: bool) -> str:
    """Choose or check the run folder."""
    if out is not None:
        if not resume and out.exists() and (not out.is_dir() or (any(out.iterdir()) and not never_begun(out))):
            raise ConfigError(f"{str(out)!r} exists already. Choose another --out, or go on with it by --resume.")
        return str(out)
    stem = f"{system}-{re.sub(r'[^A-Za-z0-9_.]+', '-', Path(data).stem).strip('-') or 'data'}"
    for i in range(1, 1_000_000):
        folder = Path("runs") / f"{stem}-{i}"
        with contextlib.suppress(FileExistsError):
            folder.mkdir(parents=True)  # making it claims it, also against a second command started at the same time
            return str(folder)
    raise RunError(f"runs/ holds a million runs of {stem}; give --out.")


@contextlib.contextmanager
def removed_if_empty(folder: Path | None) -> Iterator[None]:
    """Remove a folder that was chosen here again if nothing came of it."""
    try:
        yield
    finally:
        if folder is not None:
            with contextlib.suppress(OSError):
                folder.rmdir()


def configured_system(kind: type[System], options: Mapping[str, Any], steps: int | None, told: bool) -> System:
    """Make the system, with its steps shared out over its stages where their sum is given."""
    configured = kind(options)
    if steps is None:
        return configured
    shared = shared_steps(configured.step_options(), steps)
    if len(shared) > 1 and told:
        tell(f"{steps:,} steps: {', '.join(f'{name} {count:,}' for name, count in shared.items())}")
    return kind({**options, **shared})
