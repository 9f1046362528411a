"""SketchRNN: the configuration, the class `Sketch`, and what training, queries and reports need."""

from typing import TYPE_CHECKING

from phlogiston.lazy import lazy

if TYPE_CHECKING:
    from phlogiston.systems.sketch.system import Sketch

__all__ = ["Sketch"]
__getattr__ = lazy(__name__, {"Sketch": "system"})
