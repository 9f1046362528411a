"""`phlogiston demo`: every system at CPU scale on built-in data, and one report to look at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from phlogiston.cli.output import emit, say


def demo(
    quick: Annotated[bool, typer.Option("--quick", help="Two or three minutes: what can be shown in them.")] = False,
    out: Annotated[Path, typer.Option(help="Folder for the runs and report.html.")] = Path("runs/demo"),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Train systems on built-in data and write one report, which grows meanwhile; its path is printed first and last.

    \b
    Examples:
      phlogiston demo --quick
      phlogiston demo --out runs/demo
    """
    from phlogiston.systems.demo import demo as run

    result = run(out, quick=quick, say=say)
    emit(as_json, result, str(result["report"]), kept=True)
    if "failed" in result:
        raise typer.Exit(1)
