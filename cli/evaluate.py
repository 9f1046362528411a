"""`phlogiston evaluate`: score a run on held-out data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from phlogiston.cli import complete
from phlogiston.cli.output import columns, emit, pairs, say


def evaluate(
    run: complete.Run,
    metrics: Annotated[str | None, typer.Option(help="Some of the system's metrics, separated by commas.")] = None,
    data: Annotated[
        str | None,
        typer.Option(autocompletion=complete.data, help="Other data than the run was trained on: a name or a path."),
    ] = None,
    data_sets: Annotated[
        list[str] | None,
        typer.Option("--data-set", metavar="KEY=VALUE", help="An option of the data; may be repeated."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for metrics.json and report.html; the run folder by default.")
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(help="Rows to score: train, valid, test or all. All of a file the run was not trained on."),
    ] = None,
    all_rows: Annotated[bool, typer.Option("--all-rows", help="The same as --split all.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier report instead of keeping it.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Score a run on held-out rows; leave metrics.json and report.html, and keep those that were there.

    \b
    Examples:
      phlogiston evaluate runs/drmm-swissroll-1
      phlogiston evaluate runs/drmm-swissroll-1 --metrics log_likelihood --json
      phlogiston evaluate runs/mine --data new-measurements.csv
      phlogiston evaluate runs/drmm-swissroll-1 --data sierpinski --out scores/sierpinski
    """
    from phlogiston.systems import workflow

    chosen = [name.strip() for name in metrics.split(",") if name.strip()] if metrics is not None else None
    options = pairs(data_sets, "--data-set")
    split = "all" if all_rows else split
    result = workflow.evaluate(run, data=data, metrics=chosen, data_options=options, out=out, force=force, split=split)
    earlier = result.pop("earlier", None)
    if earlier:
        say(f"the earlier report is kept: {earlier}")
    rows = [
        (
            name,
            _number(m["value"]),
            "" if m["std_error"] is None else f"± {m['std_error']:.4f}",
            m["kind"],
            f"n = {m['n']}",
        )
        for name, m in result["metrics"].items()
    ]
    told = [f"unfinished run: step {result['step']} of {result['steps']}"] if "finished" in result else []
    if "rows" in result:
        why = "no test rows: " if result["rows"] == "validation" else ""
        told.append(f"{why}scored on {result['rows']} rows")
    text = "\n".join([*told, *([columns(rows)] if rows else []), str((out or run) / "report.html")])
    emit(as_json, result, text, kept=True)


def _number(value: float | str) -> str:
    """Write a figure; one that is not finite comes as its name."""
    return value if isinstance(value, str) else f"{value:.4f}"
