"""A search for options: trials are drawn by Optuna, trained side by side, pruned, and kept in a folder.

    sweep.json     what is searched: system, data, options, space, seed
    journal.log    Optuna's own journal: every trial, its options and losses; `optuna.load_study` reads it, too
    trials/0007/   the run folder of a trial, as `phlogiston train` leaves it
    result.json    the best trial and a line for each; sweep.png shows them

A killed search goes on: trials that were at work go on from their newest checkpoint. The journal is written by one
process; workers know nothing of it.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from phlogiston import systems
from phlogiston.datasets.base import Dataset
from phlogiston.errors import ConfigError, PhlogistonError, RunError, RunMismatchError
from phlogiston.files import FORMAT, read_json, write_json
from phlogiston.inference.svi.batches import mix
from phlogiston.inference.svi.run_folder.lock import Lock
from phlogiston.systems.sweep.display import Display
from phlogiston.systems.sweep.space import Axis, axes, read_space
from phlogiston.systems.sweep.trials import load_rows, run_trial
from phlogiston.systems.sweep.workers import Workers

SETTINGS, JOURNAL, TRIALS, RESULT = "sweep.json", "journal.log", "trials", "result.json"
EXTRA = 'pip install "phlogiston[sweep]"'
WARM = 5
"""Trials that are never pruned, nor any other in its first fifth."""
HOPELESS = 3
"""So many failed trials, and not one that did not, end a search."""


class Study:
    """A search in its folder, held against any other process.

    Args:
        folder: an existing one.
        settings: what `sweep.json` holds.
        jobs: trials at a time.

    Raises:
        RunError: the folder is in use.
        ConfigError: Optuna is not installed.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], jobs: int) -> None:
        self.folder, self.settings = folder, dict(settings)
        self.searched, fixed = axes(settings["space"], settings["system"], settings["options"])
        self.fixed = {**settings["options"], **fixed}
        self.optuna = _optuna()
        self.lock = Lock(folder)
        try:
            self.study = self._opened(jobs)
        except BaseException:
            self.lock.release()
            raise

    def _opened(self, jobs: int) -> Any:
        """Open the journal, behind what a kill may have left of it."""
        optuna, path = self.optuna, self.folder / JOURNAL
        for left in self.folder.glob(f"{JOURNAL}.lock*"):
            left.unlink()  # nobody else is here: the folder is locked
        if path.is_file():
            content = path.read_bytes()
            if not content.endswith(b"\n"):
                path.write_bytes(content[: content.rfind(b"\n") + 1])  # half a line, of which nobody was told
        backend = optuna.storages.journal.JournalFileBackend(str(path))
        storage = optuna.storages.JournalStorage(backend)
        study = optuna.create_study(storage=storage, study_name="sweep", direction="minimize", load_if_exists=True)
        # from the same seed, a search that goes on would draw its first choices once more
        seed = mix(self.settings["seed"], len(study.trials)) % (1 << 32)
        study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=jobs > 1)
        study.pruner = optuna.pruners.MedianPruner(n_startup_trials=WARM, n_warmup_steps=200)
        if not self.settings["prune"]:
            study.pruner = optuna.pruners.NopPruner()
        return study

    def path(self, number: int) -> Path:
        """The run folder of a trial."""
        return self.folder / TRIALS / f"{number:04d}"

    def left(self) -> list[Any]:
        """The trials that were at work when the search was stopped."""
        running = self.optuna.trial.TrialState.RUNNING
        return [self.optuna.trial.Trial(self.study, t._trial_id) for t in self.study.trials if t.state == running]

    def options(self, trial: Any) -> dict[str, Any]:
        """The options of a trial: chosen, if they are not yet, and those that stay."""
        return {**self.fixed, **{axis.name: axis.suggest(trial) for axis in self.searched}}

    def report(self, trial: Any, at: int, value: float) -> bool:
        """Note how far a trial is; say whether to stop it. At its end there is nothing left to spare."""
        if at in self.study.get_trials(deepcopy=False)[trial.number].intermediate_values:
            return False  # told before the search was killed
        trial.report(value, at)
        return at < 1000 and bool(trial.should_prune())

    def finish(self, trial: Any, value: float, pruned: bool) -> None:
        """Note how a trial ended."""
        states = self.optuna.trial.TrialState
        if value != value:
            self.fail(trial, "its validation loss is no number")
        elif pruned:
            self.study.tell(trial, state=states.PRUNED)
        else:
            self.study.tell(trial, value)

    def fail(self, trial: Any, error: str) -> None:
        """Note why a trial failed.

        Raises:
            RunError: the first ones all did.
        """
        trial.set_user_attr("error", error)
        self.study.tell(trial, state=self.optuna.trial.TrialState.FAIL)
        counts = self.counts()
        if counts["failed"] >= HOPELESS and counts["failed"] == sum(counts.values()):
            raise RunError(f"the first {counts['failed']} trials failed, the last one so: {error}")

    def counts(self) -> dict[str, int]:
        """How many trials ended in what way."""
        names = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
        states = [trial.state.name for trial in self.study.trials]
        return {ours: states.count(theirs) for theirs, ours in names.items()}

    def best(self) -> Any:
        """The complete trial of the lowest loss; None where there is none."""
        complete = [t for t in self.study.trials if t.state.name == "COMPLETE"]
        return min(complete, key=lambda t: t.value, default=None)

    def result(self) -> dict[str, Any]:
        """Write result.json and the picture; return what the command prints."""
        from phlogiston.systems.sweep.picture import draw

        best, counts = self.best(), self.counts()
        trials = [
            {
                "trial": t.number,
                "state": t.state.name.lower(),
                "value": t.value if t.value is not None else (list(t.intermediate_values.values()) or [None])[-1],
                "options": self._shown(t),
                **({"error": t.user_attrs["error"]} if "error" in t.user_attrs else {}),
            }
            for t in self.study.trials
        ]
        told: dict[str, Any] = {"sweep": str(self.folder), "best": None, "value": None, "options": {}}
        if best is not None:
            told |= {"best": str(self.path(best.number)), "value": best.value, "options": self._shown(best)}
        told |= {**counts, "plot": None}
        figure = draw(trials, self.searched, self.settings["system"])
        if figure is not None:
            figure.savefig(self.folder / "sweep.png", dpi=120)
            told["plot"] = str(self.folder / "sweep.png")
        clean = [{**t, "value": t["value"] if t["value"] is None or abs(t["value"]) < float("inf") else None}
                 for t in trials]  # fmt: skip
        write_json(self.folder / RESULT, {**told, "trials": clean})
        return told

    def _shown(self, trial: Any) -> dict[str, Any]:
        """The choices of a trial as the options have them."""
        labels = {axis.name: dict(zip(axis.labels, axis.choices, strict=True)) for axis in self.searched}
        return {name: labels[name].get(value, value) for name, value in trial.params.items()}


