"""Noise that belongs to a row: the same in any position of any batch.

A score with randomness in it must be a function of the row, or it is a score of the row's position in a batch. Here the
seed of a row's noise is a checksum of its content (and of a seed given), and numbers are drawn by a counter-based
generator: number i of a stream is a function of the seed and i alone (Salmon, Moraes, Dror and Shaw, *Parallel Random
Numbers: As Easy as 1, 2, 3*, 2011; the mixing is that of SplitMix64, Steele, Lea and Flood, 2014).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15, odd, as a signed number
_FIRST = -4658895280553007687  # 0xBF58476D1CE4E5B9
_AT_ONCE = 1 << 20  # numbers in memory at a time
_SECOND = -7723592293110705685  # 0x94D049BB133111EB


def row_keys(*tensors: Tensor, valid: Tensor | None = None, seed: int = 0) -> Tensor:
    """Return a seed per row, int64 (rows,), that depends on what the row holds and on `seed`.

    Args:
        *tensors: each (rows, ...); numbers or booleans.
        valid: bool (rows, steps): which steps of the first tensor count, so that padding changes nothing.
        seed: of all of them.
    """
    rows = len(tensors[0])
    block = max(1, _AT_ONCE // max(1, max(tensor.numel() for tensor in tensors) // max(1, rows)))
    parts = [torch.zeros(0, dtype=torch.int64)]
    for start in range(0, rows, block):
        part = slice(start, start + block)
        parts.append(_keys([t[part] for t in tensors], None if valid is None else valid[part], seed))
    return torch.cat(parts)


def _keys(tensors: Sequence[Tensor], valid: Tensor | None, seed: int) -> Tensor:
    rows = len(tensors[0])
    keys = torch.full((rows,), _word(seed), dtype=torch.int64)
    for index, tensor in enumerate(tensors):
        numbers = (tensor.detach().cpu().to(torch.float64) + 0.0).contiguous().view(torch.int64)  # + 0.0: -0 is 0
        flat = numbers.reshape(rows, -1) if numbers.numel() else numbers.new_zeros(rows, 0)
        position = torch.arange(1, flat.shape[1] + 1)
        mixed = _mix(flat + _mix(position + _word((index + 1) * _GOLDEN)))
        if valid is not None and index == 0:
            width = flat.shape[1] // max(1, valid.shape[1])
            mixed = torch.where(valid.cpu().repeat_interleave(width, 1), mixed, 0)
        keys = _mix(keys + mixed.sum(1))
    return keys


def uniform(keys: Tensor, *shape: int, stream: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Draw numbers in (0, 1) for each row: (rows, *shape); number i depends on key, stream and i alone.

    Args:
        keys: int64 (rows,).
        shape: of each row's numbers.
        stream: which of the independent streams of a row.
        dtype: of the numbers.
    """
    count = torch.arange(1, math.prod(shape) + 1) * _GOLDEN
    words = _mix(_mix(keys + _word((stream + 1) * _SECOND)).unsqueeze(1) + count)
    bits = 23 if dtype == torch.float32 else 52
    top = (words >> (64 - bits)) & ((1 << bits) - 1)
    return ((top.to(torch.float64) + 0.5) / float(1 << bits)).to(dtype).reshape(len(keys), *shape)


def normal(keys: Tensor, *shape: int, stream: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Draw standard normal numbers for each row, (rows, *shape); see `uniform`."""
    return torch.special.ndtri(uniform(keys, *shape, stream=stream, dtype=torch.float64)).to(dtype)


def _word(number: int) -> int:
    """A number as the signed word its lowest 64 bits are."""
    return (number + 2**63) % 2**64 - 2**63


def _mix(words: Tensor) -> Tensor:
    """SplitMix64's finaliser; int64 arithmetic wraps as unsigned does."""
    words = (words ^ _shift(words, 30)) * _FIRST
    words = (words ^ _shift(words, 27)) * _SECOND
    return words ^ _shift(words, 31)


def _shift(words: Tensor, by: int) -> Tensor:
    """Shift right and fill up with zeros."""
    return (words >> by) & ((1 << (64 - by)) - 1)
