"""`phlogiston impute`: fill in what is missing in a table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from phlogiston.cli import complete
from phlogiston.cli.output import emit, pairs, refuse_existing, write_whole


def impute(
    run: complete.Run,
    table: Annotated[Path, typer.Argument(help="The table: csv, tsv, xlsx or Parquet.")],
    out: Annotated[Path, typer.Option(help="File to write: .csv or .parquet.")],
    how: Annotated[str, typer.Option(help="mean (and the most probable category), or draw.")] = "mean",
    n: Annotated[int, typer.Option("-n", min=1, help="Draws per row behind a mean.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Equal seeds give equal tables.")] = 0,
    data_sets: Annotated[
        list[str] | None,
        typer.Option("--data-set", metavar="KEY=VALUE", help="How the file is read: delimiter, decimal, ..."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Fill in the missing entries of a table, each row given what is known of it.

    \b
    Examples:
      phlogiston impute runs/mine measurements.csv --out full.csv
      phlogiston impute runs/mine measurements.csv --out drawn.parquet --how draw --seed 3
    """
    from phlogiston.datasets.readers.frame_files import check_written, write_table
    from phlogiston.systems.hub.address import shown
    from phlogiston.systems.tables import verbs

    check_written(out)
    refuse_existing(out, force)
    full, filled = verbs.impute(run, table, how, n, seed, pairs(data_sets, "--data-set"))
    write_whole(out, lambda temporary: write_table(temporary, full))
    content = {"run": shown(run), "table": str(table), "rows": len(full), "filled": filled, "out": str(out)}
    emit(as_json, content, f"{filled:,} entries of {len(full):,} rows filled in\n{out}", kept=True)
