"""Tables: every column with its posterior, columns fixed or bounded, statements typed, two columns against each other.

A question is `{"columns": {name: {"fix": 1.5} or {"low": 0, "high": 2}}, "categories": {name: [value, ...]},
"typed": [statement, ...], "pair": [name, name], "samples": n, "seed": s}`. It becomes statements in the words of the
query language, and these go to `System.query`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from phlogiston.errors import EvidenceError
from phlogiston.inference.query.explain import quoted
from phlogiston.systems.explore.calls import Call
from phlogiston.systems.explore.panels.common import number, numbers, samples_of, seed_of, told

if TYPE_CHECKING:
    from phlogiston.inference.query.answer import Answer

BINS = 40
SHOWN = 2000  # points of two columns against each other
PRIOR = 4000  # samples that say where a column lies when nothing is known


def describe(system: Any) -> dict[str, Any]:
    """Columns with their ranges and what is known of them before any evidence; categories and their values."""
    columns, categories = system.vocabulary()
    x = system.sample(PRIOR, seed=0)["x"].double().numpy()
    units = system.schema.get("units") or {}
    told_of = []
    for i, name in enumerate(columns["x"]):
        low, high = np.quantile(x[:, i], (0.002, 0.998))
        margin = 0.05 * (high - low) or max(1.0, abs(high)) * 0.5
        edges = np.linspace(low - margin, high + margin, BINS + 1)
        counts, _ = np.histogram(x[:, i], edges)
        unit = units.get(name)
        told_of.append(
            {
                "name": name,
                "unit": unit if isinstance(unit, str) else "",
                "low": float(edges[0]),
                "high": float(edges[-1]),
                "constant": bool(high == low),
                "prior": (counts / len(x)).tolist(),
            }
        )
    return {"columns": told_of, "categories": {name: list(values) for name, values in categories.items()}}


def statements(question: Mapping[str, Any]) -> list[str]:
    """A question in the words of the query language.

    Raises:
        EvidenceError: a limit that is no number, or a category of which no value is left.
    """
    said = []
    for name, mark in (question.get("columns") or {}).items():
        if "fix" in mark:
            said.append(f"{quoted(name)} = {_number(name, mark['fix'])}")
            continue
        low, high = mark.get("low"), mark.get("high")
        if low is not None and high is not None:
            said.append(f"{_number(name, low)} <= {quoted(name)} <= {_number(name, high)}")
        elif low is not None:
            said.append(f"{quoted(name)} >= {_number(name, low)}")
        elif high is not None:
            said.append(f"{quoted(name)} <= {_number(name, high)}")
    for name, values in (question.get("categories") or {}).items():
        if not values:
            raise EvidenceError(f"{name}: no value is left that it may have; allow one at least")
        said.append(f"{quoted(name)} in {{{', '.join(_word(value) for value in values)}}}")
    return said + [text.strip() for text in question.get("typed") or () if text.strip()]


def call_of(question: Mapping[str, Any]) -> Call:
    """The call of `System.query` that a question is."""
    options = {"num_samples": samples_of(question), "seed": seed_of(question)}
    said = statements(question)
    return Call("query", tuple(said) or (None,), options)


def ask(system: Any, run: str, question: Mapping[str, Any]) -> dict[str, Any]:
    """Answer a question."""
    call = call_of(question)
    answer = call(system)
    return content(system, answer, question, call, run)


def content(system: Any, answer: Answer, question: Mapping[str, Any], call: Call, run: str) -> dict[str, Any]:
    """What the page draws of an answer."""
    columns, categories = system.vocabulary()
    names = list(columns["x"])
    x, weights = answer.samples["x"].double().numpy(), answer.weights.numpy()
    centre, spread = answer.mean("x"), answer.variance("x").sqrt()
    low, middle, high = answer.quantile("x", torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64))
    edges = question.get("edges") or {}
    drawn = {}
    for i, name in enumerate(names):
        drawn[name] = {
            "mean": number(centre[i]),
            "sd": number(spread[i]),
            "low": number(low[i]),
            "median": number(middle[i]),
            "high": number(high[i]),
        }
        if name in edges:
            first, last = map(float, edges[name])
            counts, _ = np.histogram(x[:, i], np.linspace(first, last, BINS + 1), weights=weights)
            drawn[name]["shares"] = numbers(counts, 6)
    shares = {}
    for name, values in categories.items():
        share = answer.weights.new_zeros(len(values)).index_add_(0, answer.samples[name], answer.weights)
        shares[name] = numbers(share)
    return {
        **told(answer, call, run),
        "said": [text for text in call.positional if text is not None],
        "columns": drawn,
        "categories": shares,
        "points": _points(x, weights, names, question.get("pair") or ()),
    }


def _points(x: np.ndarray, weights: np.ndarray, names: list[str], pair: Any) -> list[list[float]]:
    """Samples of two columns, in equal weight: those drawn for a picture alone (n, 2)."""
    chosen = [names.index(name) for name in pair if name in names]
    if len(chosen) != 2:
        return []
    rows = np.arange(len(x))
    if not np.allclose(weights, weights[0]):
        steps = (np.arange(len(x)) + 0.5) / len(x)
        rows = np.searchsorted(np.cumsum(weights), steps).clip(max=len(x) - 1)
    return numbers(x[rows[:SHOWN]][:, chosen], 5)


def _number(name: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise EvidenceError(f"{name}: {value!r} is no number")
    return repr(value)


def _word(value: Any) -> str:
    """A category as a statement writes it."""
    text = str(value)
    return text if text.replace("_", "").replace(".", "").isalnum() else f'"{text}"'
