"""Touch music: a performance on the pad is answered as `SequenceModel.complete` answers it, and can be heard."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import phlogiston as ph
from phlogiston.errors import ConfigError, EvidenceError
from phlogiston.systems.explore.panels import panels_for, touch

RUN = "sequence/touch"
HEARD = """async (touches) => {
  const sound = await import(new URL("static/sound.js", location.href.split("#")[0]).href);
  const context = new OfflineAudioContext(1, 3 * 22050, 22050);
  const end = sound.play(context, touches, 0.1, 0, context.destination);
  const heard = await context.startRendering();
  return { end, samples: Array.from(heard.getChannelData(0)), pitches: touches.map((t) => sound.pitch(t[0])),
    strokes: sound.strokes(touches).length };
}"""


@pytest.fixture(scope="module")
def system() -> Any:
    return ph.load(RUN)


def agrees(answer: dict[str, Any], own: Any, after: bool) -> None:
    """The answers on the page are those of a method's result."""
    assert len(answer["answers"]) == len(own["x"])
    for shown, x, n in zip(answer["answers"], own["x"].double().numpy(), own["length"], strict=True):
        x = x[: int(n)]
        assert np.allclose(np.asarray(shown)[:, :2], x[:, :2], atol=1e-4)
        at = np.cumsum(x[:, 2])
        assert np.allclose(np.asarray(shown)[:, 2], at if after else at - at[0], atol=1e-4)


def test_a_performance_is_tapped_answered_and_heard(visit: Callable, serving: Callable, system: Any) -> None:
    with serving(RUN) as server:
        visitor = visit(server, width=400)
        visitor.open(RUN)
        page = visitor.page
        agrees(
            visitor.newest(), system.sample(3, seconds=5.0, pi_temperature=0.8, sigma_temperature=0.6, seed=0), False
        )
        visitor.drag("#pad", (0.2, 0.3), (0.5, 0.4))  # a swipe
        page.wait_for_timeout(200)
        visitor.drag("#pad", (0.8, 0.9))  # a tap
        page.focus("#pad")
        page.keyboard.press("ArrowRight")
        page.keyboard.press(" ")
        page.locator("#evidence", has_text="exact").wait_for()
        page.locator("#heard", has_text="3 taps and swipes").wait_for()
        answer = visitor.settle()
        found = visitor.repeated(answer)
        agrees(answer, found, True)
        space: dict[str, Any] = {}
        exec(answer["python"].partition("answer =")[0], space)
        played = space["played"]
        assert played[0][:2] == pytest.approx([0.2, 0.3], abs=0.01)
        assert played[-2][:2] == pytest.approx([0.8, 0.9], abs=0.01)
        assert played[-1][:2] == pytest.approx([0.5 + 1 / 14, 0.5], abs=0.01)
        assert played[0][2] == 0.0
        assert [step[2] > 0.1 for step in played].count(True) == 2
        assert answer["log_evidence"] == pytest.approx(float(system.log_prob([played]).value[0]))
        page.get_by_label("Answer 2", exact=True).click()
        visitor.settle()
        page.get_by_role("button", name="Play both").click()
        page.get_by_role("button", name="Stop the music").click()
        assert page.get_by_role("button", name="Play both").is_visible()
        assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
        again = visit(server)
        again.page.goto(page.url)
        again.page.wait_for_selector("#ess")
        assert again.settle()["answers"] == answer["answers"]
        assert again.page.locator("[aria-label='Answer 2'][aria-pressed=true]").is_visible()

        heard = page.evaluate(HEARD, [[0.1, 0.5, 0.0], [0.9, 0.5, 1.0], [0.92, 0.5, 1.02]])
        assert heard["strokes"] == 2
        samples = np.asarray(heard["samples"])
        for second, pitch in ((0.1, heard["pitches"][0]), (1.1, heard["pitches"][1])):
            part = samples[int(second * 22050) : int((second + 0.1) * 22050)]
            power = np.abs(np.fft.rfft(part * np.hanning(len(part)), 8 * len(part)))
            assert np.argmax(power) * 22050 / (8 * len(part)) == pytest.approx(pitch, rel=0.03)
        assert np.abs(samples[: int(0.09 * 22050)]).max() == 0.0
        assert np.abs(samples[int((heard["end"] + 0.05) * 22050) :]).max() == 0.0


def test_only_touches_are_offered_the_pad() -> None:
    assert panels_for("sequence", {"columns": ["x", "y", "dt"]}) == ("touch",)
    assert panels_for("sequence", {"columns": ["dt", "x", "y"]}) == ("touch",)
    assert panels_for("sequence", {"columns": ["dx", "dy", "pen"]}) == ("drawing",)
    assert panels_for("sequence", {"columns": ["dt", "knob"]}) == ()


def test_columns_may_come_in_another_order(system: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(system.schema, "columns", ["dt", "x", "y"])
    steps = touch.as_steps(system, [[0.25, 0.5, 2.0], [0.3, 0.6, 2.25]])
    assert steps == [[0.0, 0.25, 0.5], [0.25, 0.3, 0.6]]
    assert touch.as_touches(system, steps) == [[0.25, 0.5, 0.0], [0.3, 0.6, 0.25]]


@pytest.mark.parametrize(
    "question",
    [
        {"touches": [[0.5, 0.5]]},
        {"touches": [["a", 0.5, 0.0]]},
        {"touches": [[1.5, 0.5, 0.0]]},
        {"touches": [[0.5, 0.5, 1.0], [0.5, 0.5, 1.0]]},
        {"touches": [[0.5, 0.5, 1e999]]},
        {"touches": [[0.5, 0.5, float(i)] for i in range(5000)]},
        {"seconds": 1e6},
        {"choice": -1},
        {"count": 0},
    ],
)
def test_what_nobody_plays_is_named(system: Any, question: dict[str, Any]) -> None:
    with pytest.raises((EvidenceError, ConfigError, ValueError)):
        touch.ask(system, RUN, question)
