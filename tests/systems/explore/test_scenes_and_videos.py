"""Scenes, moving objects and video codes: as the systems' own methods give them."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import phlogiston as ph


def pictures(sent: dict[str, Any]) -> np.ndarray:
    """Pictures as the page gets them: bytes (..., H, W, C)."""
    return np.frombuffer(base64.b64decode(sent["data"]), np.uint8).reshape(sent["shape"])


def as_bytes(pictures: torch.Tensor) -> np.ndarray:
    """Pictures (..., C, H, W) in [0, 1] as bytes (..., H, W, C)."""
    return np.round(255 * pictures.clamp(0, 1).movedim(-3, -1).numpy()).astype(np.uint8)


def test_a_camera_is_dragged_and_photographs_are_switched(visit: Callable, explore_runs: dict[str, Path]) -> None:
    system = ph.load(explore_runs["courts"])
    visitor = visit()
    visitor.open("courts")
    first = visitor.newest()
    assert first["truth"] is not None
    assert first["squared_error"] == pytest.approx(
        float(np.square(pictures(first["view"]) / 255.0 - pictures(first["truth"]) / 255.0).mean()), abs=2e-3
    )
    assert "none: photographs are read" in visitor.page.inner_text("#evidence")
    bound = visitor.repeated(first, "score")  # a photograph that was not given: how probable it is
    assert first["bound"] == pytest.approx(float(bound.value[0]))
    assert bound.kind == "lower bound"
    visitor.page.get_by_label("Photograph 1 as evidence", exact=True).click()
    without = visitor.settle()
    visitor.drag("#map", (0.3, 0.3), (0.5, 0.4), (0.6, 0.5))
    answer = visitor.settle()
    assert answer["truth"] is None
    assert answer["bound"] is None
    assert visitor.page.get_by_text("truth", exact=True).is_hidden()
    assert "[1, 2, 3, 4]" in answer["python"]
    assert without["python"] != answer["python"]
    views = visitor.repeated(answer)[:, 0].clamp(0, 1)
    assert np.array_equal(pictures(answer["view"]), as_bytes(views.mean(0)))
    assert answer["largest_sd"] == pytest.approx(float(views.std(0).mean(0).max()), rel=1e-5)
    # 0.6 across and 0.5 down the map
    low, side = system.config.corner, system.config.tile
    assert answer["camera"][:2] == pytest.approx([low + 0.6 * side, low + 0.5 * side], abs=0.02)
    visitor.page.focus("#map")
    visitor.page.keyboard.press("ArrowRight")
    assert visitor.settle()["camera"][0] > answer["camera"][0]


def test_objects_are_found_removed_and_rolled_forward(served: Any, explore_runs: dict[str, Path]) -> None:
    system = ph.load(explore_runs["moving"])
    data = ph.datasets.load("moving_digits", sizes=(8, 2, 4))
    for k in range(4):
        found = served.ask("moving", "objects", {"video": k, "seed": 2})
        own = system.infer(data.test[k : k + 1]["x"], num_particles=8, seed=2)
        assert found["ess"] == pytest.approx(float(own["ess"][0]), rel=1e-6)
        assert found["identities"] == sorted({int(i) for i in own["ids"].flatten() if i >= 0})
        assert np.array_equal(pictures(found["model"]), as_bytes(own["canvas"][0]))
        assert [len(frame) for frame in found["found"]] == own["presence"][0].sum(-1).long().tolist()
        rolled = served.ask("moving", "objects", {"video": k, "seed": 2, "roll": 3})
        assert len(pictures(rolled["model"])) == 13
        assert len(rolled["boxes"]) == 13
    assert "no object" in served.ask("moving", "objects", {"remove": 9999})["error"].lower()


def test_an_object_is_taken_out_or_frozen(serving: Callable) -> None:
    """By the system that comes with the package, which finds objects."""
    with serving("sqair/moving-digits") as server:
        found = server.ask("sqair/moving-digits", "objects", {"video": 1, "seed": 2})
        name = found["identities"][0]
        gone = server.ask("sqair/moving-digits", "objects", {"video": 1, "seed": 2, "remove": name, "roll": 2})
        held = server.ask("sqair/moving-digits", "objects", {"video": 1, "seed": 2, "freeze": [name, 4], "roll": 3})
    space: dict[str, Any] = {}
    exec(held["python"], space)
    assert np.array_equal(pictures(held["model"]), as_bytes(space["answer"]["x"][0]))
    boxes = [[box[1:] for box in frame if box[0] == name] for frame in held["boxes"]]
    assert len(boxes) == 13  # the video's, and those rolled forward: it stays there
    assert boxes[4:] == [boxes[4]] * 9
    assert boxes[:4] == [[box[1:] for box in frame if box[0] == name] for frame in found["boxes"][:4]]
    exec(gone["python"], space)
    own = space["answer"]
    assert np.array_equal(pictures(gone["model"]), as_bytes(own["x"][0]))
    assert any(box[0] == name for frame in found["boxes"] for box in frame)
    assert all(box[0] != name for frame in gone["boxes"] for box in frame)


def test_a_video_is_played_and_scrubbed(visit: Callable) -> None:
    visitor = visit()
    visitor.open("moving")
    page = visitor.page
    page.focus("#scrub")
    page.keyboard.press("End")
    assert page.locator("output", has_text="frame 10 of 10").is_visible()
    page.get_by_role("button", name="Play").click()
    page.locator("output", has_text="frame 2 of 10").wait_for(timeout=20_000)
    page.get_by_role("button", name="Pause").click()
    page.get_by_label("Video", exact=True).select_option("1")
    answer = visitor.settle()
    assert 'data.test[1:2]["x"]' in answer["python"]
    visitor.repeated(answer)


def test_actions_and_people_are_swapped(visit: Callable, explore_runs: dict[str, Path]) -> None:
    visitor = visit()
    visitor.open("figures")
    answer = visitor.newest()
    grid = visitor.repeated(answer)
    assert np.array_equal(pictures(answer["grid"]), as_bytes(grid))
    count = len(grid)
    asked = len(visitor.answers)
    visitor.page.get_by_label(f"The action of clip {count} by the person of clip 1", exact=True).click()
    visitor.settle()
    assert len(visitor.answers) == asked  # choosing needs no new answer
    assert visitor.page.inner_text("#pair") == f"the action of clip {count} by the person of clip 1"
    shown = visitor.page.evaluate(
        "(() => { const c = document.getElementById('chosen');"
        " return Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data); })()"
    )
    cell = pictures(answer["grid"])[count - 1, 0, 0]
    assert np.array_equal(np.asarray(shown).reshape(*cell.shape[:2], 4)[..., :3], cell)


@pytest.mark.parametrize(
    ("run", "panel", "question"),
    [
        ("courts", "scene", {"scene": 99}),
        ("courts", "scene", {"on": [99]}),
        ("courts", "scene", {"camera": [0, 0]}),
        ("courts", "scene", {"camera": [99.0, 0.0, 0.0]}),
        ("courts", "scene", {"at": "first"}),
        ("moving", "objects", {"video": -1}),
        ("moving", "objects", {"roll": 10**6}),
        ("moving", "objects", {"move": [0, "x", 1]}),
        ("moving", "objects", {"freeze": [0]}),
        ("moving", "objects", {"freeze": [99, 0]}),
        ("figures", "clips", {"first": 10**6}),
    ],
)
def test_what_is_not_there_is_named(served: Any, run: str, panel: str, question: dict[str, Any]) -> None:
    assert served.ask(run, panel, question)["error"]
