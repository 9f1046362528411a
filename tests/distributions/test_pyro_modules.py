"""`PyroModule`s that keep their parameters to themselves."""

from __future__ import annotations

import contextlib
import copy
import pickle
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoDelta, AutoNormal
from pyro.nn import PyroModule, PyroParam
from torch import nn
from torch.distributions import constraints

from phlogiston.distributions.pyro_modules import OwnParameters, own_parameters


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
