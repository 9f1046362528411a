"""Importance sampling brackets the truth, tightens with particles, and its error bars hold what they promise."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoMultivariateNormal
from torch import Tensor, nn

from phlogiston.datasets.base import Split
from phlogiston.distributions.pyro_modules import own_parameters
from phlogiston.errors import ConfigError, DataError, SampleSizeWarning, ShapeError
from phlogiston.evaluate.importance import log_likelihood, sandwich, simulate
from phlogiston.evaluate.score import Score
from phlogiston.evaluate.weights import effective_size, pareto_shape

from .pairs import LinearGaussian, Posterior


@pytest.fixture
def loose(linear_gaussian: LinearGaussian) -> Posterior:
    """A guide that is a little too wide and a little off."""
    return Posterior(linear_gaussian, stretch=1.3, shift=0.1)


def test_the_exact_posterior_gives_the_exact_evidence_from_one_particle(linear_gaussian: LinearGaussian) -> None:
    x = linear_gaussian.draw(20)
    found = log_likelihood(linear_gaussian, Posterior(linear_gaussian), {"x": x}, 1)
    assert torch.allclose(found.score.value.float(), linear_gaussian.evidence(x), atol=1e-4)
    many = log_likelihood(linear_gaussian, Posterior(linear_gaussian), {"x": x}, 100)
    assert torch.allclose(many.ess, torch.full((20,), 100.0, dtype=torch.float64), rtol=1e-4)
    assert float(many.score.std_error.max()) < 1e-4


def test_bounds_stay_below_the_evidence_and_tighten_with_particles(
    linear_gaussian: LinearGaussian, loose: Posterior
) -> None:
    x = linear_gaussian.draw(400)
    exact = float(linear_gaussian.evidence(x).mean())
    found = log_likelihood(linear_gaussian, loose, {"x": x}, 1000, chunk=250)
    curve = found.curve_metrics()
    means = [metric.value for metric in curve.values()]
    assert list(curve) == [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]
    assert all(low < high for low, high in itertools.pairwise(means[:6]))
    assert means[0] < exact - 0.05, "a loose guide leaves a gap at one particle"
    assert abs(means[-1] - exact) < 0.005
    assert found.metrics()["elbo"].value == pytest.approx(means[0])
    assert found.score.kind == "lower bound"
    assert found.figure(exact).get_label()


def test_the_two_bounds_bracket_the_evidence_of_data_drawn_from_the_model(
    linear_gaussian: LinearGaussian, loose: Posterior
) -> None:
    template = {"x": torch.zeros(600, 3)}
    drawn, _ = simulate(linear_gaussian, template, seed=3)
    exact = float(linear_gaussian.evidence(drawn["x"]).mean())
    gaps = []
    for particles in (1, 10, 100):
        found = sandwich(linear_gaussian, loose, template, particles, seed=3)
        assert found["lower"].value < exact < found["upper"].value
        assert found["gap"].value == pytest.approx(found["upper"].value - found["lower"].value)
        gaps.append(found["gap"].value)
    assert gaps[0] > 3 * gaps[1] > 9 * gaps[2] > 0


def test_stated_intervals_cover_the_evidence_at_the_stated_rate(
    linear_gaussian: LinearGaussian, loose: Posterior
) -> None:
    x = linear_gaussian.draw(8)
    exact = linear_gaussian.evidence(x).double()
    total, rows = 0, 0
    for seed in range(200):
        score = log_likelihood(linear_gaussian, loose, {"x": x}, 400, chunk=400, seed=seed).score
        rows += int(((score.value - exact).abs() <= 1.96 * score.std_error).sum())
        error = score.mean().detail["monte_carlo_std_error"]
        total += abs(float(score.value.mean() - exact.mean())) <= 1.96 * error
    assert 0.90 <= total / 200 <= 0.99
    assert 0.90 <= rows / 1600 <= 0.99


def test_intervals_of_the_held_out_mean_cover_the_expectation(
    linear_gaussian: LinearGaussian, loose: Posterior
) -> None:
    wanted = float(linear_gaussian.evidence(linear_gaussian.draw(200_000)).mean())
    hits = 0
    for seed in range(200):
        x = linear_gaussian.draw(50)
        metric = log_likelihood(linear_gaussian, loose, {"x": x}, 100, chunk=100, seed=seed).metrics()["log_likelihood"]
        hits += abs(metric.value - wanted) <= 1.96 * metric.std_error
    assert 0.90 <= hits / 200 <= 0.99


def test_data_sets_and_dicts_give_the_same(linear_gaussian: LinearGaussian, loose: Posterior) -> None:
    x = linear_gaussian.draw(30)
    one, two = (log_likelihood(linear_gaussian, loose, data, 50, batch_size=8) for data in ({"x": x}, Split({"x": x})))
    assert torch.equal(one.score.value, two.score.value)


def test_chunks_and_batches_change_nothing_but_the_draws(linear_gaussian: LinearGaussian, loose: Posterior) -> None:
    x = linear_gaussian.draw(30)
    found = [
        log_likelihood(linear_gaussian, loose, {"x": x}, 500, chunk=chunk, batch_size=rows).score.value.mean()
        for chunk, rows in ((500, 30), (7, 30), (50, 4))
    ]
    assert max(found) - min(found) < 0.02
    state = torch.random.get_rng_state()
    log_likelihood(linear_gaussian, loose, {"x": x}, 5)
    assert torch.equal(state, torch.random.get_rng_state()), "the global random state is left alone"


@pytest.mark.filterwarnings("ignore::phlogiston.errors.SampleSizeWarning")  # its guide is the prior
def test_no_more_than_a_chunk_of_particles_and_rows_is_held_at_once(linear_gaussian: LinearGaussian) -> None:
    sizes = []

    def watched(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            sizes.append(pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1)).numel() // 2)

    log_likelihood(linear_gaussian, watched, {"x": linear_gaussian.draw(9)}, 100, chunk=8, batch_size=4)
    assert max(sizes) == 8 * 4
    assert sum(sizes) < 9 * 100 + 100  # and a few more runs to see the plates, what is global, and who mixes particles


class Branching(nn.Module):
    """A discrete and a continuous latent, a masked site, and a plate beside the plate over rows."""

    def forward(self, x: Tensor, known: Tensor | None = None) -> None:
        with pyro.plate("data", len(x), dim=-2):
            k = pyro.sample("k", dist.Bernoulli(torch.full((len(x), 1), 0.3)))
            with pyro.plate("features", x.shape[1], dim=-1):
                law = dist.Normal(2.0 * k, 1.0)
                pyro.sample("x", law.mask(True if known is None else known), obs=x)

    def evidence(self, x: Tensor, known: Tensor) -> Tensor:
        each = [(dist.Normal(2.0 * k, 1.0).log_prob(x) * known).sum(1) + math.log(p) for k, p in ((0, 0.7), (1, 0.3))]
        return torch.stack(each).logsumexp(0)


def coin(x: Tensor, known: Tensor | None = None) -> None:
    with pyro.plate("data", len(x), dim=-2):
        pyro.sample("k", dist.Bernoulli(torch.full((len(x), 1), 0.5)))


def test_discrete_latents_masks_and_nested_plates_are_counted_right() -> None:
    x, known = torch.randn(40, 3), torch.rand(40, 3) > 0.4
    found = log_likelihood(Branching(), coin, {"x": x, "known": known}, 4000, chunk=1000)
    assert torch.allclose(found.score.value.float(), Branching().evidence(x, known), atol=0.1)


def test_latents_the_guide_leaves_alone_are_drawn_from_the_model() -> None:
    x, known = torch.randn(40, 3), torch.ones(40, 3, dtype=torch.bool)

    def nothing(x: Tensor, known: Tensor) -> None:
        return None

    found = log_likelihood(Branching(), nothing, {"x": x, "known": known}, 4000, chunk=1000)
    assert torch.allclose(found.score.value.float(), Branching().evidence(x, known), atol=0.1)


def test_scale_handlers_and_annealing_do_not_reach_the_evidence(linear_gaussian: LinearGaussian) -> None:
    x = linear_gaussian.draw(5)
    tempered = pyro.poutine.scale(linear_gaussian, 0.1)
    found = log_likelihood(tempered, Posterior(linear_gaussian), {"x": x}, 1)
    assert torch.allclose(found.score.value.float(), linear_gaussian.evidence(x), atol=1e-4)


def test_a_model_that_knows_its_evidence_is_taken_at_its_word(linear_gaussian: LinearGaussian) -> None:
    linear_gaussian.exact_log_prob = linear_gaussian.evidence  # type: ignore[assignment]
    x = linear_gaussian.draw(7)
    found = log_likelihood(linear_gaussian, Posterior(linear_gaussian), {"x": x})
    assert found.score.kind == "exact"
    assert torch.allclose(found.score.value.float(), linear_gaussian.evidence(x))
    assert list(found.metrics()) == ["log_likelihood"]
    with pytest.raises(DataError, match="no curve"):
        found.figure()
    assert log_likelihood(linear_gaussian, Posterior(linear_gaussian), {"x": x}, exact=False).ess is not None


def test_heavy_tails_are_measured_and_warned_of(linear_gaussian: LinearGaussian) -> None:
    narrow = Posterior(linear_gaussian, stretch=0.3)
    with pytest.warns(SampleSizeWarning, match="Pareto shape above"):
        found = log_likelihood(linear_gaussian, narrow, {"x": linear_gaussian.draw(30)}, 1000, chunk=1000)
    assert found.metrics()["pareto_k"].detail["share_above_0.7"] > 0.1
    assert found.metrics()["ess"].value < 0.5


@pytest.mark.parametrize("shape", [0.2, 0.5, 0.9])
def test_the_pareto_shape_is_recovered(shape: float) -> None:
    uniform = torch.rand(20_000, 20, dtype=torch.float64)
    weights = uniform.pow(-shape).log()  # exact Pareto tails
    assert float(pareto_shape(weights).mean()) == pytest.approx(shape, abs=0.06)


def test_the_pareto_shape_of_few_or_equal_weights() -> None:
    assert torch.isnan(pareto_shape(torch.zeros(10, 2))).all()
    assert (pareto_shape(torch.zeros(100, 2)) < 0).all()


def test_what_cannot_be_divided_over_rows_is_refused(linear_gaussian: LinearGaussian) -> None:
    def model(x: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mean.unsqueeze(-1), torch.ones(3)).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.sample("mean", dist.Normal(x.mean(), 1.0))  # it follows the data: no posterior that training fitted

    x = {"x": torch.zeros(4, 3)}
    with pytest.raises(ConfigError, match="'mean' is outside the plate 'data'"):
        log_likelihood(model, guide, x)
    with pytest.raises(ConfigError, match="outside the plate 'rows'"):
        log_likelihood(linear_gaussian, Posterior(linear_gaussian), x, plate="rows")


def test_a_guide_with_a_latent_of_its_own_is_refused(linear_gaussian: LinearGaussian) -> None:
    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("w", dist.Normal(0.0, 1.0))

    with pytest.raises(ConfigError, match="'w', which the model does not have"):
        log_likelihood(linear_gaussian, guide, {"x": torch.zeros(4, 3)})


def test_malformed_data_are_refused(linear_gaussian: LinearGaussian) -> None:
    guide = Posterior(linear_gaussian)
    with pytest.raises(DataError, match="no rows"):
        log_likelihood(linear_gaussian, guide, {"x": torch.zeros(0, 3)})
    with pytest.raises(ShapeError, match="must agree"):
        log_likelihood(linear_gaussian, guide, {"x": torch.zeros(2, 3), "y": torch.zeros(3)})
    with pytest.raises(ConfigError, match="must be positive"):
        log_likelihood(linear_gaussian, guide, {"x": torch.zeros(2, 3)}, 0)


def test_simulated_data_follow_the_model_and_keep_what_no_site_observes(linear_gaussian: LinearGaussian) -> None:
    drawn, latents = simulate(linear_gaussian, {"x": torch.zeros(20_000, 3)}, seed=0)
    wanted = linear_gaussian.weight @ linear_gaussian.weight.T + 0.25 * torch.eye(3)
    assert torch.allclose(torch.cov(drawn["x"].T), wanted, atol=0.15)
    assert latents["z"].shape == (20_000, 2)
    again, _ = simulate(linear_gaussian, {"x": torch.zeros(20_000, 3)}, seed=0)
    assert torch.equal(drawn["x"], again["x"])
    known = torch.rand(10, 3) > 0.5
    masked, _ = simulate(Branching(), {"x": torch.randn(10, 3), "known": known})
    assert masked["known"] is known


def test_effective_size_of_equal_and_of_lonely_weights() -> None:
    weights = torch.stack([torch.zeros(50), torch.tensor([0.0, *[-50.0] * 49])], 1)
    assert np.allclose(effective_size(weights).numpy(), [50.0, 1.0], rtol=1e-5)


class Regression(nn.Module):
    """w ~ N(0, I) once, y | x, w ~ N(w x, 0.5^2) for each row, and a latent per row where `noisy`."""

    def __init__(self, noisy: bool = False) -> None:
        super().__init__()
        self.noisy = noisy

    def forward(self, x: Tensor, y: Tensor | None = None) -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            mean = (x * w).sum(-1)
            if self.noisy:
                mean = mean + pyro.sample("z", dist.Normal(torch.zeros(len(x)), 0.7))
            pyro.sample("y", dist.Normal(mean, 0.5), obs=y)


WEIGHTS = torch.tensor([[0.3, 0.0], [0.2, 0.25]])
CENTRE = torch.tensor([1.0, -2.0])


class FittedWeights(nn.Module):
    """A guide for `Regression` that drew its weights' posterior from elsewhere."""

    def __init__(self, noisy: bool = False) -> None:
        super().__init__()
        self.noisy = noisy

    def forward(self, x: Tensor, y: Tensor | None = None) -> None:
        w = pyro.sample("w", dist.MultivariateNormal(CENTRE, scale_tril=WEIGHTS))
        if self.noisy:
            assert y is not None
            with pyro.plate("data", len(x)):
                gain = 0.49 / 0.74
                pyro.sample("z", dist.Normal(gain * (y - (x * w).sum(-1)), math.sqrt(0.49 * (1 - gain))))


