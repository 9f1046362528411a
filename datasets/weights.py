"""Row weights: a row of weight 3 is three rows, one of weight 0 is none, and a common factor changes nothing."""

from __future__ import annotations

import numpy as np

from phlogiston.datasets.base import Array, Split

MOST_COPIES = 100
"""Weights count copies of their rows as long as no row needs more than this."""
MOST_ROWS = 5_000_000
"""... and all of them together no more than this."""


def copies(weight: Array) -> Array | None:
    """How many copies of each row weights stand for, or None where they are no multiples of one unit.

    The unit is the largest that fits, so that weights 2 and 6 stand for 1 and 3 copies, like 0.5 and 1.5.

    Args:
        weight: (rows,), 0 or more.

    Returns:
        int64 (rows,), without common divisor.

    Example:
        >>> copies(np.array([0.5, 1.5, 0.0])).tolist(), copies(np.array([1.0, np.pi]))
        ([1, 3, 0], None)
    """
    weight = np.asarray(weight, dtype=np.float64)
    positive = weight[weight > 0]
    if not len(positive):
        return None
    ratio = weight / positive.min()
    for parts in range(1, 13):  # the smallest weight is so many units
        number = np.round(ratio * parts)
        if number.max() > MOST_COPIES or number.sum() > MOST_ROWS:
            return None
        if np.abs(ratio * parts - number).max() <= 1e-5:  # weights may have been rounded to float32
            return number.astype(np.int64)
    return None


def effective_rows(weight: Array) -> float:
    """How many rows a weighted average rests on: the copies the weights stand for, else (sum w)^2 / sum w^2 (Kish)."""
    number = copies(weight)
    if number is not None:
        return float(number.sum())
    weight = np.asarray(weight, dtype=np.float64)
    return float(weight.sum() ** 2 / np.square(weight).sum())


def written_out(split: Split) -> Split:
    """Return rows with their weights written out: copies where weights stand for them, else weights of mean 1.

    Rows of weight 0 are gone, and the tensor `weight` with them where no row has another weight.
    """
    import torch

    if "weight" not in split.tensors:
        return split
    weight = split.tensors["weight"].double().numpy()
    number = copies(weight)
    index = np.flatnonzero(weight > 0) if number is None else np.repeat(np.arange(len(weight)), number)
    if len(index) == len(weight) and (index == np.arange(len(weight))).all():
        tensors = dict(split.tensors)
    else:
        tensors = split[torch.from_numpy(index)]
    del tensors["weight"]
    if number is None:
        kept = weight[index]
        tensors["weight"] = torch.from_numpy(kept / kept.mean()).float()
    return Split(tensors, split.sequences, double=split.double)
