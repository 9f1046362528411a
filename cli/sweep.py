"""`phlogiston sweep`: search for the options of a system."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from phlogiston.cli import complete
from phlogiston.cli.output import emit, pairs

_SET = typer.Option(
    "--set", metavar="KEY=VALUE", autocompletion=complete.options, help="An option that stays; may be repeated."
)
_DATA_SET = typer.Option("--data-set", metavar="KEY=VALUE", help="An option of the data; may be repeated.")


def sweep(
    system: Annotated[
        str, typer.Argument(autocompletion=complete.systems, help="Which system; `phlogiston systems` lists them.")
    ],
    space: Annotated[
        Path | None, typer.Option(metavar="FILE.toml", help="Between which values options are chosen, see below.")
    ] = None,
    trials: Annotated[int, typer.Option(min=1, help="Trainings in all, those before a --resume counted.")] = 20,
    jobs: Annotated[int, typer.Option(min=1, help="Trainings at a time, each in its own process.")] = 1,
    data: Annotated[
        str | None,
        typer.Option(autocompletion=complete.data, help="A name from `phlogiston data list`, or a file or folder."),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(autocompletion=complete.presets, help="Start from this preset of the system.")
    ] = None,
    sets: Annotated[list[str] | None, _SET] = None,
    data_sets: Annotated[list[str] | None, _DATA_SET] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps of every trial.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the choices and of every training.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder; a fresh one below sweeps/ by default.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the search in --out, with its settings.")
    ] = False,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of every training; the cores are shared out by default.")
    ] = None,
    prune: Annotated[
        bool, typer.Option(help="End trainings early whose validation loss is above the median of the others'.")
    ] = True,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object; progress as lines on stderr.")
    ] = False,
) -> None:
    """Search for options with the lowest validation loss; print the run folder of the best training.

    The space is a TOML file: an interval per option, a list of choices, or a value that stays.

    \b
      learning_rate = { low = 1e-4, high = 1e-1, log = true }
      num_components = { low = 2, high = 32 }
      frame = ["diag", "tril"]

    \b
    Examples:
      phlogiston sweep drmm --space space.toml --data swissroll --trials 40 --jobs 4
      phlogiston sweep drmm --out sweeps/drmm-swissroll-1 --resume --trials 80
    """
    from phlogiston.systems.sweep.study import sweep as search

    found = search(
        system,
        space,
        data=data,
        trials=trials,
        jobs=jobs,
        out=out,
        resume=resume,
        preset=preset,
        sets=pairs(sets),
        data_options=pairs(data_sets, "--data-set"),
        steps=steps,
        seed=seed,
        threads=threads,
        prune=prune,
        progress="json" if as_json else "auto",
    )
    emit(as_json, found, found["best"], kept=True)
