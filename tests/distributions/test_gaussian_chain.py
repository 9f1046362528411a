"""A chain as one distribution is the sum of its steps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from phlogiston.distributions.gaussian_chain import GaussianChain


def linear(a: float, s: float, size: int = 2, length: int = 4, batch: tuple[int, ...] = (3,)) -> GaussianChain:
    def step(z: Tensor, times: slice) -> tuple[Tensor, Tensor]:
        index = torch.arange(times.start, times.stop, dtype=z.dtype).unsqueeze(-1)
        return a * z + 0.1 * index, torch.full_like(z, s)

    start = torch.zeros(*batch, size, dtype=torch.float64)
    return GaussianChain((start + 0.5, torch.ones_like(start)), step, length)


def joint(chain_a: float, s: float, length: int) -> MultivariateNormal:
    """The law of a one-dimensional linear chain as one Gaussian, by hand."""
    mean = [0.5]
    cov = torch.zeros(length, length, dtype=torch.float64)
    cov[0, 0] = 1.0
    for t in range(1, length):
        mean.append(chain_a * mean[-1] + 0.1 * t)
        cov[t, :t] = cov[:t, t] = chain_a * cov[t - 1, :t]
        cov[t, t] = chain_a**2 * cov[t - 1, t - 1] + s**2
    return MultivariateNormal(torch.tensor(mean, dtype=torch.float64), cov)


def test_density_equals_that_of_the_joint_gaussian() -> None:
    chain = linear(0.8, 0.3, size=1, batch=())
    x = torch.randn(7, 4, 1, dtype=torch.float64)
    torch.testing.assert_close(chain.log_prob(x), joint(0.8, 0.3, 4).log_prob(x.squeeze(-1)))


def test_samples_have_the_moments_of_the_joint_gaussian_and_gradients() -> None:
    torch.manual_seed(0)
    chain, law = linear(0.8, 0.3, size=1, batch=()), joint(0.8, 0.3, 4)
    x = chain.sample((40_000,)).squeeze(-1)
    assert bool(((x.mean(0) - law.mean).abs() < 5 * (law.variance / 40_000).sqrt()).all())
    torch.testing.assert_close(torch.cov(x.T), law.covariance_matrix, rtol=0.05, atol=0.02)
    loc = torch.zeros(2, 3, requires_grad=True)
    GaussianChain((loc, torch.ones(2, 3)), lambda z, t: (z, torch.ones_like(z)), 5).rsample().sum().backward()
    torch.testing.assert_close(loc.grad, torch.full((2, 3), 5.0))


def test_the_divergence_at_drawn_paths_is_unbiased_and_sharper_than_sampling() -> None:
    torch.manual_seed(1)
    q, p = linear(0.5, 0.4, size=1, batch=(20_000,)), linear(0.9, 0.6, size=1, batch=(20_000,))
    path = q.rsample()
    analytic, sampled = kl_divergence(q, p), q.log_prob(path) - p.log_prob(path)
    exact = kl_divergence(joint(0.5, 0.4, 4), joint(0.9, 0.6, 4))
    for values in (analytic, sampled):
        assert abs(float(values.mean() - exact)) < 5 * float(values.std()) / 20_000**0.5
    assert float(analytic.std()) < 0.7 * float(sampled.std())


def test_inactive_tails_count_for_nothing() -> None:
    active = torch.tensor([[True] * 4, [True, True, False, False], [True] + [False] * 3])
    whole = linear(0.8, 0.3)
    cut = GaussianChain(whole.first, whole.step, 4, active)
    x = whole.sample()
    got = cut.log_prob(x)
    for row, length in enumerate((4, 2, 1)):
        part = GaussianChain(tuple(m[row] for m in whole.first), whole.step, length)  # type: ignore[arg-type]
        torch.testing.assert_close(got[row], part.log_prob(x[row, :length]))
    other = torch.where(active.unsqueeze(-1), x, torch.full_like(x, 1e3))
    torch.testing.assert_close(cut.log_prob(other), got)


def test_means_follow_the_locations_and_expansion_keeps_the_law() -> None:
    chain = linear(0.8, 0.3)
    path = chain.means()
    torch.testing.assert_close(path[:, 1], 0.8 * path[:, 0] + 0.1)
    wide = chain.expand((5, 3))
    assert wide.sample().shape == (5, 3, 4, 2)
    x = chain.sample()
    torch.testing.assert_close(wide.log_prob(x.expand(5, 3, 4, 2)), chain.log_prob(x).expand(5, 3))


def test_a_divergence_needs_a_path() -> None:
    with pytest.raises(NotImplementedError):
        kl_divergence(linear(0.5, 0.4), linear(0.5, 0.4))
    one = GaussianChain((torch.zeros(2), torch.ones(2)), lambda z, t: (z, z), 1)
    x = torch.randn(1, 2)
    torch.testing.assert_close(one.log_prob(x), Normal(0.0, 1.0).log_prob(x).sum())
