"""What a run folder says of itself to those who only read it: how far the run came, and whether it is finished."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phlogiston.errors import CheckpointError, RunWarning
from phlogiston.files import read_json
from phlogiston.inference.svi.run_folder import metrics
from phlogiston.inference.svi.run_folder.headers import FOLDER, list_files, read_state


@dataclass(frozen=True)
class Progress:
    """How far a run has come.

    Attributes:
        step: steps done by its newest checkpoint.
        steps: steps it was to do; None where its configuration does not say.
        finished: whether training is over, be it early.
        recorded: last step in metrics.jsonl; beyond `step` where a checkpoint is still to come, or was never written.
    """

    step: int
    steps: int | None
    finished: bool
    recorded: int | None = None

    def text(self) -> str:
        """Return "" for a finished run, else how far it has come."""
        if self.finished:
            return ""
        done = f"unfinished: step {self.step:,}" + (f" of {self.steps:,}" if self.steps is not None else "")
        if self.recorded is not None and self.recorded > self.step:
            done += f" (metrics.jsonl reaches step {self.recorded:,}, which no checkpoint holds)"
        return done


def progress_of(path: Path) -> Progress | None:
    """Say how far the run in a folder has come; None where the folder holds no checkpoint that can be read."""
    for file in reversed(list_files(path / FOLDER)):
        with contextlib.suppress(CheckpointError):
            return standing(path, read_state(file))
    return None


def standing(path: Path, state: Mapping[str, Any]) -> Progress:
    """Say how far the run in a folder has come, given the JSON part of one of its checkpoints."""
    try:
        stages = read_json(path / "config.json")["stages"]
        steps = sum(int(stage["steps"]) for stage in stages)
    except (OSError, ValueError, KeyError, TypeError):
        steps = None
    finished = state.get("finished") is True
    recorded = None
    if not finished:
        records = metrics.read_metrics(path / metrics.NAME)
        recorded = records[-1]["step"] if records else None
    return Progress(int(state["step"]), steps, finished, recorded)


def warn_if_unfinished(path: Path, state: Mapping[str, Any]) -> None:
    """Tell whoever reads a run that training is not over, and at which step its parameters are."""
    if "step" not in state or state.get("finished") is True or not path.is_dir():
        return  # saved by `System.save`, or finished
    warnings.warn(f"{path} is {standing(path, state).text()}.", RunWarning, stacklevel=4)
