"""`phlogiston data record`: play games of a Gymnasium environment and keep them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from phlogiston.cli.output import emit, pairs, progress


def record(
    env: Annotated[str, typer.Argument(help="Id of the environment, such as CartPole-v1 or VizdoomTakeCover-v1.")],
    out: Annotated[Path, typer.Option(help="The folder to make.")],
    episodes: Annotated[int, typer.Option(min=1, help="Games to play.")] = 100,
    policy: Annotated[
        str,
        typer.Option(
            help="Who plays: random, sticky:0.7 (the last action again, with that probability), sticky:0.7:1,1,2 "
            "(the same, with a weight for every action), or module:function of yours, (frame, generator) -> number "
            "of an action."
        ),
    ] = "random",
    skip: Annotated[int, typer.Option(min=1, help="How often each action is repeated.")] = 1,
    cap: Annotated[int, typer.Option(min=0, help="Cut games off after so many steps of the environment.")] = 0,
    crop: Annotated[
        str | None, typer.Option(metavar="TOP:BOTTOM,LEFT:RIGHT", help="Part of the picture, in its pixels.")
    ] = None,
    size: Annotated[int, typer.Option(min=0, help="Pixels a side: 8, 16, 32, 64, 128; 0 for as it is.")] = 64,
    grey: Annotated[bool, typer.Option("--grey", help="Brightness alone.")] = False,
    key: Annotated[str, typer.Option(help="Entry of an observation that is a dictionary.")] = "",
    render: Annotated[bool, typer.Option("--render", help="Record what the environment draws of itself.")] = False,
    bins: Annotated[int, typer.Option(min=2, help="Values along each axis of actions that are a box.")] = 3,
    actions: Annotated[
        str | None, typer.Option(metavar="JSON", help="The actions to choose from, as in '[[-1,0,0],[0,1,0]]'.")
    ] = None,
    sets: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="An option of the environment.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of the games and of the policy.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Record games of a Gymnasium environment: frames, actions, rewards and ends, for `phlogiston train world`.

    Needs `pip install 'phlogiston[games]'`.

    \b
    Examples:
      phlogiston data record CartPole-v1 --episodes 200 --out cartpole
      phlogiston data record VizdoomTakeCover-v1 --episodes 600 --policy sticky:0.7 --skip 4 \\
          --crop 90:154,0:320 --size 32 --cap 2100 --jobs 2 --out doom
      phlogiston train world --preset take-cover --data doom
    """
    from phlogiston.datasets import record as play
    from phlogiston.datasets.recording.store import RecordedGames

    options: dict[str, Any] = {name: _value(text) for name, text in pairs(sets).items()}
    box = None if crop is None else _box(crop)
    listed = None if actions is None else _list(actions)
    with progress(f"playing {env}", episodes) as tell:
        data = play(
            env, out, episodes=episodes, policy=policy, skip=skip, cap=cap, crop=box, size=size, grey=grey, key=key,
            render=render, bins=bins, actions=listed, options=options, jobs=jobs, seed=seed, progress=tell,
        )  # fmt: skip
    games = data.train
    assert isinstance(games, RecordedGames)
    about = games.recordings[0].about
    content = {
        "out": str(out),
        "env": env,
        "games": about["games"],
        "frames": about["frames"],
        "shape": list(games.shape),
        "actions": len(games.spec.actions),
        "ended": int(games.recordings[0].ended.sum()),
    }
    text = f"{out}: {about['games']:,} games, {about['frames']:,} frames {games.shape}, {content['actions']} actions"
    emit(as_json, content, text, kept=True)


def _value(text: str) -> Any:
    """An option of the environment: JSON where it is some, else text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _box(text: str) -> tuple[int, ...]:
    from phlogiston.errors import ConfigError

    try:
        edges = tuple(int(edge) for part in text.split(",") for edge in part.split(":"))
    except ValueError:
        edges = ()
    if len(edges) != 4:
        raise ConfigError(f"--crop {text!r}: expected TOP:BOTTOM,LEFT:RIGHT, as in 90:154,0:320.")
    return edges


def _list(text: str) -> list[Any]:
    from phlogiston.errors import ConfigError

    found = _value(text)
    if not isinstance(found, list):
        raise ConfigError(f"--actions {text!r}: expected a JSON list, as in '[[-1,0,0],[0,1,0]]'.")
    return found
