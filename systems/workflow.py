"""The verbs of the command line as functions: train, sample, evaluate, runs. They know every system by name only.

Each takes plain values, does the work through `System`, and returns what the command prints. Nothing of a user's is
overwritten: training wants a fresh folder, or to be told to go on.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from phlogiston import datasets, systems
from phlogiston.datasets.base import Dataset
from phlogiston.errors import ConfigError, RunError, RunWarning, unknown_name
from phlogiston.evaluate.held_out import held_out, held_out_part, scored_on
from phlogiston.evaluate.metric import Metric
from phlogiston.evaluate.report import Report, write_metrics
from phlogiston.evaluate.score import Score
from phlogiston.files import check_writable, keep_earlier
from phlogiston.inference.query.answer import Answer
from phlogiston.inference.svi.history import History
from phlogiston.inference.svi.parallel import Processes
from phlogiston.inference.svi.run_folder.loggers import callbacks, check_logger
from phlogiston.inference.svi.run_folder.readers import progress_of
from phlogiston.systems.answer_text import describe
from phlogiston.systems.base import System
from phlogiston.systems.commands import commands_behind
from phlogiston.systems.export import Samples
from phlogiston.systems.hub.address import refuse_address, shown
from phlogiston.systems.hub.fetch import local_folder
from phlogiston.systems.options import preset_options, validate_options
from phlogiston.systems.run_data import data_of, is_other
from phlogiston.systems.run_setup import (
    check_processes,
    configured_system,
    holds_run,
    removed_if_empty,
    run_folder,
    started_fabric,
    stored_run,
)
from phlogiston.systems.tables.alignment import aligned


def train(
    system: str,
    *,
    preset: str | None = None,
    data: str | None = None,
    sets: Mapping[str, str] | None = None,
    data_options: Mapping[str, str] | None = None,
    steps: int | None = None,
    seed: int | None = None,
    out: Path | None = None,
    resume: bool | str = False,
    lr_resume: float | None = None,
    threads: int | None = None,
    devices: str = "1",
    nodes: int = 1,
    precision: str = "32-true",
    accelerator: str = "auto",
    progress: str = "auto",
    logger: str | None = None,
) -> dict[str, Any] | None:
    """Train a system and leave a run folder.

    Args:
        system: its name.
        preset: named options to start from.
        data: name or path; the data of the system's first demo recipe by default.
        sets: option -> text, over the preset.
        data_options: option of the data -> text.
        steps: optimiser steps of all stages together, shared out as the configuration's; see `System.step_options`.
        seed: 0 by default.
        out: run folder; `runs/<system>-<data>-<n>` with the first free n by default.
        resume: True goes on with the run in `out`, whatever is not given taken from its config.json; "force" also where
            data, precision, device or threads are others than its own; "auto" begins it where there is none.
        lr_resume: factor on the learning rates from here on; only with `resume`.
        threads: to compute on; those of a resumed run, or the system's own number, by default.
        devices: processes (CPU) or accelerators per machine, a number or "auto".
        nodes: machines.
        precision: see `inference.svi.parallel.PRECISIONS`.
        accelerator: "cpu", "cuda" or "auto".
        progress: see `inference.svi.engine.fit`.
        logger: also write the records to "csv", "tensorboard", "wandb" or "mlflow".

    Returns:
        `run`, `system`, `data`, `steps`, `seconds`, `loss` (nats per row over the last interval); None on all
        processes but the first.

    Raises:
        ConfigError: options that do not fit, or an existing folder without `resume`.
        DataError: data that cannot be used.
        RunError: a folder that holds something else.
    """
    kind = systems.get(system)
    check_logger(logger)
    many = check_processes(devices, nodes)
    chosen = merged_options(system, preset, sets or {})
    go_on = holds_run(out) if resume == "auto" else bool(resume)
    stored = stored_run(out, system, go_on, lr_resume)
    given = {**stored["options"], **chosen}
    name, options = (data, {}) if data is not None else default_data(kind, stored["data"])
    options = {**options, **datasets.read_options(name, data_options or {})}
    configured = configured_system(kind, given, steps, progress != "off")  # options are checked before anything slow
    rows = datasets.load(name, **options)
    fabric = started_fabric(many, nodes, precision, accelerator)
    processes = Processes(fabric)
    folder = Path(processes.together(lambda: run_folder(out, system, rows.meta.name, go_on)))
    with removed_if_empty(folder if out is None and processes.leader else None):
        configured.fit(
            rows,
            out=folder,
            seed=stored["seed"] if seed is None else seed,
            resume="force" if resume == "force" else "auto",  # who may resume is settled above, alike on every process
            fabric=fabric,
            callbacks=callbacks(logger, folder, {"system": system, "data": rows.meta.name, **given}),
            progress=progress,
            lr_resume=1.0 if lr_resume is None else lr_resume,
            threads=threads,
        )
    if configured.history is None or not processes.leader:
        return None
    return {"run": str(folder), "system": system, "data": rows.meta.name, **_summary(configured.history)}


def sample(run: str | Path, n: int, seed: int = 0, sets: Mapping[str, str] | None = None) -> Samples:
    """Draw from a trained system.

    Args:
        run: a run folder, what `System.save` wrote, or hf://user/name.
        n: how many.
        seed: equal seeds give equal samples.
        sets: option of the system's `sample` -> text.

    Raises:
        RunError: not a run folder.
        UnknownNameError: `sample` has no such option.
        ConfigError: an option's text does not fit.
    """
    import torch

    system = systems.load(run)
    options = _call_options(system, sets or {})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        drawn = system.sample(n, **options)
    shape = system.schema.get("image_shape")
    tensors = {name: value.detach().cpu().numpy() for name, value in drawn.items()}
    return Samples(tensors, system.names(), tuple(shape) if shape else None)


def query(
    run: str | Path,
    evidence: str | Path | None = None,
    n: int = 1000,
    seed: int = 0,
    sets: Mapping[str, str] | None = None,
    statements: Sequence[str] = (),
) -> tuple[Answer, dict[str, Any], str]:
    """Ask a trained system a question in words, in a file, or both together.

    Args:
        run: a run folder, what `System.save` wrote, or hf://user/name.
        evidence: a `.json` or `.npz` file; see `inference.query.files` and `inference.query.text`.
        n: how many samples.
        seed: equal seeds give equal samples.
        sets: option of the system's `query` -> text.
        statements: such as "age >= 40"; see `inference.query.text`.

    Returns:
        The answer, what is worth knowing of it as JSON, and the same as text.

    Raises:
        RunError: not a run folder.
        EvidenceError: evidence that cannot be read, names unknown columns, or is impossible.
    """
    from phlogiston.inference.query import files as evidence_files

    system = systems.load(run)
    columns, categories = system.vocabulary()
    told = (
        [] if evidence is None else [evidence_files.load(evidence, columns, categories, system.dates(), system.grids())]
    )
    options = _call_options(system, sets or {}, "query")
    answer = system.query(*told, *statements, num_samples=n, seed=seed, **options)
    return answer, *describe(answer, columns, categories)


def practise(
    run: str | Path, out: str | Path | None = None, seed: int = 0, sets: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Train an agent in what a trained system dreams, and keep it in a new file.

    Args:
        run: a run folder, what `System.save` wrote, or hf://user/name.
        out: file of the agent; the first free `players/player-N.json` in the run folder by default.
        seed: of the search and of everything drawn.
        sets: option of the system's `train_agent` -> text.

    Returns:
        `run`, `out`, `inside` where it was trained, `generations`, and `score`, the mean of the last one, in steps.

    Raises:
        RunError: not a run folder, or `out` exists.
        ConfigError: a system that dreams no games, or options that do not fit.
    """
    if out is None:
        refuse_address(run, "an agent")
    system = systems.load(run)
    train = getattr(system, "train_agent_beside", None)
    if train is None:
        raise ConfigError(f"{system.name} dreams no games, so no agent can be trained in it; train `world` for that.")
    options = _call_options(system, sets or {}, "train_agent")
    agent, path = train(run, out, seed, **options)
    score = agent.curve[-1][0]
    return {
        "run": shown(run),
        "out": str(path),
        "inside": agent.inside,
        "generations": len(agent.curve),
        "score": score,
    }


