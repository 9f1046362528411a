"""Bring your own pair: draws by hmc and scores of rows, against closed forms, quadrature and long importance runs."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import global_pairs
import pyro.distributions as dist
import pytest
import torch
from all_pairs import case_of, trained
from test_asked_pairs import ROWS, ask, first, gaussian, items
from torch import Tensor

from phlogiston.errors import ConfigError, QueryWarning
from phlogiston.evaluate.importance import log_likelihood

SHORT: dict[str, Any] = {"num_samples": 100, "warmup": 40, "chains": 2}


@pytest.fixture(autouse=True)
def _short_chains_may_be_poor() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", QueryWarning)
        yield


def agrees(answer: Any, site: str, mean: Tensor, sd: Tensor, change: Callable[[Tensor], Tensor] = lambda v: v) -> None:
    """Mean and spread of a site's draws, as far as their own effective number tells."""
    values = change(answer.samples[site].double()).reshape(answer.num_samples, -1)
    size = math.sqrt(float(answer.ess))
    assert float(answer.ess) > 4.0
    assert ((values.mean(0) - mean).abs() < 4.5 * sd / size + 1e-6).all()
    assert ((values.std(0) / sd).log().abs() < 4.5 / size + 0.1).all()


# ---- under the prior, with all the data


def log_length() -> Any:
    mean, sd, _ = global_pairs.process_grid(case_of("Gaussian process").data)
    return 0.0, {"length": (torch.tensor(mean), torch.tensor(sd))}


WHOLE: dict[str, Callable[[], Any]] = {
    "regression, AutoNormal": gaussian,
    "regression, AutoMultivariateNormal": gaussian,
    "regression, AutoLowRankMultivariateNormal": gaussian,
    "regression, AutoDelta": gaussian,
    "regression, AutoLaplaceApproximation": gaussian,
    "a subsampled second plate": items,
    "Gaussian process": log_length,
}


@pytest.mark.parametrize("name", WHOLE)
def test_hamiltonian_draws_follow_the_closed_form(name: str) -> None:
    batch = {**case_of(name).data, **({"looked_at": 12} if "plate" in name else {})}
    answer = ask(name, batch, "hmc", global_latents="prior", **SHORT)
    for site, (mean, sd) in WHOLE[name]()[1].items():
        agrees(answer, site, mean, sd, torch.log if site == "length" else lambda v: v)


def test_hamiltonian_draws_through_a_flow_agree_with_importance_sampling() -> None:
    batch = case_of("flow guide").data
    far = ask("flow guide", batch, "importance", num_samples=20_000, global_latents="prior")
    answer = ask("flow guide", batch, "hmc", global_latents="prior", **SHORT)
    for site in ("a", "b"):
        agrees(answer, site, far.mean(site), far.variance(site).sqrt())


# ---- under the trained posterior, given one row more


@pytest.mark.parametrize("name", ["horseshoe regression", "network with random weights"])
def test_one_more_row_moves_a_trained_posterior_as_importance_weights_do(name: str) -> None:
    row = first(name, 2)
    far = ask(name, row, "importance", num_samples=20_000)
    answer = ask(name, row, "hmc", num_samples=50, warmup=25, chains=1)
    assert "under their trained posterior" in answer.method
    for site in list(far.samples)[:3]:
        sd = far.variance(site).sqrt().flatten()
        gap = (answer.samples[site].double().mean(0).flatten() - far.mean(site).flatten()).abs()
        assert (gap < 5.0 * sd / math.sqrt(float(answer.ess)) + 1e-3).all()


@pytest.mark.parametrize("name", ["regression, AutoDelta", "regression, AutoLaplaceApproximation", "mixture"])
@pytest.mark.parametrize("method", ["importance", "smc", "hmc"])
def test_point_estimates_are_refused_by_every_method(name: str, method: str) -> None:
    with pytest.raises(ConfigError, match="holds a point estimate of") as caught:
        ask(name, first(name), method, num_samples=20)
    assert "\n" not in str(caught.value)


# ---- unknowns of one row


@torch.no_grad()
def test_hamiltonian_shares_of_a_document_are_those_of_quadrature() -> None:
    model, _ = trained("topic model")
    row = first("topic model", 1)
    t = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000.0
    share = (0.5 * math.pi * t).sin().square()
    probs = torch.stack([share, 1.0 - share], 1) @ model.words.softmax(-1).double()
    weight = torch.distributions.Multinomial(20, probs=probs).log_prob(row["counts"].double()).softmax(0)
    mean = weight @ share
    sd = (weight @ (share - mean).square()).sqrt()
    answer = ask("topic model", row, "hmc", **SHORT)
    got = answer.samples["shares"].double()[:, 0, 0]
    assert abs(float(got.mean() - mean)) < 4.5 * float(sd) / math.sqrt(float(answer.ess))


