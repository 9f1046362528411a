from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from inference_pairs import GlobalGuide, GlobalMean, MixtureGuide, pair, rows
from pyro.infer import ELBO, RenyiELBO, Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from torch import Tensor, nn

from phlogiston.errors import ConfigError, UnknownNameError
from phlogiston.inference.svi import objectives


class Registered(nn.Module):
    """Shows Pyro the parameters of a module, without which some of its objectives leave out the backward pass."""

    def __init__(self, name: str, module: nn.Module) -> None:
        super().__init__()
        self.name, self.module = name, module

    def forward(self, **batch: Tensor) -> Any:
        pyro.module(self.name, self.module)
        return self.module(**batch)


def reference(elbo: ELBO, kind: str, data: dict[str, Tensor]) -> tuple[float, list[Tensor]]:
    """Return loss and gradients by Pyro's own `loss_and_grads`."""
    pyro.clear_param_store()
    model, guide = pair(kind)
    torch.manual_seed(5)
    loss = elbo.loss_and_grads(Registered("m", model), Registered("g", guide), **data)  # type: ignore[attr-defined]
    pyro.clear_param_store()
    return loss, [p.grad for m in (model, guide) for p in m.parameters()]


def ours(objective: Any, kind: str, data: dict[str, Tensor], validation: bool) -> tuple[float, list[Tensor]]:
    model, guide = pair(kind)
    bound = objectives.bind(objective, model, guide, depth=1)
    torch.manual_seed(5)
    with pyro.validation_enabled(validation):
        loss = bound.module(**data)
    if not bound.own_backward:
        loss.backward()
    loss = loss.detach() if isinstance(loss, Tensor) else loss
    return float(loss), [p.grad for m in (model, guide) for p in m.parameters()]


CASES = {
    "elbo": ("elbo", Trace_ELBO(), "gaussian"),
    "elbo, 3 particles": (objectives.make("elbo", num_particles=3), Trace_ELBO(num_particles=3), "gaussian"),
    "elbo, score function": ("elbo", Trace_ELBO(), "sampled"),
    "mean_field": ("mean_field", TraceMeanField_ELBO(), "gaussian"),
    "mean_field without a closed form": ("mean_field", TraceMeanField_ELBO(), "point"),
    "enum": ("enum", TraceEnum_ELBO(max_plate_nesting=1), "enumerated"),
    "an instance": (TraceEnum_ELBO(max_plate_nesting=1), TraceEnum_ELBO(max_plate_nesting=1), "enumerated"),
    "loss_and_grads only": (TraceGraph_ELBO(), TraceGraph_ELBO(), "sampled"),
    "loss_and_grads that wants parameters": (RenyiELBO(alpha=0.5), RenyiELBO(alpha=0.5), "gaussian"),
    "free_bits without a floor": (objectives.make("free_bits", nats=0.0), TraceMeanField_ELBO(), "gaussian"),
}


