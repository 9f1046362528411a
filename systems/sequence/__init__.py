"""Recurrent mixture density networks: configuration, the class `SequenceModel`, training, queries and reports."""

from typing import TYPE_CHECKING

from phlogiston.lazy import lazy

if TYPE_CHECKING:
    from phlogiston.systems.sequence.system import SequenceModel

__all__ = ["SequenceModel"]
__getattr__ = lazy(__name__, {"SequenceModel": "system"})
