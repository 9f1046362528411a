"""Torch's optimisers by name, without what they do around a step besides stepping.

`torch.optim` marks its methods for `torch.compile`, and imports all of it when they are first called: a second and more
that the first fit of a process waits for, whether or not anything is compiled. These classes call the methods beneath
the marks. Adam's go straight to torch's fused kernel where nothing but the kernel is needed: for a small model the way
there costs as much as its forward pass. State, options and updates are torch's, bit by bit.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.optim import optimizer as torch_optimizer

_MARKED = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


def _plain(kind: type[torch.optim.Optimizer], kernel: Any = None) -> Callable[..., torch.optim.Optimizer]:
    methods: dict[str, Any] = {name: inspect.unwrap(getattr(kind, name)) for name in _MARKED}
    methods["step"] = torch.no_grad()(inspect.unwrap(kind.step))
    if kernel is not None:
        methods["step"] = _straight(torch.optim.Optimizer.profile_hook_step(methods["step"]), kernel)
    return type(kind.__name__, (kind,), {**methods, "__doc__": kind.__doc__, "__module__": __name__})


def _straight(whole: Callable[..., Any], kernel: Any) -> Callable[..., Any]:
    """Return a step that calls the fused kernel where it can, and is `whole` everywhere else."""

    def step(self: Any, closure: Any = None) -> Any:
        calls: list[Any] = [None]
        if closure is None and not _watched(self):
            calls = [_tensors(self, group) for group in self.param_groups]
        if None in calls:
            return whole(self, closure)
        with torch.no_grad():
            for group, (parameters, grads, averages, squares, steps) in zip(self.param_groups, calls, strict=True):
                torch._foreach_add_(steps, 1)
                beta1, beta2 = group["betas"]
                options = {name: group[name] for name in ("lr", "weight_decay", "eps", "amsgrad", "maximize")}
                kernel(parameters, grads, averages, squares, [], steps, beta1=beta1, beta2=beta2, **options)
        return None

    step.hooked = True  # type: ignore[attr-defined] # `whole` runs the hooks
    return step


def _watched(optimizer: Any) -> bool:
    """Say whether a hook, a profiler or a scaler of gradients takes part in the steps of an optimiser."""
    return bool(
        optimizer._optimizer_step_pre_hooks
        or optimizer._optimizer_step_post_hooks
        or torch_optimizer._global_optimizer_pre_hooks
        or torch_optimizer._global_optimizer_post_hooks
        or torch._C._autograd._profiler_enabled()
        or getattr(optimizer, "grad_scale", None) is not None
        or getattr(optimizer, "found_inf", None) is not None
    )


def _tensors(optimizer: Any, group: dict[str, Any]) -> tuple[list[Any], ...] | None:
    """Return what the kernel takes of one group: parameters, gradients, moments, steps; None where it is not so simple.

    It is so for dense tensors of one kind on the CPU, from the second step on.
    """
    if not group["fused"] or group["amsgrad"] or group["differentiable"] or not isinstance(group["lr"], float):
        return None
    parameters = [p for p in group["params"] if p.grad is not None]
    if not parameters:
        return None
    grads = [p.grad for p in parameters]
    kind = parameters[0].dtype
    if not all(t.is_cpu and t.dtype is kind and not t.is_sparse for t in (*parameters, *grads)):
        return None
    states = [optimizer.state.get(p) for p in parameters]
    if not all(states):
        return None
    return parameters, grads, *([state[name] for state in states] for name in _MOMENTS)


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": partial(_plain(torch.optim.Adam, torch._fused_adam_), fused=True),
    "adamw": partial(_plain(torch.optim.AdamW, torch._fused_adamw_), fused=True),
    "sgd": partial(_plain(torch.optim.SGD), fused=True),
    "rmsprop": _plain(torch.optim.RMSprop),
}
"""By the names that a `Stage` takes; each is called with parameters and `lr`."""
