"""World models: the dream is played with the keyboard, and the game itself beside it.

A question is `{"dream": [action, ...], "game": [action, ...], "agent": steps, "tau": t, "shown": frames, "seed": s}`:
what was done in either so far, and for how many steps the trained agent goes on from there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from phlogiston.errors import ConfigError, PhlogistonError
from phlogiston.systems.explore.calls import Call
from phlogiston.systems.explore.panels.common import number, numbers, real, seed_of, unweighed, whole
from phlogiston.systems.explore.panels.rows import bytes_of
from phlogiston.systems.world.dream_pictures import as_picture

MOST = 10_000  # actions
METHOD = "one dream, drawn frame by frame from the memory"
WHY = "a dream is drawn and not weighed"

_open: dict[str, tuple[Any, Any]] = {}  # run -> what the last question was about, and where it stopped


def describe(system: Any, run: str) -> dict[str, Any]:
    """Actions there are, whether an agent was trained, and whether the game itself can be played here."""
    names = system.schema.get("action_names")
    why = ""
    try:
        system.side_by_side(game=True).close()
    except PhlogistonError as error:
        why = str(error)
    return {
        "actions": list(names) if names else [f"action {i}" for i in range(system.schema["actions"])],
        "agent": system.agent is not None,
        "why_no_game": why,
        "longest": system.longest,
    }


def ask(system: Any, run: str, question: Mapping[str, Any]) -> dict[str, Any]:
    """Do what was done, let the agent go on, and show where that leads."""
    dreamt, played = _actions(question, "dream"), _actions(question, "game")
    steps, playable = whole(question, "agent", 0, 0, 50), question.get("outside") is not False
    options = {
        "tau": real(question, "tau", 1.0, 0.05, 5.0),
        "shown": whole(question, "shown", 0, 0, 50) if playable else 0,
        "seed": seed_of(question),
        **({} if playable else {"game": False}),
    }
    both = _at(system, run, options, dreamt, played)
    if steps:
        both.let_agent(steps)
    done = [list(line.actions) if line is not None else [] for line in (both.dream, both.game)]
    found = both.result()
    return {
        "method": METHOD,
        **unweighed(1, WHY),
        "python": Call("replay", tuple(done), options).text(run),
        "dream": _told(found.dream),
        "game": None if found.game is None else _told(found.game),
    }


def _at(system: Any, run: str, options: dict[str, Any], dreamt: list[int], played: list[int]) -> Any:
    """Both games after these actions: from where the last question stopped, if that is on the way."""
    kept, both = _open.pop(run, (None, None))
    if kept == options:
        done = both.dream.actions, both.game.actions if both.game is not None else []
        on_way = all(new[: len(old)] == old for new, old in zip((dreamt, played), done, strict=True))
    else:
        on_way = False
    if not on_way:
        if both is not None:
            both.close()
        both, done = system.side_by_side(**options), ([], [])
    _open[run] = (options, both)
    both.play(dreamt[len(done[0]) :], played[len(done[1]) :])
    return both


def _told(course: Any) -> dict[str, Any]:
    return {
        "frame": bytes_of(as_picture(course.frames[-1]).transpose(2, 0, 1)),
        "actions": course.action.tolist(),
        "score": number(course.reward.sum()),
        "end": numbers(course.end, 4),
        "ahead": numbers(course.ahead, 4),
        "over": course.over,
    }


def _actions(question: Mapping[str, Any], name: str) -> list[int]:
    found = question.get(name) or []
    if not isinstance(found, list) or len(found) > MOST:
        raise ConfigError(f"{name} must be a list of at most {MOST:,} actions")
    return found
