"""Small networks with truncated normal weights of standard deviation 1 / sqrt(inputs) and zero biases.

A program that goes through time applies the same few networks over and over to some rows each time. Autograd then forms
the gradient of every weight at every use and adds these up, which is most of the operations of a backward pass.
`applied` computes the same numbers and forms each weight's gradient once, from the rows of all uses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from phlogiston.networks.shared import Shared


def perceptron(sizes: Sequence[int], bias: float | Sequence[float] = 0.0, flat: bool = False) -> nn.Sequential:
    """Affine layers with elu between them.

    Args:
        sizes: widths of input, hidden layers and output.
        bias: of the last layer at first.
        flat: let the last layer's weights be zero at first, so that it starts as its bias.
    """
    layers: list[nn.Module] = []
    for wide_in, wide_out in pairwise(sizes):
        if layers:
            layers.append(nn.ELU())
        layers.append(linear(wide_in, wide_out))
    last = layers[-1]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.bias.copy_(torch.as_tensor(bias, dtype=last.bias.dtype))
        if flat:
            last.weight.zero_()
    return nn.Sequential(*layers)


def linear(wide_in: int, wide_out: int) -> nn.Linear:
    """One affine layer, initialised likewise."""
    layer = nn.Linear(wide_in, wide_out)
    std = 1.0 / math.sqrt(wide_in)
    nn.init.trunc_normal_(layer.weight, std=std, a=-2.0 * std, b=2.0 * std)
    nn.init.zeros_(layer.bias)
    return layer


def applied(shared: Shared, net: nn.Module, *inputs: Tensor) -> Tensor:
    """Apply a network to rows, sharing the work of its gradients with all its uses before `shared` is cleared.

    Args:
        shared: what is remembered between the uses.
        net: a `perceptron`, one layer, or an `nn.GRUCell`, which takes the state as its second input; anything else,
            and all under autocast, is called as it is.
        inputs: (rows, n) each.
    """
    gates = isinstance(net, nn.GRUCell)
    known = gates or isinstance(net, nn.Sequential | nn.Linear)
    if not known or not torch.is_grad_enabled() or _autocast(inputs[0].device.type):
        return net(*inputs)  # type: ignore[no-any-return]
    parameters = tuple(net.parameters())
    uses: _Uses = shared(f"uses of {id(net)}", parameters, lambda: _Uses(net))
    function = _Cell if gates else _Perceptron
    return function.apply(uses.token, uses.layers, *inputs)  # type: ignore[no-any-return, no-untyped-call]


class _Layers:
    """Affine layers, and what one backward pass has found of each: its inputs and the gradients of its outputs."""

    def __init__(self, weights: list[Tensor], biases: list[Tensor]) -> None:
        self.weights, self.biases = weights, biases
        self.turned = [weight.detach().t() for weight in weights]
        self._pass = -1
        self._found: list[list[tuple[Tensor, Tensor]]] = []

    def versions(self) -> list[int]:
        """Tell of changes in place, which autograd refuses between the passes, too."""
        return [weight._version for weight in self.weights]

    def affine(self, i: int, x: Tensor) -> Tensor:
        return torch.addmm(self.biases[i], x, self.turned[i])

    def note(self, versions: list[int], *found: tuple[int, Tensor, Tensor]) -> None:
        """Keep inputs and gradients of layers for the end of the pass; what another pass has left behind goes."""
        if versions != self.versions():
            raise RuntimeError("weights were changed between a network's use and its backward pass")
        current = torch._C._current_graph_task_id()
        if current != self._pass:
            self._pass, self._found = current, [[] for _ in self.weights]
        for i, x, gradient in found:
            self._found[i].append((x, gradient))

    def gradients(self) -> list[Tensor | None]:
        """Of each layer's weight and bias, of this pass."""
        out: list[Tensor | None] = []
        if self._pass != torch._C._current_graph_task_id():
            return [None] * (2 * len(self.weights))
        for rows in self._found:
            if not rows:
                out += [None, None]
                continue
            x, gradient = rows[0] if len(rows) == 1 else (torch.cat(part) for part in zip(*rows, strict=True))
            out += [gradient.t() @ x, gradient.sum(0)]
        self._pass, self._found = -1, []
        return out


