"""The page driven as a person would: what it shows is what `System.query` answers with the same evidence and seed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import phlogiston as ph
from phlogiston.datasets.generated import poses


@pytest.fixture(scope="module")
def people(explore_runs: dict[str, Path]) -> Any:
    return ph.load(explore_runs["people"])


def agrees(answer: dict[str, Any], own: Any, names: list[str]) -> None:
    """The answer on the page has the figures of an answer computed here."""
    assert answer["method"] == own.method
    assert answer["ess"] == pytest.approx(float(own.ess), rel=1e-9)
    assert answer["log_evidence"] == pytest.approx(float(own.log_evidence), abs=1e-9)
    middle, low = own.quantile("x", 0.5), own.quantile("x", 0.05)
    for i, name in enumerate(names):
        assert answer["columns"][name]["median"] == pytest.approx(float(middle[i]), rel=1e-9)
        assert answer["columns"][name]["low"] == pytest.approx(float(low[i]), rel=1e-9)


def test_nothing_known_then_a_brush_a_drag_a_category_and_a_statement(visit: Callable, people: Any) -> None:
    visitor = visit()
    visitor.open("people")
    page = visitor.page
    assert "Nothing is known" in page.inner_text("#said")
    agrees(visitor.newest(), people.query(None, num_samples=1000, seed=0), ["age", "height"])

    visitor.drag("[data-column=age]", (0.4, 0.3), (0.8, 0.3))  # over the histogram: a bound
    answer = visitor.settle()
    assert re.fullmatch(r"[\d.]+ <= age <= [\d.]+", answer["said"][0])
    agrees(answer, people.query(*answer["said"], num_samples=1000, seed=0), ["age", "height"])

    visitor.drag("[data-column=height]", (0.5, 0.9), (0.3, 0.9), (0.25, 0.9))  # below it: a value
    answer = visitor.settle()
    fixed = [text for text in answer["said"] if text.startswith("height = ")]
    assert len(answer["said"]) == 2
    assert len(fixed) == 1
    agrees(answer, people.query(*answer["said"], num_samples=1000, seed=0), ["age", "height"])
    assert answer["columns"]["height"]["median"] == float(fixed[0].split(" = ")[1])
    shown = page.inner_text("#evidence")
    assert f"{answer['log_evidence']:.2f}" in shown
    assert "exact" in page.inner_text("#method")
    assert "1000" in page.inner_text("#ess")
    shares = dict(zip(("cat", "dog"), answer["categories"]["kind"], strict=True))
    assert shares["cat"] > 0.8  # cats are the small ones

    page.get_by_role("button", name="dog").click()
    answer = visitor.settle()
    assert "kind in {dog}" in answer["said"]
    assert answer["categories"]["kind"] == pytest.approx([0.0, 1.0])

    page.get_by_label("Free height").click()
    page.fill("#statement", "height - age >= 120")
    page.press("#statement", "Enter")
    page.fill("#seed", "7")
    page.press("#seed", "Enter")
    answer = visitor.settle()
    assert answer["said"][-1] == "height - age >= 120"
    own = people.query(*answer["said"], num_samples=1000, seed=7)
    agrees(answer, own, ["age", "height"])
    agrees(answer, visitor.repeated(answer), ["age", "height"])
    assert np.asarray(own.samples["x"]).tolist() == np.asarray(visitor.repeated(answer).samples["x"]).tolist()


def test_a_link_brings_the_state_back_and_python_is_shown(visit: Callable) -> None:
    visitor = visit()
    visitor.open("people")
    visitor.drag("[data-column=age]", (0.5, 0.9), (0.6, 0.9))
    visitor.page.fill("#samples", "300")
    visitor.page.press("#samples", "Enter")
    before = visitor.settle()
    visitor.page.get_by_role("button", name="Copy as Python").click()
    assert before["python"].strip() == visitor.page.inner_text("dialog pre").strip()
    assert "num_samples=300, seed=0" in before["python"]
    assert "import phlogiston as ph" in before["python"]
    again = visit()
    again.page.goto(visitor.page.url)
    again.page.wait_for_selector("#ess")
    after = again.settle()
    assert {**before, "warnings": []} == {**after, "warnings": []}


def test_an_impossible_question_says_so_in_place_and_the_page_goes_on(visit: Callable) -> None:
    visitor = visit()
    visitor.open("people")
    visitor.page.fill("#statement", "age >= 50")
    visitor.page.press("#statement", "Enter")
    visitor.page.fill("#statement", "age <= 40")
    visitor.page.press("#statement", "Enter")
    visitor.settle()
    assert "impossible" in visitor.page.inner_text("#notice")
    assert "no answer" in visitor.page.inner_text("#figures")
    visitor.page.get_by_label("Remove age <= 40").click()
    visitor.settle()
    assert visitor.page.locator("#notice").is_hidden()
    visitor.page.fill("#statement", "aeg >= 50")
    visitor.page.press("#statement", "Enter")
    visitor.settle()
    assert "age" in visitor.page.inner_text("#notice")  # the nearest name


def test_what_no_person_types_is_named(served: Any) -> None:
    wrong = [
        {"samples": 0},
        {"samples": 10**9},
        {"seed": -1},
        {"columns": {"age": {"fix": "x"}}},
        {"columns": {"age": {"fix": None}}},
        {"columns": {"nobody": {"fix": 1.0}}},
        {"columns": 3},
        {"categories": {"kind": []}},
        {"categories": {"kind": ["bird"]}},
        {"typed": ["age >>> 3"]},
        {"typed": [3]},
    ]
    for question in wrong:
        assert served.ask("people", "table", question).get("error"), question
    assert "error" not in served.ask("people", "table", {})


def test_two_pages_at_once_do_not_mix(visit: Callable, people: Any) -> None:
    one, two = visit(), visit()
    one.open("people")
    two.open("people")
    for k in range(3):
        one.page.fill("#statement", f"age >= {40 + k}")
        two.page.fill("#statement", f"age <= {30 + k}")
        one.page.press("#statement", "Enter")
        two.page.press("#statement", "Enter")
    for visitor in (one, two):
        answer = visitor.settle()
        assert len(answer["said"]) == 3
        agrees(answer, people.query(*answer["said"], num_samples=1000, seed=0), ["age", "height"])


def test_poses_follow_a_dragged_hand_and_foot(visit: Callable, explore_runs: dict[str, Path]) -> None:
    system = ph.load(explore_runs["poses"])
    visitor = visit()
    visitor.open("poses")
    visitor.drag_onto("[data-target=left_hand]", ".scene", 0.3, 0.35)
    visitor.settle()
    visitor.drag_onto("[data-target=left_foot]", ".scene", 0.55, 0.75)
    answer = visitor.settle()
    said = dict(text.split(" = ") for text in answer["said"])
    assert list(said) == ["left_hand_x", "left_hand_y", "left_foot_x", "left_foot_y"]
    own = system.query({name: float(value) for name, value in said.items()}, num_samples=1000, seed=0)
    agrees(answer, own, list(poses.COLUMNS))
    agrees(answer, visitor.repeated(answer), list(poses.COLUMNS))
    joints = np.asarray(answer["figures"])
    hand = joints[:, poses.NAMES.index("left_hand")]
    target = [float(said["left_hand_x"]), float(said["left_hand_y"])]
    assert np.median(np.linalg.norm(hand - target, axis=1)) < 0.01  # of the body's length: refined onto its target
    assert answer["missed"] < 0.05
    state = json.loads(visitor.page.evaluate("decodeURIComponent(location.hash.slice(1))"))
    assert state["state"]["targets"]["left_hand"] == target
    visitor.drag_onto("[data-target=left_hand]", ".scene", 0.02, 0.5)
    visitor.settle()
    visitor.drag_onto("[data-target=left_foot]", ".scene", 0.98, 0.5)  # farther apart than a body is long
    assert visitor.settle()["missed"] > 0.05
    assert "Out of reach" in visitor.page.inner_text("#missed")


def test_the_keyboard_alone_is_enough(visit: Callable) -> None:
    visitor = visit()
    visitor.open("people")
    page = visitor.page
    page.focus("#run")
    reached = []
    for _ in range(30):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.getAttribute('aria-label') || document.activeElement.id"))
        if reached[-1] == "Value of age":
            break
    assert {"samples", "python", "A statement to add"} <= set(reached)
    assert reached[-1] == "Value of age"
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    assert visitor.settle()["said"][0].startswith("age = ")
    page.keyboard.press("Delete")
    assert visitor.settle()["said"] == []
    page.select_option("#run", "poses")
    page.wait_for_selector("[data-target=left_hand]")
    visitor.settle()
    page.focus("[data-target=left_hand]")
    page.keyboard.press("ArrowUp")
    assert [text.split(" = ")[0] for text in visitor.settle()["said"]] == ["left_hand_x", "left_hand_y"]


def test_it_fits_a_telephone(visit: Callable) -> None:
    visitor = visit(width=400)
    for run in ("people", "poses"):
        visitor.open(run)
        wide = visitor.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0
    visitor.drag("[data-target=head_top]", (0.5, 0.5), (0.5, -1.0))
    assert len(visitor.settle()["said"]) == 2
