"""Checkpoints: one safetensors file each, written so that a crash at any instant leaves a good one behind.

A file holds the parameters and buffers of model and guide (`model.*`, `guide.*`; tensors shared by both once, under
their first name), those an objective brings along (`objective.*`), the optimiser's state (`optimizer.*`), and in the
header a JSON text with everything else and a SHA-256 over all of it. Nothing is pickled.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from phlogiston.datasets.untrusted.guard import reason
from phlogiston.distributions.pyro_modules import own_parameters
from phlogiston.errors import CheckpointError, RunError, TrainingWarning
from phlogiston.files import sync_folder
from phlogiston.inference.svi.pair.lazy_modules import call_once, make_room
from phlogiston.inference.svi.run_folder.headers import FOLDER as FOLDER
from phlogiston.inference.svi.run_folder.headers import FORMAT as FORMAT
from phlogiston.inference.svi.run_folder.headers import list_files as list_files
from phlogiston.inference.svi.run_folder.headers import read_state as read_state


def named_tensors(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Return parameters and persistent buffers of several modules by name, each tensor once, under its first name."""
    out: dict[str, Tensor] = {}
    seen: set[int] = set()
    for prefix, module in modules.items():
        for name, value in module.state_dict(keep_vars=True).items():
            if isinstance(value, Tensor) and id(value) not in seen:
                seen.add(id(value))
                out[f"{prefix}.{name}"] = value
    return out


