"""Handwriting synthesis: configuration, the class `HandwritingModel`, and what training, queries and reports need."""

from typing import TYPE_CHECKING

from phlogiston.lazy import lazy

if TYPE_CHECKING:
    from phlogiston.systems.handwriting.system import HandwritingModel

__all__ = ["HandwritingModel"]
__getattr__ = lazy(__name__, {"HandwritingModel": "system"})