@pytest.mark.parametrize("noisy", [False, True])
def test_rows_are_scored_under_the_trained_posterior_of_global_latents(noisy: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(12, 2)
    variance = ((x @ (WEIGHTS @ WEIGHTS.T)) * x).sum(-1) + 0.25 + 0.49 * noisy
    exact = dist.Normal(x @ CENTRE, variance.sqrt())
    y = exact.sample()
    wanted = exact.log_prob(y).double()
    scores = []
    for seed in range(100):
        found = log_likelihood(Regression(noisy), FittedWeights(noisy), {"x": x, "y": y}, 400, chunk=400, seed=seed)
        error = found.shared_error
        assert error is not None
        scores.append((float(found.score.value.mean() - wanted.mean())) / error)
    assert float((torch.tensor(scores).abs() < 1.96).float().mean()) >= 0.88
    assert 0.7 < float(torch.tensor(scores).std()) < 1.4
    assert found.metrics()["log_likelihood"].detail["global_latents"] == "w under the trained posterior"


def test_a_trained_autoguide_scores_rows_by_the_predictive_density() -> None:
    """Against the closed form under the guide's own Gaussian."""
    torch.manual_seed(0)
    model, x = Regression(), torch.randn(12, 2)
    y = x @ CENTRE + 0.5 * torch.randn(12)
    guide = AutoMultivariateNormal(model, init_scale=0.3)
    own_parameters(model, guide)
    guide(x, y)
    guide.loc.data.copy_(CENTRE)
    posterior = guide.get_posterior()
    variance = ((x @ posterior.covariance_matrix) * x).sum(-1) + 0.25
    exact = dist.Normal(x @ CENTRE, variance.sqrt()).log_prob(y).detach().double()
    found = log_likelihood(model, guide, {"x": x, "y": y}, 4000)
    assert found.shared_error is not None
    assert abs(float(found.score.value.mean() - exact.mean())) < 5 * found.shared_error
    assert ((found.score.value - exact).abs() < 6 * found.score.std_error + 1e-6).all()


@pytest.mark.parametrize("predict", [lambda x, w: w @ x.T, lambda x, w: (x * w).sum(-1) + w.sum()])
def test_a_model_that_mixes_particles_is_not_scored(predict: Any) -> None:
    def mixed(x: Tensor, y: Tensor | None = None) -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(predict(x, w), 0.5), obs=y)

    with pytest.raises(ConfigError, match=r"'y'.* is not vectorised"):
        log_likelihood(mixed, FittedWeights(), {"x": torch.randn(5, 2), "y": torch.randn(5)}, 10)


def test_one_particle_states_no_error(linear_gaussian: LinearGaussian, loose: Posterior) -> None:
    found = log_likelihood(linear_gaussian, loose, {"x": linear_gaussian.draw(4)}, 1)
    assert found.score.std_error is None
    assert "monte_carlo_std_error" not in found.metrics()["log_likelihood"].detail


def test_numpy_and_float_take_scores_and_metrics_as_they_are() -> None:
    score = Score(torch.tensor([-1.0, -3.0], dtype=torch.float64))
    assert np.asarray(score).tolist() == [-1.0, -3.0]
    assert np.asarray(score, dtype=np.float32).dtype == np.float32
    assert float(score.mean()) == np.asarray(score).mean() == -2.0
