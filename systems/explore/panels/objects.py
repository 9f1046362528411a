"""Moving objects: a video with boxes and identities; one is removed, moved or frozen, and the scene rolled forward.

A question is `{"video": row, "remove": identity or null, "move": [identity, right, down] or null,
"freeze": [identity, frame] or null, "roll": frames, "seed": s}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from phlogiston.errors import ConfigError
from phlogiston.systems.explore.calls import Call, Named
from phlogiston.systems.explore.panels.common import number, numbers, seed_of, whole
from phlogiston.systems.explore.panels.rows import SHOWN, bytes_of, held_out

GUESSES = 8
WHY = f"{GUESSES} guesses are too few to tell it"


def describe(system: Any, run: str) -> dict[str, Any]:
    """Held-out videos to choose from."""
    rows = held_out(run)
    return {"videos": min(SHOWN, len(rows.split)), "slots": int(system.model.slots)}


def call_of(run: str, question: Mapping[str, Any]) -> Call:
    """The call that a question is: finding objects, going on, or changing one.

    Raises:
        ConfigError: a change that is none.
    """
    rows, seed = held_out(run), seed_of(question)
    k, roll = rows.chosen(question, "video"), whole(question, "roll", 0, 0, 60)
    video = Named(f'{rows.text}[{k}:{k + 1}]["x"]', rows.split[k : k + 1]["x"])
    remove, move, freeze = question.get("remove"), question.get("move"), question.get("freeze")
    options: dict[str, Any] = {"num_particles": GUESSES, "seed": seed}
    if remove is not None:
        options = {"remove": whole(question, "remove", 0, 0, 10_000), "propagate": roll, **options}
    elif move is not None:
        if len(move) != 3 or not all(isinstance(v, int | float) for v in move):
            raise ConfigError("move must be an identity, and pixels to the right and down")
        options = {"move": (int(move[0]), float(move[1]), float(move[2])), "propagate": roll, **options}
    elif freeze is not None:
        if len(freeze) != 2 or not all(isinstance(v, int) and not isinstance(v, bool) and v >= 0 for v in freeze):
            raise ConfigError("freeze must be an identity, and the frame from which on it is held")
        options = {"freeze": freeze[0], "first": freeze[1], "propagate": roll, **options}
    elif roll:
        return Call("predict", (video, roll, 1), options, before=(rows.line,))
    else:
        return Call("infer", (video,), options, before=(rows.line,))
    return Call("edit", (video,), options, before=(rows.line,))


def ask(system: Any, run: str, question: Mapping[str, Any]) -> dict[str, Any]:
    """Find the objects of a video, and what becomes of them."""
    call = call_of(run, question)
    video = call.positional[0].value
    found = system.infer(video, num_particles=GUESSES, seed=seed_of(question))
    changed = found if call.method == "infer" else call(system)
    ahead = None
    if call.method == "edit":
        shown, boxes, ids = changed["x"][0], changed["boxes"][0], changed["ids"][0]
    else:
        shown, boxes, ids = found["canvas"][0], found["boxes"][0], found["ids"][0]
    if call.method == "predict":
        ahead = {"boxes": changed["boxes"][0, 0], "ids": changed["ids"][0, 0]}
        shown = torch.cat([shown, changed["x"][0, 0]])
    log_weights = found["log_weights"][:, 0]
    evidence = torch.logsumexp(log_weights, 0) - np.log(len(log_weights))
    known = sorted({int(i) for i in found["ids"].flatten() if int(i) >= 0})
    return {
        "method": f"{call.method}: the guide's guesses, weighed",
        "python": call.text(run),
        "ess": number(found["ess"][0]),
        "num_samples": GUESSES,
        "log_evidence": number(evidence),
        "log_evidence_error": None,
        "why_no_error": WHY,
        "video": bytes_of(system.videos(video)[0]),
        "found": _boxes(found["boxes"][0], found["ids"][0]),
        "model": bytes_of(shown),
        "boxes": _boxes(boxes, ids) + ([] if ahead is None else _boxes(**ahead)),
        "identities": known,
    }


def _boxes(boxes: torch.Tensor, ids: torch.Tensor) -> list[list[list[float]]]:
    """Boxes of every frame: identity, x, y, width, height of what is there."""
    return [
        [[int(i), *numbers(box, 2)] for box, i in zip(frame, names, strict=True) if int(i) >= 0]
        for frame, names in zip(boxes, ids, strict=True)
    ]
