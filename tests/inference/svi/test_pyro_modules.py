"""Pyro's own modules keep their parameters to themselves, made in either parameter mode; Pyro's SVI is the oracle."""

from __future__ import annotations

import contextlib
import copy
import pickle
from collections.abc import Iterator
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoDelta, AutoDiagonalNormal, AutoNormal, AutoNormalMessenger
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import nn
from torch.distributions import constraints

from phlogiston.distributions.pyro_modules import OwnParameters, own_parameters
from phlogiston.evaluate.importance import log_likelihood
from phlogiston.inference import Stage, fit
from phlogiston.inference.query.ask import query


class Scale(PyroModule):
    """x ~ N(loc, scale), both learnt."""

    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(()))
        self.scale = PyroParam(torch.tensor(1.0), constraints.positive)

    def forward(self, x: Any = None) -> Any:
        with pyro.plate("data", 1 if x is None else len(x)):
            return pyro.sample("x", dist.Normal(self.loc, self.scale), obs=x)


class Mean(nn.Module):
    """m ~ N(0, 10), x ~ N(m, 1)."""

    def forward(self, x: Any = None) -> None:
        m = pyro.sample("m", dist.Normal(0.0, 10.0))
        with pyro.plate("data", 1 if x is None else len(x)):
            pyro.sample("x", dist.Normal(m, 1.0), obs=x)


class Regression(PyroModule):
    """A linear layer whose weights are random."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = PyroModule[nn.Linear](2, 1)
        self.linear.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, 2]).to_event(2))
        self.linear.bias = PyroSample(dist.Normal(0.0, 1.0).expand([1]).to_event(1))

    def forward(self, X: Any, y: Any = None) -> None:
        mean = self.linear(X).squeeze(-1)
        with pyro.plate("data", len(X)):
            pyro.sample("y", dist.Normal(mean, 0.1), obs=y)


@pytest.fixture(params=["global", "local"])
def mode(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A context in which modules are made, and a global store that is empty before and after."""
    pyro.clear_param_store()
    yield lambda: pyro.settings.context(module_local_params=request.param == "local")
    pyro.clear_param_store()


def stage(steps: int, rate: float = 0.05) -> Stage:
    return Stage("all", steps, learning_rate=rate, batch_size=1000)


def test_a_pyro_module_reaches_the_maximum_of_the_likelihood_beside_another(mode: Any) -> None:
    torch.manual_seed(0)
    first, second = 3 + 2 * torch.randn(200), -5 + 0.5 * torch.randn(200)
    with mode():
        a, b = Scale(), Scale()
    fit(a, None, {"x": first}, stages=[stage(150, 0.1), stage(100, 0.01)], progress="off")
    query(a, None, {}, num_samples=10, seed=0)
    fit(b, None, {"x": second}, stages=[stage(200, 0.1), stage(100, 0.01)], progress="off")
    query(a, None, {}, num_samples=10, seed=0)
    assert b.scale.item() == pytest.approx(second.std(correction=0).item(), rel=0.02)
    assert a.loc.item() == pytest.approx(first.mean().item(), abs=0.02)
    answer = query(b, None, {}, num_samples=4000, seed=0)
    assert answer.variance("x").sqrt().item() == pytest.approx(b.scale.item(), rel=0.05)
    exact = dist.Normal(a.loc, a.scale).log_prob(first).sum().item()
    assert log_likelihood(a, lambda x: None, {"x": first}, 2).score.value.sum().item() == pytest.approx(exact, rel=1e-4)
    assert not pyro.get_param_store().keys()


@pytest.mark.parametrize("auto", [AutoNormal, AutoDiagonalNormal, AutoDelta, AutoNormalMessenger])
def test_autoguides_find_the_posterior_and_keep_it_in_every_use(mode: Any, auto: Any) -> None:
    torch.manual_seed(0)
    trained = []
    for shift in (0.0, 8.0):
        data = torch.randn(100) + shift
        model = Mean()
        with mode():
            guide = auto(model)
        fit(model, guide, {"x": data}, stages=[stage(150, 0.1), stage(150, 0.01)], progress="off")
        trained.append((model, guide, data.sum().item() / (100 + 1 / 100)))  # the posterior's mean
    for model, guide, mean in trained:  # one after the other, as anybody does, outside of our contexts
        assert guide.median()["m"].item() == pytest.approx(mean, abs=0.1)
        draws = Predictive(model, guide=guide, num_samples=200)(torch.zeros(1))
        assert draws["m"].mean().item() == pytest.approx(mean, abs=0.15)
    for model, guide, mean in trained:
        if auto is not AutoDelta:
            answer = query(model, guide, {}, ask=["m"], batch={"x": torch.full((100,), mean)}, num_samples=300, seed=0)
            assert answer.mean("m").item() == pytest.approx(mean, abs=0.15)
    assert not pyro.get_param_store().keys()


