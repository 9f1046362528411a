"""Run folders: the only thing training leaves behind, and the rules for going on in one.

config.json        what was asked for: the caller's configuration, stages, seed, number of rows
environment.json   where it ran: versions, machine, device, threads, command
metrics.jsonl      one JSON object per line, appended only; a resumed run repeats some steps, the last record counts
checkpoints/       see `checkpoints`
figures/           for callers
events.out.*       the same numbers for TensorBoard
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from phlogiston.errors import CheckpointError, RunError
from phlogiston.files import write_json
from phlogiston.inference.svi.checkpoints import FOLDER, list_files, read_state

try:
    import fcntl
except ImportError:  # not on Windows: two processes in one folder are then the user's care
    fcntl = None  # type: ignore[assignment]

FORMAT = 1
LOCK = ".lock"


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the records of a metrics file, one per step (the last written counts), in order of steps.

    A torn last line, left by a crash, is passed over; so are lines that record events.
    """
    records: dict[int, dict[str, Any]] = {}
    if not path.is_file():
        return []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if not isinstance(record, dict) or "step" not in record:
            continue
        if "event" in record:
            if record["event"] in ("resume", "rollback"):  # what came after that step was done again
                records = {s: r for s, r in records.items() if s <= record["step"]}
            continue
        records[int(record["step"])] = record
    return [records[step] for step in sorted(records)]


@dataclass(frozen=True)
class Progress:
    """How far a run has come.

    Attributes:
        step: steps done by its newest checkpoint.
        steps: steps it was to do; None where its configuration does not say.
        finished: whether training is over, be it early.
    """

    step: int
    steps: int | None
    finished: bool

    def text(self) -> str:
        """Return "" for a finished run, else how far it has come."""
        if self.finished:
            return ""
        return f"unfinished: step {self.step:,}" + (f" of {self.steps:,}" if self.steps is not None else "")


def progress_of(path: Path) -> Progress | None:
    """Say how far the run in a folder has come; None where the folder holds no checkpoint that can be read."""
    state = None
    for file in reversed(list_files(path / FOLDER)):
        with contextlib.suppress(CheckpointError):
            state = read_state(file)
            break
    if state is None:
        return None
    try:
        stages = json.loads((path / "config.json").read_text(encoding="utf-8"))["stages"]
        steps = sum(int(stage["steps"]) for stage in stages)
    except (OSError, ValueError, KeyError, TypeError):
        steps = None
    return Progress(int(state["step"]), steps, bool(state.get("finished")))


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