def sweep(
    system: str,
    space: str | Path | Mapping[str, Any] | None = None,
    *,
    data: str | None = None,
    trials: int = 20,
    jobs: int = 1,
    out: str | Path | None = None,
    resume: bool = False,
    preset: str | None = None,
    sets: Mapping[str, str] | None = None,
    data_options: Mapping[str, str] | None = None,
    steps: int | None = None,
    seed: int = 0,
    threads: int | None = None,
    prune: bool = True,
    progress: str = "auto",
) -> dict[str, Any]:
    """Search for the options of a system that give the lowest validation loss.

    Args:
        system: its name.
        space: a file (see `space`), or what such a file says as a mapping.
        data: name or path; the data of the system's first demo recipe by default.
        trials: how many trainings in all, those of an earlier start of the search counted.
        jobs: how many at a time, each in a process of its own.
        out: folder; `sweeps/<system>-<data>-<n>` with the first free n by default.
        resume: go on with the search in `out`, which says everything but `trials` and `jobs`.
        preset: named options to start from.
        sets: option that stays -> text.
        data_options: option of the data -> text.
        steps: optimiser steps of every trial; see `workflow.train`.
        seed: of the choices and of every training.
        threads: of every training; by default the system's own number, or a share of the cores for several jobs.
        prune: end trials whose loss is above the median of the others' at the same point; never one of the first five.
        progress: `"auto"` (a bar on a terminal, else a line per trial), `"json"` or `"off"`.

    Returns:
        `sweep`, the folder; `best`, the run folder of the best trial, its `value` (nats per row) and its `options`;
        how many trials are `complete`, `pruned` and `failed`; and `plot`.

    Raises:
        ConfigError: a space, options or data that do not fit.
        RunError: a folder that holds something else, or trials that all fail.
    """
    if trials < 1 or jobs < 1:
        raise ConfigError(f"trials={trials}, jobs={jobs}: at least 1 each.")
    _optuna()
    given = None if space is None else dict(space) if isinstance(space, Mapping) else read_space(space)
    if resume:
        folder, settings = _stored(out, system, given)
        rows = None
    else:
        if given is None:
            raise ConfigError("a search needs a space: a TOML file that says between which values to choose.")
        settings = _settings(system, data, data_options or {}, preset, sets or {}, steps, seed, threads, prune)
        settings["space"] = given
        axes(given, system, settings["options"], "the space" if isinstance(space, Mapping) else repr(str(space)))
        rows = load_rows(settings)  # before a folder is made
        folder = _fresh(out, system, rows.meta.name)
        write_json(folder / SETTINGS, {"format": FORMAT, **settings})
    study = Study(folder, settings, jobs)
    display = Display(progress, trials, study.counts())
    try:
        if jobs == 1:
            _here(study, trials, rows, display)
        else:
            Workers(study, display, jobs).run(trials)
    finally:
        display.close()
        try:
            told = study.result()
        finally:
            study.lock.release()
    if told["best"] is None:
        failed = [t.user_attrs["error"] for t in study.study.trials if "error" in t.user_attrs]
        raise RunError(f"no trial came to its end{f'; the last one failed so: {failed[-1]}' if failed else '.'}")
    return told


