"""`phlogiston train`: train a system and leave a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from phlogiston.cli import complete
from phlogiston.cli.output import emit, pairs

_SET = typer.Option(
    "--set",
    metavar="KEY=VALUE",
    autocompletion=complete.options,
    help="An option of the system; may be repeated. `phlogiston systems NAME` lists them.",
)
_DATA_SET = typer.Option("--data-set", metavar="KEY=VALUE", help="An option of the data; may be repeated.")

_FORCE = typer.Option("--force-resume", help="--resume on other data, in another precision or on other threads.")
_AUTO = typer.Option("--auto-resume", help="Go on with the run in --out if there is one, else begin it.")


def train(
    system: Annotated[
        str, typer.Argument(autocompletion=complete.systems, help="Which system; `phlogiston systems` lists them.")
    ],
    preset: Annotated[
        str | None, typer.Option(autocompletion=complete.presets, help="Start from this preset of the system.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(autocompletion=complete.data, help="A name from `phlogiston data list`, or a file or folder."),
    ] = None,
    sets: Annotated[list[str] | None, _SET] = None,
    data_sets: Annotated[list[str] | None, _DATA_SET] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Optimiser steps of all stages together, shared out as by default.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of initialisation, data order and noise; 0 by default.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; a fresh one below runs/ by default.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out, with its settings.")] = False,
    force_resume: Annotated[bool, _FORCE] = False,
    auto_resume: Annotated[bool, _AUTO] = False,
    lr_resume: Annotated[
        float | None, typer.Option("--lr-resume", metavar="FACTOR", help="Learning rates times this, with --resume.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads to compute on; the system's own number by default.")
    ] = None,
    devices: Annotated[
        str, typer.Option(help="Processes or accelerators per machine: a number, or auto; a launcher's.")
    ] = "1",
    nodes: Annotated[int, typer.Option(min=1, help="Number of machines; each needs a launcher.")] = 1,
    precision: Annotated[str, typer.Option(help="32-true, 64-true or bf16-mixed.")] = "32-true",
    accelerator: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "auto",
    logger: Annotated[
        str | None, typer.Option(help="Also write the records to csv, tensorboard, wandb or mlflow.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object; progress as lines on stderr.")
    ] = False,
) -> None:
    """Train a system; print the run folder it leaves.

    \b
    Examples:
      phlogiston train drmm --data swissroll --preset swissroll
      phlogiston train drmm --data measurements.csv --data-set categorical=grade --set num_layers=2
      phlogiston train drmm --out runs/mine --resume
      phlogiston train drmm --data poses --preset poses --devices 2 --accelerator cpu
    """
    from phlogiston.systems import workflow

    result = workflow.train(
        system,
        preset=preset,
        data=data,
        sets=pairs(sets),
        data_options=pairs(data_sets, "--data-set"),
        steps=steps,
        seed=seed,
        out=out,
        resume="force" if force_resume else "auto" if auto_resume else resume,
        lr_resume=lr_resume,
        threads=threads,
        devices=devices,
        nodes=nodes,
        precision=precision,
        accelerator=accelerator,
        progress="json" if as_json else "auto",
        logger=logger,
    )
    if result is not None:  # other processes of the same run have nothing to say
        emit(as_json, result, str(result["run"]), kept=True)
