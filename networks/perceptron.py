"""Small feed-forward networks with truncated normal weights of standard deviation 1 / sqrt(inputs) and zero biases."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn


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
