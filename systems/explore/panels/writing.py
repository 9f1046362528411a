"""Handwriting: a text is written, neatly or freely, in a hand of the data.

A question is `{"text": t, "bias": b, "hand": number or null, "count": n, "seed": s}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from phlogiston.errors import ConfigError
from phlogiston.systems.explore.calls import Call
from phlogiston.systems.explore.panels import strokes
from phlogiston.systems.explore.panels.common import numbers, real, seed_of, whole

HANDS = 6
MOST_CHARACTERS = 60
METHOD = "written point by point from the model; all lines count the same"


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
    if hand is not None:
        options["prime"] = ([[float(v) for v in step] for step in hand["steps"]], str(hand["text"]))
    call = Call("write", (text, whole(question, "count", 3, 1, 12)), options)
    found = call(system)
    return {"method": METHOD, "python": call.text(run), "drawings": strokes.drawn(found["x"], found["length"])}
