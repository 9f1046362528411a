"""Names of a package that are loaded when they are first used, so that importing the package costs nothing."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazy(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a module-level `__getattr__` (PEP 562).

    Args:
        package: `__name__` of the package.
        homes: exported name -> module that defines it, relative to `package`. A name that is a module itself has the
            package that holds it, with a dot at the end: `"."`, `"svi."`.

    Example:
        >>> load = lazy("phlogiston", {"PhlogistonError": "errors"})
        >>> load("PhlogistonError").__name__
        'PhlogistonError'
    """

    def __getattr__(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        home = homes[name]
        if home.endswith("."):
            return importlib.import_module(f"{package}.{home.lstrip('.')}{name}")
        return getattr(importlib.import_module(f"{package}.{home}"), name)

    return __getattr__