def _here(study: Study, trials: int, rows: Dataset | None, display: Display) -> None:
    """Train one after another in this process."""
    rows = load_rows(study.settings) if rows is None else rows
    left = study.left()
    while left or len(study.study.trials) < trials:
        trial = left.pop(0) if left else study.study.ask()
        options = study.options(trial)

        def report(at: int, value: float, trial: Any = trial) -> bool:
            display.at(trial.number, at)
            return study.report(trial, at, value)

        try:
            value, pruned = run_trial(study.settings, rows, options, study.path(trial.number), report)
        except PhlogistonError as error:
            study.fail(trial, str(error))
            display.failed(trial, str(error))
        else:
            study.finish(trial, value, pruned)
            display.ended(trial, value, pruned, study.best())


# ---- folders and settings


def _settings(
    system: str,
    data: str | None,
    data_options: Mapping[str, str],
    preset: str | None,
    sets: Mapping[str, str],
    steps: int | None,
    seed: int,
    threads: int | None,
    prune: bool,
) -> dict[str, Any]:
    from phlogiston import datasets
    from phlogiston.systems.workflow import default_data, merged_options

    name, options = (data, {}) if data is not None else default_data(systems.get(system), {})
    if name not in datasets.names():
        name = str(Path(name).expanduser().absolute())
    settings: dict[str, Any] = {
        "system": system,
        "data": {"name": name, "options": {**options, **datasets.read_options(name, data_options)}},
        "options": merged_options(system, preset, sets),
        "steps": steps,
        "seed": seed,
        "threads": threads,
        "prune": prune,
    }
    return dict(json.loads(json.dumps(settings)))  # as a search that goes on will find them


def _stored(out: str | Path | None, system: str, given: Mapping[str, Any] | None) -> tuple[Path, dict[str, Any]]:
    """The folder and settings of a search to go on with."""
    if out is None:
        raise ConfigError("--resume needs --out: the folder of the search to go on with.")
    folder = Path(out)
    try:
        settings = read_json(folder / SETTINGS)
        if settings["format"] != FORMAT:
            raise RunError(f"{folder / SETTINGS} has format {settings['format']!r}; this version reads {FORMAT}.")
        kind, space = settings["system"], settings["space"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{folder} holds no search to go on with ({SETTINGS}: {error}).") from error
    if kind != system:
        raise ConfigError(f"{folder} holds a search of {kind}, not of {system}.")
    if given is not None and json.loads(json.dumps(given)) != space:
        differing = sorted(name for name in {*given, *space} if given.get(name) != space.get(name))
        raise RunMismatchError(
            f"{folder} holds a search of another space; it differs in {', '.join(differing)}. Leave --space out, or "
            "choose another folder."
        )
    return folder, settings


def _fresh(out: str | Path | None, system: str, data: str) -> Path:
    """Make the folder of a new search."""
    if out is not None:
        folder = Path(out)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(f"{str(out)!r} exists already. Choose another --out, or go on with it by --resume.")
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    stem = f"{system}-{re.sub(r'[^A-Za-z0-9_.]+', '-', Path(data).stem).strip('-') or 'data'}"
    for i in range(1, 1_000_000):
        folder = Path("sweeps") / f"{stem}-{i}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise RunError(f"sweeps/ holds a million searches of {stem}; give --out.")


def _optuna() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of packages that Optuna imports
            import optuna
    except ImportError:
        raise ConfigError(f"a search needs Optuna, which is an extra: {EXTRA}") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


__all__ = ["Axis", "Study", "sweep"]