def evaluate(
    run: str | Path,
    *,
    data: str | None = None,
    metrics: Sequence[str] | None = None,
    data_options: Mapping[str, str] | None = None,
    out: Path | None = None,
    force: bool = False,
    split: str | None = None,
) -> dict[str, Any]:
    """Score a run on held-out rows, and write `metrics.json` and `report.html`.

    Those of an earlier evaluation are kept under the first free number, `metrics-1.json` and `report-1.html`.

    Args:
        run: a run folder.
        data: name or path of other data than the run was trained on.
        metrics: some of the system's metrics; all by default.
        data_options: option of the data -> text.
        out: folder to write into, made if need be; the run folder by default.
        force: replace what an earlier evaluation left in `out`.
        split: rows to score, "train", "valid", "test" or "all"; by default all rows of a file that is not the one the
            run was trained on, held-out rows of everything else.

    Returns:
        `run`, `data`, and `metrics`: name -> value, std_error, n, kind. Where the rows scored are not test rows, `rows`
        says which; where the run is unfinished, `finished` is False, `step` that of the checkpoint scored and `steps`
        how many there were to be. `out` if it was given; `earlier` names the files of an earlier evaluation, kept.

    Raises:
        RunError: not a run folder, or `out` takes no files (found out before the work).
        ConfigError: the run does not say what it was trained on and `data` is not given; an unknown metric.
        DataError: the data cannot be found or used.
    """
    if out is None:
        refuse_address(run, "a report")
    path = local_folder(run)
    system = systems.load(path)
    folder = path if out is None else out
    _check_folder(folder)
    rows = data_of(path, data, data_options or {}, system.schema)
    split = split or ("all" if data is not None and is_other(path, rows) else None)
    part = held_out_part(rows) if split is None else split  # before work is done
    rows = rows if split is None else scored_on(rows, split)
    found = score(system, rows, metrics)
    title = f"{system.name} on {rows.meta.title or rows.meta.name}"
    progress = progress_of(path)
    unfinished = "" if progress is None or progress.finished else f" ({progress.text()})"
    scored = f"{len(held_out(rows)):,} {'training' if part == 'train' else part} rows"
    made = commands_behind(path, data, metrics, data_options or {}, out, split)
    report = Report(title, f"Run {path.name}{unfinished}; {scored}.", made)
    report.section("Figures of merit", metrics=found)
    if metrics is None:
        report.section("What was learned", **_pictures(system, rows))
    about: dict[str, Any] = {"run": shown(run), "data": rows.meta.name}
    if part != "test":
        about["rows"] = part
    if progress is not None and not progress.finished:
        about |= {"finished": False, "step": progress.step, "steps": progress.steps}
    told = {} if out is None else {"out": str(out)}
    try:
        earlier = [] if force else keep_earlier(folder / "metrics.json", folder / "report.html")
        report.write(folder / "report.html")
        write_metrics(folder / "metrics.json", found, **about)
    except OSError as error:
        figures = "; ".join(f"{name} {metric}" for name, metric in found.items())
        raise RunError(
            f"the report could not be written into {folder} ({error.strerror}). Figures: {figures}."
        ) from error
    if earlier:
        told["earlier"] = ", ".join(map(str, earlier))
    return {**about, **told, "metrics": _brief(found)}


