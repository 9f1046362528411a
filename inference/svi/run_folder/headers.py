"""Checkpoints as those see them who only look: which there are, and what headers say; torch is not loaded."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from phlogiston.datasets.untrusted.guard import reason
from phlogiston.errors import CheckpointError

FORMAT = 1
FOLDER = "checkpoints"
LARGEST = 100_000_000  # bytes of a header, by the format's definition
_NAME = re.compile(r"step-(\d{8,})\.safetensors")


def list_files(folder: Path) -> list[Path]:
    """Return the checkpoint files in `folder`, oldest first."""
    if not folder.is_dir():
        return []
    numbered = [(int(match[1]), p) for p in folder.iterdir() if (match := _NAME.fullmatch(p.name))]
    return [path for _, path in sorted(numbered)]


def read_state(path: Path) -> dict[str, Any]:
    """Return the JSON part of a checkpoint without reading its tensors.

    Raises:
        CheckpointError: if the file is missing, truncated, or no checkpoint of ours.
    """
    try:
        metadata = _metadata(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no checkpoint {path}.") from error
    except Exception as error:  # of the system, of text that is no JSON, of JSON that is no header
        raise CheckpointError(f"{path} is truncated or no checkpoint ({reason(error)}).") from error
    return state_of(path, metadata)


def _metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file; its own reader loads numpy, which takes longer than all else that is done."""
    with path.open("rb") as file:
        whole = os.fstat(file.fileno()).st_size
        size = int.from_bytes(file.read(8), "little")
        if not 2 <= size <= min(whole - 8, LARGEST):
            raise ValueError(f"a header of {size:,} bytes in a file of {whole:,}")
        header = json.loads(file.read(size))
    metadata: dict[str, str] = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its metadata are no texts")
    end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if 8 + size + end != whole:
        raise ValueError(f"{8 + size + end:,} bytes are announced, {whole:,} are there")
    return metadata


def state_of(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return the JSON part of a checkpoint from the header of its file.

    Raises:
        CheckpointError: it is not one that training writes.
    """
    if "state" not in metadata or "sha256" not in metadata:
        raise CheckpointError(f"{path} is a safetensors file, but no checkpoint of phlogiston.")
    if metadata.get("format") != str(FORMAT):
        raise CheckpointError(
            f"{path} has checkpoint format {metadata.get('format')}; this version of phlogiston reads {FORMAT}."
        )
    try:
        state = json.loads(metadata["state"])
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is altered: its header cannot be read ({error}).") from error
    _check_state(path, state)
    return state


def _check_state(path: Path, state: Any) -> None:
    """Refuse a header that no training wrote, checksum or not."""
    name = _NAME.fullmatch(path.name)
    needed = {"step", "stage_index"} if name else set()
    whole = isinstance(state, dict) and needed <= state.keys()
    for key in ("step", "stage_index", "processes") if whole else ():
        value = state.get(key, 0)
        whole = whole and isinstance(value, int) and not isinstance(value, bool) and value >= 0
    for key in ("names", "buffers", "not_finite") if whole else ():
        names = state.get(key, [])
        whole = whole and isinstance(names, list) and all(isinstance(name, str) for name in names)
    score = state.get("score") if whole else None
    if not whole or not (score is None or isinstance(score, int | float)):
        raise CheckpointError(f"{path} is altered: its header is not one that training writes.")
    if name and int(name[1]) != state["step"]:
        raise CheckpointError(f"{path} is the checkpoint of step {state['step']}, not the one its name says.")
