"""Run folders: the only thing training leaves behind, and the rules for going on in one.

config.json        the request: configuration, stages, seed, number of rows; `identity`: what a resumed run is held to
environment.json   where it ran: versions, machine, device, threads, command
metrics.jsonl      one JSON object per line, appended only; a resumed run repeats some steps, the last record counts
checkpoints/       see `checkpoints`
figures/           for callers
events.out.*       the same numbers for TensorBoard
"""

from __future__ import annotations

import contextlib
import itertools
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from phlogiston.errors import CheckpointError, RunError, RunMismatchError, TrainingWarning
from phlogiston.files import FORMAT, read_json, write_json
from phlogiston.inference.svi.run_folder.environment import describe_environment, read_environment
from phlogiston.inference.svi.run_folder.headers import FOLDER, list_files, read_state
from phlogiston.inference.svi.run_folder.identity import differences
from phlogiston.inference.svi.run_folder.lock import LOCK, Lock, sweep
from phlogiston.inference.svi.run_folder.metrics import NAME, Metrics
from phlogiston.inference.svi.run_folder.readers import progress_of


def never_begun(folder: Path) -> bool:
    """Say whether a folder holds only what a run leaves that was killed before its first checkpoint."""
    names = {path.name for path in folder.iterdir()}
    return LOCK in names and all(n in {LOCK, "config.json", "figures"} or n.startswith(".config.json") for n in names)


