"""The dream and the game beside it, played with the keyboard: as `WorldModel.replay` gives them."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from typing import Any

import pytest

import phlogiston as ph
from phlogiston.systems.world.dream_pictures import as_picture

RUN = "world/dodge"


@pytest.fixture(scope="module")
def system() -> Any:
    return ph.load(RUN)


def agrees(answer: dict[str, Any], own: Any) -> None:
    """What the page shows is what a program computes."""
    for told, course in ((answer["dream"], own.dream), (answer["game"], own.game)):
        assert base64.b64decode(told["frame"]["data"]) == as_picture(course.frames[-1]).tobytes()
        assert told["actions"] == course.action.tolist()
        assert told["score"] == pytest.approx(float(course.reward.sum()))
        assert told["end"] == pytest.approx(course.end.tolist(), abs=1e-4)
        assert told["ahead"] == pytest.approx(course.ahead.tolist(), abs=1e-4)
        assert told["over"] == course.over


def test_both_are_played_with_the_keyboard_and_by_the_agent(visit: Callable, serving: Callable, system: Any) -> None:
    with serving(RUN) as server:
        visitor = visit(server, width=400)
        visitor.open(RUN)
        page = visitor.page
        for key in ("ArrowLeft", "ArrowLeft", "ArrowDown", "2"):
            page.keyboard.press(key)
        answer = visitor.settle()
        assert answer["dream"]["actions"] == answer["game"]["actions"] == [0, 0, 1, 2]
        agrees(answer, system.replay([0, 0, 1, 2], [0, 0, 1, 2], shown=4, seed=0))
        agrees(answer, visitor.repeated(answer))
        page.keyboard.press("Backspace")
        page.get_by_role("button", name="Do: right").click()
        assert visitor.settle()["game"]["actions"] == [0, 0, 1, 2]
        page.get_by_label("temperature").fill("1.5")
        page.fill("#seed", "5")
        page.press("#seed", "Enter")
        assert visitor.settle()["game"]["actions"] == []  # another game
        page.get_by_role("button", name="Let the agent play").click()
        page.locator("[data-side=game]", has_text=re.compile(r"itself: (1[2-9]|[2-9]\d) steps")).wait_for(
            timeout=60_000
        )
        page.keyboard.press("ArrowLeft")  # whoever plays takes over
        answer = visitor.settle()
        assert page.get_by_role("button", name="Let the agent play").is_visible()
        own = visitor.repeated(answer)
        agrees(answer, own)
        played = system.play(None, 1, seed=5, keep=True)
        assert own.game.action[:12].tolist() == played.action[0, :12].tolist()
        assert "tau=1.5" in answer["python"]
        assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
        again = visit(server)
        again.page.goto(page.url)
        again.page.wait_for_selector("#method")
        assert again.settle()["dream"] == answer["dream"]


def test_two_pages_play_games_of_their_own(serving: Callable, system: Any) -> None:
    with serving(RUN) as server:
        done: dict[str, list[int]] = {"one": [], "two": []}
        for k in range(4):
            for page, action in (("one", k % 3), ("two", 2 - k % 3)):
                done[page].append(action)
                question = {"dream": done[page], "game": done[page], "seed": len(page) + k % 2, "shown": 2}
                answer = server.ask(RUN, "world", question, session=page)
                agrees(answer, system.replay(done[page], done[page], seed=len(page) + k % 2, shown=2))


def test_only_the_dream_is_played_where_the_game_is_not_here(
    served: Any, system: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from phlogiston.systems.explore.panels import world

    monkeypatch.setitem(system.schema, "game", None)
    assert "cannot be played here" in world.describe(system, "r")["why_no_game"]
    found = world.ask(system, "r", {"dream": [0, 2], "outside": False, "shown": 4, "seed": 3})
    assert found["game"] is None
    assert found["dream"]["actions"] == [0, 2]
    assert "game=False" in found["python"]


def test_what_cannot_be_done_is_named(system: Any) -> None:
    from phlogiston.errors import ConfigError
    from phlogiston.systems.explore.panels import world

    wrong: list[dict[str, Any]] = [
        {"dream": [3]},
        {"dream": ["left"]},
        {"game": 3},
        {"dream": [0, 0], "game": [1, 1], "shown": 4},
        {"agent": -1},
        {"tau": 0},
        {"shown": -1},
    ]
    for question in wrong:
        with pytest.raises(ConfigError):
            world.ask(system, "r", question)
    agrees(world.ask(system, "r", {"dream": [1], "game": [1]}), system.replay([1], [1]))