def test_random_weights_with_autodelta_reach_the_map_of_svi(mode: Any) -> None:
    torch.manual_seed(0)
    X = torch.randn(50, 2)
    y = X @ torch.tensor([1.0, -2.0]) + 0.1 * torch.randn(50)
    design = torch.cat([X, torch.ones(50, 1)], 1)
    exact = torch.linalg.solve(design.T @ design / 0.01 + torch.eye(3), design.T @ y / 0.01)  # ridge regression
    with mode():
        model = Regression()
        guide = AutoDelta(model)
    fit(model, guide, {"X": X, "y": y}, stages=[stage(300, 0.05), stage(200, 0.005)], progress="off")
    found = guide.median(X, y)
    assert torch.allclose(found["linear.weight"].flatten(), exact[:2], atol=0.02)
    assert torch.allclose(found["linear.bias"], exact[2:], atol=0.02)


def test_what_svi_trained_goes_on_from_there_and_the_store_is_left_alone() -> None:
    pyro.clear_param_store()
    x = torch.randn(50, generator=torch.Generator().manual_seed(0)) + 4
    model = Mean()
    guide = AutoNormal(model)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
    for _ in range(200):
        svi.step(x)
    stored = {name: value.detach().clone() for name, value in pyro.get_param_store().items()}
    assert guide.median()["m"].item() == pytest.approx(stored["AutoNormal.locs.m"].item())
    answer = query(model, guide, {}, ask=["m"], batch={"x": x}, num_samples=500, seed=0)
    assert answer.ess.item() > 250
    fit(model, guide, {"x": x - 4}, stages=stage(300), progress="off")
    assert guide.median()["m"].item() == pytest.approx((x - 4).mean().item(), abs=0.1)
    assert {name: value.item() for name, value in pyro.get_param_store().items()} == {
        name: value.item() for name, value in stored.items()
    }
    pyro.clear_param_store()


def test_two_modules_that_the_store_had_made_one_are_two_again() -> None:
    pyro.clear_param_store()
    a, b = AutoDelta(Mean()), AutoDelta(Mean())
    x = torch.zeros(3)
    a(x), b(x)
    assert a.m_unconstrained is b.m_unconstrained  # Pyro's way
    own_parameters(a), own_parameters(b)
    with torch.no_grad():
        b.m_unconstrained.fill_(7.0)
    assert b.median(x)["m"].item() == 7.0
    assert a.median(x)["m"].item() == pyro.param("AutoDelta.m").item() != 7.0
    pyro.clear_param_store()


def test_parameters_shared_within_a_pair_stay_shared() -> None:
    pyro.clear_param_store()
    model = Scale()
    guide = PyroModule()
    guide.loc = model.loc
    model(torch.zeros(2))
    own_parameters(model, guide)
    assert model.loc is guide.loc
    assert model.loc is not pyro.get_param_store()._params["loc"]
    pyro.clear_param_store()


def test_copies_and_pickles_keep_their_parameters_to_themselves() -> None:
    pyro.clear_param_store()
    model = Scale()
    own_parameters(model)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        with torch.no_grad():
            other.scale_unconstrained.fill_(2.0)
        other(torch.zeros(2)), model(torch.zeros(2))
        assert other.scale.item() == pytest.approx(torch.tensor(2.0).exp().item())
        assert model.scale.item() == pytest.approx(1.0)
    assert not pyro.get_param_store().keys()


def test_modules_are_found_wherever_a_program_keeps_them() -> None:
    pyro.clear_param_store()
    inner, closed, bound, listed = Scale(), Scale(), Scale(), Scale()

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner
            self.others = [(listed,)]

    def closing(x: Any) -> Any:
        return closed(x)

    own_parameters(Plain(), pyro.poutine.block(closing), bound.forward, None, AutoNormal(closing))
    for module in (inner, closed, bound, listed):
        assert isinstance(module._pyro_context, OwnParameters)
        module(torch.zeros(1))
    assert not pyro.get_param_store().keys()


def test_the_setting_is_as_before_after_a_call_and_after_an_error() -> None:
    model = Scale()
    own_parameters(model)
    for value in (True, False):
        with pyro.settings.context(module_local_params=value):
            model(torch.zeros(1))
            with contextlib.suppress(TypeError):
                model(torch.zeros(1), nonsense=1)
            assert pyro.settings.get("module_local_params") is value


def test_pyros_own_svi_goes_on_training_them() -> None:
    x = 3.0 + torch.randn(50, generator=torch.Generator().manual_seed(0))
    model = Scale()
    own_parameters(model)
    svi = SVI(model, lambda x: None, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
    for _ in range(400):
        svi.step(x)
    assert model.loc.item() == pytest.approx(x.mean().item(), abs=0.01)
    assert model.scale.item() == pytest.approx(x.std(correction=0).item(), rel=0.01)
    assert not pyro.get_param_store().keys()
    pickle.loads(pickle.dumps(nn.Sequential(model)))
