"""Scene rendering with a spatial memory: configuration, the class `Scene`, training, queries and reports."""

from typing import TYPE_CHECKING

from phlogiston.lazy import lazy

if TYPE_CHECKING:
    from phlogiston.systems.scene.system import Scene

__all__ = ["Scene"]
__getattr__ = lazy(__name__, {"Scene": "system"})
