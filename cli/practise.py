"""`phlogiston practise`: train an agent in the dream of a trained world model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from phlogiston.cli import complete
from phlogiston.cli.output import emit, pairs


def practise(
    run: complete.Run,
    sets: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="An option of the system's train_agent().")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="File of the agent, .json; RUN/players/player-1.json, -2, ... by default.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the search and of everything drawn.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Train an agent in what a world model dreams, or in the game itself, and keep it in a file.

    \b
    Examples:
      phlogiston practise runs/world-dodge-1 --set tau=1.3
      phlogiston practise runs/world-dodge-1 --set inside=game --set generations=30 --out player.json
      phlogiston sample runs/world-dodge-1 -n 4 --set player=player.json --out dream.gif
    """
    from phlogiston.systems import workflow

    result = workflow.practise(run, out, seed, pairs(sets))
    emit(as_json, result, result["out"], kept=True)