def capture(named: Mapping[str, Tensor], reuse: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Return copies of tensors on the CPU, contiguous and sharing no memory.

    Args:
        named: the tensors.
        reuse: copies no longer needed, whose memory is written over where name, shape and dtype agree.
    """
    out = {}
    for name, value in named.items():
        old = None if reuse is None else reuse.get(name)
        if old is not None and old.shape == value.shape and old.dtype == value.dtype:
            out[name] = old.copy_(value.detach())
        else:
            out[name] = value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
    return out


def restore(named: Mapping[str, Tensor], saved: Mapping[str, Tensor], source: str, ignore: str = "") -> None:
    """Copy saved tensors into live ones of the same names.

    Args:
        named: the live tensors.
        saved: the saved ones.
        source: where they come from, for error messages.
        ignore: a prefix of saved names that need no place.

    Raises:
        CheckpointError: naming what is missing, superfluous, or of another shape.
    """
    extra = [n for n in saved if n not in named and not (ignore and n.startswith(ignore))]
    missing = [n for n in named if n not in saved]
    other = [n for n in named if n in saved and saved[n].shape != named[n].shape]
    if missing or extra or other:
        parts = []
        if missing:
            parts.append(f"it lacks {', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''}")
        if extra:
            parts.append(
                f"it has {', '.join(extra[:5])}{' ...' if len(extra) > 5 else ''}, unknown here (modules that make "
                "parameters at their first call must be called once before, or load_parameters given a batch)"
            )
        parts += [f"{n} is {tuple(saved[n].shape)} there, {tuple(named[n].shape)} here" for n in other[:5]]
        raise CheckpointError(f"{source} does not fit this model and guide: {'; '.join(parts)}.")
    with torch.no_grad():
        for name, value in named.items():
            value.data.copy_(saved[name])


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"\n{name} {value.dtype} {tuple(value.shape)}\n".encode())
        if value.numel():
            digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write a checkpoint: temporary name, flushed to disk, renamed. An old file of that name stays good until then.

    Raises:
        OSError: if the disk is full or cannot be written; nothing is left behind.
    """
    text = json.dumps(state, sort_keys=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        metadata = {"format": str(FORMAT), "state": text, "sha256": _digest(tensors, text)}
        with open(temporary, "wb") as handle:
            handle.write(save(dict(tensors), metadata))
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def not_finite(named: Mapping[str, Tensor]) -> list[str]:
    """Names of floating-point tensors with NaN or infinite entries."""
    return [n for n, v in named.items() if v.is_floating_point() and v.numel() and not bool(torch.isfinite(v).all())]


def _check_finite(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Refuse parameters that are not numbers; what was not finite when it was written (a frozen limit, say) may stay.

    A checkpoint of before that was noted is held to its parameters, and to NaN, alone.
    """
    own = {name: tensors[name] for name in state.get("names", tensors) if name in tensors}
    if "not_finite" in state:
        wrong = set(not_finite(own)) - set(state["not_finite"])
    else:
        parameters = {name: value for name, value in own.items() if name not in set(state.get("buffers", ()))}
        wrong = {name for name in not_finite(parameters) if bool(parameters[name].isnan().any())}
    if wrong:
        raise CheckpointError(f"{path} holds NaN or infinite numbers in {', '.join(sorted(wrong)[:5])}.")


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a checkpoint and verify its checksum.

    Returns:
        The tensors by name, and the JSON part.

    Raises:
        CheckpointError: if the file is missing, truncated, altered, no checkpoint of ours, or its parameters are NaN.
    """
    state = read_state(path)
    try:
        with safe_open(str(path), framework="pt") as handle:
            metadata = handle.metadata() or {}
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 (not a dict)
    except Exception as error:  # as above
        raise CheckpointError(f"{path} is truncated ({reason(error)}).") from error
    if _digest(tensors, metadata["state"]) != metadata["sha256"]:
        raise CheckpointError(f"{path} is altered: its checksum does not match its contents.")
    _check_finite(path, tensors, state)
    return tensors, state


def newest_good(folder: Path) -> tuple[Path, dict[str, Tensor], dict[str, Any]] | None:
    """Read the newest checkpoint that is whole; damaged newer ones are warned about and passed over.

    Returns:
        Path, tensors and JSON part, or None if the folder holds no checkpoint at all.

    Raises:
        CheckpointError: if there are checkpoints and none is good.
    """
    problems: list[str] = []
    for path in reversed(list_files(folder)):
        try:
            tensors, state = read(path)
        except CheckpointError as error:
            problems.append(str(error))
            continue
        if problems:
            warnings.warn(f"{' '.join(problems)} The newest good checkpoint is {path}.", TrainingWarning, stacklevel=2)
        return path, tensors, state
    if problems:
        raise CheckpointError(f"{' '.join(problems)} No good checkpoint is left in {folder}.")
    return None


def _rank(state: Mapping[str, Any]) -> tuple[int, float]:
    """Order by which the best checkpoint is the largest: later stages first, then the lower loss."""
    score = state.get("score")
    return int(state["stage_index"]), -float("inf") if score is None else -float(score)


class Keeper:
    """Writes checkpoints into a run folder and keeps the newest two and the best.

    Args:
        folder: the folder of checkpoints.

    Attributes:
        failure: why the last checkpoint could not be written; "" if it was.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.failure = ""
        self._ranks: dict[Path, tuple[int, float]] = {}
        for path in list_files(folder):
            with contextlib.suppress(CheckpointError):
                self._ranks[path] = _rank(read_state(path))

    def save(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> Path | None:
        """Write a checkpoint; then, and only then, remove the ones no longer needed.

        Returns:
            The new file, or None if the disk would not take it (a `TrainingWarning` says so; older files stay).
        """
        path = self.folder / f"step-{state['step']:08d}.safetensors"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write(path, tensors, state)
        except OSError as error:
            self.failure = f"the checkpoint of step {state['step']} could not be written ({error.strerror or error})"
            warnings.warn(f"{self.failure}. Earlier checkpoints are untouched.", TrainingWarning, stacklevel=2)
            return None
        self.failure = ""
        self._ranks[path] = _rank(state)
        self._prune()
        return path

    def _prune(self) -> None:
        files = list_files(self.folder)
        keep = set(files[-2:])
        ranked = [p for p in files if p in self._ranks]
        if ranked:
            keep.add(max(ranked, key=lambda p: (self._ranks[p], p)))
        for path in files:
            if path not in keep:
                with contextlib.suppress(OSError):
                    path.unlink()
                self._ranks.pop(path, None)


def find(run_or_file: str | Path, which: str = "newest") -> Path:
    """Return the checkpoint file meant by a run folder, its `checkpoints` folder, or a file.

    Args:
        run_or_file: the folder or file.
        which: `"newest"`, or `"best"` (lowest validation loss of the last stage, or training loss without validation).

    Raises:
        RunError: if there is no such folder or file, or no checkpoint in it.
    """
    path = Path(run_or_file)
    if path.is_file():
        return path
    if not path.is_dir():
        raise RunError(f"there is no run folder or checkpoint {path}.")
    files = list_files(path / FOLDER) or list_files(path)
    if not files:
        raise RunError(f"{path} holds no checkpoint; a run folder has them in {FOLDER}/.")
    if which == "newest":
        return files[-1]
    if which != "best":
        raise RunError(f"which={which!r}: choose 'newest' or 'best'.")
    ranks: dict[Path, tuple[int, float]] = {}
    for file in files:
        with contextlib.suppress(CheckpointError):
            ranks[file] = _rank(read_state(file))
    if not ranks:
        raise CheckpointError(f"no checkpoint in {path} can be read.")
    return max(ranks, key=lambda p: (ranks[p], p))


def load_parameters(
    run_or_file: str | Path,
    model: nn.Module,
    guide: nn.Module | None = None,
    which: str = "newest",
    batch: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Load the parameters and buffers of a trained pair, in place.

    Lazy `torch.nn` modules and fresh AutoGuides may be loaded into before their first call. Other modules that make
    parameters at their first call need the `batch`; an AutoGuide needs it, or a call, before `guide.median()`.

    Args:
        run_or_file: a run folder (a damaged newest checkpoint is passed over, with a warning) or one checkpoint file.
        model: the model, built as it was for training.
        guide: the guide; without it only the model is loaded.
        which: `"newest"` or `"best"`; ignored for a file.
        batch: rows of the data; the pair is called on them once before its parameters are loaded.

    Returns:
        The checkpoint's JSON part: `step`, `stage`, `loss`, ...

    Raises:
        RunError: if there is nothing to load.
        CheckpointError: if the file is truncated or altered, or does not fit the modules.
    """
    path = find(run_or_file, which)
    if Path(run_or_file).is_dir() and which == "newest":
        newest = newest_good(path.parent)
        assert newest is not None
        path, tensors, state = newest
    else:
        try:
            tensors, state = read(path)
        except CheckpointError as error:
            raise CheckpointError(f"{error}{_alternative(path)}") from error
    modules = {"model": model} if guide is None else {"model": model, "guide": guide}
    names = (name for name in state.get("names", tensors) if name in tensors)
    selected = {name: tensors[name] for name in names if name.split(".", 1)[0] in modules}
    own_parameters(*modules.values())
    if batch is not None:
        call_once(model, guide, batch)
    make_room(modules, selected, state)
    restore(named_tensors(modules), selected, str(path))
    return state


def _alternative(path: Path) -> str:
    for other in reversed(list_files(path.parent)):
        if other != path:
            with contextlib.suppress(CheckpointError):
                read(other)
                return f" The newest good checkpoint is {other}."
    return ""


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: list[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split an optimiser's state into tensors (`optimizer.<parameter>.<key>`) and JSON numbers.

    Args:
        optimizer: the optimiser; its parameters in one order.
        names: the name of each parameter, in that order.

    Raises:
        CheckpointError: if the optimiser keeps state that is neither.
    """
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    for index, entries in optimizer.state_dict()["state"].items():
        for key, value in entries.items():
            label = f"optimizer.{names[index]}.{key}"
            if isinstance(value, Tensor):
                tensors[label] = value
            elif value is None or isinstance(value, bool | int | float | str):
                numbers[label] = value
            else:
                raise CheckpointError(
                    f"the optimiser {type(optimizer).__name__} keeps {key!r} as a {type(value).__name__}, which cannot "
                    "be saved; use one whose state is tensors and numbers."
                )
    return tensors, numbers


def restore_optimizer(
    optimizer: torch.optim.Optimizer, names: list[str], tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]
) -> None:
    """Put saved state back into a fresh optimiser over the same parameters; without saved state, empty it."""
    state: dict[int, dict[str, Any]] = {}
    index = {name: i for i, name in enumerate(names)}
    for label, value in [*tensors.items(), *numbers.items()]:
        if label.startswith("optimizer."):
            name, key = label.removeprefix("optimizer.").rsplit(".", 1)
            if name in index:
                state.setdefault(index[name], {})[key] = value.clone() if isinstance(value, Tensor) else value
    current = optimizer.state_dict()
    optimizer.load_state_dict({"state": state, "param_groups": current["param_groups"]})
