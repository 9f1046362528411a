"""Simulation-based calibration tells right posteriors from wrong ones, for guides and for queries."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from phlogiston.errors import ConfigError, ShapeError, UnknownNameError
from phlogiston.evaluate.sbc import JOINT, Calibration, check_guide, check_query, rank
from phlogiston.inference.query.answer import Answer
from phlogiston.inference.query.ask import query
from phlogiston.inference.query.evidence import Known

from .pairs import LinearGaussian, Posterior

ROWS = {"x": torch.zeros(300, 3)}


def test_the_exact_posterior_is_accepted_and_a_halved_scale_refused_over_twenty_seeds() -> None:
    wrong = 0
    for seed in range(20):
        model = LinearGaussian(seed=seed)
        wrong += not check_guide(model, Posterior(model), ROWS, seed=seed).accepted()
        wrong += check_guide(model, Posterior(model, stretch=0.5), ROWS, seed=seed).accepted()
    assert wrong <= 1


@pytest.mark.parametrize(("stretch", "shift"), [(2.0, 0.0), (1.0, 0.3)])
def test_too_wide_and_leaning_posteriors_are_refused(
    linear_gaussian: LinearGaussian, stretch: float, shift: float
) -> None:
    assert not check_guide(linear_gaussian, Posterior(linear_gaussian, stretch, shift), ROWS).accepted()


def test_coverage_is_the_level_for_the_right_posterior_and_less_for_a_narrow_one(
    linear_gaussian: LinearGaussian,
) -> None:
    right = check_guide(linear_gaussian, Posterior(linear_gaussian), ROWS, repeats=3).metrics(0.9)["coverage"]
    assert right.n == 900
    assert abs(right.value - 0.9) < 4 * right.std_error
    narrow = check_guide(linear_gaussian, Posterior(linear_gaussian, 0.5), ROWS).metrics(0.9)["coverage"]
    assert narrow.value < 0.7  # 2 Phi(1.645 / 2) - 1 = 0.59


def test_a_guide_that_returns_the_prior_is_caught_by_the_joint_density_alone(linear_gaussian: LinearGaussian) -> None:
    def prior(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    found = check_guide(linear_gaussian, prior, ROWS)
    p_values = found.p_values()
    assert min(p_values["z[0]"], p_values["z[1]"]) > 0.005
    assert p_values[JOINT] < 1e-6
    assert not found.accepted()


def test_rank_histograms_leave_their_band_where_the_posterior_is_wrong(linear_gaussian: LinearGaussian) -> None:
    found = check_guide(linear_gaussian, Posterior(linear_gaussian, 0.5), ROWS)
    low, high = found.band()
    counts = np.histogram(found.ranks["z[0]"], 20, (0, 1))[0]
    assert counts[0] > high
    assert low < 300 / 20 < high
    assert found.figure().get_label()


def test_discrete_latents_are_ranked_with_ties_broken_at_random() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Bernoulli(torch.full((len(x),), 0.4)))
            pyro.sample("x", dist.Normal(k, 0.7), obs=x)

    def guide(x: Tensor, weight: float = 1.0) -> None:
        odds = weight * ((x - 0.5) / 0.49 + np.log(0.4 / 0.6))
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Bernoulli(logits=odds))

    def timid(x: Tensor) -> None:
        guide(x, 0.3)

    batch = {"x": torch.zeros(600)}
    assert check_guide(model, guide, batch).accepted()
    assert not check_guide(model, timid, batch).accepted()


def answer(model: LinearGaussian, row: dict[str, Tensor], stretch: float, weighted: bool) -> Any:
    """Ask by importance sampling from a proposal twice as wide, or take draws from the posterior."""
    posterior = Posterior(model, stretch)
    law = dist.MultivariateNormal(row["x"][0] @ posterior.gain.T, scale_tril=posterior.scale)
    if not weighted:
        return {"z": law.sample((99,))}
    wide = dist.MultivariateNormal(row["x"][0] @ posterior.gain.T, scale_tril=2 * posterior.scale)
    z = wide.sample((800,))
    return SimpleNamespace(samples={"z": z}, log_weights=law.log_prob(z) - wide.log_prob(z))


@pytest.mark.parametrize("weighted", [False, True])
def test_queries_are_checked_with_plain_and_weighted_draws(linear_gaussian: LinearGaussian, weighted: bool) -> None:
    def ask(row: dict[str, Tensor], stretch: float = 1.0) -> Any:
        return answer(linear_gaussian, row, stretch, weighted)

    assert check_query(ask, linear_gaussian, ROWS, ["z"]).accepted()
    assert not check_query(lambda row: ask(row, 0.5), linear_gaussian, ROWS, ["z"]).accepted()


def test_the_houses_own_queries_can_be_checked(linear_gaussian: LinearGaussian) -> None:
    loose = Posterior(linear_gaussian, 1.3)

    def model(x: Tensor | None = None) -> None:
        with pyro.plate("data", 1 if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ linear_gaussian.weight.T, linear_gaussian.sd).to_event(1), obs=x)

    def ask(row: dict[str, Tensor]) -> Answer:
        return query(model, lambda x=None: loose(x), {"x": Known(row["x"])}, ask=["z"], num_samples=300)

    assert check_query(ask, linear_gaussian, {"x": torch.zeros(100, 3)}, ["z"]).accepted()


def test_malformed_questions_are_refused(linear_gaussian: LinearGaussian) -> None:
    guide = Posterior(linear_gaussian)
    with pytest.raises(ConfigError, match="share no latents"):
        check_guide(linear_gaussian, guide, ROWS, sites=["w"])
    with pytest.raises(ConfigError, match="at least 9"):
        check_guide(linear_gaussian, guide, ROWS, draws=1)
    with pytest.raises(UnknownNameError, match="latent of the model 'y'"):
        check_query(lambda row: {}, linear_gaussian, ROWS, ["y"])
    with pytest.raises(UnknownNameError, match="quantity of the answer 'z'"):
        check_query(lambda row: {}, linear_gaussian, ROWS, ["z"])
    with pytest.raises(ShapeError):
        rank({"z": np.zeros(5)}, {"z": np.zeros((9, 4))})
    assert isinstance(rank({"z": np.zeros(50)}, {"z": np.zeros((9, 50))}), Calibration)
