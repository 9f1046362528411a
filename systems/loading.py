"""Building a system from a folder nobody vouches for: what it may take, and whether it is finished."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.overrides import TorchFunctionMode

from phlogiston import systems
from phlogiston.errors import CheckpointError, ConfigError, PhlogistonError, RunError
from phlogiston.evaluate import report
from phlogiston.evaluate.shown import Metrics
from phlogiston.inference.svi.checkpoints import find
from phlogiston.inference.svi.history import History
from phlogiston.inference.svi.run_folder.headers import FOLDER, list_files
from phlogiston.inference.svi.run_folder.metrics import NAME, read_metrics

PARAMETERS = "parameters.safetensors"
_LARGEST_SIZE = 10**7
_NO_SIZES = ("steps", "every", "batch", "seed", "max")  # in names of options that count something else
_TENSORS = 5_000
_SLACK = 256 << 20  # bytes beside those in proportion to the saved parameters
_TIMES = 8
_SMALL = 1 << 20  # results of fewer entries may be made before they are counted


@contextmanager
def built_from_files(folder: Path, options: Mapping[str, Any]) -> Iterator[None]:
    """Let a configuration and a pair be made inside as config.json describes them, if the saved parameters are theirs.

    Args:
        folder: a run folder, or what `System.save` wrote.
        options: those of the configuration.

    Raises:
        RunError: there are no saved parameters, or the configuration cannot be used.
        CheckpointError: no saved parameters can be read, what is built exceeds them by far, or cannot be built.
    """
    if not (folder / PARAMETERS).is_file():
        find(folder)
    if _witness(folder) is None:
        raise CheckpointError(f"no file of parameters in {folder} can be read; it is truncated or no checkpoint.")
    where = folder / "config.json"
    for name, value in options.items():
        if not any(part in name for part in _NO_SIZES) and _largest(value) > _LARGEST_SIZE:
            raise RunError(f"{where} is damaged: nothing of {name}={value!r} can be built.")
    try:
        with within_checkpoint(folder):
            yield
    except ConfigError as error:
        raise RunError(f"{where} is damaged: {error}") from error
    except PhlogistonError:
        raise
    except Exception as error:  # whatever a build makes of options and a schema that no training wrote
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"
        raise CheckpointError(
            f"{where} does not describe the system whose parameters are beside it ({reason})."
        ) from error


@contextmanager
def within_checkpoint(folder: Path) -> Iterator[None]:
    """Let a pair be built inside only if it is about as large as the parameters saved in a folder, if there are any.

    The configuration beside them may ask for anything: it is one thing to have a billion components, another to say so.

    Raises:
        CheckpointError: what is built exceeds the saved parameters by far.
    """
    found = _witness(folder)
    if found is None:
        yield
        return
    path, count = found
    try:
        with _Budget(_TIMES * path.stat().st_size + _SLACK, 100 * count + _TENSORS):
            yield
    except ExceededError as error:
        raise CheckpointError(
            f"{folder / 'config.json'} asks for a far larger system than the parameters in {path} are of ({error})."
        ) from None


def _largest(value: Any) -> int:
    """Return the largest whole number in an option: long before a tensor is made, lists of that length are."""
    if isinstance(value, list):
        return max(map(_largest, value), default=0)
    return abs(value) if isinstance(value, int) else 0


def _witness(folder: Path) -> tuple[Path, int] | None:
    """Return the newest file of parameters that can be read, and the number of its tensors."""
    for path in [folder / PARAMETERS, *reversed(list_files(folder / FOLDER))]:
        with suppress(SafetensorError, OSError), safe_open(str(path), framework="pt") as handle:
            return path, len(handle.keys())
    return None


def kept_schema(folder: Path, schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of the run in a folder where `schema` differs from it in numbers alone, else `schema`.

    A run that is gone on with on other data keeps the means and scales its parameters were trained under.
    """
    try:
        stored = systems.read_config(folder)["config"]["schema"]
    except (RunError, KeyError, TypeError):
        return schema
    same = json.loads(json.dumps(schema, default=str))
    return stored if _outline(stored) == _outline(same) else schema


def _outline(value: Any) -> Any:
    """Return a JSON value with its real numbers blotted out."""
    if isinstance(value, dict):
        return {key: _outline(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_outline(entry) for entry in value]
    return None if isinstance(value, float) else value


class ExceededError(Exception):
    """More was asked for than the saved parameters account for."""


class _Budget(TorchFunctionMode):
    """Adds up what operations allocate, and stops before the one that exceeds the limit.

    Args:
        most: bytes in all.
        tensors: results in all.
    """

    def __init__(self, most: int, tensors: int) -> None:
        super().__init__()
        self.most, self.tensors = most, tensors

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        given = dict(kwargs or {})
        entries = _entries(getattr(func, "__name__", ""), args, given)
        if entries > _SMALL and entries > self.most:
            raise ExceededError(f"{entries:,} entries at once")
        result = func(*args, **given)
        if isinstance(result, Tensor) and result._base is None and not any(result is value for value in args):
            self.tensors -= 1
            self.most -= result.numel() * result.element_size()
            if self.tensors < 0 or self.most < 0:
                raise ExceededError("too many tensors" if self.tensors < 0 else "too many bytes")
        return result


def _entries(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    """Return about how many entries an operation would allocate, before it does; 0 where that is bounded anyway."""
    values = [*args, *kwargs.values()]
    tensors = [v for v in values if isinstance(v, Tensor)]
    sizes = [math.prod(v) for v in values if isinstance(v, list | tuple) and all(isinstance(i, int) for i in v)]
    numbers = [
        int(abs(v)) for v in values if isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)
    ]
    if name in ("empty", "zeros", "ones", "full", "rand", "randn", "randint", "eye", "randperm"):
        return sizes[0] if sizes else math.prod(n for n in numbers if n)
    if name in ("arange", "range", "linspace", "logspace", "tril_indices", "triu_indices", "scalar_tensor"):
        return math.prod(n for n in numbers if n) if "indices" in name else max(numbers, default=0)
    if not tensors or name in ("expand", "view", "reshape", "permute", "as_strided"):
        return 0
    if name.startswith(("new_", "repeat", "tile")):
        times = math.prod(sizes) * math.prod(n for n in numbers if n)
        return times if name.startswith("new_") else times * tensors[0].numel()
    try:
        return math.prod(np.broadcast_shapes(*(tuple(t.shape) for t in tensors)))  # torch's own loads sympy first
    except ValueError:  # a product of matrices, or something that is no larger than what goes in
        product = len(tensors) == 2 and name in ("matmul", "mm", "__matmul__", "linear", "outer")
        return math.prod(tensors[0].shape[:-1]) * tensors[1].shape[-1] if product else 0


def threads_of_run(folder: str | Path) -> int | None:
    """The number of threads that a run was computed on so far; None where there is no run, or it does not tell."""
    try:
        content = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
        threads = content["identity"]["threads"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return threads if isinstance(threads, int) and threads > 0 else None


def recorded(folder: Path, state: Mapping[str, Any]) -> tuple[History | None, Metrics | None]:
    """What a run folder says of its training, given the JSON part of its checkpoint, and of its last evaluation."""
    records = read_metrics(folder / NAME)
    history = None
    if records:
        seconds = float(records[-1].get("seconds") or 0.0)
        history = History(records, seconds, run=folder, finished=state.get("finished") is True)
    with suppress(PhlogistonError):
        return history, Metrics(report.read_metrics(folder))
    return history, None  # not evaluated, or whatever lies there is no such file