@pytest.mark.parametrize("validation", [False, True], ids=["validation off", "validation on"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_loss_and_gradient_equal_those_of_pyro_at_the_same_seed(case: str, validation: bool) -> None:
    objective, elbo, kind = CASES[case]
    data = rows(kind, 7)
    loss, gradients = reference(elbo, kind, data)
    our_loss, our_gradients = ours(objective, kind, data, validation)
    assert our_loss == pytest.approx(loss, rel=1e-5)
    for mine, theirs in zip(our_gradients, gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("count", [1, 7])
def test_iwae_equals_pyros_renyi_bound_of_order_zero_where_all_sites_are_local(count: int) -> None:
    data = rows(count=count)
    renyi = RenyiELBO(alpha=0, num_particles=6, vectorize_particles=True, max_plate_nesting=1)
    loss, gradients = reference(renyi, "gaussian", data)
    our_loss, our_gradients = ours(objectives.make("iwae", num_particles=6), "gaussian", data, True)
    assert our_loss == pytest.approx(loss, rel=1e-5)
    for mine, theirs in zip(our_gradients, gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_iwae_with_one_particle_is_the_elbo() -> None:
    data = rows(count=7)
    loss, gradients = ours("elbo", "gaussian", data, False)
    our_loss, our_gradients = ours(objectives.make("iwae", num_particles=1), "gaussian", data, False)
    assert our_loss == pytest.approx(loss, rel=1e-5)
    for mine, theirs in zip(our_gradients, gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_iwae_tightens_towards_the_evidence_with_more_particles() -> None:
    model, guide = pair()
    data = rows(count=20)
    evidence = float(model.evidence(data["x"]).sum())
    torch.manual_seed(0)
    means = []
    for particles in (1, 5, 50, 5000):
        elbo = objectives.make("iwae", num_particles=particles)
        means.append(-sum(elbo.loss(model, guide, **data) for _ in range(40)) / 40)  # type: ignore[attr-defined]
    assert means == sorted(means)
    assert evidence - means[0] > 5.0
    assert means[-1] == pytest.approx(evidence, abs=0.1)


def test_iwae_weights_each_datum_even_where_a_global_term_makes_pyro_weight_the_whole_batch() -> None:
    inner, guide = pair()
    model = WithFactor(inner)
    data = rows(count=400)
    torch.manual_seed(0)
    elbo: Any = objectives.make("iwae", num_particles=50)
    whole = RenyiELBO(alpha=0, num_particles=50, vectorize_particles=True, max_plate_nesting=1)
    gap = whole.loss(model, guide, **data) - elbo.loss(model, guide, **data)
    assert gap > 100.0


class WithFactor(nn.Module):
    """The linear-Gaussian model with a penalty on its weights outside the plate."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> None:
        pyro.factor("penalty", -(self.inner.linear.weight**2).sum())
        self.inner(x)


def test_iwae_adds_deterministic_global_terms_once() -> None:
    model, guide = pair()
    data = rows(count=5)
    losses = []
    for program in (model, WithFactor(model)):
        torch.manual_seed(3)
        losses.append(objectives.make("iwae", num_particles=4).loss(program, guide, **data))  # type: ignore[attr-defined]
    assert losses[1] - losses[0] == pytest.approx(model.linear.weight.square().sum().item(), rel=1e-4)


def test_iwae_refuses_what_it_would_get_wrong() -> None:
    elbo: Any = objectives.make("iwae", num_particles=3)
    with pytest.raises(ConfigError, match="'m' lies outside"):
        elbo.loss(GlobalMean(), GlobalGuide(point=False), **rows("global", 4))
    elbo = objectives.make("iwae", num_particles=3)
    model, _ = pair("sampled")
    with pytest.raises(ConfigError, match="'k' is a Categorical"):
        elbo.loss(model, MixtureGuide(enumerated=False), **rows("sampled", 4))


def test_free_bits_lets_a_small_divergence_go_free() -> None:
    model, guide = pair()
    data = rows(count=7)
    bound = objectives.bind(objectives.make("free_bits", nats=50.0), model, guide, 1)
    torch.manual_seed(1)
    bound.module(**data).backward()
    # below the floor the loss is the reconstruction plus a constant
    torch.manual_seed(1)
    free = {n: p.grad.clone() for n, p in guide.named_parameters()}
    guide.zero_grad()
    z = guide.loc(data["x"]) + guide.log_scale.exp() * torch.randn(7, 2)
    (-dist.Normal(model.linear(z), model.scale).log_prob(data["x"]).sum()).backward()
    for name, parameter in guide.named_parameters():
        torch.testing.assert_close(free[name], parameter.grad, rtol=1e-4, atol=1e-5)


def test_free_bits_of_each_row_are_a_floor_under_each_row() -> None:
    model, guide = pair()
    data = rows(count=7)
    with torch.no_grad():
        q = dist.Normal(guide.loc(data["x"]), guide.log_scale.exp().expand(7, 2))
    each = torch.distributions.kl_divergence(q, torch.distributions.Normal(torch.zeros(7, 2), 1.0)).sum(1)
    nats = float(each.median())
    plain, floored = (objectives.bind(o, model, guide, 1) for o in (
        objectives.make("free_bits", nats=0.0), objectives.make("free_bits", nats=nats, each=True),
    ))  # fmt: skip
    losses = []
    for bound in (plain, floored):
        torch.manual_seed(1)
        losses.append(bound.module(**data).detach())
    torch.testing.assert_close(losses[1] - losses[0], (each.clamp(min=nats) - each).sum(), rtol=1e-4, atol=1e-4)
    assert float(losses[1] - losses[0]) > 0.01


def test_unknown_names_and_options_are_told_with_what_would_work() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'iwae'"):
        objectives.make("iwea")
    with pytest.raises(ConfigError, match="does not take"):
        objectives.make("iwae", particles=3)
    with pytest.raises(ConfigError, match="at least 1"):
        objectives.make("iwae", num_particles=0)
    with pytest.raises(ConfigError, match="callable"):
        objectives.bind(3, *pair())
    with pytest.raises(ConfigError, match="returned a int"):
        objectives.bind(lambda model, guide: 3, *pair())


def test_describe_does_not_change_when_an_objective_is_used() -> None:
    elbo = objectives.make("elbo", num_particles=4, vectorize_particles=True)
    before = objectives.describe(elbo)
    objectives.bind(elbo, *pair(), depth=1).module(**rows())
    assert objectives.describe(elbo) == before
    assert before["num_particles"] == 4
