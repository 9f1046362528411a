"""NUTS on several chains: right, diagnosed, and in the precision of the program."""

from __future__ import annotations

import math
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from phlogiston.errors import ConfigError, EvidenceError, QueryWarning
from phlogiston.inference.query.ask import Answer, query
from phlogiston.inference.query.hmc import _Chain, _diagnosed


def test_a_float32_network_gives_the_closed_form() -> None:
    torch.manual_seed(0)
    net = nn.Linear(2, 5)
    x = torch.randn(5)

    def model() -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(net(z), 0.5).to_event(1), obs=x)

    weight, bias = net.weight.detach().double(), net.bias.detach().double()
    covariance = torch.linalg.inv(weight.T @ weight / 0.25 + torch.eye(2).double())
    mean = covariance @ weight.T @ (x.double() - bias) / 0.25
    answer = query(model, None, {}, num_samples=200, method="hmc", seed=0, chains=2)
    assert answer.samples["z"].dtype == torch.float32
    assert answer.method.startswith("NUTS, 2 chains")
    sd = covariance.diagonal().sqrt()
    assert ((answer.mean("z") - mean).abs() < 5 * sd / math.sqrt(answer.ess.item())).all()
    for name in ("r_hat", "ess_bulk", "ess_tail", "divergences"):
        assert math.isfinite(float(answer.details[name]))


def test_supports_that_depend_on_other_sites() -> None:
    """a ~ U(0, 10), b ~ U(0, a), y ~ N(b, 0.5) at 4: by quadrature over b, whose prior density is log(10 / b) / 10."""

    def model() -> None:
        a = pyro.sample("a", dist.Uniform(0.0, 10.0))
        b = pyro.sample("b", dist.Uniform(torch.zeros_like(a), a))
        pyro.sample("y", dist.Normal(b, 0.5), obs=torch.tensor(4.0))

    b = torch.linspace(1e-4, 10 - 1e-4, 20_001, dtype=torch.float64)
    density = (10 / b).log() * dist.Normal(b, 0.5).log_prob(torch.tensor(4.0).double()).exp()
    mean = float((density * b).sum() / density.sum())
    sd = float(((density * (b - mean) ** 2).sum() / density.sum()).sqrt())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", QueryWarning)  # few effective samples are enough here
        answer = query(model, None, {}, num_samples=60, method="hmc", seed=0, chains=2, warmup=60)
    assert abs(answer.mean("b").item() - mean) < 5 * sd / math.sqrt(answer.ess.item())
    assert (answer.samples["b"] < answer.samples["a"]).all()


def diagnosed(draws: torch.Tensor, divergences: int = 0, walls: int = 0) -> Answer:
    n = draws.shape[0] * draws.shape[1]
    plain = Answer({"z": draws.reshape(n, -1)}, torch.zeros(n), None, None, "NUTS", torch.tensor(float(n)))
    return _diagnosed(plain, [_Chain(d, divergences, walls) for d in draws], draws.shape[1])


def test_chains_that_disagree_are_a_warning() -> None:
    torch.manual_seed(0)
    draws = torch.randn(4, 100, 2, dtype=torch.float64)
    fine = diagnosed(draws)
    assert fine.details["r_hat"] < 1.05
    assert 200 < fine.ess <= 400
    draws[2] += 2.0
    with pytest.warns(QueryWarning, match="R-hat is"):
        bad = diagnosed(draws)
    assert bad.details["r_hat"] > 1.2
    assert bad.ess < 50


def test_divergences_are_a_warning_unless_walls_explain_them() -> None:
    torch.manual_seed(0)
    draws = torch.randn(4, 100, 2, dtype=torch.float64)
    with pytest.warns(QueryWarning, match="8 of 400 trajectories diverged"):
        assert diagnosed(draws, divergences=2).details["divergences"] == 8
    diagnosed(draws, divergences=2, walls=3)


def test_bad_options_and_impossible_questions_are_refused() -> None:
    def model() -> None:
        pyro.factor("never", pyro.sample("z", dist.Normal(0.0, 1.0)) * 0.0 - math.inf)

    with pytest.raises(EvidenceError, match="no starting point"):
        query(model, None, {}, num_samples=20, method="hmc")
    with pytest.raises(ConfigError, match="chains"):
        query(model, None, {}, num_samples=20, method="hmc", chains=0)
    with pytest.raises(ConfigError, match="warmup"):
        query(model, None, {}, num_samples=20, method="hmc", warmup=0)
