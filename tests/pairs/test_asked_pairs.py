"""Bring your own pair: questions to trained pairs, against closed forms, sums and quadrature."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import global_pairs
import pyro.distributions as dist
import pytest
import torch
from all_pairs import case_of, trained
from pyro.infer import Predictive
from torch import Tensor

from phlogiston.errors import ConfigError
from phlogiston.evaluate.importance import log_likelihood
from phlogiston.inference.query.ask import query

METHODS = ("importance", "smc")


def ask(name: str, batch: dict[str, Any], method: str = "importance", **options: Any) -> Any:
    model, guide = trained(name)
    return query(model, guide, options.pop("evidence", {}), batch=batch, method=method, seed=1, **options)  # type: ignore[arg-type]


def first(name: str, row: int = 0) -> dict[str, Tensor]:
    return {key: value[row : row + 1] for key, value in case_of(name).data.items()}


def holds(answer: Any, evidence: float) -> None:
    """The log evidence is right within four of its errors, which are small."""
    error = float(answer.log_evidence_error)
    assert error < 0.3
    assert abs(float(answer.log_evidence) - evidence) < 4.0 * error + 0.01


# ---- under the prior, with all the data: the evidence of the whole


def gaussian() -> tuple[float, dict[str, tuple[Tensor, Tensor]]]:
    mean, covariance, evidence = global_pairs.posterior(**global_pairs.REGRESSION)
    return evidence, {"w": (mean, covariance.diagonal().sqrt())}


def conjugate() -> tuple[float, dict[str, tuple[Tensor, Tensor]]]:
    mean, sd, evidence = global_pairs.censored_posterior(case_of("censored times").data)
    return evidence, {"rate": (torch.tensor(mean), torch.tensor(sd))}


def curve() -> tuple[float, dict[str, tuple[Tensor, Tensor]]]:
    return global_pairs.process_grid(case_of("Gaussian process").data)[2], {}


def bend() -> tuple[float, dict[str, tuple[Tensor, Tensor]]]:
    return global_pairs.banana_evidence(case_of("flow guide").data["y"]), {}


def items() -> tuple[float, dict[str, tuple[Tensor, Tensor]]]:
    y = case_of("a subsampled second plate").data["y"].double().reshape(-1)
    precision = 1.0 / 9.0 + len(y)
    mean = float(y.sum()) / precision
    at = torch.tensor(mean, dtype=torch.float64)  # p(y) = p(mu) p(y | mu) / p(mu | y) at any mu
    evidence = dist.Normal(0.0, 3.0).log_prob(at) + dist.Normal(at, 1.0).log_prob(y).sum()
    evidence = evidence - dist.Normal(mean, precision**-0.5).log_prob(at)
    return float(evidence), {"mu": (at, torch.tensor(precision**-0.5))}


WHOLE: dict[str, Callable[[], Any]] = {
    "regression, AutoNormal": gaussian,
    "regression, AutoMultivariateNormal": gaussian,
    "regression, AutoLowRankMultivariateNormal": gaussian,
    "censored times": conjugate,
    "Gaussian process": curve,
    "flow guide": bend,
    "a subsampled second plate": items,
}


# Independent factors make poor proposals for coefficients that depend on each other, and the answer warns.
@pytest.mark.filterwarnings("ignore::phlogiston.errors.QueryWarning")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", WHOLE)
def test_the_evidence_of_all_data_under_the_prior(name: str, method: str) -> None:
    evidence, sites = WHOLE[name]()
    batch = {**case_of(name).data, **({"looked_at": 12} if "plate" in name else {})}
    answer = ask(name, batch, method, num_samples=4000, global_latents="prior")
    holds(answer, evidence)
    slack = max(0.15, 4.0 / math.sqrt(float(answer.ess)))
    for site, (mean, sd) in sites.items():
        assert ((answer.mean(site) - mean).abs() < slack * sd).all()
        assert ((answer.variance(site).sqrt() / sd - 1.0).abs() < slack).all()


def test_hamiltonian_draws_of_a_censored_rate() -> None:
    mean, sd, _ = global_pairs.censored_posterior(case_of("censored times").data)
    options: dict[str, Any] = {"num_samples": 100, "warmup": 40, "global_latents": "prior"}
    answer = ask("censored times", case_of("censored times").data, "hmc", **options)
    error = sd / math.sqrt(float(answer.ess))
    assert abs(float(answer.mean("rate")) - mean) < 4.5 * error


@pytest.mark.parametrize("method", METHODS)
def test_a_new_row_is_predicted_under_the_trained_posterior(method: str) -> None:
    mean, covariance, _ = global_pairs.posterior(**global_pairs.REGRESSION)
    x = torch.tensor([[1.0, -1.0]])
    expected = float(x.double() @ mean)
    sd = math.sqrt(float(x.double() @ covariance @ x.double().T) + 0.25)
    name = "regression, AutoMultivariateNormal"
    answer = ask(name, {"x": x}, method, ask=["y"], num_samples=4000)
    assert abs(float(answer.mean("y")) - expected) < 0.15 * sd
    assert abs(float(answer.variance("y").sqrt()) / sd - 1.0) < 0.1
    answer = ask(name, {"x": x}, method, evidence={"y": 1.0}, ask=["w"], num_samples=4000)
    truth = float(torch.distributions.Normal(expected, sd).log_prob(torch.tensor(1.0)))
    assert abs(float(answer.log_evidence) - truth) < 0.12  # the guide is trained, not exact


def test_a_network_with_random_weights_predicts_as_pyros_predictive_does() -> None:
    name, x = "network with random weights", torch.tensor([[0.5]])
    model, guide = trained(name)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(2)
        draws = Predictive(model, guide=guide, num_samples=400)(x)["y"].double()
    answer = ask(name, {"x": x}, ask=["y"], num_samples=4000)
    assert abs(float(answer.mean("y")) - float(draws.mean())) < 4.0 * float(draws.std()) / 20.0
    assert abs(float(answer.variance("y").sqrt() / draws.std()) - 1.0) < 0.15


# ---- scores: log p of new rows


def test_new_rows_of_a_regression_are_scored_under_the_trained_posterior() -> None:
    model, guide = trained("regression, AutoMultivariateNormal")
    mean, covariance, _ = global_pairs.posterior(**global_pairs.REGRESSION)
    x, y = global_pairs.noise(20, 2, seed=31), global_pairs.noise(20, seed=32)
    sd = ((x.double() @ covariance) * x).sum(1).add(0.25).sqrt()
    truth = torch.distributions.Normal(x.double() @ mean, sd).log_prob(y.double())
    score = log_likelihood(model, guide, {"x": x, "y": y}, particles=2000).score
    assert (torch.as_tensor(score.value) - truth).abs().mean() < 0.1


@torch.no_grad()
def test_rows_of_a_topic_model_are_scored_as_quadrature_scores_them() -> None:
    model, guide = trained("topic model")
    rows = {"counts": case_of("topic model").data["counts"][:5]}
    truth = [over_shares(model, {"counts": row[None]}) for row in rows["counts"]]
    score = log_likelihood(model, guide, rows, particles=2000).score
    for got, error, expected in zip(score.value, score.std_error, truth, strict=True):  # type: ignore[arg-type]
        assert abs(float(got) - expected) < 4.0 * float(error) + 0.02


# ---- unknowns of one row


def summed(model: Any, row: dict[str, Tensor]) -> float:
    return float(model.evidence(**row))


def over_classes_and_code(model: Any, row: dict[str, Tensor]) -> float:
    z = torch.linspace(-6.0, 6.0, 1201)[:, None]
    terms = []
    for y in torch.eye(2):
        loc = model.decoder(torch.cat([y.expand(len(z), 2), z], -1))
        terms.append(
            math.log(0.5) + dist.Normal(0.0, 1.0).log_prob(z[:, 0]) + dist.Normal(loc, 0.5).log_prob(row["x"]).sum(-1)
        )
    return float(torch.cat(terms).double().logsumexp(0)) + math.log(0.01)


def over_shares(model: Any, row: dict[str, Tensor]) -> float:
    t = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000.0
    share = (0.5 * math.pi * t).sin().square()  # Dirichlet(0.5, 0.5) is uniform in t
    probs = torch.stack([share, 1.0 - share], 1) @ model.words.softmax(-1).double()
    counts = row["counts"].double()
    return float(torch.distributions.Multinomial(20, probs=probs).log_prob(counts).logsumexp(0)) - math.log(4000.0)


def over_scenes(model: Any, row: dict[str, Tensor]) -> float:
    offsets = torch.linspace(-1.0, 1.0, 201)
    prior = dist.Normal(0.0, 0.2).log_prob(offsets).double() + math.log(0.01)
    bumps = [
        torch.exp(-((model.pixels - (place + offsets)[:, None]) / model.log_width.exp()).square())
        for place in (-0.5, 0.5)
    ]

    def density(canvas: Tensor) -> Tensor:
        return dist.Normal(canvas, 0.2).log_prob(row["x"]).sum(-1).double()

    none = density(torch.zeros(1, 8)).squeeze() + math.log(0.4)
    one = (density(bumps[0]) + prior).logsumexp(0) + math.log(0.6 * 0.4)
    both = density(bumps[0][:, None] + bumps[1]) + prior[:, None] + prior
    return float(torch.stack([none, one, both.reshape(-1).logsumexp(0) + math.log(0.36)]).logsumexp(0))


ROWS: dict[str, Callable[[Any, dict[str, Tensor]], float]] = {
    "hidden Markov model": summed,
    "semi-supervised autoencoder": over_classes_and_code,
    "topic model": over_shares,
    "attend, infer, repeat": over_scenes,
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ROWS)
@torch.no_grad()
def test_the_evidence_of_a_row(name: str, method: str) -> None:
    row = first(name, 1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        answer = ask(name, row, method, num_samples=4000)
    if answer.log_evidence_error is None:  # a chain that did not mix, or a tail without a mean, and the answer says so
        assert "log_evidence_error" in answer.details or any("no error bar" in str(w.message) for w in caught)
        return
    holds(answer, ROWS[name](trained(name)[0], row))


@torch.no_grad()
def test_presence_is_found_where_the_scene_has_it() -> None:
    for row, present in enumerate(((0.0, 0.0), (1.0, 0.0), (1.0, 1.0))):
        answer = ask("attend, infer, repeat", first("attend, infer, repeat", row), num_samples=1000)
        for step in (0, 1):
            assert float(answer.mean(f"presence{step}")) == pytest.approx(present[step], abs=0.02)


def test_smc_and_importance_agree_on_a_deep_chain() -> None:
    row = first("deep Markov model", 3)
    answers = [ask("deep Markov model", row, method, num_samples=4000) for method in METHODS]
    gap = abs(float(answers[0].log_evidence - answers[1].log_evidence))
    assert gap < 4.0 * sum(float(a.log_evidence_error) for a in answers) + 0.02


def test_what_cannot_be_asked_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="point estimate of weights, locs"):
        ask("mixture", first("mixture"))
    with pytest.raises(ConfigError, match="the plate 'items' draws 4 of 12 rows"):
        ask("a subsampled second plate", case_of("a subsampled second plate").data)
