"""`phlogiston query`: ask a trained system a question, in words or in a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from phlogiston.cli import complete
from phlogiston.cli.output import emit, pairs, refuse_existing, write_whole

if TYPE_CHECKING:
    from phlogiston.inference.query.answer import Answer


def query(
    run: complete.Run,
    statements: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[STATEMENT]...", autocompletion=complete.columns, help='What is known: "age >= 40" "label = 3".'
        ),
    ] = None,
    evidence: Annotated[
        Path | None, typer.Option(help="The same in a file: .json (statements or an object), or .npz.")
    ] = None,
    n: Annotated[int, typer.Option("-n", min=1, help="How many samples.")] = 1000,
    out: Annotated[Path | None, typer.Option(help="Write the samples here: .npz, .csv or .parquet.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Equal seeds give equal samples.")] = 0,
    sets: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="An option of the system's query().")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Sample everything else given what is known; say how far to trust it.

    Statements name the data's columns, as a person would write them:

    \b
      "age >= 40"  "25 <= age <= 30"  "age in [25, 30]"  "bmi ~ 27 +- 2"  "label in {cat, dog}"  "2*x0 - x1 >= 0.3"

    A file holds a list of them, or an object:

    \b
      {"height": 1.8, "weight": [60, 80], "age": {"near": 40, "sd": 5}, "label": ["cat", "dog"],
       "where": ["2*height >= weight"]}

    \b
    Examples:
      phlogiston query runs/drmm-swissroll-1 "x0 >= 2.5" "2*x0 - x1 >= 0.3"
      phlogiston query runs/drmm-swissroll-1 --evidence question.json -n 5000 --out answer.csv
      phlogiston query runs/drmm-swissroll-1 --evidence question.json --set sort=true --json
    """
    from phlogiston.datasets.readers.frame_files import WRITTEN
    from phlogiston.errors import ConfigError
    from phlogiston.systems import workflow

    if out is not None:
        if out.suffix not in (".npz", *WRITTEN):
            raise ConfigError(f"--out {out}: an answer is written as .npz, .csv or .parquet.")
        refuse_existing(out, force)
    answer, summary, text = workflow.query(run, evidence, n, seed, pairs(sets), statements or ())
    if out is not None:
        write_whole(out, lambda temporary: _write(answer, temporary))
    content = {**summary, "out": None if out is None else str(out)}
    emit(as_json, content, text if out is None else f"{text}\n{out}", kept=out is not None)


def _write(answer: Answer, path: Path) -> None:
    from phlogiston.datasets.readers.frame_files import write_table

    if path.suffix == ".npz":
        answer.to_npz(path)
    else:
        write_table(path, answer.to_pandas())
