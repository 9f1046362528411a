"""Weights of pixels by how rare their colour is, so that small things of another colour than all else are learned.

A ball of fire of four pixels is worth little beside a wall of a thousand, however well a squared error is minimised.
Zhang, Isola and Efros, "Colorful image colorization", 2016, section 2.2, weigh classes of colours in the same way.
"""

from __future__ import annotations

import torch
from torch import Tensor

from phlogiston.networks.frame_encoder import pixels

LEVELS = 16  # of each channel that colours are counted by
MOST = 30.0  # largest weight, relative to the mean before it is cut off


def num_colours(channels: int) -> int:
    """Return how many colours are told apart."""
    return LEVELS**channels


def colour_of(frames: Tensor) -> Tensor:
    """Number the colours of frames (..., C, H, W), bytes or floats in [0, 1]: int64 (..., H, W)."""
    values = pixels(frames)
    assert values is not None
    levels = (values * LEVELS).long().clamp(0, LEVELS - 1)
    found = levels[..., 0, :, :]
    for channel in range(1, frames.shape[-3]):
        found = found * LEVELS + levels[..., channel, :, :]
    return found


def colour_weights(frames: Tensor, power: float) -> Tensor:
    """Weigh colours by their share of all pixels to the power of `-power`; the mean weight of a pixel is 1.

    Args:
        frames: (n, C, H, W), of the training data.
        power: 0 gives all colours the weight 1; 1 would give each colour the same weight in all.

    Returns:
        (num_colours,). Colours that are in none of the frames have the largest weight.
    """
    counts = torch.bincount(colour_of(frames).flatten(), minlength=num_colours(frames.shape[-3])).double()
    share = counts / counts.sum()
    weight = share.clamp_min(0.5 / float(counts.sum())) ** -power
    weight = (weight / (share * weight).sum()).clamp_max(MOST)
    return (weight / (share * weight).sum()).float()