def test_hamiltonian_states_of_a_chain_agree_with_importance_sampling() -> None:
    """Of four steps the row has three; what comes after its end keeps its prior and delays nothing."""
    row = first("deep Markov model", 2)
    assert row["length"].tolist() == [3]
    far = ask("deep Markov model", row, "importance", num_samples=4000)
    answer = ask("deep Markov model", row, "hmc", num_samples=50, warmup=25, chains=1)
    for site in ("z0", "z2", "z3"):
        sd = far.variance(site).sqrt().flatten()
        gap = (answer.mean(site) - far.mean(site)).abs().flatten()
        assert (gap < 4.5 * sd / math.sqrt(max(3.0, float(answer.ess))) + 0.05).all()


DISCRETE = {
    "hidden Markov model": "z0, z1, z2, z3 is discrete",
    "semi-supervised autoencoder": "y is discrete",
    "attend, infer, repeat": "presence0, presence1 is discrete",
}


@pytest.mark.parametrize("name", DISCRETE)
def test_discrete_unknowns_are_refused_under_hmc_by_name(name: str) -> None:
    with pytest.raises(ConfigError, match=f'method="hmc" needs continuous unknowns, but {DISCRETE[name]}') as caught:
        ask(name, first(name), "hmc", num_samples=20)
    assert "\n" not in str(caught.value)


# ---- scores of rows


@pytest.mark.filterwarnings("ignore::phlogiston.errors.SampleSizeWarning")
@pytest.mark.parametrize("name", ROWS)
@torch.no_grad()
def test_rows_are_scored_as_sums_and_quadrature_score_them(name: str) -> None:
    model, guide = trained(name)
    rows = {key: value[:3] for key, value in case_of(name).data.items()}
    truth = [ROWS[name](model, {key: value[i : i + 1] for key, value in rows.items()}) for i in range(3)]
    found = log_likelihood(model, guide or (lambda **batch: None), rows, particles=2000)
    assert found.pareto_k is not None
    for value, error, k, expected in zip(
        found.score.value,
        found.score.std_error,
        found.pareto_k,
        truth,
        strict=True,  # type: ignore[arg-type]
    ):
        assert abs(float(value) - expected) < 4.5 * float(error) + 0.02 or float(k) > 0.7  # said to be no good


def test_rows_of_a_panel_and_censored_times_are_scored_by_their_predictive_density() -> None:
    name = "a subsampled second plate"
    model, guide = trained(name)
    mean, sd = float(guide.quantiles([0.5])["mu"][0]), float(guide.scales.mu.detach())
    y = case_of(name).data["y"][:4]
    law = dist.MultivariateNormal(torch.full((12,), mean), torch.eye(12) + sd**2)
    score = log_likelihood(model, guide, {"y": y, "looked_at": 12}, particles=1000).score
    assert (torch.as_tensor(score.value) - law.log_prob(y)).abs().max() < 0.05

    name = "censored times"
    model, guide = trained(name)
    rows = {key: value[:6] for key, value in case_of(name).data.items()}
    log_rate = torch.linspace(-3.0, 3.0, 2001)
    loc, scale = float(guide.locs.rate.detach()), float(guide.scales.rate.detach())
    prior = dist.Normal(loc, scale).log_prob(log_rate) + math.log(0.003)
    rate = log_rate.exp()[:, None]
    each = torch.where(rows["cut"], -rate * rows["t"], dist.Exponential(rate).log_prob(rows["t"]))
    score = log_likelihood(model, guide, rows, particles=2000).score
    assert (torch.as_tensor(score.value) - (each + prior[:, None]).logsumexp(0)).abs().max() < 0.02


# ---- far away


@pytest.mark.parametrize("method", ["importance", "smc", "hmc"])
def test_rows_far_from_everything_are_told_under_every_method(method: str) -> None:
    name = "regression, AutoMultivariateNormal"
    batch = {"x": torch.tensor([[1.0, -1.0]]), "y": torch.tensor([1e9])}
    options = {"num_samples": 40, "warmup": 20, "chains": 1} if method == "hmc" else {"num_samples": 100}
    with pytest.warns(QueryWarning) as caught:
        ask(name, batch, method, **options)
    assert any("far outside" in str(w.message) and "1e+09" in str(w.message) for w in caught)
