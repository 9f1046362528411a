"""Parameters with an entry for each data point: indexed by position in a batch they learn nonsense, so refuse them.

In full batch, without validation rows, position and row are one. Under minibatches a program must say which entry it
means: if its `forward` names an argument `row_index`, the engine gives it the batch's row numbers.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoCallable, AutoGuide, AutoGuideList
from torch import Tensor, nn

from phlogiston.errors import ConfigError
from phlogiston.inference.svi.handlers import DATA_PLATE
from phlogiston.inference.svi.pair.sites import ROW_INDEX, run_pair

_ENOUGH = 16  # rows: fewer are tested more than once, for entries may fall into line by chance


def asks(model: nn.Module, guide: nn.Module) -> bool:
    """Say whether a pair wants the row numbers of its batches.

    Raises:
        ConfigError: if one of the two names the argument and the other does not take it.
    """
    named, taken = zip(*(_takes(program) for program in (model, guide)), strict=True)
    if any(named) and not all(taken):
        one, other = ("guide", "model") if named[1] else ("model", "guide")
        raise ConfigError(
            f"the {one} takes {ROW_INDEX!r}, so the {other} must take it, too: both are called with the same arguments "
            f"(`{ROW_INDEX}=None` will do)."
        )
    return any(named)


def _takes(program: Any) -> tuple[bool, bool]:
    """Say whether a program names the argument, and whether it accepts it."""
    program = poutine.unwrap(program)
    if isinstance(program, AutoGuide):
        return _takes(program.model)
    own_call = isinstance(program, nn.Module) and type(program).forward is not nn.Module.forward
    parameters = inspect.signature(program.forward if own_call else program).parameters
    named = ROW_INDEX in parameters
    return named, named or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def check(
    where: str,
    programs: tuple[nn.Module, nn.Module],
    parameters: Mapping[str, nn.Parameter],
    look: Callable[[Tensor], dict[str, Tensor]],
    size: int,
    total: int,
    valid: bool,
    local: Collection[str] = (),
) -> None:
    """Refuse a pair with parameters per data point that go by the position in the batch.

    Its gradient shows whether a parameter does: half the batch's rows are left out of the loss, then the other
    half, and each time exactly the entries at their positions get nothing. Rows are drawn at random for this, so that
    entries looked up by row number, or by anything in the data, are at other positions.

    Args:
        where: the stage, for error messages.
        programs: model and guide.
        parameters: the trainable ones by name.
        look: gives the batch of some row numbers.
        size: rows in a batch of this process.
        total: rows in the data.
        valid: whether other rows will be scored.
        local: the model's latent sites inside the plate over data points.

    Raises:
        ConfigError: naming the site or parameter.
    """
    if size == total and not valid:
        return
    automatic = _automatic(programs[1], local)
    if automatic is not None:
        raise ConfigError(_message(where, automatic, size, total, valid))
    suspects = {n: p for n, p in parameters.items() if {s for s in p.shape if s > 1} & {size, total}}
    for _ in range(1 if size >= _ENOUGH else 3):
        if suspects and size > 1:
            batch = look(torch.randint(total, (size,)))
            suspects = {n: suspects[n] for n in _positional(programs, suspects, batch, size)}
    if suspects and size > 1:
        names = ", ".join(suspects)
        raise ConfigError(_message(where, f"the parameter {names} has entries", size, total, valid))


def explain(error: Exception, parameters: Mapping[str, nn.Parameter], size: int, total: int) -> str | None:
    """Say in words that a shape does not fit because parameters have as many entries as the data have rows."""
    names = [name for name, p in parameters.items() if total in p.shape]
    if size == total or not names or not {str(size), str(total)} <= set(re.findall(r"\d+", str(error))):
        return None
    return (
        f"shapes do not fit ({str(error).splitlines()[0]}). {', '.join(names)}: as many entries as there are data "
        f"points ({total}), but a batch has {size}. {_advice(total)}"
    )


def _message(where: str, what: str, size: int, total: int, valid: bool) -> str:
    if size == total and valid:
        return f"{where}: {what} for each training row by position; the rows of valid=... have none. Leave valid out."
    return (
        f"{where}: {what} for each row by its position in the batch, and a batch holds {size} of {total} rows, others "
        f"every time. {_advice(total)}"
    )


def _advice(total: int) -> str:
    return (
        f"Let model and guide take {ROW_INDEX!r} (LongTensor, the rows' numbers) and look parameters up by it; or make "
        f"the guide a function of the data; or train in full batch (batch_size={total}, one process)."
    )


def _automatic(guide: nn.Module, local: Collection[str]) -> str | None:
    """Name a guide of Pyro's own that holds parameters for latent sites inside the plate over data points."""
    for module in guide.modules():
        if (
            isinstance(module, AutoGuide)
            and not isinstance(module, AutoGuideList | AutoCallable)
            and type(module).__module__.startswith("pyro.infer.autoguide")
        ):
            frame = module._prototype_frames.get(DATA_PLATE)
            if frame is not None and frame.full_size in (None, frame.size):
                nodes = getattr(module.prototype_trace, "nodes", {})
                sites = [name for name in local if name in nodes] or local
                return f"the {type(module).__name__} holds parameters of {', '.join(map(repr, sites))}"
    return None


