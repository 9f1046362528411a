"""Dense stacks whose weights may carry extra axes: a single network, an ensemble as one batch, or sampled weights.

`Adapted` is the ensemble at nearly the price of one network: members share their hidden weights. `pieces` is what such
networks may take beside numbers, a piecewise-linear embedding.
"""

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


class Adapted(nn.Module):
    """An ensemble in one network: hidden weights are shared, and rank-one adapters tell the members apart.

        h_0 = x,    h_i = act(out_i * (W_i (in_i * h_{i-1})) + b_i),    output = V h + c

    W_i belongs to all members; in_i, out_i, b_i, V and c are each member's own. The first layer has no in_i, so that it
    is computed once, and its out_i are random signs at first: they keep the members different.

    Args:
        sizes: width of the input, of at least one hidden layer, of the output.
        activation: one of `ACTIVATIONS`.
        members: how many.

    Parameters are `weights.<i>` (out, in), the last one (members, out, in), `biases.<i>` (members, out),
    `outputs.<i>` (members, out) and `inputs.<i>` (members, in), the first of these for the second layer.

    Raises:
        ConfigError: no hidden layer to share, sizes below 1, or fewer than two members.

    References: Gorishniy, Kotelnikov and Babenko, "TabM: advancing tabular deep learning with parameter-efficient
    ensembling", ICLR 2025; Wen, Tran and Ba, "BatchEnsemble", ICLR 2020.
    """

    def __init__(self, sizes: Sequence[int], activation: str = "silu", members: int = 16) -> None:
        super().__init__()
        if len(sizes) < 3 or min(sizes) < 1:
            raise ConfigError(f"sizes is {list(sizes)}; members that share weights need a hidden layer, all sizes >= 1")
        if members < 2:
            raise ConfigError(f"members is {members}; sharing weights takes at least 2")
        if activation not in ACTIVATIONS:
            raise unknown_name("activation", activation, ACTIVATIONS)
        self.activation, self.members = ACTIVATIONS[activation], members
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        self.inputs, self.outputs = nn.ParameterList(), nn.ParameterList()
        layers = list(pairwise(sizes))
        for i, (wide_in, wide_out) in enumerate(layers):
            bound, last = 1 / math.sqrt(wide_in), i == len(layers) - 1
            own = (members,) if last else ()
            self.weights.append(nn.Parameter(bound * (2 * torch.rand(*own, wide_out, wide_in) - 1)))
            self.biases.append(nn.Parameter(bound * (2 * torch.rand(members, wide_out) - 1)))
            if not last:
                signs = 2.0 * torch.randint(0, 2, (members, wide_out)) - 1.0
                self.outputs.append(nn.Parameter(signs if i == 0 else torch.ones(members, wide_out)))
            if i > 0 and not last:
                self.inputs.append(nn.Parameter(torch.ones(members, wide_in)))

    def forward(self, x: Tensor, given: Mapping[str, Tensor] | None = None) -> Tensor:
        """Run the stack: (rows, in) -> (members, rows, out). Sampled weights (`given`) are refused."""
        if given:
            raise ConfigError("members that share weights take no sampled ones")
        for i, outward in enumerate(self.outputs):
            if i > 0:
                x = x * self.inputs[i - 1].unsqueeze(1)
            x = functional.linear(x, self.weights[i]) * outward.unsqueeze(1) + self.biases[i].unsqueeze(1)
            x = self.activation(x)
        return torch.baddbmm(self.biases[-1].unsqueeze(1), x, self.weights[-1].mT)


NARROWEST = 1e-6
"""Edges nearer to each other than this, in standard deviations, are one."""


def quantile_edges(u: Tensor, bins: int) -> Tensor:
    """Edges of the pieces of every column: quantiles, all of them values that occur.

    Args:
        u: float64 (rows, columns), standardised.
        bins: T.

    Returns:
        float64 (columns, T + 1), rising; a column with fewer values than edges has all of its values as edges, and the
        last one again and again.
    """
    found = []
    for column in u.T:
        values = column.unique()
        if len(values) > bins + 1:
            levels = torch.linspace(0, 1, bins + 1, dtype=u.dtype)
            values = column.quantile(levels, interpolation="nearest").unique()
        kept = values[:1]
        for value in values[1:]:
            if value - kept[-1] > NARROWEST:
                kept = torch.cat([kept, value.reshape(1)])
        found.append(torch.cat([kept, kept[-1:].expand(bins + 1 - len(kept))]))
    return torch.stack(found)


def pieces(u: Tensor, edges: Tensor) -> Tensor:
    """Piecewise-linear embedding, with which a network of few layers follows steps and bends of each column by itself.

        piece_t(u) = clamp((u - e_t) / (e_{t+1} - e_t), 0, 1),    t = 1 ... T

    Beyond the outermost edges all pieces are constant; pieces of no width (a column with few values) are zero.

    Args:
        u: (rows, columns).
        edges: (columns, T + 1), rising; see `quantile_edges`.

    Returns:
        (rows, columns * T), column by column.

    Reference: Gorishniy, Rubachev and Babenko, "On embeddings for numerical features in tabular deep learning",
    NeurIPS 2022.
    """
    low, width = edges[:, :-1], edges.diff(dim=1)
    share = (u.unsqueeze(-1) - low) / torch.where(width > 0, width, 1.0)
    return torch.where(width > 0, share.clamp(0.0, 1.0), 0.0).flatten(1)
