"""Deep residual mixture models: the configuration, the class `DRMM`, and what training, queries and reports need."""

from typing import TYPE_CHECKING

from phlogiston.lazy import lazy

if TYPE_CHECKING:
    from phlogiston.systems.drmm.system import DRMM

__all__ = ["DRMM"]
__getattr__ = lazy(__name__, {"DRMM": "system"})
