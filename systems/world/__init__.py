"""World models: the configuration, the class `WorldModel`, and what training, queries and reports need."""

from typing import TYPE_CHECKING

from phlogiston.lazy import lazy

if TYPE_CHECKING:
    from phlogiston.systems.world.system import WorldModel

__all__ = ["WorldModel"]
__getattr__ = lazy(__name__, {"WorldModel": "system"})
