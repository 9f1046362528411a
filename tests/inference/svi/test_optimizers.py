"""The named optimisers are torch's, to the bit, and a fit loads neither torch's compiler nor sympy."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch

from phlogiston.inference.svi.optimizers import OPTIMIZERS

TORCH: dict[str, tuple[Any, dict[str, Any]]] = {
    "adam": (torch.optim.Adam, {"fused": True}),
    "adamw": (torch.optim.AdamW, {"fused": True}),
    "sgd": (torch.optim.SGD, {"fused": True}),
    "rmsprop": (torch.optim.RMSprop, {}),
}


@pytest.mark.parametrize("name", sorted(TORCH))
def test_steps_are_torchs(name: str) -> None:
    kind, options = TORCH[name]
    results = []
    for make in (OPTIMIZERS[name], lambda p, lr: kind(p, lr=lr, **options)):
        torch.manual_seed(0)
        parameters = [torch.nn.Parameter(torch.randn(3, 2)), torch.nn.Parameter(torch.randn(4))]
        optimizer = make(parameters, lr=0.1)
        assert isinstance(optimizer, kind)
        for turn in range(4):
            optimizer.zero_grad()
            sum((p**2).sum() for p in parameters).backward()
            optimizer.step()
            if turn == 1:  # state is torch's own, too
                state = optimizer.state_dict()
                optimizer = make(parameters, lr=0.1)
                optimizer.load_state_dict(state)
        assert all(p.requires_grad and p.grad is not None for p in parameters)
        results.append([p.detach() for p in parameters])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_steps_are_torchs_where_the_fused_kernel_is_not_called_straight(name: str) -> None:
    """Groups with options of their own, parameters without a gradient, two precisions, a closure, and hooks."""
    kind, options = TORCH[name]
    results, calls = [], []
    for make in (OPTIMIZERS[name], lambda p, **more: kind(p, **options, **more)):
        torch.manual_seed(0)
        p = [torch.nn.Parameter(torch.randn(3)) for _ in range(4)] + [torch.nn.Parameter(torch.randn(2).double())]
        groups = [{"params": p[:2], "betas": (0.5, 0.9)}, {"params": p[2:3], "amsgrad": True}, {"params": p[3:]}]
        optimizer: Any = make(groups, lr=0.1, weight_decay=0.01)
        for turn in range(5):
            optimizer.zero_grad()
            loss = sum((q**2).sum() for q in (p if turn % 2 else [*p[:1], *p[2:]]))
            loss.backward()
            optimizer.param_groups[1]["amsgrad"] = turn < 3  # then every group could be simple, but for its precisions
            if turn == 1:
                handle = optimizer.register_step_post_hook(lambda *_: calls.append(1))
            if turn == 2:
                handle.remove()
            assert optimizer.step(*([lambda: 7.0] if turn == 4 else [])) == (7.0 if turn == 4 else None)
        results.append([q.detach() for q in p])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert len(calls) == 2


def test_a_fit_loads_neither_the_compiler_nor_symbolic_mathematics() -> None:
    code = (
        "import sys, phlogiston as ph\n"
        "data = ph.datasets.load('arcsine', sizes=(60, 5, 5))\n"
        "ph.MDN(num_components=2, hidden=(4,), steps=3).fit(data, progress='off')\n"
        "print([name for name in ('torch._dynamo', 'sklearn', 'sympy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr
