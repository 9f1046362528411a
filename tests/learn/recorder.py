"""Records what the full recipes reach: docs/results/SYSTEM.json, the only source of the figures in the documentation.

docs/results/README.md describes the file. A recipe in tests/learn/test_*.py reads like this:

    @pytest.mark.learn
    def test_noisy_swissroll_reaches_its_bar(record):
        data = datasets.load("swissroll")
        entry = record(
            "drmm",
            "density/swissroll-noisy",
            title="noisy Swiss roll",
            configuration="tril, 2 layers of 16",
            figure="held-out log-likelihood, nats",
            must=-2.90,
            aim=-2.87,
            steps=3000,
            n_test=len(data.test),
            baselines={"GaussianMixture, 32 full": baseline(data)},
        )
        for seed in entry.seeds:
            with entry.measure(seed) as run:
                system = systems.get("drmm")(frame="tril", components=16, layers=2).fit(data, seed=seed)
                run.stop()                              # the clock counts training only
                run.value = float(system.log_prob(data.test).value.mean())
        entry.check()                                   # fails below `must`, after the figure has been recorded

The entry is written when the last seed is done, never before: a recipe stopped half-way leaves the recorded one alone.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import json
import math
import os
import platform
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "pyro-ppl", "numpy", "scipy", "scikit-learn", "lightning-fabric")
COMPUTED = {"values", "mean", "std_error", "cpu_seconds", "versions", "machine", "date", "command"}


def cpu_time() -> float:
    """Return the CPU seconds used so far by this process, its threads and the children it has waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def versions() -> dict[str, str]:
    """Return the versions that bear on a figure, without importing any of the packages."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def machine() -> str:
    """Describe the class of the machine, never the machine: `2-core x86-64 CPU`."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return f"{cores}-core {platform.machine().replace('_', '-') or 'unknown'} CPU"


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Let one recipe at a time change the files of a folder, where the operating system has locks."""
    try:
        import fcntl
    except ImportError:  # Windows: recipes there run one after the other
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def merge(path: Path, system: str, entry: dict[str, Any]) -> None:
    """Put an entry into a results file in the place of the one of its name, or at the end; the others stay.

    Raises:
        ValueError: if the file belongs to another system, or the entry holds NaN or infinity.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(path.parent):
        entries: list[dict[str, Any]] = []
        if path.exists():
            stored = json.loads(path.read_text(encoding="utf-8"))
            if stored.get("system") != system:
                raise ValueError(f"{path} holds the results of {stored.get('system')!r}, not of {system!r}")
            entries = stored["entries"]
        places = [i for i, old in enumerate(entries) if old["name"] == entry["name"]]
        if places:
            entries[places[0]] = entry
        else:
            entries.append(entry)
        latest = {key: entry[key] for key in ("versions", "machine", "date", "command")}
        text = json.dumps(
            {"system": system, "entries": entries, **latest}, indent=2, allow_nan=False, ensure_ascii=False
        )
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(f"{text}\n")
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise


@dataclass
class Measured:
    """One seed's run: the clock, and the value the recipe puts here."""

    began: float = field(default_factory=cpu_time)
    value: float | None = None
    cpu_seconds: float | None = None

    def stop(self, kept: Path | None = None) -> None:
        """Stop the clock, so that evaluation is not counted as training.

        Args:
            kept: folder of a run that may have been gone on with: the time of its earlier parts is added, and kept.
        """
        self.cpu_seconds = cpu_time() - self.began
        if kept is not None:
            note = kept / "cpu_seconds.json"
            self.cpu_seconds += json.loads(note.read_text()) if note.is_file() else 0.0
            note.write_text(json.dumps(self.cpu_seconds))


class Entry:
    """One line of a table in the making: collects a value per seed, then writes itself.

    Attributes:
        seeds: the seeds to run, from `--seeds`.
        values: the figure of each seed measured so far.
        fields: what the recipe said about itself; more may be added (`entry.fields["baselines"] = ...`) until the last
            seed is done.
    """

    def __init__(self, path: Path, system: str, name: str, seeds: Sequence[int], **fields: Any) -> None:
        if taken := sorted(COMPUTED & set(fields)):
            raise TypeError(f"{taken[0]} is computed by the recorder; do not pass it")
        self.path, self.system, self.name, self.seeds = path, system, name, list(seeds)
        self.fields = {"title": name, **fields}
        self.values: dict[int, float] = {}
        self._cpu: dict[int, float] = {}

    @contextlib.contextmanager
    def measure(self, seed: int) -> Iterator[Measured]:
        """Measure one seed: set `value` of what this yields; `stop()` ends the clock early.

        Raises:
            ValueError: if no value was set, or it is NaN or infinite.
        """
        run = Measured()
        yield run
        if run.cpu_seconds is None:
            run.stop()
        if run.value is None or not math.isfinite(run.value):
            raise ValueError(f"{self.system} {self.name}, seed {seed}: the value is {run.value}, not a finite number")
        self.values[seed], self._cpu[seed] = float(run.value), run.cpu_seconds
        print(f"\n{self.system} {self.name}, seed {seed}: {run.value:.4f} ({run.cpu_seconds:.0f} CPU s)", flush=True)
        if set(self.seeds) <= set(self.values):
            self.save()

    @property
    def mean(self) -> float:
        """The mean over the seeds measured so far."""
        return statistics.fmean(self.values.values())

    @property
    def std_error(self) -> float | None:
        """The standard error of the mean over the seeds; None for fewer than two."""
        values = list(self.values.values())
        return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None

    def save(self) -> None:
        """Write the entry to the results file; called by itself after the last seed."""
        error = {} if self.std_error is None else {"std_error": self.std_error}
        entry = {
            "name": self.name,
            **self.fields,
            "values": {str(seed): value for seed, value in sorted(self.values.items())},
            "mean": self.mean,
            **error,
            "cpu_seconds": round(statistics.fmean(self._cpu.values()), 1),
            "versions": versions(),
            "machine": machine(),
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "command": f"make learn SYSTEM={self.system}",
        }
        merge(self.path, self.system, entry)

    def check(self) -> None:
        """Fail the test when the mean does not reach `must`; the figure has been recorded either way."""
        must = self.fields.get("must")
        sign = 1 if self.fields.get("higher_is_better", True) else -1
        missing = set(self.seeds) - set(self.values)
        assert not missing, f"{self.name}: seeds {sorted(missing)} were not measured"
        assert must is None or sign * (self.mean - must) >= 0, (
            f"{self.name}: {self.mean:.4f} in the mean over seeds {self.seeds} ({self.values}) does not reach {must}"
        )
