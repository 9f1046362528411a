"""Tempered sequential Monte Carlo: right where it can be checked, and honest about what it does not know."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from phlogiston.errors import EvidenceError, QueryWarning
from phlogiston.inference.query.answer import Answer
from phlogiston.inference.query.ask import query
from phlogiston.inference.query.evidence import Within
from phlogiston.inference.query.genealogy import effective_families, evidence_variance, family_masses, genealogical_size
from phlogiston.inference.query.population import Population, discrete_range
from phlogiston.inference.query.program import Program
from phlogiston.inference.svi.batchwise import propose_each, score_each


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def ask(model: Callable[..., Any], evidence: Any = None, n: int = 1000, seed: int = 0, **options: Any) -> Answer:
    return query(model, None, evidence or {}, num_samples=n, method="smc", seed=seed, **options)


def error(answer: Answer) -> float:
    assert answer.log_evidence is not None
    assert answer.log_evidence_error is not None
    return answer.log_evidence_error.item()


def log_normal(x: float, sd: float) -> float:
    return -0.5 * (x / sd) ** 2 - math.log(sd) - 0.5 * math.log(2 * math.pi)


# ---- error bars


def chain(x: Tensor | None = None) -> None:
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    pyro.sample("x", dist.Normal(z, 0.1), obs=x)


def test_error_bars_of_the_evidence_and_of_means_hold() -> None:
    """Nominal 95 % intervals over 200 repeats; 87 % is four standard errors below, and wider is no fault here."""
    truth, mean, sd = log_normal(1.5, math.sqrt(1.01)), 1.5 / 1.01, math.sqrt(0.01 / 1.01)
    evidence, means = 0, 0
    for seed in range(200):
        answer = ask(chain, {"x": 1.5}, n=150, seed=seed)
        evidence += abs(answer.log_evidence.item() - truth) < 1.96 * error(answer)  # type: ignore[union-attr]
        means += abs(answer.mean("z").item() - mean) < 1.96 * sd / math.sqrt(answer.ess.item())
    assert evidence >= 174
    assert means >= 174


def test_families_are_what_independent_draws_would_be() -> None:
    """Particles in 40 families of 25 copies are worth 40; fresh ones of any family are worth themselves."""
    ancestors = torch.arange(40).repeat_interleave(25)
    copies = torch.randn(40, 2, dtype=torch.float64)[ancestors]
    fresh = torch.randn(1000, 2, dtype=torch.float64)
    assert 20 < genealogical_size(copies, ancestors) < 70
    assert genealogical_size(fresh, ancestors) > 400
    assert genealogical_size(torch.ones(1000, 1), ancestors) == pytest.approx(40)


def test_without_resampling_the_variance_is_that_of_importance_sampling() -> None:
    log_weights = torch.randn(500, dtype=torch.float64)
    masses = family_masses(log_weights, torch.arange(500))
    weights = log_weights.softmax(0)
    assert evidence_variance(masses).item() == pytest.approx(weights.square().sum().item() - 1 / 500)
    assert effective_families(masses) == pytest.approx(1 / weights.square().sum().item())


def ring() -> None:
    """Two narrow, far modes that no continuous move joins; the first is twice as heavy."""
    z = pyro.sample("z", dist.Normal(torch.zeros(4), 3.0).to_event(1)).double()
    near = torch.stack([-50 * (z - 3).square().sum(-1) + math.log(2), -50 * (z + 3).square().sum(-1)])
    pyro.factor("modes", near.logsumexp(0))


def test_separate_modes_are_worth_their_families_and_have_no_error_bar() -> None:
    with pytest.warns(QueryWarning, match="no error bar: the moves did not mix"):
        answer = ask(ring, n=400)
    assert answer.ess < 200
    assert answer.log_evidence_error is None
    assert (answer.samples["z"][:, 0] > 0).double().mean().item() == pytest.approx(2 / 3, abs=0.25)


def banana() -> None:
    """A long, thin, strongly curved distribution: one round of moves is far from enough."""
    z = pyro.sample("z", dist.Normal(torch.zeros(2), 5.0).to_event(1)).double()
    pyro.factor("bend", -0.5 * ((z[..., 1] - z[..., 0].square()) / 0.02).square())


def test_moves_that_do_not_mix_give_a_warning_and_no_error_bar() -> None:
    with pytest.warns(QueryWarning) as told:
        answer = ask(banana, n=300, moves=1, leapfrog=1)
    assert any("no error bar: the moves did not mix" in str(w.message) for w in told)
    assert answer.log_evidence_error is None
    assert "did not mix" in answer.details["log_evidence_error"]
    assert answer.details["correlation"] > 0.5


def test_few_ancestors_give_a_warning_and_no_error_bar() -> None:
    def sharp() -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros(4).double(), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 0.01).to_event(1), obs=torch.full((4,), 2.0).double())

    with pytest.warns(QueryWarning, match="no error bar: all particles go back to"):
        answer = ask(sharp, n=60)
    assert answer.log_evidence_error is None
    assert "first 60 draws" in answer.details["log_evidence_error"]


# ---- correlated and ill-scaled posteriors


def regression(seed: int = 0) -> tuple[Callable[[], None], Tensor, Tensor, float]:
    """Strongly correlated columns under a wide prior; posterior and evidence in closed form."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(50, 1, generator=generator, dtype=torch.float64)
    x = torch.cat([torch.ones_like(common), common + 0.1 * torch.randn(50, 5, generator=generator).double()], 1)
    y = x @ torch.arange(1.0, 7.0).double() + 0.5 * torch.randn(50, generator=generator).double()

    def model() -> None:
        beta = pyro.sample("beta", dist.Normal(torch.zeros(6).double(), 10.0).to_event(1))
        pyro.sample("y", dist.Normal((x @ beta.unsqueeze(-1)).squeeze(-1), 0.5).to_event(1), obs=y)

    covariance = torch.linalg.inv(x.T @ x / 0.25 + torch.eye(6).double() / 100)
    whole = torch.distributions.MultivariateNormal(
        torch.zeros(50).double(), 0.25 * torch.eye(50).double() + 100 * x @ x.T
    )
    return model, covariance @ x.T @ y / 0.25, covariance, float(whole.log_prob(y))