def _positional(
    programs: tuple[nn.Module, nn.Module], suspects: Mapping[str, nn.Parameter], batch: dict[str, Tensor], size: int
) -> list[str]:
    """Name the parameters whose entries belong to positions in the batch."""
    training = [module for program in programs for module in program.modules() if module.training]
    for module in training:
        module.training = False  # no dropout, and no statistics that tie rows together
    try:
        with pyro.validation_enabled(False):
            terms = _terms_by_row(programs, batch, size)
        if terms is None or not terms.requires_grad:
            return []
        chosen = torch.zeros(size, dtype=torch.bool)
        chosen[torch.randperm(size)[: size // 2]] = True
        gradients = [
            torch.autograd.grad(terms[half].sum(), list(suspects.values()), retain_graph=True, allow_unused=True)
            for half in (chosen, ~chosen)
        ]
    except (ValueError, RuntimeError):  # it cannot be run in this way: nothing is known against it
        return []
    finally:
        for module in training:
            module.training = True
    return [
        name
        for name, first, second in zip(suspects, *gradients, strict=True)
        if first is not None and second is not None and _in_line(first, second, chosen)
    ]


def _in_line(first: Tensor, second: Tensor, chosen: Tensor) -> bool:
    """Say whether two gradients are confined to the chosen entries of an axis, and to the others."""
    for axis, length in enumerate(first.shape):
        if length < len(chosen):
            continue
        others = [d for d in range(first.dim()) if d != axis]
        a, b = ((g != 0).sum(others).cpu() > 0 if others else (g != 0).cpu() for g in (first, second))
        beyond = bool(a[len(chosen) :].any() | b[len(chosen) :].any())
        a, b = a[: len(chosen)], b[: len(chosen)]
        if a.any() and b.any() and not beyond and not (a & ~chosen).any() and not (b & chosen).any():
            return True
    return False


def _terms_by_row(programs: tuple[nn.Module, nn.Module], batch: dict[str, Tensor], size: int) -> Tensor | None:
    """Return the log-densities of model and guide inside the plate over data points, summed by row, (size,)."""
    total: Tensor | None = None
    for trace in run_pair(*programs, batch):
        trace.compute_log_prob()
        for site in trace.nodes.values():
            frames: list[Any] = [f for f in site.get("cond_indep_stack", ()) if f.name == DATA_PLATE]
            if site["type"] != "sample" or not frames or site["log_prob"].dim() < -frames[0].dim:
                continue
            term = site["log_prob"].movedim(frames[0].dim, -1)
            if term.shape[-1] == size:
                term = term.reshape(-1, size).sum(0)
                total = term if total is None else total + term
    return total
