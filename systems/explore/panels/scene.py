"""Scenes: photographs go into a memory one by one, and the view from a camera that is dragged comes out.

A question is `{"scene": row, "on": [photograph, ...], "camera": [x, y, yaw], "at": photograph or null, "seed": s}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from phlogiston.errors import ConfigError
from phlogiston.systems.explore.calls import Call, Named
from phlogiston.systems.explore.panels.common import number, numbers, seed_of, unweighed
from phlogiston.systems.explore.panels.rows import SHOWN, bytes_of, held_out

PAINTED = 8
WEIGHED = 16  # latents that say how probable a photograph is
METHOD = f"{PAINTED} views painted from the memory of the photographs"
WHY = "photographs are read into the memory by a network, not weighed by a likelihood"


def describe(system: Any, run: str) -> dict[str, Any]:
    """Held-out scenes with their photographs, cameras and maps."""
    rows = held_out(run)
    some = rows.split[: min(SHOWN, len(rows.split))]
    poses = some["poses"]
    low, side = system.config.corner, system.config.tile
    inside = bool(((poses[..., :2] >= low) & (poses[..., :2] <= low + side)).all())
    if not inside:
        low = float(poses[..., :2].min()) - 0.1
        side = float(poses[..., :2].max()) + 0.1 - low
    shown = some["images"].movedim(-1, -3)
    return {
        "scenes": len(poses),
        "photographs": bytes_of(shown),
        "poses": numbers(poses[..., [0, 1, 3]], 4),
        "map": bytes_of(some["map"].movedim(-1, -3)) if inside and "map" in some else None,
        "low": low,
        "side": side,
    }


def ask(system: Any, run: str, question: Mapping[str, Any]) -> dict[str, Any]:
    """Paint what the camera sees."""
    rows = held_out(run)
    k = rows.chosen(question, "scene")
    scene = rows.split[k : k + 1]
    images, poses = scene["images"][0], scene["poses"][0]
    on = sorted({_photograph(v, len(poses)) for v in question.get("on") or ()})
    at = question.get("at")
    if at is not None:
        pose = [float(v) for v in poses[_photograph(at, len(poses))]]
    else:
        x, y, yaw = _three(question.get("camera"))
        pose = [round(x, 4), round(y, 4), float(poses[0, 2]), round(yaw, 4), *[0.0] * (poses.shape[1] - 4)]
    memory = system.observe(images[on], poses[on]) if on else system.observe()
    bound = None
    lines: tuple[str, ...] = (
        rows.line,
        f"scene = {rows.text}[{k}:{k + 1}]",
        f'memory = system.observe(scene["images"][0][{on}], scene["poses"][0][{on}])' if on
        else "memory = system.observe()",
    )  # fmt: skip
    if at is not None and int(at) not in on:
        given = {"images": images[[int(at)]], "poses": poses[[int(at)]]}
        text = f'{{"images": scene["images"][0][[{at}]], "poses": scene["poses"][0][[{at}]]}}'
        options = {"memory": Named("memory", memory), "num_particles": WEIGHED}
        score = Call("log_prob", (Named(text, given),), options, "score")
        bound, lines = score(system), (*lines, score.line())
    call = Call(
        "sample_views", (Named("memory", memory), [pose], PAINTED), {"seed": seed_of(question)}, before=lines
    )  # fmt: skip
    with torch.no_grad():
        views = call(system)[:, 0].clamp(0, 1)
    mean, spread = views.mean(0), views.std(0).mean(0, keepdim=True)
    truth = None if at is None else images[int(at)].movedim(-1, -3)
    error = None if truth is None else number((mean - truth / 255).square().mean())
    return {
        "method": METHOD,
        **unweighed(PAINTED, WHY),
        "bound": None if bound is None else number(bound.value[0]),
        "bound_error": None if bound is None else number(bound.std_error[0]),
        "python": call.text(run),
        "view": bytes_of(mean),
        "spread": bytes_of(spread / spread.max().clamp_min(1e-6)),
        "largest_sd": number(spread.max()),
        "truth": None if truth is None else bytes_of(truth),
        "squared_error": error,
        "camera": [pose[0], pose[1], pose[3]],
    }


def _photograph(value: Any, count: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < count:
        raise ConfigError(f"there is no photograph {value!r}; there are 0 to {count - 1}")
    return value


def _three(camera: Any) -> tuple[float, float, float]:
    values = np.asarray(camera if camera is not None else [0.0, 0.0, 0.0], dtype=np.float64)
    if values.shape != (3,) or not np.isfinite(values).all():
        raise ConfigError(f"camera must be x, y and yaw; got {camera!r}")
    return float(values[0]), float(values[1]), float(values[2])
