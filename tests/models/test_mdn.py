"""Mixture density networks as programs: one density whichever way it is computed, and guides that match."""

from __future__ import annotations

import math

import pyro
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyro import poutine
from pyro.infer import Predictive, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO, infer_discrete
from torch import Tensor

from phlogiston.distributions.mixtures.members import merge
from phlogiston.errors import ConfigError, ShapeError, UnknownNameError
from phlogiston.guides.mdn import LowRankGuide, MeanFieldGuide
from phlogiston.models.mdn import MDN, BayesianMDN
from phlogiston.networks.mixture_heads import KINDS, MixtureHead


def no_guide(**batch: Tensor) -> None:
    """Sample nothing."""


def make(kind: str = "diag", targets: int = 2, **options: object) -> MDN:
    torch.manual_seed(1)
    model = MDN(3, targets, 4, kind, (8,), **options)
    model.x_location.copy_(torch.tensor([1.0, 2.0, 3.0]))
    model.x_scale.copy_(torch.tensor([1.0, 0.5, 2.0]))
    model.y_location.copy_(torch.arange(targets) * 10.0)
    model.y_scale.copy_(torch.arange(targets) + 0.5)
    return model


def rows(n: int = 6, targets: int = 2) -> dict[str, Tensor]:
    return {"x": torch.randn(n, 3), "y": torch.randn(n, targets) + torch.arange(targets) * 10.0}


def elbo_loss(model: torch.nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return Trace_ELBO().differentiable_loss(model, no_guide, **batch)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("members", [None, 3])
def test_the_program_and_the_plain_likelihood_are_the_same_number(kind: str, members: int | None) -> None:
    model, batch = make(kind, members=members), rows()
    plain = -model.log_likelihood(**batch).sum() / (members or 1)
    torch.testing.assert_close(elbo_loss(model, batch), plain, rtol=1e-5, atol=1e-4, check_dtype=False)


def test_summing_the_component_by_enumeration_gives_the_marginal_and_its_gradients() -> None:
    model, batch = make(), rows()
    written_out = make(component="enumerate")
    written_out.load_state_dict(model.state_dict())
    enum = TraceEnum_ELBO(max_plate_nesting=1)
    losses = [elbo_loss(model, batch), enum.differentiable_loss(written_out, no_guide, **batch)]
    torch.testing.assert_close(*losses, rtol=1e-6, atol=1e-5)
    for loss in losses:
        loss.backward()
    for p, q in zip(model.parameters(), written_out.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-5)


def test_enumerated_queries_follow_the_component_posterior() -> None:
    model, batch = make(component="enumerate"), rows(5)
    posterior = model.likelihood(batch["x"]).component_posterior(batch["y"]).exp().detach()
    counts = torch.zeros(5, 4)
    for _ in range(300):
        drawn = infer_discrete(model, first_available_dim=-2, temperature=1)
        index = poutine.trace(drawn).get_trace(**batch).nodes["component"]["value"]
        counts += torch.nn.functional.one_hot(index, 4)
    error = (posterior * (1 - posterior) / 300).sqrt()
    assert bool(((counts / 300 - posterior).abs() <= 5 * error + 1e-3).all())
    best = infer_discrete(model, first_available_dim=-2, temperature=0)
    index = poutine.trace(best).get_trace(**batch).nodes["component"]["value"]
    assert torch.equal(index, posterior.argmax(-1))


@pytest.mark.parametrize("component", ["marginal", "enumerate"])
def test_without_targets_the_same_program_generates(component: str) -> None:
    model = make(component=component)
    x = torch.randn(4, 3)
    y = Predictive(model, num_samples=1000)(x)["y"]
    want = model.predictive(x)
    error = 5.5 * want.variance.sqrt() / math.sqrt(1000)
    assert bool(((y.mean(0) - want.mean).abs() < error).all())


def test_a_site_can_be_conditioned_from_outside() -> None:
    model, batch = make(), rows()
    conditioned = poutine.trace(pyro.condition(model, data={"y": batch["y"]})).get_trace(batch["x"])
    torch.testing.assert_close(
        conditioned.log_prob_sum(), model.log_likelihood(**batch).sum(), rtol=1e-5, atol=1e-4, check_dtype=False
    )


def test_densities_are_in_the_units_of_the_data() -> None:
    model, batch = make(), rows()
    plain = model.likelihood(batch["x"]).log_prob(batch["y"])
    torch.testing.assert_close(plain, model.log_likelihood(**batch), rtol=1e-5, atol=1e-4, check_dtype=False)
    model.y_scale.mul_(100.0)
    model.y_location.mul_(100.0)
    scaled = model.log_likelihood(batch["x"], 100.0 * batch["y"])
    torch.testing.assert_close(scaled, plain - 2 * math.log(100.0), rtol=1e-5, atol=1e-4, check_dtype=False)


def test_members_are_independent_networks_side_by_side() -> None:
    model, batch = make(members=3), rows()
    together = model.log_likelihood(**batch)
    for i in range(3):
        alone = make()
        with torch.no_grad():
            for p, q in zip(alone.net.parameters(), model.net.parameters(), strict=True):
                p.copy_(q[i])
        torch.testing.assert_close(alone.log_likelihood(**batch), together[i], rtol=1e-4, atol=1e-4)
    want = torch.logsumexp(together, 0) - math.log(3)
    found = model.predictive(batch["x"]).log_prob(batch["y"])
    torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-4, check_dtype=False)


