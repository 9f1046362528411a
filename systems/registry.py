"""Which systems there are: the folders beside this file, packages that announce themselves, and what was registered.

A system is a package with two modules: `config`, which describes it (`SUMMARY`, `PAPER`, `Config`, `PRESETS`) and loads
no torch, and `system`, which defines one subclass of `System`. Three kinds of packages are known:

- every folder `systems/<name>/` of phlogiston itself;
- installed packages with an entry point in the group `phlogiston.systems` (`vae = "my_package.vae"`);
- packages passed to `register` in this process.
"""

from __future__ import annotations

import importlib
import warnings
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from phlogiston.errors import ConfigError, PluginWarning, RunError, unknown_name
from phlogiston.files import FORMAT, identify, read_json

if TYPE_CHECKING:
    from phlogiston.systems.base import System

GROUP = "phlogiston.systems"
_FOLDER = Path(__file__).parent
_registered: dict[str, str] = {}


@cache
def _own() -> dict[str, str]:
    folders = sorted(path.parent.name for path in _FOLDER.glob("*/config.py"))
    return {name: f"phlogiston.systems.{name}" for name in folders}


@cache
def _installed() -> dict[str, str]:
    """Plug-ins that can be used: name -> package. A package that cannot be imported is reported and left out."""
    packages: dict[str, str] = {}
    points: list[EntryPoint] = sorted(entry_points(group=GROUP))
    for point in points:
        if point.name in _own() or point.name in packages:
            _report(point, f"the name {point.name!r} is taken already")
            continue
        try:
            _check_description(point.name, importlib.import_module(f"{point.value}.config"))
        except Exception as error:  # a plug-in may fail in any way; the other systems must go on working
            _report(point, f"{type(error).__name__}: {error}")
            continue
        packages[point.name] = point.value
    return packages


def _report(point: EntryPoint, reason: str) -> None:
    owner = point.dist.name if point.dist is not None else "an installed package"
    warnings.warn(
        f"the system {point.name!r} of {owner} is left out: {point.value} cannot be used ({reason})",
        PluginWarning,
        stacklevel=4,
    )


def _check_description(name: str, module: ModuleType) -> None:
    lacking = [attribute for attribute in ("SUMMARY", "PAPER", "Config", "PRESETS") if not hasattr(module, attribute)]
    if lacking:
        raise ConfigError(f"system {name!r}: {module.__name__} does not define {', '.join(lacking)}")


def _packages() -> dict[str, str]:
    return {**_installed(), **_own(), **_registered}


def register(package: str, name: str | None = None) -> None:
    """Make a system of a package of yours known in this process.

    Args:
        package: dotted name of a package with the modules `config` and `system`.
        name: what the system is called; the last part of `package` if not given.

    Raises:
        ConfigError: the package cannot be imported, lacks a part, or its name belongs to another system.
    """
    name = name or package.rsplit(".", 1)[-1]
    owner = _packages().get(name, package)
    if owner != package:
        raise ConfigError(f"name={name!r}: this name belongs to {owner}; choose another one")
    try:
        module = importlib.import_module(f"{package}.config")
    except ImportError as error:
        raise ConfigError(f"package={package!r}: {package}.config cannot be imported ({error})") from error
    _check_description(name, module)
    _registered[name] = package


def names() -> tuple[str, ...]:
    """Every system's name, sorted."""
    return tuple(sorted(_packages()))


def _package(name: str) -> str:
    if name not in _packages():
        raise unknown_name("system", name, names())
    return _packages()[name]


def _description(name: str) -> ModuleType:
    return importlib.import_module(f"{_package(name)}.config")


def summary(name: str) -> str:
    """One line about a system."""
    return str(_description(name).SUMMARY)


def paper(name: str) -> str:
    """The paper a system comes from."""
    return str(_description(name).PAPER)


def config(name: str) -> type[Any]:
    """A system's configuration: a frozen dataclass with every field documented."""
    return _description(name).Config


def presets(name: str) -> dict[str, dict[str, Any]]:
    """A system's named presets: the options each one sets."""
    return dict(_description(name).PRESETS)


def get(name: str) -> type[System]:
    """A system's class.

    Raises:
        UnknownNameError: no such system.
        ConfigError: the module `system` of its package does not define exactly one class of that name.
    """
    module = importlib.import_module(f"{_package(name)}.system")
    from phlogiston.systems.base import System

    classes = [c for c in vars(module).values() if isinstance(c, type) and issubclass(c, System) and c.name == name]
    if len(classes) != 1:
        raise ConfigError(
            f"{module.__name__} must define exactly one subclass of System with name = {name!r}; it defines {classes}"
        )
    return classes[0]


def read_config(run: str | Path) -> dict[str, Any]:
    """The `config.json` of a run folder or a saved system.

    Raises:
        RunError: there is no readable `config.json`.
    """
    path = Path(run) / "config.json"
    if not path.is_file():
        raise RunError(f"{run} is not a run folder: it has no config.json. A run is what `phlogiston train` leaves.")
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise RunError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise RunError(f"{path} is damaged: expected a JSON object")
    if content.get("format", FORMAT) != FORMAT:
        raise RunError(f"{path} has format {content['format']!r}; this version of phlogiston reads {FORMAT}")
    own = content.get("config", content)
    parts = [own, *(own.get(key) or {} for key in ("options", "schema", "data"))] if isinstance(own, dict) else [own]
    if not all(isinstance(part, dict) for part in parts):
        raise RunError(f"{path} is damaged: its config, options, schema and data must be objects")
    return content


def load(run: str | Path) -> System:
    """Load a trained system from a run folder, from what `System.save` wrote, or from a hub.

    Args:
        run: a folder, or the address of what `System.push_to_hub` published: hf://user/name, or
            hf://user/name@revision with a commit, a branch or a tag. It is fetched into the cache, once per commit, and
            checked against its checksums whenever it is loaded; the extra phlogiston[hub] is needed.

    Raises:
        ConfigError: no such address can be, or huggingface_hub is not installed.
        RunError: not a run folder, or one of something else; a hub that cannot be reached.
        CheckpointError: its parameters are truncated, altered or do not fit, or a file is not the one published.
    """
    from phlogiston.systems.hub.fetch import local_folder

    run = local_folder(run)
    return get(identify(read_config(run), run)).load(run)
