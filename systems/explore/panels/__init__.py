"""What can be asked of a system in the browser, one module a panel.

A panel is a module here with `describe(system, run)`, what the page must know to draw it, and
`ask(system, run, question)`, one answer; both return what JSON can hold. A script of the same name in `page/` draws it.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from phlogiston.errors import unknown_name

TITLES = {
    "table": "Columns",
    "poses": "Poses",
    "regression": "Regression",
    "digits": "Pictures",
    "drawing": "Drawing",
    "writing": "Writing",
    "objects": "Moving objects",
    "clips": "Who and what",
    "scene": "Scenes",
    "world": "Dream and game",
    "touch": "Touch music",
}

OF_SYSTEM = {
    "mdn": ("regression",),
    "sketch": ("drawing",),
    "handwriting": ("writing",),
    "sqair": ("objects",),
    "vdsm": ("clips",),
    "scene": ("scene",),
    "world": ("world",),
}


def panel(name: str) -> ModuleType:
    """A panel's module.

    Raises:
        UnknownNameError: no such panel.
    """
    if name not in TITLES:
        raise unknown_name("panel", name, TITLES)
    return importlib.import_module(f"phlogiston.systems.explore.panels.{name}")


def panels_for(system: str, schema: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the panels that can ask a system, the best one first.

    Args:
        system: its name.
        schema: what its run says of the data.
    """
    columns = tuple(schema.get("columns") or ())
    if system == "drmm":
        if "left_hand_x" in columns and "angle_torso" in columns:
            return "poses", "table"
        return ("digits",) if len(schema.get("image_shape") or ()) == 2 else ("table",)
    if system == "sequence":
        return (
            ("drawing",) if columns == ("dx", "dy", "pen") else ("touch",) if set(columns) == {"x", "y", "dt"} else ()
        )
    return OF_SYSTEM.get(system, ())