class Run:
    """A run folder opened for training, locked against any second process.

    Args:
        path: the folder; made if it does not exist.
        config: JSON-able description of what is to be trained; must equal that of an existing run.
        resume: `"auto"` continues an existing run of the same configuration, True demands one, False refuses one.
            `"force"` is `"auto"` that also goes on where the data, the precision, the device or the number of threads
            are others, and says which.
        identity: what no setting says, see `run_folder.identity`; None compares nothing of the kind.

    Attributes:
        path: the folder.
        resumed: True if the folder already held this run.

    Raises:
        RunError: if the folder holds something else, is in use, or `resume` forbids it.
        RunMismatchError: if it holds a run with another configuration, on other data or computed otherwise.
    """

    def __init__(
        self,
        path: str | Path,
        config: Mapping[str, Any],
        resume: bool | str = "auto",
        identity: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = Path(path)
        self.config = json.loads(json.dumps({"format": FORMAT, **config}, default=str))
        self.config.pop("identity", None)
        self.identity = dict(identity or {})
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
        self.resumed = is_run
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = Lock(self.path)
        except OSError as error:
            raise RunError(f"the run folder {self.path} cannot be made or written: {error}.") from error
        self._metrics = Metrics(self.path, self.resumed)
        try:
            if is_run:
                self._compare(force=resume == "force")
                sweep(self.path, self.path / FOLDER)
            else:
                self._describe()
        except OSError as error:
            self.close()
            raise RunError(f"the run folder {self.path} cannot be written: {error}.") from error
        except BaseException:
            self.close()
            raise

    def _describe(self) -> None:
        (self.path / "figures").mkdir(exist_ok=True)
        self._write_config()
        (self.path / FOLDER).mkdir(exist_ok=True)  # last: from here on the folder counts as a run

    def _write_config(self) -> None:
        content = {**self.config, "identity": self.identity} if self.identity else self.config
        write_json(self.path / "config.json", content, sort_keys=True)

    def _entries(self) -> list[str]:
        if not self.path.exists():
            return []
        if not self.path.is_dir():
            raise RunError(f"{self.path} is a file; the run needs a folder.")
        return [] if never_begun(self.path) else sorted(p.name for p in self.path.iterdir())

    def _compare(self, force: bool) -> None:
        """Refuse to go on with another run; take note of what has changed if `force` allows it."""
        path = self.path / "config.json"
        try:
            old = read_json(path)
        except (OSError, ValueError) as error:
            raise RunError(f"{path} cannot be read ({error}).") from error
        if not isinstance(old, dict) or "format" not in old:
            raise RunError(f"{path} was not written by phlogiston; nothing was touched. Choose another folder.")
        if old["format"] != FORMAT:
            raise RunError(f"{path} has format {old['format']!r}; this version of phlogiston reads {FORMAT}.")
        stored = old.pop("identity", None)
        differing = list(_differences(old, self.config))
        if force:
            differing = [text for text in differing if not text.startswith("rows (")]
        known = stored if isinstance(stored, dict) else self._earlier_identity()
        if differing:
            if self.identity:  # other data are the reason why a schema made of them is another
                differing = [*differences(known, self.identity, finished=True), *differing]
            raise RunMismatchError(
                f"{self.path} holds a run with another configuration; it differs in {', '.join(differing[:8])}. Choose "
                "another folder, or repeat the settings in its config.json."
            )
        if self.identity:
            self._compare_identity(known, force)

    def _earlier_identity(self) -> dict[str, Any]:
        """What a run of an earlier version tells: threads in environment.json, processes in a checkpoint."""
        environment = read_environment(self.path)
        latest = [environment, *environment.get("resumed", [])][-1]
        known = {"threads": latest.get("threads")} if isinstance(latest, dict) else {}
        for file in reversed(list_files(self.path / FOLDER)):
            with contextlib.suppress(CheckpointError):
                return {**known, "processes": read_state(file).get("processes", 1)}
        return known

    def _compare_identity(self, old: dict[str, Any], force: bool) -> None:
        progress = progress_of(self.path)
        finished = progress is not None and progress.finished
        differing = differences(old, self.identity, finished)
        if differing and not force:
            raise RunMismatchError(
                f"{self.path} holds a run that was computed otherwise; it differs in {', '.join(differing)}. Repeat it "
                "as it was, choose another folder, or go on all the same with resume='force' (--force-resume)."
            )
        if differing:
            warnings.warn(
                f"{self.path} is gone on with by force. What it is from here on differs in {', '.join(differing)}.",
                TrainingWarning,
                stacklevel=2,
            )
        if not finished and old != self.identity:
            self._write_config()

    def describe_environment(self, device: str, seed: int) -> None:
        """Write environment.json; a resumed run adds its own environment under `"resumed"`."""
        describe_environment(self.path, device, seed)

    def record(self, record: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl, see `run_folder.metrics`; not into a folder that took this one's name."""
        if not self._lock.astray():
            self._metrics.record(record)

    def board(self, step: int, record: Mapping[str, Any]) -> None:
        """Add the numbers of a record to the TensorBoard events, likewise."""
        if not self._lock.astray():
            self._metrics.board(step, record)

    def missing(self) -> bool:
        """Say whether the folder was removed, moved or replaced, or lost its config.json, since it was opened."""
        return self._lock.astray() or not (self.path / "config.json").is_file()

    def rescue(self, records: Sequence[Mapping[str, Any]], device: str, seed: int) -> None:
        """Write what a load and a resume need, checkpoints apart, after the folder was lost.

        In the folder's own place, where nothing else stands there; else in a new folder beside it, `path` from then on.

        Args:
            records: of metrics.jsonl.
            device: for environment.json.
            seed: likewise.
        """
        home, replaced = self.path, self.path.exists() and self._lock.astray()
        self.close()
        if replaced:
            numbered = (home.with_name(f"{home.name}-rescued-{i}") for i in itertools.count(1))
            home = next(path for path in numbered if not path.exists())
        home.mkdir(parents=True, exist_ok=True)
        self.path = home
        self._lock = Lock(home)
        self._metrics = Metrics(home, resumed=False)
        self._describe()
        self.describe_environment(device, seed)
        if not (home / NAME).is_file():
            for record in records:
                self.record(record)

    def close(self) -> None:
        """Close files and give the lock back."""
        self._metrics.close()
        self._lock.release()


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
