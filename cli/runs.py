"""`phlogiston runs`: a table of run folders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from phlogiston.cli.output import columns, emit
from phlogiston.errors import RunError


def runs(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that holds runs.")] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show the runs below a folder: system, data, steps (and of how many where unfinished), and headline figures.

    \b
    Example:
      phlogiston runs runs
    """
    from phlogiston.systems.run_table import runs as table_of

    if not folder.is_dir():
        raise RunError(f"there is no folder {str(folder)!r}. `phlogiston train` leaves runs below runs/.")
    found = table_of(folder)
    rows = [
        (
            r["run"],
            r["system"],
            Path(r["data"]).name if r["data"] else "-",  # of a file of the user's, the name is enough
            _steps(r),
            "-" if r["loss"] is None else f"{r['loss']:.4f}",
            ", ".join(f"{name} {value:.4g}" for name, value in r["metrics"].items()) or "not evaluated",
        )
        for r in found
    ]
    table = columns(rows, header=("run", "system", "data", "steps", "loss", "figures"))
    emit(as_json, {"runs": found}, table if rows else f"no runs in {folder}")


def _steps(run: dict[str, Any]) -> str:
    """Steps done; of how many, where the run is not finished."""
    if run["finished"]:
        return str(run["steps"])
    ahead = run["recorded"] if run["recorded"] and run["recorded"] > (run["steps"] or 0) else None
    recorded = f", recorded to {ahead}" if ahead else ""  # what no checkpoint holds
    if run["steps"] is None:
        return "none kept" + recorded if ahead else "none done"
    done = f"{run['steps']} of {run['total']}" if run["total"] else str(run["steps"])
    return f"{done}, unfinished{recorded}"