def test_a_correlated_regression_far_from_its_prior() -> None:
    model, mean, covariance, evidence = regression()
    answer = ask(model)
    sd = covariance.diagonal().sqrt()
    assert abs(answer.log_evidence.item() - evidence) < 5 * error(answer)  # type: ignore[union-attr]
    assert error(answer) < 0.3
    assert ((answer.mean("beta") - mean).abs() < 5 * sd / math.sqrt(answer.ess.item())).all()
    assert (answer.variance("beta").sqrt() / sd - 1).abs().max() < 0.2


def test_supports_that_depend_on_other_sites_move_with_them() -> None:
    """a ~ U(0, 10), b ~ U(0, a), y ~ N(b, 0.5) at 4: by quadrature over b, whose prior density is log(10 / b) / 10."""

    def model() -> None:
        a = pyro.sample("a", dist.Uniform(0.0, 10.0))
        b = pyro.sample("b", dist.Uniform(torch.zeros_like(a), a))
        pyro.sample("y", dist.Normal(b, 0.5), obs=torch.tensor(4.0))

    b = torch.linspace(1e-4, 10 - 1e-4, 200_001, dtype=torch.float64)
    density = (10 / b).log() / 10 * dist.Normal(b, 0.5).log_prob(torch.tensor(4.0).double()).exp()
    mean = float((density * b).sum() / density.sum())
    sd = float(((density * (b - mean) ** 2).sum() / density.sum()).sqrt())
    evidence = math.log(float(density.sum()) * float(b[1] - b[0]))
    answer = ask(model)
    assert abs(answer.mean("b").item() - mean) < 5 * sd / math.sqrt(answer.ess.item())
    assert abs(answer.log_evidence.item() - evidence) < 5 * error(answer)  # type: ignore[union-attr]
    assert (answer.samples["b"] < answer.samples["a"]).all()


# ---- discrete sites


