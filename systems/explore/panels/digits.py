"""Pictures: pixels are painted, and the rest is completed; a map of certainty, and the posterior of the label.

A question is `{"known": {position: value}, "typed": [statement, ...], "samples": n, "seed": s}`, positions row by row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from phlogiston.errors import EvidenceError, PhlogistonError
from phlogiston.inference.query.evidence import Known
from phlogiston.systems.explore.calls import Call
from phlogiston.systems.explore.panels import table
from phlogiston.systems.explore.panels.common import numbers, samples_of, seed_of, told
from phlogiston.systems.hub.fetch import local_folder
from phlogiston.systems.run_data import data_of

DRAWN = 8
EXAMPLES = 12


def describe(system: Any, run: str) -> dict[str, Any]:
    """Size and ink of the pictures, what they look like on average, and some that the model has not seen."""
    _, categories = system.vocabulary()
    x = table.draws(system, 500)["x"].double().numpy()
    low, high = (float(v) for v in np.quantile(x, (0.01, 0.99)))
    try:
        held = data_of(local_folder(run), None, {}, system.schema)
        rows = held.test or held.valid
        seen = rows[:EXAMPLES]["x"].double().numpy() if rows is not None else x[:0]
    except (PhlogistonError, OSError):
        seen = x[:0]  # the page does without examples
    if len(seen):
        low, high = float(seen.min()), float(seen.max())
    return {
        "shape": list(system.schema["image_shape"]),
        "low": low,
        "high": high,
        "sd": float(x.std(0).max()) or 1.0,
        "categories": {name: list(values) for name, values in categories.items()},
        "examples": numbers(seen, 5),
    }


def call_of(system: Any, question: Mapping[str, Any]) -> Call:
    """The call of `System.query` that a question is.

    Raises:
        EvidenceError: a pixel that is not there, or whose value is no number.
    """
    size = len(system.vocabulary()[0]["x"])
    values, mask = [0.0] * size, [0] * size
    for position, value in (question.get("known") or {}).items():
        i = int(position) if str(position).isdigit() else -1
        if not 0 <= i < size or isinstance(value, bool) or not isinstance(value, int | float):
            raise EvidenceError(f"pixel {position!r} is {value!r}; expected a position below {size}, and a number")
        values[i], mask[i] = float(value), 1
    given: list[Any] = [{"x": Known(values, mask)}] if any(mask) else []
    given += [text.strip() for text in question.get("typed") or () if text.strip()]
    options = {"num_samples": samples_of(question, 300), "seed": seed_of(question)}
    return Call("query", tuple(given) or (None,), options)


def ask(system: Any, run: str, question: Mapping[str, Any]) -> dict[str, Any]:
    """Answer a question."""
    call = call_of(system, question)
    answer = call(system)
    x = answer.samples["x"]
    drawn = x[table.equal_rows(answer.weights.numpy(), DRAWN)]
    return {
        **told(answer, call, run),
        "said": [text for text in call.positional if isinstance(text, str)],
        "mean": numbers(answer.mean("x"), 5),
        "sd": numbers(answer.variance("x").clamp_min(0).sqrt(), 5),
        "drawn": numbers(drawn, 4),
        "categories": table.shares_of(system, answer),
    }