class _Uses:
    """What the uses of a network share.

    Attributes:
        layers: its affine layers.
        token: an empty tensor that every use takes, so that autograd asks for the weights' gradients after all uses.
    """

    def __init__(self, net: nn.Module) -> None:
        if isinstance(net, nn.GRUCell):
            pairs = [(net.weight_ih, net.bias_ih), (net.weight_hh, net.bias_hh)]
        else:
            pairs = [(layer.weight, layer.bias) for layer in net.modules() if isinstance(layer, nn.Linear)]
        weights, biases = ([pair[i] for pair in pairs] for i in (0, 1))
        self.layers = _Layers(weights, biases)
        self.token: Tensor = _Gather.apply(self.layers, *(p for pair in pairs for p in pair))  # type: ignore[no-untyped-call]


class _Gather(torch.autograd.Function):
    """The token of `_Uses`; its backward pass comes after that of all uses and has the weights' gradients."""

    @staticmethod
    def forward(ctx: Any, layers: _Layers, *parameters: Tensor) -> Tensor:
        ctx.layers = layers
        ctx.set_materialize_grads(False)
        return parameters[0].new_empty(0)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, _: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return (None, *ctx.layers.gradients())


class _Perceptron(torch.autograd.Function):
    """One use of a perceptron."""

    @staticmethod
    def forward(ctx: Any, token: Tensor, layers: _Layers, x: Tensor) -> Tensor:
        entered = [x]
        for i in range(len(layers.weights) - 1):
            entered.append(torch.nn.functional.elu(layers.affine(i, entered[-1]), inplace=True))
        ctx.layers, ctx.versions = layers, layers.versions()
        ctx.save_for_backward(*entered)
        return layers.affine(len(layers.weights) - 1, entered[-1])

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        layers, entered = ctx.layers, ctx.saved_tensors
        found = []
        for i in range(len(entered) - 1, -1, -1):
            found.append((i, entered[i], gradient))
            if i or ctx.needs_input_grad[2]:
                gradient = gradient @ layers.weights[i]
            if i:
                gradient = torch.ops.aten.elu_backward(gradient, 1.0, 1.0, 1.0, True, entered[i])
        layers.note(ctx.versions, *found)
        return None, None, gradient if ctx.needs_input_grad[2] else None


class _Cell(torch.autograd.Function):
    """One use of a GRU cell: h' = n + z (h - n), with gates r and z and the proposal n = tanh(W x + r (U h))."""

    @staticmethod
    def forward(ctx: Any, token: Tensor, layers: _Layers, x: Tensor, state: Tensor) -> Tensor:
        size = state.shape[1]
        entered, kept = layers.affine(0, x), layers.affine(1, state)
        gates = torch.add(entered[:, : 2 * size], kept[:, : 2 * size]).sigmoid_()
        reset, stay = gates.chunk(2, 1)
        told = kept[:, 2 * size :]
        new = torch.addcmul(entered[:, 2 * size :], reset, told).tanh_()
        ctx.layers, ctx.versions = layers, layers.versions()
        ctx.save_for_backward(x, state, gates, told, new)
        return torch.lerp(new, state, stay)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        layers = ctx.layers
        x, state, gates, told, new = ctx.saved_tensors
        reset, stay = gates.chunk(2, 1)
        of_state = gradient * stay
        of_new = torch.ops.aten.tanh_backward(gradient - of_state, new)
        of_gates = torch.cat([of_new * told, gradient * (state - new)], 1)
        of_gates = torch.ops.aten.sigmoid_backward(of_gates, gates)
        of_entered, of_kept = torch.cat([of_gates, of_new], 1), torch.cat([of_gates, of_new * reset], 1)
        layers.note(ctx.versions, (0, x, of_entered), (1, state, of_kept))
        needs = ctx.needs_input_grad
        return (
            None,
            None,
            of_entered @ layers.weights[0] if needs[2] else None,
            of_state.addmm_(of_kept, layers.weights[1]) if needs[3] else None,
        )


def _autocast(device: str) -> bool:
    """Whether autocast is on for a kind of device; some kinds do not know it."""
    return bool(torch.amp.is_autocast_available(device)) and torch.is_autocast_enabled(device)
