"""Sequential attend-infer-repeat: the configuration, the class `SQAIR`, and what training, queries and reports need."""

from typing import TYPE_CHECKING

from phlogiston.lazy import lazy

if TYPE_CHECKING:
    from phlogiston.systems.sqair.system import SQAIR

__all__ = ["SQAIR"]
__getattr__ = lazy(__name__, {"SQAIR": "system"})