def test_row_weights_count_rows() -> None:
    model, batch = make(), rows(3)
    weighted = elbo_loss(model, {**batch, "weight": torch.tensor([2.0, 0.0, 1.0])})
    index = torch.tensor([0, 0, 2])
    repeated = elbo_loss(model, {name: value[index] for name, value in batch.items()})
    torch.testing.assert_close(weighted, repeated)


@pytest.mark.parametrize("kind", ["diag", "factorised"])
def test_on_a_grid_targets_are_scored_by_cells(kind: str) -> None:
    model, batch = make(kind, grid=0.5), rows()
    batch["y"] = (batch["y"] * 2).round() / 2
    loss = elbo_loss(model, batch)
    torch.testing.assert_close(loss, -model.log_likelihood(**batch).sum(), rtol=1e-4, atol=1e-4, check_dtype=False)
    assert bool((model.log_likelihood(**batch) <= 0).all())


@pytest.mark.parametrize("kind", KINDS)
def test_components_start_where_the_targets_are(kind: str) -> None:
    model = make(kind)
    y = torch.randn(500, 2) * torch.tensor([0.1, 3.0]) + torch.tensor([5.0, -40.0])
    model.y_location.copy_(y.mean(0))
    model.y_scale.copy_(y.std(0))
    model.initialise(y)
    start = model.predictive(model.x_location.expand(1, 3))
    torch.testing.assert_close(start.mean[0], y.mean(0), atol=1.0, rtol=0.2, check_dtype=False)
    loose = torch.distributions.Normal(y.mean(0), y.std(0)).log_prob(y).sum(-1).mean()
    found = model.predictive(model.x_location.expand(500, 3)).log_prob(y).mean()
    assert float(found.detach()) > float(loose) - 1.5


def test_a_head_can_stand_behind_any_body() -> None:
    head = MixtureHead(5, targets=2, num_components=3, kind="full")
    params = head(torch.randn(7, 4, 5))
    assert params.loc.shape == (7, 4, 3, 2)
    targets = torch.randn(100, 2)
    head.initialise(targets)
    assert bool(torch.isfinite(head(torch.zeros(1, 5)).loc).all())


# ---- random weights


def bayesian(random: str = "all") -> BayesianMDN:
    return BayesianMDN(make(), random, prior_sd=0.7)


@pytest.mark.parametrize("guide", [MeanFieldGuide, LowRankGuide])
@pytest.mark.parametrize("random", ["all", "last"])
def test_guides_match_the_model_under_one_and_many_particles(guide: type, random: str) -> None:
    model = bayesian(random)
    found, batch = guide(model), rows()
    trace = poutine.trace(found).get_trace(**batch)
    latent = set(poutine.trace(model).get_trace(**batch).stochastic_nodes) - {"y", "data"}
    assert latent == {name for name in trace.stochastic_nodes if name != "net_weights"}
    for options in ({}, {"num_particles": 3, "vectorize_particles": True, "max_plate_nesting": 1}):
        loss = Trace_ELBO(**options).differentiable_loss(model, found, **batch)
        model.zero_grad()
        found.zero_grad()
        loss.backward()
        assert math.isfinite(float(loss.detach()))
        assert all(p.grad is not None for p in found.parameters())
        assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_sampled_weights_fold_into_members_whatever_the_particles() -> None:
    model, batch = bayesian(), rows()
    guide = MeanFieldGuide(model, 0.5)
    weights = guide.draw(4)
    each = model.log_likelihood(batch["x"], batch["y"], weights)
    assert each.shape == (4, 6)
    for s in range(4):
        one = model.log_likelihood(batch["x"], batch["y"], {name: value[s] for name, value in weights.items()})
        torch.testing.assert_close(each[s], one, rtol=1e-4, atol=1e-4)
    wide = {name: value.unsqueeze(1) for name, value in weights.items()}  # as vectorised particles come
    torch.testing.assert_close(model.log_likelihood(batch["x"], batch["y"], model.fold(wide)), each)


