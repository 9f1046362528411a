"""From noise to a draw from a mixture, so that whoever owns the noise owns the draw.

A batch of rows, one row alone and an exported function draw the same values when they are handed the same noise.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from phlogiston.distributions.mixture import temper_logits
from phlogiston.distributions.mixture_joint import JointMixture
from phlogiston.errors import ConfigError


def pick(logits: Tensor, uniform: Tensor) -> Tensor:
    """Choose by the Gumbel trick: logits (..., K) and uniform numbers (..., K) -> index (...)."""
    tiny = torch.finfo(logits.dtype).tiny
    return (logits - (-uniform.clamp_min(tiny).log()).clamp_min(tiny).log()).argmax(-1)


def transport(
    mixture: JointMixture,
    uniform: Tensor,
    noise: Tensor,
    pi_temperature: float = 1.0,
    sigma_temperature: float = 1.0,
    bias: float = 0.0,
) -> Tensor:
    """Return the draw that given noise leads to.

    Args:
        mixture: batch (...), K components of event (D,).
        uniform: (..., K) in (0, 1), chooses the component.
        noise: (..., D), standard normal.
        pi_temperature: logits are divided by it; 0 takes the most probable component.
        sigma_temperature: variances are multiplied by it; 0 takes the component's mean.
        bias: of Graves (2013): logits times 1 + bias, standard deviations times exp(-bias).

    Returns:
        (..., D).

    Raises:
        ConfigError: a negative temperature or bias.
    """
    if sigma_temperature < 0 or bias < 0:
        raise ConfigError(f"sigma_temperature={sigma_temperature}, bias={bias}; neither may be negative")
    index = pick(temper_logits(mixture.logits * (1.0 + bias), pi_temperature), uniform)
    return mixture._place(index, math.sqrt(sigma_temperature) * math.exp(-bias) * noise)
