"""Draws from a mixture as a function of given noise.

A batch of rows, one row alone and an exported function draw the same values when they are given the same noise.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from phlogiston.distributions.mixtures.base import temper_logits
from phlogiston.distributions.mixtures.joint import JointMixture
from phlogiston.distributions.normal_interval import normal_cdf
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
    return mixture.from_noise(index, math.sqrt(sigma_temperature) * math.exp(-bias) * noise)


def squeeze(noise: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Press standard normals into an interval: through their cdf, and back through that of the restricted normal.

    Equals `truncated_normal.standard_truncated`, without a branch that looks at data, so that programs which
    use it can be exported.

    Args:
        noise: standard normals, any shape.
        low: lower limits, finite, broadcastable.
        high: upper limits, finite, broadcastable; `low < high`.

    Returns:
        Draws in [low, high], increasing in the noise, in its dtype.
    """
    a, b, z = torch.broadcast_tensors(low.double(), high.double(), noise.double())
    mirrored = a + b > 0  # work on the lower side, where cdfs keep their digits
    a, b = torch.where(mirrored, -b, a), torch.where(mirrored, -a, b)
    v = normal_cdf(torch.where(mirrored, -z, z)).clamp_min(1e-300)
    p = normal_cdf(a)
    near = torch.special.ndtri((p + v * (normal_cdf(b) - p)).clamp_min(1e-300))
    # beyond -30 the tail is that of an exponential in x^2 / 2, cut off where the interval ends
    rest = torch.exp(-0.5 * (b - a) * -(b + a).clamp_max(0.0))
    x = torch.where(b < -30.0, -(b * b - 2.0 * (v + (1.0 - v) * rest).log()).sqrt(), near).maximum(a).minimum(b)
    return torch.where(mirrored, -x, x).to(noise.dtype)
