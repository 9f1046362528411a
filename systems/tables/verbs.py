"""The verbs of the command line that are about tables and single runs: filling in, telling what a run is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from phlogiston import datasets, systems
from phlogiston.datasets.containers import frame_columns, plain
from phlogiston.datasets.frames import labels_as_they_are
from phlogiston.datasets.readers import tables
from phlogiston.datasets.readers.csv_tables import raw_columns, read_csv
from phlogiston.datasets.readers.frame_files import FRAMES, read_frame
from phlogiston.datasets.readers.number_text import number
from phlogiston.errors import ConfigError, DataError, unknown_name
from phlogiston.inference.svi.run_folder.readers import progress_of
from phlogiston.systems.hub.address import shown
from phlogiston.systems.hub.fetch import local_folder
from phlogiston.systems.tables.tabular import How, Imputes

if TYPE_CHECKING:
    from pandas import DataFrame

    from phlogiston.systems.base import System

READING = ("header", "delimiter", "decimal", "encoding")
"""Options of the data that say how a file is read, and are taken over from training."""


def impute(
    run: str | Path,
    table: Path,
    how: str = "mean",
    n: int = 200,
    seed: int = 0,
    data_options: Mapping[str, str] | None = None,
) -> tuple[DataFrame, int]:
    """Fill in the missing entries of a table in a file.

    Args:
        run: a run folder, what `System.save` wrote, or hf://user/name.
        table: the file.
        how: see `Imputes.impute`.
        n: draws per row behind a mean.
        seed: equal seeds give equal tables.
        data_options: option of the data -> text, over those of training.

    Returns:
        The table, in which columns the system does not know are as they were, and how many entries were filled in.

    Raises:
        RunError: not a run folder.
        ConfigError: a system that does not fill in tables.
        DataError: a file that cannot be read, or that has none of the system's columns.
    """
    run = local_folder(run)
    system = systems.load(run)
    if not isinstance(system, Imputes):
        raise ConfigError(f"{system.name} does not fill in tables; drmm and mdn do.")
    choices: tuple[How, ...] = get_args(How)
    if how not in choices:
        raise unknown_name("way to impute", how, choices)
    stored = systems.read_config(run)
    trained = (stored.get("config", stored).get("data") or {}).get("options") or {}
    given = datasets.read_options(table, data_options or {})
    frame = _as_frame(table, system, {key: given.get(key, trained.get(key)) for key in READING})
    gaps = int(frame[[name for name in frame.columns if name in _names(system)]].isna().to_numpy().sum())
    return system.impute(frame, how=next(h for h in choices if h == how), num_samples=n, seed=seed), gaps


def _names(system: System) -> set[str]:
    names = system.names()
    return {*(name for own in names.columns.values() for name in own), *names.categories}


def _as_frame(path: Path, system: System, options: dict[str, Any]) -> DataFrame:
    """A table file as a data frame: columns of the system as it reads them, the others as they are written."""
    import pandas

    if not path.is_file():
        raise DataError(f"there is no file {str(path)!r}.")
    names = system.names()
    if tables.suffix_of(path) in FRAMES:
        return pandas.DataFrame(
            {n: v.to_numpy() if hasattr(v, "to_numpy") else v for n, v in frame_columns(read_frame(path)).items()}
        )
    if tables.suffix_of(path) not in tables.TEXT:
        raise DataError(f"{str(path)!r}: tables to fill in are csv, tsv, xlsx or Parquet files.")
    own = _names(system)
    found = read_csv(path, **options, categorical=[*names.categories], columns=sorted(own))
    columns: dict[str, Any] = {}
    for name, entries in raw_columns(path, **options).items():
        if name in names.categories and name in found.text:
            columns[name] = _labels(found.text[name], names.categories[name])
        elif name in own and name in found.numeric:
            columns[name] = names.dated(name, found.numeric[name])
        elif name in own:
            kind = plain(name, found.text.get(name), str(path)) if name in found.text else None
            if kind is None or not kind.entries() or any(entry is not None for entry in kind.entries()):
                raise DataError(f"{str(path)!r}: column {name!r} holds text; the system knows it as numbers.")
            columns[name] = [float("nan")] * found.rows
        else:
            columns[name] = entries
    return pandas.DataFrame(columns)


def _labels(entries: Sequence[str | None], labels: Sequence[str]) -> list[Any]:
    """Entries as the labels of training, whole numbers however they are written."""

    def label(entry: str | None) -> str | None:
        if entry is None or entry in labels:
            return entry
        value = number(entry)
        return entry if value is None else f"{value:.15g}"

    found = [label(entry) for entry in entries]
    return labels_as_they_are(found, labels) if {*found} <= {*labels, None} else found


def summary(run: str | Path) -> tuple[dict[str, Any], str]:
    """Tell what a run is.

    Returns:
        The facts for machines, and as text.

    Raises:
        RunError: not a run folder.
    """
    folder = local_folder(run)
    system = systems.load(folder)
    content = systems.read_config(folder)
    own = content.get("config", content)
    progress = progress_of(folder)
    told = {
        "run": shown(run),
        "system": system.name,
        "parameters": system.count_parameters(),
        "data": (own.get("data") or {}).get("name"),
        "options": own.get("options") or {},
        "columns": {site: list(names) for site, names in system.vocabulary()[0].items()},
        "categorical": {name: list(labels) for name, labels in system.vocabulary()[1].items()},
        "steps": None if progress is None else progress.step,
        "finished": progress is not None and progress.finished,
        "loss": None if system.history is None else system.history.records[-1].get("loss"),
    }
    lines = [str(system.summary())]
    if progress is not None:
        lines.append(f"steps: {'finished, ' if progress.finished else ''}{progress.step:,} of {progress.steps:,}")
    return told, "\n".join(lines)
