"""A guide that draws its noise at one auxiliary site is compared particle by particle under equal noise."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from phlogiston.errors import ConfigError
from phlogiston.inference.query.ask import query


def model(x: Tensor | None = None) -> None:
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def jumping(x: Tensor | None = None) -> None:
    """Proposes one of two normals, by a noise that has no density of its own."""
    noise = pyro.sample("noise", dist.Normal(0.0, 1.0).mask(False), infer={"is_auxiliary": True})
    pyro.sample("z", dist.Normal(torch.where(noise > 0, 0.0, 1.0), 1.0))


def mixing(x: Tensor | None = None) -> None:
    """Likewise, but a particle's proposal follows from everybody's noise."""
    noise = pyro.sample("noise", dist.Normal(0.0, 1.0).mask(False), infer={"is_auxiliary": True})
    pyro.sample("z", dist.Normal(noise - noise.mean(), 1.0))


def test_equal_noise_gives_equal_densities_however_discrete_their_dependence() -> None:
    for seed in range(8):  # each of them was refused with probability near one half
        assert query(model, jumping, {"x": 1.0}, num_samples=4, seed=seed).num_samples == 4


def test_particles_that_depend_on_each_other_by_their_noise_are_refused() -> None:
    with pytest.raises(ConfigError, match="not vectorised over particles"):
        query(model, mixing, {"x": 1.0}, num_samples=4, seed=0)