def test_the_bound_is_the_expected_likelihood_minus_the_divergence() -> None:
    model, batch = bayesian(), rows()
    guide = MeanFieldGuide(model, 0.3)
    elbo = TraceMeanField_ELBO(num_particles=4000, vectorize_particles=True, max_plate_nesting=1)
    with torch.no_grad():
        loss = elbo.differentiable_loss(model, guide, **batch)
        weights = guide.draw(4000)
        expected = model.log_likelihood(batch["x"], batch["y"], weights).sum(-1)
        divergence = torch.zeros(())
        for name in model.shapes:
            q = torch.distributions.Normal(
                guide.loc[name.replace(".", "_")], guide.log_scale[name.replace(".", "_")].exp()
            )
            prior = model.prior(name)
            p = torch.distributions.Normal(prior.base_dist.loc, prior.base_dist.scale)
            divergence = divergence + torch.distributions.kl_divergence(q, p).sum()
    error = 6 * float(expected.std()) / math.sqrt(4000)
    assert float(loss) == pytest.approx(float(divergence - expected.mean()), abs=2 * error)


def test_low_rank_draws_have_the_covariance_they_say() -> None:
    model = bayesian("last")
    guide = LowRankGuide(model, rank=2, init_scale=0.5)
    joint = guide.joint()
    drawn = guide.draw(20_000)
    vector = torch.cat([drawn[name].flatten(1) for name in guide.shapes], 1)
    torch.testing.assert_close(vector.mean(0), joint.loc, atol=0.05, rtol=0)
    torch.testing.assert_close(vector.T.cov(), joint.covariance_matrix, atol=0.03, rtol=0)


def test_predictive_mixes_weights_and_components() -> None:
    model = bayesian()
    guide = MeanFieldGuide(model, 0.2)
    x = torch.randn(3, 3)
    y = Predictive(model, guide=guide, num_samples=800)(x)["y"]
    want = merge(model.network.likelihood(x, guide.draw(800)))
    assert bool(((y.mean(0) - want.mean).abs() < 6 * want.variance.sqrt() / math.sqrt(800) * 1.5).all())


def test_priors_of_the_heads_biases_keep_components_apart() -> None:
    model = bayesian()
    model.initialise(torch.randn(200, 2))
    assert float(model.head_location.std()) > 0.1
    assert float(model.prior("biases.0").mean.abs().max()) == 0.0
    assert torch.equal(model.prior("biases.1").mean, model.head_location)


# ---- words


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: make("bivariate", 3), ConfigError, "2 targets; there are 3"),
        (lambda: make("dig"), UnknownNameError, "diag"),
        (lambda: make(scale="softmax"), UnknownNameError, "softplus"),
        (lambda: make(component="enum"), UnknownNameError, "enumerate"),
        (lambda: make("full", component="enumerate"), ConfigError, "kind 'diag'"),
        (lambda: make("full", grid=1.0), ConfigError, "no closed form"),
        (lambda: make()(None), ConfigError, "no distribution of its inputs"),
        (lambda: make()(torch.zeros(3)), ShapeError, r"\(rows, 3\)"),
        (lambda: MDN(2, 1, 0), ConfigError, "at least 1"),
        (lambda: MDN(2, activation="sine"), UnknownNameError, "activation"),
        (lambda: BayesianMDN(make(members=2)), ConfigError, "single one"),
        (lambda: BayesianMDN(make(), "first"), UnknownNameError, "last"),
        (lambda: LowRankGuide(bayesian(), 0), ConfigError, "rank is 0"),
        (lambda: MeanFieldGuide(bayesian(), 0.0), ConfigError, "init_scale"),
    ],
)
def test_bad_options_are_refused_in_words(call: object, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        call()


@given(
    kind=st.sampled_from(KINDS),
    n=st.integers(1, 4),
    k=st.integers(1, 3),
    targets=st.integers(1, 3),
    members=st.sampled_from([None, 1, 2]),
    hidden=st.lists(st.integers(1, 4), max_size=2),
)
@settings(max_examples=30, deadline=None)
def test_any_sizes_give_finite_losses_and_gradients(
    kind: str, n: int, k: int, targets: int, members: int | None, hidden: list[int]
) -> None:
    targets = 2 if kind == "bivariate" else targets
    model = MDN(2, targets, k, kind, hidden, members=members)
    y = torch.randn(n, targets)
    model.initialise(y)
    loss = elbo_loss(model, {"x": torch.randn(n, 2), "y": y})
    loss.backward()
    assert math.isfinite(float(loss.detach()))
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.grad is not None)
    assert model.predictive(torch.zeros(n, 2)).batch_shape == (n,)
