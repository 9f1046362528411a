"""Training steps without data: what an accelerator must not be asked for is refused by tensors that hold no numbers.

Tensors on torch's device "meta" have a shape and a type, and nothing else. A step that runs on them makes no shape that
depends on data, reads no number back, branches on none and mixes in no tensor of the host: it can be queued up, and
captured as a CUDA graph. What torch lets pass, copies from the host to the device, is looked for.
"""

from __future__ import annotations

import contextlib
import copy
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from phlogiston.inference.svi.step import Stepper


class DeviceSteps:
    """While entered, repeats the second step of every stage without data.

    Args:
        graphs: capture the steps as CUDA graphs instead, and replay them.

    Attributes:
        faults: what was refused, by the name of the stage; an empty text where nothing was.
        gradients: parameters that got a gradient, by the name of the stage; None where the objective makes its own.
    """

    def __init__(self, graphs: bool = False) -> None:
        self.faults: dict[str, str] = {}
        self._rehearse = _capture if graphs else self._without_data
        self.gradients: dict[str, tuple[int, int] | None] = {}
        self._patch = pytest.MonkeyPatch()

    def __enter__(self) -> DeviceSteps:
        alone, autocast = Stepper._alone, torch.autocast

        def rehearsed(stepper: Stepper, rows: int) -> Any:
            stage = stepper.active.stage.name
            if stage not in self.faults and not stepper._validating:
                self.faults[stage] = self._rehearse(stepper, rows)
            return alone(stepper, rows)

        def any_device(kind: str, *args: Any, **options: Any) -> Any:
            return contextlib.nullcontext() if kind == "meta" else autocast(kind, *args, **options)

        self._patch.setattr(Stepper, "_alone", rehearsed)
        self._patch.setattr(torch, "autocast", any_device)  # which does not know this device
        return self

    def __exit__(self, *_: object) -> None:
        self._patch.undo()

    def _without_data(self, stepper: Stepper, rows: int) -> str:
        active = stepper.active
        tensors = [t for m in active.modules.values() for t in (*m.parameters(), *m.buffers())]
        objective = copy.deepcopy(active.bound.module, {id(t): empty(t) for t in tensors})
        batch = {name: empty(value) for name, value in stepper._batch.items()}
        copies = _Copies()
        try:
            with _disable_current_modes(), copies, stepper._in_force():  # what counts the fit's operations rests
                loss = objective(**batch)
                if not active.bound.own_backward:
                    (loss / rows).backward()
        except (RuntimeError, NotImplementedError) as error:
            frames = [Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)]
            ours = [path.name for path in frames if "site-packages" not in path.parts and path != Path(__file__)]
            return f"{error} in {ours[-1]}"
        trained = [p.grad is not None for p in objective.parameters() if p.requires_grad]
        stage = active.stage.name
        self.gradients[stage] = None if active.bound.own_backward else (sum(trained), len(trained))
        return "; ".join(copies.found)


def empty(value: Tensor) -> Any:
    """The same tensor without its numbers."""
    out = value.detach().to("meta")
    return nn.Parameter(out, requires_grad=value.requires_grad) if isinstance(value, nn.Parameter) else out


class _Copies(TorchDispatchMode):
    """Looks for tensors that come from the host: by a copy, or made there and used with those of the device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {t.device.type for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor) and t.dim()}
        made = {t.device.type for t in tree_leaves(out) if isinstance(t, Tensor) and t.dim()}
        lifted = str(func.overloadpacket) == "aten.lift_fresh" and made == {"meta"}
        if lifted or len(given | made) > 1:
            self.found[f"{func} from the host"] += 1
        return out


class _Step(nn.Module):
    """An objective as a function of tensors alone."""

    def __init__(self, objective: nn.Module, names: list[str]) -> None:
        super().__init__()
        self.objective, self.names = objective, names

    def forward(self, *values: Tensor) -> Tensor:
        out: Tensor = self.objective(**dict(zip(self.names, values, strict=True)))
        return out


def _capture(stepper: Stepper, rows: int) -> str:
    """Capture loss and gradient of a step and replay them; return what went wrong."""
    step = _Step(copy.deepcopy(stepper.active.bound.module), list(stepper._batch))
    values = tuple(stepper._batch.values())
    try:
        with stepper._in_force():
            graphed: Any = torch.cuda.make_graphed_callables(step, values, allow_unused_input=True)
            loss = graphed(*values)
        (loss / rows).backward()
    except RuntimeError as error:
        return str(error)
    gradients = [p.grad for p in step.parameters() if p.grad is not None]
    finite = all(bool(torch.isfinite(value).all()) for value in (loss, *gradients))
    return "" if gradients and finite else "loss or gradient are not finite"
