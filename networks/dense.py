"""Dense stacks whose weights may carry extra axes: a single network, an ensemble as one batch, or sampled weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from phlogiston.errors import ConfigError, unknown_name

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "silu": functional.silu,
    "gelu": functional.gelu,
}


def dense(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Apply one affine layer, or several at once.

    Args:
        x: (rows, in), shared by all members, or (members, rows, in).
        weight: (out, in) or (members, out, in).
        bias: (out,) or (members, out).

    Returns:
        (rows, out) or (members, rows, out).
    """
    if weight.dim() == 2:
        return functional.linear(x, weight, bias)
    if x.dim() == 2:
        x = x.expand(len(weight), *x.shape)
    return torch.baddbmm(bias.unsqueeze(-2), x, weight.mT)


class Dense(nn.Module):
    """Affine layers with an activation between them.

    Args:
        sizes: width of the input, of every hidden layer, of the output.
        activation: one of `ACTIVATIONS`.
        members: how many networks to hold side by side; None for one without a members axis.

    Parameters are `weights.<i>` ([members,] out, in) and `biases.<i>` ([members,] out), uniform in
    +-1/sqrt(in) at first.

    Raises:
        ConfigError: sizes below 1, or fewer than two of them.
    """

    def __init__(self, sizes: Sequence[int], activation: str = "silu", members: int | None = None) -> None:
        super().__init__()
        if len(sizes) < 2 or min(sizes) < 1:
            raise ConfigError(f"sizes is {list(sizes)}; expected at least input and output, all of them positive")
        if activation not in ACTIVATIONS:
            raise unknown_name("activation", activation, ACTIVATIONS)
        self.activation = ACTIVATIONS[activation]
        self.members = members
        ahead = () if members is None else (members,)
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for wide_in, wide_out in pairwise(sizes):
            bound = 1 / math.sqrt(wide_in)
            self.weights.append(nn.Parameter(bound * (2 * torch.rand(*ahead, wide_out, wide_in) - 1)))
            self.biases.append(nn.Parameter(bound * (2 * torch.rand(*ahead, wide_out) - 1)))

    def forward(self, x: Tensor, given: Mapping[str, Tensor] | None = None) -> Tensor:
        """Run the stack.

        Args:
            x: (rows, in), or (members, rows, in).
            given: parameters by name that replace the module's own, such as sampled ones; they may carry a members
                axis where the module's have none.

        Returns:
            (rows, out), or (members, rows, out).
        """
        given = given or {}
        last = len(self.weights) - 1
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = dense(x, given.get(f"weights.{i}", weight), given.get(f"biases.{i}", bias))
            if i < last:
                x = self.activation(x)
        return x
