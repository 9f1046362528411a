"""Held-out rows of the data a run was trained on, with the Python that names them; pictures on the way to the page."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from phlogiston import datasets
from phlogiston.datasets.base import PARTS, Split
from phlogiston.errors import ConfigError
from phlogiston.systems import registry
from phlogiston.systems.explore.calls import literal
from phlogiston.systems.explore.panels.common import whole
from phlogiston.systems.hub.fetch import local_folder
from phlogiston.systems.run_data import data_of

SHOWN = 12
MADE = {"sizes": 48, "characters": 5}
"""Options of generated data that say how many rows are made, of which held-out ones so many are enough for a page."""


@dataclass(frozen=True)
class Rows:
    """Rows to choose from.

    Attributes:
        split: all held-out rows.
        text: what a program calls the split.
        line: that loads the data in a program.
    """

    split: Split
    text: str
    line: str

    def chosen(self, question: Any, name: str) -> int:
        """The row that a question names."""
        return whole(question, name, 0, 0, min(len(self.split), SHOWN) - 1)


@lru_cache(maxsize=4)
def held_out(run: str) -> Rows:
    """The held-out rows of a run's data.

    Raises:
        ConfigError: the run does not say what it was trained on.
    """
    folder = local_folder(run)
    content = registry.read_config(folder)
    own = content.get("config", content)
    said = own.get("data") or {}
    fewer = _fewer(said.get("name"), said.get("options") or {})
    if fewer:
        data = datasets.load(said["name"], **{**said["options"], **fewer})
    else:
        data = data_of(folder, None, {}, own.get("schema") or {})
    options = "".join(f", {name}={literal(value)}" for name, value in (said.get("options") or {}).items())
    for name in ("test", "valid", "train"):
        split = getattr(data, name)
        if split is not None and len(split):
            return Rows(split, f"data.{name}", f"data = ph.datasets.load({said['name']!r}{options})")
    raise ConfigError(f"the data of {run} have no rows")


def _fewer(name: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options with which generated data have the same held-out rows, and fewer of them; {} for other data.

    A row does not depend on how many are made, and making thousands to train on takes seconds.
    """
    if not isinstance(name, str) or name not in datasets.names() or datasets.info(name).kind != "built in":
        return {}
    for option, most in MADE.items():
        sizes = options.get(option)
        if isinstance(sizes, list | tuple) and len(sizes) == len(PARTS):
            kept = max((i for i, size in enumerate(sizes) if size), default=0)
            return {option: [min(size, most if i == kept else 1) for i, size in enumerate(sizes)]}
    return {}


def bytes_of(pictures: Any) -> dict[str, Any]:
    """Pictures (..., C, H, W) in [0, 1], or bytes, as the page takes them: shape, and base64 of (..., H, W, C)."""
    array = np.asarray(pictures.detach().cpu() if hasattr(pictures, "detach") else pictures)
    if array.dtype != np.uint8:
        array = np.round(255 * np.clip(np.nan_to_num(array), 0, 1)).astype(np.uint8)
    array = np.ascontiguousarray(np.moveaxis(array, -3, -1))
    return {"shape": list(array.shape), "data": base64.b64encode(array.tobytes()).decode()}
