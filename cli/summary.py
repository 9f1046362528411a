"""`phlogiston summary`: what a run is."""

from __future__ import annotations

from typing import Annotated

import typer

from phlogiston.cli import complete
from phlogiston.cli.output import emit


def summary(
    run: complete.Run,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Tell what a run is: system, parameters, columns and categories, stages, data, last figures.

    \b
    Example:
      phlogiston summary runs/drmm-swissroll-1
    """
    from phlogiston.systems.tables import verbs

    content, text = verbs.summary(run)
    emit(as_json, content, text)
