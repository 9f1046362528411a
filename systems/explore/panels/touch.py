"""Touch music: a performance is tapped on a pad, and answered by others that go on from it.

A question is `{"touches": [[x, y, t], ...], "seconds": s, "choice": t, "spread": t, "count": n, "seed": s}`: where the
finger was, from 0 to 1, and when, in seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from phlogiston.errors import EvidenceError
from phlogiston.systems.explore.calls import Call, Named, literal
from phlogiston.systems.explore.panels.common import number, numbers, real, seed_of, whole
from phlogiston.systems.explore.panels.strokes import held_out

EXAMPLES = 6
MOST = 1500  # touches
METHOD = "drawn touch by touch from the model, given all that was played"


def describe(system: Any, run: str) -> dict[str, Any]:
    """Performances to begin with, and the grid that places lie on."""
    rows = held_out(run, EXAMPLES)
    shown: list[Any] = []
    if rows is not None and "length" in rows.tensors:
        shown = [
            as_touches(system, x[: int(n)]) for x, n in zip(rows.tensors["x"], rows.tensors["length"], strict=True)
        ]
    return {"examples": shown, "lattice": int((system.config.lattices or (1000,))[0])}


def ask(system: Any, run: str, question: Mapping[str, Any]) -> dict[str, Any]:
    """Answer a performance; play one from nothing where there is none."""
    count = whole(question, "count", 3, 1, 8)
    played = as_steps(system, question.get("touches") or ())
    options = {
        "seconds": real(question, "seconds", 5.0, 0.5, 20.0),
        "pi_temperature": real(question, "choice", 1.0, 0.0, 3.0),
        "sigma_temperature": real(question, "spread", 1.0, 0.0, 3.0),
        "seed": seed_of(question),
    }
    if played:
        given = Named(f"[played] * {count}", [played] * count)
        call = Call("complete", (given,), options, before=(f"played = {literal(played)}",))
    else:
        call = Call("sample", (count,), options)
    found = call(system)
    answers = [as_touches(system, x[: int(n)], bool(played)) for x, n in zip(found["x"], found["length"], strict=True)]
    return {
        "method": METHOD,
        "ess": float(count),
        "num_samples": count,
        "log_evidence": number(system.log_prob([played]).value[0]) if played else 0.0,
        "log_evidence_error": 0.0,
        "python": call.text(run),
        "answers": answers,
    }


def as_touches(system: Any, steps: Any, after: bool = False) -> Any:
    """Steps (n, 3) of the system as touches (x, y, t).

    Args:
        system: whose columns they have.
        steps: one performance.
        after: whether it goes on from another, so that its first touch has an interval too.
    """
    array = np.asarray(steps, dtype=np.float64)
    x, y, dt = (array[:, system.schema["columns"].index(name)] for name in ("x", "y", "dt"))
    at = np.cumsum(dt)
    return numbers(np.stack([x, y, at if after or not len(at) else at - at[0]], 1), 4)


def as_steps(system: Any, touches: Sequence[Any]) -> list[list[float]]:
    """Touches (x, y, t) as steps of the system.

    Raises:
        EvidenceError: places outside of the pad, times that do not grow, or too many touches.
    """
    if not len(touches):
        return []
    if len(touches) > MOST:
        raise EvidenceError(f"there are {len(touches):,} touches; at most {MOST:,} are taken")
    array = np.asarray(touches, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] != 3 or not np.isfinite(array).all():
        raise EvidenceError("touches must be a list of x, y and time, three finite numbers each")
    if array[:, :2].min() < 0 or array[:, :2].max() > 1:
        raise EvidenceError("a touch lies outside of the pad: x and y go from 0 to 1")
    dt = np.diff(array[:, 2], prepend=array[0, 2]).round(4)
    if (dt[1:] < 0.001).any():
        raise EvidenceError("times must grow from touch to touch, by a millisecond at least")
    own = {"x": array[:, 0].round(4), "y": array[:, 1].round(4), "dt": dt}
    steps: list[list[float]] = np.stack([own[name] for name in system.schema["columns"]], 1).tolist()
    return steps