def test_single_entries_of_discrete_sites_change() -> None:
    """Twelve independent coins with sharp evidence: proposing all of them afresh is hardly ever accepted."""
    shift = torch.tensor([3.0, -3.0] * 6)

    def model() -> None:
        with pyro.plate("coins", 12, dim=-1):
            k = pyro.sample("k", dist.Bernoulli(0.5))
            pyro.sample("y", dist.Normal(2 * k - 1, 0.6), obs=shift / 3)

    log_odds = 2 * (shift / 3) / 0.36
    evidence = sum(
        math.log(0.5 * math.exp(log_normal(v - 1, 0.6)) + 0.5 * math.exp(log_normal(v + 1, 0.6)))
        for v in (shift / 3).tolist()
    )
    answer = ask(model)
    assert torch.allclose(answer.mean("k"), torch.sigmoid(log_odds).double(), atol=0.05)
    assert abs(answer.log_evidence.item() - evidence) < 5 * error(answer)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("fn", "ends"),
    [
        (dist.Bernoulli(0.5), (0, 1)),
        (dist.Categorical(torch.ones(4)), (0, 3)),
        (dist.Poisson(2.0), (0, math.inf)),
        (dist.Binomial(5, 0.5), (0, 5)),
        (dist.OneHotCategorical(torch.ones(3)), None),
    ],
)
def test_ranges_of_discrete_supports(fn: Any, ends: Any) -> None:
    assert discrete_range(fn.support) == ends


# ---- zero likelihood and numerical faults


def test_most_proposals_at_zero_likelihood_are_no_impossibility() -> None:
    """A factor of minus infinity outside a tenth of the prior; z given that is uniform there."""

    def model() -> None:
        z = pyro.sample("z", dist.Uniform(0.0, 1.0))
        pyro.factor("where", torch.where(z < 0.1, 0.0, -math.inf))
        pyro.sample("y", dist.Normal(z, 0.02), obs=torch.tensor(0.05))

    answer = ask(model)
    mass = 2 * dist.Normal(0.0, 1.0).cdf(torch.tensor(2.5)).item() - 1
    assert (answer.samples["z"] < 0.1).all()
    assert abs(answer.log_evidence.item() - math.log(mass)) < 5 * error(answer)  # type: ignore[union-attr]
    with pytest.raises(EvidenceError, match="probability zero at each of 50"):
        ask(lambda: pyro.factor("never", pyro.sample("z", dist.Normal(0.0, 1.0)) * 0.0 - math.inf), n=50)


def fragile() -> None:
    """A covariance that is not positive definite for r > 0.9; what fails has no probability."""
    r = pyro.sample("r", dist.Uniform(torch.tensor(0.0).double(), 1.0))
    one = torch.ones_like(r)
    tril = torch.linalg.cholesky(torch.stack([one, r / 0.9, r / 0.9, one], -1).reshape(*r.shape, 2, 2))
    pyro.sample("y", dist.MultivariateNormal(torch.zeros(2).double(), scale_tril=tril), obs=torch.ones(2).double())


def test_particles_that_fail_numerically_end_no_query() -> None:
    r = torch.linspace(1e-6, 0.9 - 1e-6, 100_001, dtype=torch.float64)
    c = r / 0.9
    density = torch.exp(-1 / (1 + c)) / (2 * math.pi * (1 - c**2).sqrt())
    mean = float((density * r).sum() / density.sum())
    answer = ask(fragile, n=80)
    assert abs(answer.mean("r").item() - mean) < 5 * 0.3 / math.sqrt(answer.ess.item())
    evidence = math.log(float(density.sum()) * float(r[1] - r[0]))
    assert abs(answer.log_evidence.item() - evidence) < 5 * error(answer) + 0.01  # type: ignore[union-attr]


def test_faults_of_the_program_itself_are_raised_as_they_came() -> None:
    def model() -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        if z.numel() > 10:
            raise RuntimeError("a mistake of mine")

    with pytest.raises(Exception, match="a mistake of mine"):
        ask(model, n=100)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.floats(0.0, 1.0), min_size=2, max_size=40))
def test_only_particles_at_fault_score_zero(values: list[float]) -> None:
    r = torch.tensor([0.5, *values], dtype=torch.float64)
    bad = r / 0.9 >= 1.0
    together = score_each(Program(fragile, None, {}), {"r": r})
    assert torch.isneginf(together.joint[bad]).all()
    assert torch.isfinite(together.joint[~bad]).all()


def test_failed_proposals_are_marked() -> None:
    particles, failed = propose_each(Program(fragile, None, {}), 500)
    assert 15 < int(failed.sum()) < 90  # 50, and five standard errors
    assert torch.isneginf(particles.log_weights[failed]).all()
    assert torch.isfinite(particles.log_weights[~failed]).all()


