"""Mixtures of normals in batches: densities, draws, gradients, shapes."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from phlogiston.distributions.mixed_normals import MixedNormals


def mixture(batch: tuple[int, ...] = (2, 3), parts: int = 4, length: int = 2, trailing: int = 0) -> MixedNormals:
    torch.manual_seed(0)
    means = 2 * torch.randn(*batch, parts, length, dtype=torch.double)
    return MixedNormals(torch.randn(*batch, parts, dtype=torch.double), means, 0.3 + torch.rand_like(means), trailing)


@pytest.mark.parametrize("trailing", [0, 2])
def test_the_density_is_the_mixture_s(trailing: int) -> None:
    law = mixture(trailing=trailing)
    other = MixtureSameFamily(Categorical(logits=law.logits), Independent(Normal(law.means, law.deviations), 1))
    x = torch.randn(5, 2, 3, 2, dtype=torch.double)
    torch.testing.assert_close(law.log_prob(x.reshape(5, 2, 3, 2, *[1] * trailing)), other.log_prob(x))


def test_draws_have_the_mixture_s_moments_for_every_batch_row() -> None:
    law = mixture()
    torch.manual_seed(1)
    draws = law.sample((60_000,))
    weight = torch.softmax(law.logits, -1)[..., None]
    mean = (weight * law.means).sum(-2)
    variance = (weight * (law.deviations.square() + law.means.square())).sum(-2) - mean.square()
    error = 5 * variance.sqrt() / math.sqrt(60_000)
    assert bool(((draws.mean(0) - mean).abs() < error).all())
    torch.testing.assert_close(draws.var(0), variance, rtol=0.05, atol=0)


def test_gradients_of_draws_to_means_and_deviations_are_those_of_expectations() -> None:
    law = mixture((1,), 3, 2)
    means, deviations = law.means.clone().requires_grad_(), law.deviations.clone().requires_grad_()
    torch.manual_seed(2)
    draws = MixedNormals(law.logits, means, deviations).rsample((400_000,))
    draws.square().sum(-1).mean().backward()
    weight = torch.softmax(law.logits, -1)[..., None]
    assert means.grad is not None
    assert deviations.grad is not None
    torch.testing.assert_close(means.grad, 2 * weight * law.means, rtol=0.02, atol=0.03)
    torch.testing.assert_close(deviations.grad, 2 * weight * law.deviations, rtol=0.02, atol=0.03)


def test_shapes_expansion_and_temperature() -> None:
    law = mixture(trailing=2)
    assert law.event_shape == (2, 1, 1)
    assert law.sample((7,)).shape == (7, 2, 3, 2, 1, 1)
    assert law.sample().shape == (2, 3, 2, 1, 1)
    wide = law.expand((5, 2, 3))
    assert wide.sample().shape == (5, 2, 3, 2, 1, 1)
    x = torch.randn(2, 3, 2, 1, 1, dtype=torch.double)
    torch.testing.assert_close(wide.log_prob(x), law.log_prob(x).expand(5, 2, 3))
    cold = law.tempered(0.0).sample((50,)).flatten(-3)
    assert float((cold[..., None, :] - law.means).square().sum(-1).amin(-1).max()) < 1e-12
