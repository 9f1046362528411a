"""`phlogiston sample`: draw from a trained system into a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from phlogiston.cli import complete
from phlogiston.cli.output import emit, pairs, refuse_existing, write_whole


def sample(
    run: complete.Run,
    n: Annotated[int | None, typer.Option("-n", min=1, help="How many; 100, or 1 of a text.")] = None,
    out: Annotated[
        Path,
        typer.Option(help="File: .npz, .csv, .parquet, .png, .gif, .mp4, .svg, .mid or .wav, by its suffix."),
    ] = Path("samples.npz"),
    text: Annotated[str | None, typer.Option(help="What to write, for systems that write.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Equal seeds give equal samples.")] = 0,
    sets: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="An option of the system's sample().")
    ] = None,
    turn: Annotated[
        bool, typer.Option("--turn", help="For systems that can: the video of turning round in a scene (.gif, .mp4).")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Draw from a trained system.

    \b
    Examples:
      phlogiston sample runs/drmm-swissroll-1 -n 5000 --out points.npz
      phlogiston sample runs/drmm-digits-1 -n 64 --out digits.png
      phlogiston sample runs/scene-courts-1 -n 1 --turn --out turn.gif
      phlogiston sample runs/handwriting-script-1 --text "hello world" --out hello.svg
    """
    from phlogiston.systems import export, workflow
    from phlogiston.systems.hub.address import shown

    export.check_suffix(out)
    refuse_existing(out, force)
    options = dict(pairs(sets))
    if text is not None:
        options["text"] = json.dumps(text)
    if turn:
        options["turn"] = "true"
    n = n if n is not None else 100 if text is None and not turn else 1
    drawn = workflow.sample(run, n, seed, options)
    write_whole(out, lambda temporary: export.write(temporary, drawn))
    emit(as_json, {"run": shown(run), "n": n, "seed": seed, "out": str(out)}, str(out), kept=True)