def test_densities_that_differ_by_hundreds_of_orders_of_magnitude() -> None:
    """The first temperature is far below what halving can reach."""

    def model() -> None:
        z = pyro.sample("z", dist.Normal(torch.tensor(0.0).double(), 2.0))
        pyro.factor("steep", -(z.abs().clamp_min(1.0) ** 200))

    answer = ask(model, n=500)
    assert (answer.samples["z"].abs() < 1.1).all()


def test_moves_keep_the_distribution_they_are_given() -> None:
    """Particles drawn from the prior and moved at temperature one of a model without data stay prior draws."""

    def model() -> None:
        pyro.sample("rate", dist.Gamma(torch.tensor(2.0).double(), 1.0))
        pyro.sample("shares", dist.Dirichlet(torch.tensor([1.0, 2.0, 3.0]).double()))
        pyro.sample("k", dist.Poisson(3.0))

    population = Population(Program(model, None, {}), 4000)
    population._fresh = 0.0  # no fresh proposals, which would hide a fault of the others
    assert population.move(1.0, most=6, leapfrog=8) < 0.5
    rate, k = population.values["rate"], population.values["k"].double()
    assert abs(rate.mean().item() - 2) < 5 * math.sqrt(2 / 4000)
    assert abs(rate.var().item() - 2) < 5 * math.sqrt(2 * (2**2) * 4 / 4000)
    assert torch.allclose(population.values["shares"].mean(0), torch.tensor([1, 2, 3]).double() / 6, atol=0.015)
    assert abs(k.mean().item() - 3) < 5 * math.sqrt(3 / 4000)


def test_boxes_no_proposal_ever_meets() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        answer = ask(lambda: pyro.sample("s", dist.Laplace(0.0, 1.0)), {"s": Within(12.0, 13.0)})
    assert abs(answer.log_evidence.item() - math.log(0.5 * (math.exp(-12) - math.exp(-13)))) < 0.8  # type: ignore[union-attr]
    assert ((answer.samples["s"] >= 12) & (answer.samples["s"] <= 13)).all()


@pytest.mark.filterwarnings("ignore:query. a few large weights")  # the density has a pole at r = 0.9
def test_importance_sampling_outlives_them_too() -> None:
    answer = query(fragile, None, {}, num_samples=300, seed=0)
    assert (answer.samples["r"] < 0.9).all()


def test_one_hot_sites_mix_by_fresh_proposals() -> None:
    """A one-hot class and a score that follows it, moderately informed: p(class) in closed form."""

    def model() -> None:
        y = pyro.sample("y", dist.OneHotCategorical(torch.tensor([0.5, 0.5])))
        z = pyro.sample("z", dist.Normal(4 * y[..., 0], 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(2.4))

    odds = math.exp(log_normal(1.6, math.sqrt(2)) - log_normal(2.4, math.sqrt(2)))
    answer = ask(model)
    assert error(answer) < 0.1
    assert answer.mean("y")[0].item() == pytest.approx(odds / (1 + odds), abs=0.1)


def test_one_hot_sites_change_their_category_where_no_fresh_proposal_is_taken() -> None:
    """Data that fix z sharply: a class mixes only by changes of its own, given z."""
    x = torch.tensor([0.9, -0.4, 1.2, 0.3, 2.0])

    def model() -> None:
        k = pyro.sample("k", dist.OneHotCategorical(torch.tensor([0.2, 0.3, 0.5])))
        z = pyro.sample(
            "z",
            dist.Normal((0.4 * k[..., 1] - 0.4 * k[..., 2]).unsqueeze(-1).expand(*k.shape[:-1], 5), 1.0).to_event(1),
        )
        pyro.sample("x", dist.Normal(z, 0.05).to_event(1), obs=x)

    spread = math.sqrt(1.0 + 0.05**2)
    joint = [
        math.log(p) + sum(log_normal(float(v) - m, spread) for v in x)
        for p, m in zip((0.2, 0.3, 0.5), (0.0, 0.4, -0.4), strict=True)
    ]
    truth = torch.tensor(joint, dtype=torch.float64)
    answer = ask(model, n=400)
    share = truth.softmax(0)
    assert abs(answer.log_evidence.item() - float(truth.logsumexp(0))) < 4.5 * error(answer)  # type: ignore[union-attr]
    assert ((answer.mean("k") - share).abs() < 4.5 * (share * (1 - share) / answer.ess).sqrt() + 0.01).all()
