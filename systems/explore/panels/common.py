"""What all panels say of an answer, and how they read a question."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from phlogiston.errors import ConfigError
from phlogiston.systems.explore.calls import Call

if TYPE_CHECKING:
    from phlogiston.inference.query.answer import Answer

MOST_SAMPLES = 20_000


def number(value: Any) -> float | None:
    """A number as JSON holds it: what is not finite becomes null."""
    found = float(value)
    return found if math.isfinite(found) else None


def numbers(values: Tensor | np.ndarray, digits: int | None = None) -> Any:
    """Numbers as nested lists, rounded to so many decimal places; what is not finite becomes null."""
    array = np.asarray(values, dtype=np.float64)
    if digits is not None:
        array = array.round(digits)
    if np.isfinite(array).all():
        return array.tolist()
    known: Any = array.astype(object)
    known[~np.isfinite(array)] = None
    return known.tolist()


def whole(question: Mapping[str, Any], name: str, default: int, low: int, high: int) -> int:
    """A whole number of a question.

    Raises:
        ConfigError: it is none, or out of range.
    """
    value = question.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ConfigError(f"{name} must be a whole number from {low} to {high:,}; got {value!r}")
    return value


def real(question: Mapping[str, Any], name: str, default: float, low: float, high: float) -> float:
    """A number of a question.

    Raises:
        ConfigError: it is none, or out of range.
    """
    value = question.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ConfigError(f"{name} must be a number from {low:g} to {high:g}; got {value!r}")
    return float(value)


def seed_of(question: Mapping[str, Any]) -> int:
    """The seed of a question."""
    return whole(question, "seed", 0, 0, 2**31 - 1)


def samples_of(question: Mapping[str, Any], default: int = 1000) -> int:
    """How many samples a question asks for."""
    return whole(question, "samples", default, 1, MOST_SAMPLES)


def unweighed(drawn: int, why: str) -> dict[str, Any]:
    """What the page says where all draws count the same, and why there is no log evidence."""
    return {
        "ess": float(drawn),
        "num_samples": drawn,
        "log_evidence": None,
        "log_evidence_error": None,
        "why_no_evidence": why,
    }


def given_nothing(drawn: int) -> dict[str, Any]:
    """What the page says of plain draws where nothing is known: they are exact, and nothing has probability one."""
    return {"ess": float(drawn), "num_samples": drawn, "log_evidence": 0.0, "log_evidence_error": 0.0}


def trust(answer: Answer) -> dict[str, Any]:
    """How far to trust an answer: its effective samples, and the log evidence with its error."""
    evidence, error = answer.log_evidence, answer.log_evidence_error
    why = answer.details.get("log_evidence_error")
    return {
        "ess": number(answer.ess.min()),
        "num_samples": answer.num_samples,
        "log_evidence": None if evidence is None else number(evidence.detach().sum()),
        "log_evidence_error": None if error is None else number(error.detach().square().sum().sqrt()),
        "why_no_error": why if isinstance(why, str) else "",
    }


def told(answer: Answer, call: Call, run: str) -> dict[str, Any]:
    """How far to trust an answer, and the Python that repeats it."""
    return {"method": answer.method, **trust(answer), "python": call.text(run)}
