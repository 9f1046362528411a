"""Variational disentangling state-space models: configuration, the class `VDSM`, training, queries and reports."""

from typing import TYPE_CHECKING

from phlogiston.lazy import lazy

if TYPE_CHECKING:
    from phlogiston.systems.vdsm.system import VDSM

__all__ = ["VDSM"]
__getattr__ = lazy(__name__, {"VDSM": "system"})
