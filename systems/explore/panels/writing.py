"""Handwriting: a text is written, neatly or freely, in a hand of the data.

A question is `{"text": t, "bias": b, "hand": number or null, "count": n, "seed": s}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from phlogiston.errors import ConfigError
from phlogiston.inference.query.evidence import Known
from phlogiston.systems.explore.calls import Call
from phlogiston.systems.explore.panels import strokes
from phlogiston.systems.explore.panels.common import numbers, real, seed_of, trust, unweighed, whole

HANDS = 6
MOST_CHARACTERS = 60
METHOD = "written point by point from the model"
WHY = "a text is a condition and has no probability; choose a hand, whose line has one"


def describe(system: Any, run: str) -> dict[str, Any]:
    """The alphabet, and hands to write in."""
    hands = []
    rows = strokes.held_out(run, HANDS)
    if rows is not None and {"text", "length"} <= rows.tensors.keys():
        x, length = rows.tensors["x"], rows.tensors["length"]
        for i, one in enumerate(strokes.drawn(x, length)):
            steps = numbers(x[i, : int(length[i])], 4)
            hands.append({"strokes": one, "steps": steps, "text": system.text_of(rows.tensors["text"][i])})
    return {"alphabet": "".join(system.schema["alphabet"]), "text": system.default_text(), "hands": hands}


def ask(system: Any, run: str, question: Mapping[str, Any]) -> dict[str, Any]:
    """Write a text.

    Raises:
        ConfigError: a text that is empty or too long.
    """
    text = question.get("text")
    if not isinstance(text, str) or not 0 < len(text) <= MOST_CHARACTERS:
        raise ConfigError(f"text must have 1 to {MOST_CHARACTERS} characters; got {text!r}")
    options: dict[str, Any] = {"bias": real(question, "bias", 1.0, 0.0, 10.0), "seed": seed_of(question)}
    hand = question.get("hand")
    count = whole(question, "count", 3, 1, 12)
    figures = unweighed(count, WHY)
    before: tuple[str, ...] = ()
    if hand is not None:
        steps, says = [[float(v) for v in step] for step in hand["steps"]], str(hand["text"])
        options["prime"] = (steps, says)
        about = Call("query", ({"x": Known(steps)},), {"num_samples": 2, "seed": 0, "text": says}, "evidence")
        figures = {**trust(about(system)), "ess": float(count), "num_samples": count}
        before = (about.line(),)
    call = Call("write", (text, count), options, before=before)
    found = call(system)
    drawings = strokes.drawn(found["x"], found["length"])
    return {"method": METHOD, **figures, "python": call.text(run), "drawings": drawings}