def _pictures(system: System, rows: Dataset) -> dict[str, Any]:
    """Pictures and captions as `Report.section` takes them; figures of merit are kept if they fail."""
    try:
        return {"figures": system.figures(rows), "captions": system.captions()}
    except Exception as error:
        told = f"the pictures could not be drawn: {type(error).__name__}: {error}"
        warnings.warn(told, RunWarning, stacklevel=3)
        return {"failed": f"T{told[1:]}"}


def _check_folder(folder: Path) -> None:
    """Make a folder to write reports into, and find out whether it takes files."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        check_writable(folder)
    except OSError as error:
        raise RunError(f"no report can be written into {folder} ({error.strerror}); nothing was computed.") from error


def show(
    run: str | Path,
    what: str,
    n: int = 6,
    seed: int = 0,
    *,
    data: str | None = None,
    data_options: Mapping[str, str] | None = None,
) -> Samples:
    """Lay out what a run makes of held-out rows.

    Args:
        run: a run folder, what `System.save` wrote, or hf://user/name.
        what: one of the system's views.
        n: rows to take.
        seed: of whatever is drawn.
        data: name or path of other data than the run was trained on.
        data_options: option of the data -> text.

    Raises:
        RunError: not a run folder.
        ConfigError: the system has no views at all.
        UnknownNameError: the system has no such view.
        DataError: the data cannot be found or used.
    """
    import torch

    path = local_folder(run)
    system = systems.load(path)
    views = system.views()
    if not views:
        raise ConfigError(f"{system.name} has no views to show. `phlogiston sample` draws from it, `evaluate` scores.")
    if what not in views:
        raise unknown_name(f"view of {system.name}", what, views)
    rows = aligned(system.schema, data_of(path, data, data_options or {}, system.schema))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        laid = views[what](system, held_out(rows), n, seed)
    return Samples({name: value.detach().cpu().numpy() for name, value in laid.items()})


# ---- inside


def _summary(history: History) -> dict[str, Any]:
    """What came of a training."""
    last = history.records[-1] if history.records else {}
    return {"steps": last.get("step", 0), "seconds": history.seconds, "loss": last.get("loss")}


def merged_options(system: str, preset: str | None, sets: Mapping[str, str]) -> dict[str, Any]:
    """Merge a preset and options written as text."""
    given = preset_options(system, preset)
    given.update({key: _value(text) for key, text in sets.items()})
    validate_options(system, given)
    return given


def _value(text: str) -> Any:
    """Read lists, objects and none; leave numbers as text, which the option's own type turns into what it wants."""
    if text.lower() in ("none", "null"):
        return None
    if text[:1] in ("[", "{"):
        with contextlib.suppress(json.JSONDecodeError):
            return json.loads(text)
    return text


