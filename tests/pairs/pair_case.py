"""What a pair of the collection consists of, and Pyro's own way to train it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyro
import torch
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO
from pyro.nn import PyroModule
from torch import Tensor, nn


@dataclass
class Case:
    """A pair with its data, its recipe and what is known about its answer.

    Attributes:
        make: makes a fresh pair; the guide may be None.
        data: the rows.
        truth: checks a trained pair against a closed form, a sum or a quadrature; None where there is none.
        objective: for `Stage`.
        steps: training steps.
        rate: learning rate.
        batch_size: rows per step.
        elbo: what Pyro's SVI trains with; None where the truth is enough.
        margin: nats per row by which fit may end above SVI.
        decay: whether the learning rate goes down to a hundredth (with fit alone).
    """

    make: Callable[[], tuple[nn.Module, Any]]
    data: dict[str, Tensor]
    truth: Callable[[Any, Any], None] | None = None
    objective: Any = "elbo"
    steps: int = 200
    rate: float = 0.02
    batch_size: int = 1000
    elbo: Callable[[], Any] | None = None
    margin: float = 0.05
    decay: bool = False
    kept: dict[str, Any] = field(default_factory=dict)

    def pair(self, seed: int = 0) -> tuple[Any, Any]:
        """Make the pair, with its first parameters drawn from `seed`."""
        pyro.clear_param_store()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return self.make()


def train_with_svi(case: Case) -> tuple[Any, Any]:
    """Train a fresh pair by Pyro's SVI with as many steps on all rows and the same learning rate."""
    assert case.elbo is not None
    model, guide = case.pair()
    pyro.clear_param_store()
    adam = pyro.optim.Adam({"lr": case.rate})
    svi = SVI(_shown("model", model), _shown("guide", guide), adam, case.elbo())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(case.steps):
            svi.step(**case.data)
    return model, guide


def _shown(name: str, module: Any) -> Any:
    """Show Pyro the parameters of a plain module."""
    if module is None:
        return lambda **batch: None
    if isinstance(module, PyroModule):
        return module

    def program(**batch: Tensor) -> Any:
        pyro.module(name, module)
        return module(**batch)

    return program


@torch.no_grad()
def loss_of(case: Case, model: Any, guide: Any, draws: int = 40) -> float:
    """Return the loss per row of a trained pair, by Pyro's own bound over fixed draws."""
    elbo = TraceEnum_ELBO(max_plate_nesting=1) if case.objective == "enum" else Trace_ELBO()
    rows = len(next(iter(case.data.values())))
    program = (lambda **batch: None) if guide is None else guide
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return sum(elbo.loss(model, program, **case.data) for _ in range(draws)) / draws / rows
