"""`phlogiston sample`: draw from a trained system into a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from phlogiston.cli.output import emit, pairs, refuse_existing, write_whole


def sample(
    run: Annotated[Path, typer.Argument(help="A run folder, or what System.save wrote.")],
    n: Annotated[int, typer.Option("-n", min=1, help="How many.")] = 100,
    out: Annotated[Path, typer.Option(help="File to write; .npz, .csv, .png, .gif or .mp4 by its suffix.")] = Path(
        "samples.npz"
    ),
    seed: Annotated[int, typer.Option(min=0, help="Equal seeds give equal samples.")] = 0,
    sets: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="An option of the system's sample().")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Draw from a trained system.

    \b
    Examples:
      phlogiston sample runs/drmm-swissroll-1 -n 5000 --out points.npz
      phlogiston sample runs/drmm-digits-1 -n 64 --out digits.png
    """
    from phlogiston.systems import export, workflow

    export.check_suffix(out)
    refuse_existing(out, force)
    drawn = workflow.sample(run, n, seed, pairs(sets))
    write_whole(out, lambda temporary: export.write(temporary, drawn))
    emit(as_json, {"run": str(run), "n": n, "seed": seed, "out": str(out)}, str(out))
