"""Poses: a figure whose hands, feet and head are dragged. A target is two columns fixed; the rest is the table's panel.

What is drawn are samples of the answer, brought exactly to their targets by `Kinematics.refine`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from phlogiston.datasets.generated import poses
from phlogiston.errors import EvidenceError
from phlogiston.systems.drmm.kinematics import PARAMETERS, Kinematics
from phlogiston.systems.explore.panels import table
from phlogiston.systems.explore.panels.common import numbers

DRAWN = 14
ROUNDS = 12


def describe(system: Any, run: str) -> dict[str, Any]:
    """The table's description, and how a figure is put together."""
    bones = [[poses.NAMES.index(j.parent), i] for i, j in enumerate(poses.JOINTS) if j.parent]
    return {
        **table.describe(system, run),
        "bones": bones,
        "handles": list(poses.EFFECTORS),
        "joints": list(poses.NAMES),
    }


def ask(system: Any, run: str, question: Mapping[str, Any]) -> dict[str, Any]:
    """Answer a question and draw some poses of the answer."""
    targets = _targets(question)
    asked = dict(question)
    asked["columns"] = {**(question.get("columns") or {})}
    for name, (x, y) in targets.items():
        asked["columns"] |= {f"{name}_x": {"fix": x}, f"{name}_y": {"fix": y}}
    call = table.call_of(system, asked)
    answer = call(system)
    rows = torch.from_numpy(table.equal_rows(answer.weights.numpy(), DRAWN))
    drawn = answer.samples["x"][rows].numpy()
    if targets:
        solver = Kinematics(system)
        drawn = solver.refine(drawn, solver.covariances(answer.details["codes"][rows]), targets, rounds=ROUNDS)
    joints = poses.forward_kinematics(drawn[:, :2], drawn[:, 2:PARAMETERS])
    first = {name: poses.NAMES.index(name) for name in targets}
    missed = [np.linalg.norm(joints[:, first[n]] - np.asarray(t), axis=-1) for n, t in targets.items()]
    return {
        **table.content(system, answer, asked, call, run),
        "figures": numbers(joints, 4),
        "missed": float(np.mean(missed)) if missed else 0.0,
    }


def _targets(question: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    targets = {}
    for name, place in (question.get("targets") or {}).items():
        if name not in poses.EFFECTORS or len(place) != 2:
            raise EvidenceError(f"target {name!r}: expected one of {', '.join(poses.EFFECTORS)}, and two numbers")
        targets[name] = (float(place[0]), float(place[1]))
    return targets