class Run:
    """A run folder opened for training, locked against any second process.

    Args:
        path: the folder; made if it does not exist.
        config: JSON-able description of what is to be trained; must equal that of an existing run.
        resume: `"auto"` goes on with an existing run of the same configuration, True demands one, False refuses one.

    Attributes:
        path: the folder.
        resumed: True if the folder already held this run.

    Raises:
        RunError: if the folder holds something else, another configuration, is in use, or `resume` forbids it.
    """

    def __init__(self, path: str | Path, config: Mapping[str, Any], resume: bool | str = "auto") -> None:
        self.path = Path(path)
        config = json.loads(json.dumps({"format": FORMAT, **config}, default=str))
        entries = self._entries()
        is_run = (self.path / "config.json").is_file() and (self.path / FOLDER).is_dir()
        if entries and not is_run:
            raise RunError(
                f"{self.path} is not empty and holds no run (config.json and {FOLDER}/); nothing was touched. Choose "
                "another folder."
            )
        if is_run and resume is False:
            raise RunError(
                f"{self.path} already holds a run and resume=False. Choose another folder, or resume='auto'."
            )
        if not is_run and resume is True:
            raise RunError(f"{self.path} holds no run to resume. Check the path, or use resume='auto'.")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = self._take_lock()
        except OSError as error:
            raise RunError(f"the run folder {self.path} cannot be made or written: {error}.") from error
        self.resumed = is_run
        self._metrics: IO[str] | None = None
        self._board: _Board | None = None
        try:
            if is_run:
                self._compare(config)
            else:
                (self.path / "figures").mkdir(exist_ok=True)
                write_json(self.path / "config.json", config, sort_keys=True)
                (self.path / FOLDER).mkdir(exist_ok=True)  # last: from here on the folder counts as a run
        except BaseException:
            self.close()
            raise

    def _entries(self) -> list[str]:
        if not self.path.exists():
            return []
        if not self.path.is_dir():
            raise RunError(f"{self.path} is a file; the run needs a folder.")
        # A run killed before its first checkpoint leaves only these; they are ours to write again.
        ours = {LOCK, "config.json", "figures"}
        names = sorted(p.name for p in self.path.iterdir())
        mine = LOCK in names and all(n in ours or n.startswith(".config.json") for n in names)
        return [] if mine else names

    def _take_lock(self) -> IO[str]:
        handle = open(self.path / LOCK, "a", encoding="utf-8")  # noqa: SIM115 (held as long as the run)
        if fcntl is not None:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                handle.close()
                raise RunError(f"{self.path} is in use: another process is training in it.") from error
        return handle

    def _compare(self, config: Mapping[str, Any]) -> None:
        path = self.path / "config.json"
        try:
            old = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError) as error:
            raise RunError(f"{path} cannot be read ({error}).") from error
        if not isinstance(old, dict) or "format" not in old:
            raise RunError(f"{path} was not written by phlogiston; nothing was touched. Choose another folder.")
        differing = list(_differences(old, config))
        if differing:
            raise RunError(
                f"{self.path} holds a run with another configuration; it differs in {', '.join(differing[:8])}. Choose "
                "another folder, or repeat the settings in its config.json."
            )

    def describe_environment(self, device: str, seed: int) -> None:
        """Write environment.json; a resumed run adds its own environment under `"resumed"`."""
        path = self.path / "environment.json"
        now = environment(device, seed)
        with contextlib.suppress(OSError, json.JSONDecodeError):
            old = json.loads(path.read_text(encoding="utf-8"))
            now = {**old, "resumed": [*old.get("resumed", []), now]}
        write_json(path, now, sort_keys=True)

    def record(self, record: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl (non-finite numbers become null)."""
        path = self.path / "metrics.jsonl"
        if self._metrics is None:
            torn = path.is_file() and not path.read_bytes().endswith(b"\n") and path.stat().st_size > 0
            self._metrics = open(path, "a", encoding="utf-8")  # noqa: SIM115 (held as long as the run)
            if torn:
                self._metrics.write("\n")
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
        self._metrics.write(json.dumps(clean) + "\n")
        self._metrics.flush()

    def board(self, step: int, record: Mapping[str, Any]) -> None:
        """Add the numbers of a record to the TensorBoard events (made at the first call)."""
        if self._board is None:
            self._board = _Board(self.path, step if self.resumed else None)
        self._board.add(step, record)

    def close(self) -> None:
        """Close files and give the lock back."""
        for handle in (self._metrics, self._board, self._lock):
            if handle is not None:
                with contextlib.suppress(OSError):
                    handle.close()


def _differences(old: Any, new: Any, path: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, Mapping):
        out: list[str] = []
        for key in sorted({*old, *new}):
            label = f"{path}.{key}" if path else key
            if key not in old or key not in new:
                out.append(f"{label} ({'only here' if key in new else 'only there'})")
            else:
                out += _differences(old[key], new[key], label)
        return out
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [d for i, (a, b) in enumerate(zip(old, new, strict=True)) for d in _differences(a, b, f"{path}[{i}]")]
    if old != new and not (old != old and new != new):
        return [f"{path} ({_short(old)} there, {_short(new)} here)"]
    return []


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."


class _Board:
    """A TensorBoard event file, written record by record in this thread; silently absent without tensorboard."""

    def __init__(self, folder: Path, resumed_at: int | None) -> None:
        self._writer: Any = None
        self._proto: Any = None
        try:
            from tensorboard.compat.proto import event_pb2, summary_pb2
            from tensorboard.summary.writer.record_writer import RecordWriter
        except ImportError:
            return
        self._proto = (event_pb2, summary_pb2)
        stem = f"events.out.tfevents.{time.time_ns() // 1000:017d}.{platform.node() or 'host'}.{os.getpid()}"
        self._writer = RecordWriter(open(folder / stem, "wb"))  # noqa: SIM115 (held as long as the run)
        self._write(event_pb2.Event(wall_time=time.time(), file_version="brain.Event:2"))
        if resumed_at is not None:  # tells the reader to drop what an interrupted start wrote after this step
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._write(event_pb2.Event(wall_time=time.time(), step=resumed_at, session_log=start))

    def _write(self, event: Any) -> None:
        self._writer.write(event.SerializeToString())

    def add(self, step: int, record: Mapping[str, Any]) -> None:
        if self._writer is None:
            return
        event_pb2, summary_pb2 = self._proto
        values = [
            summary_pb2.Summary.Value(tag=key, simple_value=float(value))
            for key, value in record.items()
            if key != "step" and isinstance(value, int | float) and not isinstance(value, bool)
        ]
        self._write(event_pb2.Event(wall_time=time.time(), step=step, summary=summary_pb2.Summary(value=values)))
        self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
