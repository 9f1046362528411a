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
from phlogiston.inference.query.explain import dated, quoted
from phlogiston.systems.explore.calls import Call
from phlogiston.systems.explore.panels.common import number, numbers, samples_of, seed_of, told

if TYPE_CHECKING:
    from phlogiston.inference.query.answer import Answer

BINS = 40
SHOWN = 2000  # points of two columns against each other
PRIOR = 4000  # samples that say where a column lies when nothing is known


def describe(system: Any, run: str) -> dict[str, Any]:
    """Columns with their ranges and what is known of them before any evidence; categories and their values."""
    _, categories = system.vocabulary()
    drawn = draws(system, PRIOR)
    units = system.schema.get("units") or {}
    told_of = []
    for site, i, name in entries(system):
        x, unit = drawn[site][:, i].double().numpy(), units.get(name)
        low, high = np.quantile(x, (0.002, 0.998))
        margin = 0.05 * (high - low) or max(1.0, abs(high)) * 0.5
        edges = np.linspace(low - margin, high + margin, BINS + 1)
        told_of.append(
            {
                "name": name,
                "site": site,
                "unit": unit if isinstance(unit, str) else "",
                "low": float(edges[0]),
                "high": float(edges[-1]),
                "constant": bool(high == low),
                "prior": (np.histogram(x, edges)[0] / len(x)).tolist(),
            }
        )
    shown = {name: list(values) for name, values in categories.items() if name in drawn}
    return {"columns": told_of, "categories": shown}


def draws(system: Any, n: int) -> Any:
    """Samples by site where nothing is known: of a mixture plain draws, for which `query` would weigh particles."""
    return system.sample(n, seed=0) if system.name == "drmm" else system.query(None, num_samples=n, seed=0).samples


def entries(system: Any) -> list[tuple[str, int, str]]:
    """Every column: its site, its position there, and its name."""
    return [(site, i, name) for site, names in system.vocabulary()[0].items() for i, name in enumerate(names)]


def statements(system: Any, question: Mapping[str, Any]) -> list[str]:
    """A question in the words of the query language: days as dates, values on a grid as the nearest ones it has.

    Raises:
        EvidenceError: a limit that is no number, or a category of which no value is left.
    """
    said, grids = [], system.grids()
    for name, mark in (question.get("columns") or {}).items():
        if "fix" in mark:
            value = _checked(name, mark["fix"])
            if name in grids:
                centre, step = grids[name]
                value = centre + step * round((value - centre) / step)
            said.append(f"{quoted(name)} = {value!r}")
            continue
        low, high = mark.get("low"), mark.get("high")
        if low is not None and high is not None:
            said.append(f"{_checked(name, low)!r} <= {quoted(name)} <= {_checked(name, high)!r}")
        elif low is not None:
            said.append(f"{quoted(name)} >= {_checked(name, low)!r}")
        elif high is not None:
            said.append(f"{quoted(name)} <= {_checked(name, high)!r}")
    said = [dated(text, system.dates()) for text in said]
    for name, values in (question.get("categories") or {}).items():
        if not values:
            raise EvidenceError(f"{name}: no value is left that it may have; allow one at least")
        said.append(f"{quoted(name)} in {{{', '.join(_word(value) for value in values)}}}")
    return said + [text.strip() for text in question.get("typed") or () if text.strip()]


def call_of(system: Any, question: Mapping[str, Any]) -> Call:
    """The call of `System.query` that a question is."""
    options = {"num_samples": samples_of(question), "seed": seed_of(question)}
    said = statements(system, question)
    return Call("query", tuple(said) or (None,), options)


def ask(system: Any, run: str, question: Mapping[str, Any]) -> dict[str, Any]:
    """Answer a question."""
    call = call_of(system, question)
    answer = call(system)
    return content(system, answer, question, call, run)


def content(system: Any, answer: Answer, question: Mapping[str, Any], call: Call, run: str) -> dict[str, Any]:
    """What the page draws of an answer."""
    weights = answer.weights.numpy()
    levels = torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64)
    edges = question.get("edges") or {}
    drawn: dict[str, Any] = {}
    for site in system.vocabulary()[0]:
        values = answer.samples[site].double().numpy()
        centre, spread = answer.mean(site), answer.variance(site).sqrt()
        low, middle, high = answer.quantile(site, levels)
        for i, name in [(i, name) for own, i, name in entries(system) if own == site]:
            drawn[name] = {
                "mean": number(centre[i]),
                "sd": number(spread[i]),
                "low": number(low[i]),
                "median": number(middle[i]),
                "high": number(high[i]),
            }
            if name in edges:
                first, last = map(float, edges[name])
                counts, _ = np.histogram(values[:, i], np.linspace(first, last, BINS + 1), weights=weights)
                drawn[name]["shares"] = numbers(counts, 6)
    return {
        **told(answer, call, run),
        "said": [text for text in call.positional if isinstance(text, str)],
        "columns": drawn,
        "categories": shares_of(system, answer),
        "points": _points(system, answer, weights, question.get("pair") or ()),
    }


def shares_of(system: Any, answer: Answer) -> dict[str, Any]:
    """Posterior of each category's values."""
    shares = {}
    for name, values in system.vocabulary()[1].items():
        if name in answer.samples:
            share = answer.weights.new_zeros(len(values)).index_add_(0, answer.samples[name], answer.weights)
            shares[name] = numbers(share)
    return shares


def equal_rows(weights: np.ndarray, n: int) -> np.ndarray:
    """Positions of n samples that stand for all in equal weight, for a picture: systematic, without a random number."""
    return np.searchsorted(np.cumsum(weights), (np.arange(n) + 0.5) / n).clip(max=len(weights) - 1)


def _points(system: Any, answer: Answer, weights: np.ndarray, pair: Any) -> list[list[float]]:
    """Samples of two columns, in equal weight (n, 2)."""
    where = {name: answer.samples[site][:, i] for site, i, name in entries(system)}
    if len(pair) != 2 or not set(pair) <= where.keys():
        return []
    both = torch.stack([where[name].double() for name in pair], 1).numpy()
    if not np.allclose(weights, weights[0]):
        both = both[equal_rows(weights, len(weights))]
    points: list[list[float]] = numbers(both[:SHOWN], 5)
    return points


def _checked(name: str, value: Any) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise EvidenceError(f"{name}: {value!r} is no number")
    return value


def _word(value: Any) -> str:
    """A category as a statement writes it."""
    text = str(value)
    return text if text.replace("_", "").replace(".", "").isalnum() else f'"{text}"'