def _call_options(system: System, sets: Mapping[str, str], verb: str = "sample") -> dict[str, Any]:
    """Turn text into keyword arguments of a verb of the system, by what its signature accepts."""
    parameters = inspect.signature(getattr(system, verb)).parameters
    known = [name for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY and name != "seed"]
    options: dict[str, Any] = {}
    for name, text in sets.items():
        if name not in known:
            raise unknown_name(f"option of {system.name}'s {verb}", name, known)
        try:
            options[name] = json.loads(text)
        except json.JSONDecodeError:
            options[name] = _value(text)
    return options


def default_data(kind: type[System], stored: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the data of a resumed run, or those of a system's first demo recipe, and their options."""
    if stored.get("name") is not None:
        return str(stored["name"]), dict(stored.get("options") or {})
    for recipe in kind.demo():
        return str(recipe["data"]), dict(recipe.get("data_options", {}))
    raise ConfigError(f"{kind.name} has no data of its own; give --data. `phlogiston data list` shows what there is.")


def score(system: System, rows: Dataset, metrics: Sequence[str] | None) -> dict[str, Metric]:
    """Score a system, with the figure of the truth beside it where it is known."""
    found = dict(system.evaluate(rows, metrics))
    if metrics is None and rows.meta.truth is not None:
        import torch

        split = held_out(rows)
        truth = torch.as_tensor(rows.meta.truth(split.numpy()))
        found["log_likelihood_of_truth"] = Score(truth, "exact", weight=split.tensors.get("weight")).mean()
    return found


def _brief(metrics: Mapping[str, Metric]) -> dict[str, dict[str, Any]]:
    fields = ("value", "std_error", "n", "kind")
    return {name: {key: metric.to_json()[key] for key in fields} for name, metric in metrics.items()}
