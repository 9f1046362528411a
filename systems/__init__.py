"""A pair becomes a product here: one file per system, found by scanning `configs/`.

    names()         every system              summary(name)    one line about it, and its paper
    config(name)    its configuration class   presets(name)    its named presets
    get(name)       the class itself          load(run)        a trained system from its run folder

Listing and configuring load no torch; `get` and `load` do. A new system is two new files, `configs/<name>.py` and
`<name>.py`: nothing else needs to know.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from phlogiston.errors import RunError, unknown_name

if TYPE_CHECKING:
    from phlogiston.systems.base import System


def names() -> tuple[str, ...]:
    """Every system's name, sorted."""
    package = importlib.import_module("phlogiston.systems.configs")
    return tuple(sorted(module.name for module in pkgutil.iter_modules(package.__path__)))


def _configuration(name: str) -> ModuleType:
    if name not in names():
        raise unknown_name("system", name, names())
    return importlib.import_module(f"phlogiston.systems.configs.{name}")


def summary(name: str) -> str:
    """One line about a system."""
    return str(_configuration(name).SUMMARY)


def paper(name: str) -> str:
    """The paper a system comes from."""
    return str(_configuration(name).PAPER)


def config(name: str) -> type[Any]:
    """A system's configuration: a frozen dataclass with every field documented."""
    return _configuration(name).Config


def presets(name: str) -> dict[str, dict[str, Any]]:
    """A system's named presets: the options each one sets."""
    return dict(_configuration(name).PRESETS)


def get(name: str) -> type[System]:
    """A system's class.

    Raises:
        UnknownNameError: no such system.
    """
    _configuration(name)
    module = importlib.import_module(f"phlogiston.systems.{name}")
    from phlogiston.systems.base import System

    found = [c for c in vars(module).values() if isinstance(c, type) and issubclass(c, System) and c.name == name]
    if len(found) != 1:
        raise TypeError(f"systems/{name}.py must define exactly one System with name = {name!r}; found {found}")
    return found[0]


def read_config(run: str | Path) -> dict[str, Any]:
    """The `config.json` of a run folder or a saved system.

    Raises:
        RunError: there is no readable `config.json`.
    """
    path = Path(run) / "config.json"
    if not path.is_file():
        raise RunError(f"{run} is not a run folder: it has no config.json. A run is what `phlogiston train` leaves.")
    try:
        content = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RunError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise RunError(f"{path} is damaged: expected a JSON object")
    return content


def load(run: str | Path) -> System:
    """Load a trained system from a run folder or from what `System.save` wrote.

    Raises:
        RunError: not a run folder, or one of something else.
        CheckpointError: its parameters are truncated, altered or do not fit.
    """
    from phlogiston.systems.base import identify

    return get(identify(read_config(run), run)).load(run)
