"""What the first look at a pair refuses: parameters that nothing would train."""

from __future__ import annotations

import warnings
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule, PyroParam
from torch import Tensor, nn
from torch.distributions import constraints

from phlogiston.errors import ConfigError
from phlogiston.inference import Stage, fit

DATA = {"x": torch.linspace(-1.0, 2.0, 20)}


class Shift(nn.Module):
    """x ~ N(shift + something, 1)."""

    def __init__(self, something: Any) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(()))
        self.something = something

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(self.shift + self.something(x), 1.0), obs=x)


class Scale(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.scale = PyroParam(torch.tensor(1.0), constraints.positive)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * torch.ones(len(x))


def train(model: nn.Module, steps: int = 20) -> None:
    before = list(pyro.get_param_store().keys())
    fit(model, None, DATA, stages=Stage("all", steps, learning_rate=0.1), progress="off")
    assert list(pyro.get_param_store().keys()) == before


class InPyroModule(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.scale = PyroParam(torch.tensor(1.0), constraints.positive)

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(pyro.param("loc", torch.zeros(())), self.scale), obs=x)


@pytest.mark.parametrize("model", [Shift(lambda x: pyro.param("loc", torch.zeros(()))), InPyroModule()])
def test_pyro_param_is_refused_by_name_before_the_first_step(model: nn.Module) -> None:
    start = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(ConfigError, match=r"pyro\.param\('loc'\).*PyroParam\(value, constraint\)"):
        train(model)
    assert all(torch.equal(a, b) for a, b in zip(start, model.parameters(), strict=True))


def test_a_parameter_of_the_callers_store_is_no_way_round() -> None:
    pyro.clear_param_store()
    pyro.param("loc", torch.tensor(5.0))
    with pytest.raises(ConfigError, match=r"pyro\.param\('loc'\)"):
        train(Shift(lambda x: pyro.param("loc", torch.zeros(()))))
    assert pyro.param("loc").item() == 5.0
    pyro.clear_param_store()


def test_pyro_param_is_refused_when_it_comes_later() -> None:
    calls: list[int] = []

    def late(x: Tensor) -> Any:
        calls.append(1)
        return pyro.param("late", torch.zeros(())) if len(calls) > 4 else 0.0

    with pytest.raises(ConfigError, match="'late'"):
        train(Shift(late))


def test_pyro_module_trains_what_is_an_attribute_and_refuses_what_is_not() -> None:
    loose = nn.Linear(1, 1)

    def call(layer: nn.Module) -> Any:
        return lambda x: pyro.module("layer", layer)(x[:, None])[:, 0]

    with pytest.raises(ConfigError, match=r"'weight' of pyro\.module\('layer'.*self\.layer ="):
        train(Shift(call(loose)))
    model = Shift(call(loose))
    model.layer = loose
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(model, 400)
        fit(model, None, DATA, stages=Stage("b", 5, trainable=("model.shift",)), progress="off")
    x = DATA["x"]
    assert torch.allclose(model.shift + loose(x[:, None])[:, 0], x, atol=0.02)  # least squares of x on x


def test_a_pyro_module_that_is_no_attribute_is_refused() -> None:
    hidden = [Scale()]
    with pytest.raises(ConfigError, match=r"'scale' is a parameter of a PyroModule that is no attribute"):
        train(Shift(lambda x: hidden[0](x)))
    model = Shift(lambda x: hidden[0](x))
    model.hidden = nn.ModuleList(hidden)
    train(model)
