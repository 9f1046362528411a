"""Priors of a scene's latents as distributions."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist

from phlogiston.distributions.mixed_normals import MixedNormals
from phlogiston.networks.draw import DrawDecoder, Painting


def latent_prior(decoder: DrawDecoder, painting: Painting) -> Any:
    """Return the prior of the next latent: one normal, or a mixture of normals where the context foresees several."""
    if decoder.foresight is not None and painting.layer == 0:
        logits, means, deviations = decoder.foresight(painting.context.values)
        return MixedNormals(logits, means, deviations, trailing=2)
    mean, logvar = decoder.prior(painting)
    return dist.Normal(mean, (0.5 * logvar).exp()).to_event(3)


def tempered(prior: Any, temperature: float) -> Any:
    """Return the prior of a latent with its standard deviations multiplied; those of all parts, if it is a mixture."""
    if isinstance(prior, MixedNormals):
        return prior.tempered(temperature)
    while hasattr(prior, "base_dist"):
        prior = prior.base_dist
    return dist.Normal(prior.loc, (prior.scale * temperature).clamp_min(1e-12)).to_event(3)
