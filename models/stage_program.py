"""What the programs of single training stages have in common: they use the parts of a whole one."""

from __future__ import annotations

from typing import Generic, TypeVar

from torch import nn

Whole = TypeVar("Whole", bound=nn.Module)


class StageProgram(nn.Module, Generic[Whole]):
    """A model or guide of one training stage.

    Args:
        whole: the model or guide whose parts it uses.
    """

    whole: Whole

    def __init__(self, whole: Whole) -> None:
        super().__init__()
        self.whole = whole
