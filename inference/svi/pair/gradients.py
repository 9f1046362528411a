"""Whether every trainable parameter gets a gradient: judged over a window of steps, once per stage.

One batch is not enough. A semi-supervised model trains its classifier only on batches with a labelled row, and
a batch without one is no fault.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import nn

from phlogiston.errors import TrainingError

_LEAST, _MOST = 100, 1000  # steps; in between, one pass over the data


class Received:
    """Which trainable parameters of a stage have got a gradient so far.

    Args:
        where: the stage, for error messages.
        parameters: its trainable parameters by name.
        per_epoch: steps in one pass over the data.
    """

    def __init__(self, where: str, parameters: Mapping[str, nn.Parameter], per_epoch: int) -> None:
        self._where = where
        self._parameters = parameters
        self._window = min(max(_LEAST, per_epoch), _MOST)
        self._steps = 0
        self._lacking = list(parameters)

    def note(self) -> None:
        """Record the gradients of one finite step.

        Raises:
            TrainingError: at the end of the window, naming the parameters that got none.
        """
        if not self._lacking:
            return
        self._steps += 1
        self._lacking = [name for name in self._lacking if self._parameters[name].grad is None]
        if self._steps >= self._window:
            self.finish()

    def finish(self) -> None:
        """Judge what was seen so far: the window or the stage is over.

        Raises:
            TrainingError: naming the parameters that got no gradient.
        """
        if not self._lacking or not self._steps:
            return
        shown = ", ".join(self._lacking[:8]) + (" ..." if len(self._lacking) > 8 else "")
        every = len(self._lacking) == len(self._parameters)
        raise TrainingError(
            f"{self._where}: {'the loss depends on no trainable parameter; ' if every else ''}{len(self._lacking)} "
            f"trainable parameters got no gradient in {self._steps} steps: {shown}. Usual causes: the module is never "
            "called in forward; its output is detached, or sampled without reparameterisation under an objective that "
            "needs it; or this stage should not train it (Stage(trainable=...))."
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run must know, as JSON-able data."""
        return {"steps": self._steps, "lacking": self._lacking}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from an earlier state of the same stage."""
        lacking: Collection[str] = set(state["lacking"])
        self._steps = int(state["steps"])
        self._lacking = [name for name in self._parameters if name in lacking]
