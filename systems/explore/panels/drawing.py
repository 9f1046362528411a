"""Drawings: the beginning is drawn with the mouse, and gone on with in several ways.

A question is `{"strokes": [[[x, y], ...], ...], "step": length, "temperature": t, "count": n, "tried": latents,
"seed": s}`, in the units of the data.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from phlogiston.inference.query.evidence import Known
from phlogiston.systems.explore.calls import Call
from phlogiston.systems.explore.panels import strokes
from phlogiston.systems.explore.panels.common import given_nothing, real, seed_of, trust, whole

METHOD = "drawn point by point, given the beginning"
METHOD_LATENT = "latents weighed by the beginning, to which the figures belong; then drawn point by point"


def describe(system: Any, run: str) -> dict[str, Any]:
    """How large drawings are, and some to begin with."""
    rows = strokes.held_out(run, 40)
    if rows is None or "length" not in rows.tensors:
        found = system.sample(8, seed=0)
        x, length = found["x"], found["length"]
        shown = []
    else:
        x, length = rows.tensors["x"][..., -3:], rows.tensors["length"]
        shown = strokes.drawn(x[:8], length[:8])
    return {**strokes.scale_of(x, length), "examples": shown, "weighed": _weighed(system)}


def call_of(system: Any, question: Mapping[str, Any]) -> tuple[Call, list[list[float]]]:
    """The call that a question is, and the beginning as steps."""
    n = whole(question, "count", 6, 1, 24)
    temperature = real(question, "temperature", 0.6, 0.01, 2.0)
    begun = strokes.as_steps(question.get("strokes"), real(question, "step", 1.0, 1e-6, 1e6))
    seed = seed_of(question)
    if system.name == "sketch":
        options: dict[str, Any] = {"temperature": temperature, "seed": seed}
        if begun and _weighed(system):
            options["num_proposals"] = _tried(question)
        call = Call("complete", (begun, n), options) if begun else Call("sample", (n,), options)
    else:
        options = {"pi_temperature": temperature, "sigma_temperature": temperature, "seed": seed}
        call = Call("complete", ([begun] * n,), options) if begun else Call("sample", (n,), options)
    return call, begun


def ask(system: Any, run: str, question: Mapping[str, Any]) -> dict[str, Any]:
    """Go on with what was drawn."""
    call, begun = call_of(system, question)
    found = call(system)
    x, length = np.asarray(found["x"], dtype=np.float64), np.asarray(found["length"])
    if begun and system.name != "sketch":  # what comes back there is the continuation alone
        x = np.concatenate([np.broadcast_to(np.asarray(begun), (len(x), len(begun), 3)), x], 1)
        length = length + len(begun)
    figures = given_nothing(len(x))
    if begun:
        weighed = _weighed(system)
        known = Call(
            "query",
            ({"x": Known(begun)},),
            {"num_samples": _tried(question) if weighed else 2, "seed": seed_of(question)},
            "evidence",
        )
        figures = trust(known(system)) | ({} if weighed else {"ess": float(len(x)), "num_samples": len(x)})
        call = dataclasses.replace(call, before=(known.line(),))
    return {
        "method": METHOD_LATENT if begun and _weighed(system) else METHOD,
        **figures,
        "python": call.text(run),
        "drawings": strokes.drawn(x, length),
        "origin": strokes.origin(question.get("strokes") or ()),
        "begun": strokes.drawn([begun], [len(begun)])[0] if begun else [],
    }


def _tried(question: Mapping[str, Any]) -> int:
    return whole(question, "tried", 64, 2, 4000)


def _weighed(system: Any) -> bool:
    """Whether a drawing hangs on a latent, which a beginning tells something of."""
    return bool(getattr(system.config, "latent", 0))
