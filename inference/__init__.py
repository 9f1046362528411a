"""Inference: one engine that trains any pair of model and guide, and the questions one may ask a trained pair.

    fit, Stage, History       engine       objectives, handlers, schedules       what to minimise, and its annealing
    checkpoints, runs         what a run leaves on disk                          callbacks, policy, parallel

Names are loaded on first use, so that importing this package is cheap.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "fit": "engine",
    "Stage": "stages",
    "History": "history",
    "State": "callbacks",
    "EarlyStopping": "callbacks",
    "load_parameters": "checkpoints",
    "make_fabric": "parallel",
    "scale_sites": "handlers",
    "per_datum": "handlers",
    "weight_depths": "handlers",
}

__all__ = sorted(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
