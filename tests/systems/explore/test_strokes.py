"""Drawings gone on with, and texts written: as the systems' own methods give them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import phlogiston as ph
from phlogiston.systems.drawing import drawings_of
from phlogiston.systems.explore.panels import strokes


def same(shown: Any, found: Any) -> None:
    """What is on the page are the drawings of a method's result."""
    own = drawings_of(found["x"], found["length"])
    assert len(shown) == len(own)
    for one, other in zip(shown, own, strict=True):
        assert [len(stroke) for stroke in one] == [len(stroke) for stroke in other]
        for a, b in zip(one, other, strict=True):
            assert np.allclose(a, b, atol=1e-3)


def test_a_drawing_is_begun_with_the_mouse_and_gone_on_with(visit: Callable, explore_runs: dict[str, Path]) -> None:
    visitor = visit()
    visitor.open("letters")
    visitor.drag("#sheet", (0.3, 0.3), (0.3, 0.6), (0.5, 0.6))
    visitor.settle()
    visitor.page.fill("#seed", "3")
    visitor.page.press("#seed", "Enter")
    answer = visitor.settle()
    assert len(answer["drawings"]) == 6
    assert "complete" in answer["python"]
    found = visitor.repeated(answer)
    same(answer["drawings"], found)
    evidence = visitor.repeated(answer, "evidence")  # of the latents, as many as the page says
    assert answer["num_samples"] == evidence.num_samples == 64
    assert answer["ess"] == pytest.approx(float(evidence.ess))
    assert answer["log_evidence"] == pytest.approx(float(evidence.log_evidence))
    assert f"{answer['log_evidence']:.2f}" in visitor.page.inner_text("#evidence")
    begun = np.asarray(answer["begun"][0])
    for drawing in answer["drawings"]:
        assert np.allclose(drawing[0][: len(begun)], begun, atol=1e-3)
    visitor.page.get_by_role("button", name="Empty sheet").click()
    answer = visitor.settle()
    assert answer["begun"] == []
    assert (answer["ess"], answer["log_evidence"]) == (6.0, 0.0)  # nothing is known, draws are plain
    same(answer["drawings"], ph.load(explore_runs["letters"]).sample(6, temperature=0.6, seed=3))
    visitor.page.get_by_label("Begin as held-out drawing 1", exact=True).click()
    assert len(visitor.settle()["begun"]) >= 1


def test_a_text_is_written_in_a_hand_and_saved(visit: Callable, explore_runs: dict[str, Path], tmp_path: Path) -> None:
    system = ph.load(explore_runs["lines"])
    visitor = visit()
    visitor.open("lines")
    visitor.page.fill("#text", "hello")
    answer = visitor.settle()
    same(answer["drawings"], system.write("hello", 3, bias=1.0, seed=0))
    assert "none: a text is a condition" in visitor.page.inner_text("#evidence")
    visitor.page.get_by_label("Hand 1", exact=True).click()
    answer = visitor.settle()
    assert "prime" in answer["python"]
    assert answer["log_evidence"] == pytest.approx(float(visitor.repeated(answer, "evidence").log_evidence))
    assert "(exact)" in visitor.page.inner_text("#evidence")
    same(answer["drawings"], visitor.repeated(answer))
    with visitor.page.expect_download() as download:
        visitor.page.get_by_role("button", name="Save as SVG").click()
    download.value.save_as(tmp_path / "lines.svg")
    text = (tmp_path / "lines.svg").read_text(encoding="utf-8")
    assert text.startswith("<svg xmlns=")
    assert text.count("<path") == 3
    visitor.page.fill("#text", "HELLO")
    visitor.settle()
    assert "H" in visitor.page.inner_text("#notice")  # no character of the alphabet


def test_strokes_become_steps_and_come_back() -> None:
    line = [[10.0, 5.0], [10.5, 5.0], [11.0, 5.0], [11.5, 5.0], [12.0, 5.0]]
    other = [[20.0, 7.0]]
    steps = np.asarray(strokes.as_steps([line, other], 1.0))
    assert steps[:, 2].tolist() == [0, 0, 1, 0]  # the pen stays down at the end
    assert steps[0].tolist() == [0, 0, 0]
    back = drawings_of(steps[None], np.array([len(steps)]))[0]
    assert np.allclose(back[0] + strokes.origin([line, other]), [[10, 5], [11, 5], [12, 5]])
    assert np.allclose(back[1] + strokes.origin([line, other]), other)
    assert strokes.as_steps([], 1.0) == []


@pytest.mark.parametrize(
    ("run", "panel", "question"),
    [
        ("letters", "drawing", {"strokes": [[["a", 1]]]}),
        ("letters", "drawing", {"strokes": [[[1.0, 2.0, 3.0]]]}),
        ("letters", "drawing", {"strokes": [[[1e999, 2.0]]]}),
        ("letters", "drawing", {"strokes": [[[float(i), 0.0] for i in range(5000)]], "step": 1.0}),
        ("letters", "drawing", {"temperature": -1}),
        ("letters", "drawing", {"count": 1000}),
        ("lines", "writing", {"text": ""}),
        ("lines", "writing", {"text": "a" * 1000}),
        ("lines", "writing", {"text": "a", "bias": "neat"}),
    ],
)
def test_what_cannot_be_drawn_is_named(served: Any, run: str, panel: str, question: dict[str, Any]) -> None:
    assert served.ask(run, panel, question)["error"]
