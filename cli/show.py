"""`phlogiston show`: lay out what a trained system makes of held-out data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from phlogiston.cli import complete
from phlogiston.cli.output import emit, pairs, refuse_existing, write_whole


def show(
    run: complete.Run,
    what: Annotated[str, typer.Argument(help="One of the system's views; a wrong one lists them.")],
    n: Annotated[int, typer.Option("-n", min=1, help="How many held-out rows to take.")] = 6,
    out: Annotated[
        Path | None, typer.Option(help="File to write: .gif, .mp4, .png or .npz; WHAT.gif by default.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(autocompletion=complete.data, help="Other data than the run was trained on: a name or a path."),
    ] = None,
    data_sets: Annotated[
        list[str] | None,
        typer.Option("--data-set", metavar="KEY=VALUE", help="An option of the data; may be repeated."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of whatever is drawn.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show what a trained system makes of held-out data: swapped, continued or re-created clips.

    \b
    Examples:
      phlogiston show runs/vdsm-figures-1 swap_grid --out grid.gif
      phlogiston show runs/vdsm-figures-1 codes -n 100 --out codes.npz
    """
    from phlogiston.systems import export, workflow
    from phlogiston.systems.hub.address import shown

    path = Path(f"{what}.gif") if out is None else out
    export.check_suffix(path)
    refuse_existing(path, force)
    laid = workflow.show(run, what, n, seed, data=data, data_options=pairs(data_sets, "--data-set"))
    write_whole(path, lambda temporary: export.write(temporary, laid))
    emit(as_json, {"run": shown(run), "what": what, "n": n, "out": str(path)}, str(path), kept=True)
