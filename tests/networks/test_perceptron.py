"""Networks applied many times: the numbers of autograd, with each weight's gradient formed once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from phlogiston.counting import OperationCounts
from phlogiston.networks.perceptron import applied, perceptron
from phlogiston.networks.shared import Shared


def net() -> nn.Module:
    torch.manual_seed(0)
    return perceptron([3, 5, 6, 4]).double()


def cell() -> nn.Module:
    torch.manual_seed(0)
    return nn.GRUCell(3, 4).double()


def run(module: nn.Module, x: Tensor, times: int, shared: Shared | None) -> Tensor:
    """Uses that depend on each other, of differing numbers of rows, one without any."""

    def use(*inputs: Tensor) -> Tensor:
        return module(*inputs) if shared is None else applied(shared, module, *inputs)

    total, state = x.new_zeros(()), x.new_ones(len(x), 4)
    for i in range(times):
        inputs = (x + i, state) if isinstance(module, nn.GRUCell) else (x * state[:, :3],)
        state = use(*inputs)
        total = total + (state[i % 2 :] ** 2).sum()
    return total + use(*(part[:0] for part in inputs)).sum()


@pytest.mark.parametrize("make", [net, cell])
def test_values_and_gradients_are_those_of_autograd(make: Callable[[], nn.Module]) -> None:
    module, x = make(), torch.randn(6, 3).double().requires_grad_()
    expected = run(module, x, 4, None)
    shared = Shared()
    found = run(module, x, 4, shared)
    inputs = [x, *module.parameters()]
    torch.testing.assert_close(found, expected)
    right = torch.autograd.grad(expected, inputs)
    for _ in range(2):  # a graph that is kept gives the same again
        torch.testing.assert_close(torch.autograd.grad(found, inputs, retain_graph=True), right)


@pytest.mark.parametrize("make", [net, cell])
def test_a_pass_that_left_the_weights_out_leaves_nothing_behind(make: Callable[[], nn.Module]) -> None:
    module, x = make(), torch.randn(6, 3).double().requires_grad_()
    found = run(module, x, 3, Shared())
    torch.autograd.grad(found, [x], retain_graph=True)
    weights = list(module.parameters())
    torch.testing.assert_close(
        torch.autograd.grad(found, weights), torch.autograd.grad(run(module, x, 3, None), weights)
    )


def test_weights_that_are_not_trained_get_no_gradient_and_pass_it_on() -> None:
    module, x = net(), torch.randn(6, 3).double().requires_grad_()
    module.requires_grad_(False)
    module.get_parameter("2.weight").requires_grad_()
    run(module, x, 2, Shared()).backward()
    assert x.grad is not None
    assert [name for name, p in module.named_parameters() if p.grad is not None] == ["2.weight"]


def test_a_shared_memory_outlives_a_change_of_the_weights() -> None:
    module, x, shared = net(), torch.randn(6, 3).double(), Shared()
    applied(shared, module, x)
    with torch.no_grad():
        for p in module.parameters():
            p.mul_(0.5)
    torch.testing.assert_close(applied(shared, module, x), module(x))


def test_weights_changed_before_the_backward_pass_are_an_error() -> None:
    module, x = net(), torch.randn(6, 3).double()
    found = run(module, x, 2, Shared())
    with torch.no_grad():
        module.get_parameter("0.weight").mul_(0.5)
    with pytest.raises(RuntimeError, match="weights were changed"):
        found.backward()


def test_ten_uses_take_half_the_operations() -> None:
    module, x = net(), torch.randn(6, 3).double().requires_grad_()

    def cost(shared: Shared | None) -> int:
        with OperationCounts() as counted:
            run(module, x, 10, shared).backward()
        return sum(counted.counts.operations.values())

    assert cost(Shared()) < 0.6 * cost(None)
