"""When numbers stop being numbers: what to do about a non-finite step, and which site broke first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

IN_A_ROW = 3
"""This many bad steps in a row go back to the last good state."""

IN_A_WINDOW = 20
"""This many bad steps without a checkpoint interval free of them end the run."""

SLOWER = 0.5
"""Factor on the learning rate at each return to the last good state."""


@dataclass
class Policy:
    """Counts bad steps and says what follows from them.

    Attributes:
        streak: bad steps in a row.
        window: bad steps since the last checkpoint interval that had none.
        interval: bad steps since the last checkpoint.
        skipped: bad steps so far.
        rollbacks: returns to a good state so far.
        factor: factor on the learning rate, halved at each return.
    """

    streak: int = 0
    window: int = 0
    interval: int = 0
    skipped: int = 0
    rollbacks: int = 0
    factor: float = 1.0

    def bad(self) -> Literal["skip", "rollback", "stop"]:
        """Count a bad step and return what to do."""
        self.streak += 1
        self.window += 1
        self.interval += 1
        self.skipped += 1
        if self.window >= IN_A_WINDOW:
            return "stop"
        if self.streak >= IN_A_ROW:
            self.streak = 0
            self.rollbacks += 1
            self.factor *= SLOWER
            return "rollback"
        return "skip"

    def unsound(self) -> Literal["rollback", "stop"]:
        """Count a step whose update left parameters that are not finite, and return what to do."""
        self.streak = IN_A_ROW - 1
        self.window += IN_A_ROW - 1
        return "stop" if self.bad() == "stop" else "rollback"

    def good(self) -> None:
        """Count a good step."""
        self.streak = 0

    def checkpoint(self) -> None:
        """Note that a checkpoint was taken: an interval without bad steps clears the record."""
        if self.interval == 0:
            self.window = 0
        self.interval = 0


def _bad(value: Any) -> str | None:
    """Return `"NaN"` or `"infinite"` if a tensor holds such an entry, else None."""
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.numel() == 0:
        return None
    if torch.isnan(value).any():
        return "NaN"
    return "infinite" if torch.isinf(value).any() else None


class _FirstBad(Messenger):
    """Remembers the first site at which something is not finite, in the order the program runs."""

    def __init__(self, program: str) -> None:
        super().__init__()
        self.program = program
        self.found: str | None = None

    def _note(self, site: str, what: str, kind: str) -> None:
        if self.found is None:
            self.found = f"site {site!r} of the {self.program}: {what} is {kind}"

    def _pyro_sample(self, msg: Any) -> None:
        # before the site is sampled: with NaN parameters sampling itself may raise
        fn = msg["fn"]
        while hasattr(fn, "base_dist") and not getattr(fn, "arg_constraints", None):
            fn = fn.base_dist
        for name in getattr(fn, "arg_constraints", {}):
            kind = _bad(fn.__dict__.get(name, None))
            if kind:
                self._note(msg["name"], f"its parameter {name!r}", kind)

    def _pyro_post_sample(self, msg: Any) -> None:
        if self.found is not None:
            return
        kind = _bad(msg["value"])
        if kind:
            self._note(msg["name"], "the observed value" if msg["is_observed"] else "its value", kind)
            return
        if hasattr(msg["fn"], "log_prob") and type(msg["fn"]).__name__ != "_Subsample":
            kind = _bad(msg["fn"].log_prob(msg["value"]))
            if kind:
                self._note(msg["name"], "its log_prob", kind)


def first_bad_site(model: nn.Module, guide: nn.Module, batch: dict[str, Tensor]) -> str | None:
    """Run the pair once and name the first site that is not finite, and the statistic that is not.

    The guide runs first, then the model on the guide's values; at each site the distribution's parameters are checked
    first, then the value, then the log-density.

    Returns:
        A phrase such as "site 'z' of the guide: its parameter 'loc' is NaN", or None if all is finite.
    """
    with torch.no_grad(), pyro.validation_enabled(False):
        in_guide, in_model = _FirstBad("guide"), _FirstBad("model")
        try:
            with in_guide:
                trace = poutine.trace(guide).get_trace(**batch)
            if in_guide.found:
                return in_guide.found
            with in_model:
                poutine.replay(model, trace=trace)(**batch)
        except (ValueError, RuntimeError):  # the failure being looked for, or one the caller already holds
            pass
        return in_guide.found or in_model.found


def first_bad_gradient(named: dict[str, nn.Parameter]) -> str | None:
    """Name the first parameter that, or whose gradient, is not finite; None if there is none."""
    for name, parameter in named.items():
        kind = _bad(parameter.detach())
        if kind:
            return f"the parameter {name!r} is {kind}"
    for name, parameter in named.items():
        kind = _bad(parameter.grad)
        if kind:
            return f"the gradient of {name!r} is {kind}"
    return None
