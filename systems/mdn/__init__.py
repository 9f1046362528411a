"""Mixture density networks: the configuration, the class `MDN`, and what training, queries and reports need."""

from typing import TYPE_CHECKING

from phlogiston.lazy import lazy

if TYPE_CHECKING:
    from phlogiston.systems.mdn.system import MDN

__all__ = ["MDN"]
__getattr__ = lazy(__name__, {"MDN": "system"})
