"""Pairs whose unknowns are shared by all rows: regressions, censored times, a subsampled plate, a Gaussian process."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pair_case import Case, loss_of
from pyro.infer import Trace_ELBO, autoguide
from pyro.nn import PyroModule, PyroSample
from torch import Tensor, nn

from phlogiston.inference.svi import objectives


def noise(*shape: int, seed: int = 11) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---- Bayesian linear regression: the posterior is Gaussian


class Regression(nn.Module):
    """w ~ N(0, I); y | x, w ~ N(x . w, 0.5)."""

    def forward(self, x: Tensor, y: Tensor | None = None) -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal((x * w).sum(-1), 0.5), obs=y)


def regression_data(rows: int = 30) -> dict[str, Tensor]:
    x = noise(rows, 2) @ torch.tensor([[1.0, 0.6], [0.0, 0.8]])
    return {"x": x, "y": x @ torch.tensor([1.0, -0.7]) + 0.5 * noise(rows, seed=12)}


REGRESSION = regression_data()


def posterior(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, float]:
    """Return mean, covariance and log evidence."""
    x, y = x.double(), y.double()
    precision = torch.eye(2, dtype=torch.float64) + 4.0 * x.T @ x
    covariance = precision.inverse()
    marginal = torch.distributions.MultivariateNormal(
        torch.zeros_like(y), x @ x.T + 0.25 * torch.eye(len(y), dtype=torch.float64)
    )
    return covariance @ (4.0 * x.T @ y), covariance, float(marginal.log_prob(y))


def moments(guide: Any, data: dict[str, Tensor], site: str = "w", draws: int = 4000) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of a site's draws from a guide."""
    with torch.random.fork_rng(), torch.no_grad(), pyro.plate("draws", draws, dim=-2):
        torch.manual_seed(1)
        values = pyro.poutine.trace(guide).get_trace(**data).nodes[site]["value"].reshape(draws, -1)
    return values.mean(0).double(), values.std(0).double()


def check_regression(kind: str) -> Any:
    def check(model: Any, guide: Any) -> None:
        mean, covariance, _ = posterior(**REGRESSION)
        sd = covariance.diagonal().sqrt()
        if kind == "mean field":  # the best independent Gaussian has the conditional standard deviations
            sd = covariance.inverse().diagonal().rsqrt()
        if kind == "laplace":
            guide = guide.laplace_approximation(**REGRESSION)
        if kind == "point":
            assert (guide.median()["w"] - mean).abs().max() < 0.02
            return
        got_mean, got_sd = moments(guide, REGRESSION)
        assert ((got_mean - mean).abs() < 0.2 * covariance.diagonal().sqrt()).all()
        assert ((got_sd / sd - 1.0).abs() < 0.12).all()

    return check


def regression(kind: str, guide: Any) -> Case:
    def make() -> tuple[nn.Module, Any]:
        model = Regression()
        return model, guide(model)

    objective = objectives.make("elbo", num_particles=10, vectorize_particles=True)
    return Case(make, REGRESSION, check_regression(kind), objective, steps=400, rate=0.05, decay=True)


# ---- horseshoe regression


class Horseshoe(nn.Module):
    """tau, lambda_j ~ HalfCauchy; w_j ~ N(0, tau lambda_j); y ~ N(x . w, 0.5)."""

    def forward(self, x: Tensor, y: Tensor | None = None) -> None:
        width = x.shape[-1]
        tau = pyro.sample("tau", dist.HalfCauchy(torch.tensor(1.0)))
        local = pyro.sample("lambda", dist.HalfCauchy(torch.ones(width)).to_event(1))
        raw = pyro.sample("raw", dist.Normal(torch.zeros(width), 1.0).to_event(1))
        w = raw * local * tau.unsqueeze(-1)
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal((x * w).sum(-1), 0.5), obs=y)


def horseshoe() -> Case:
    x = noise(40, 6)
    data = {"x": x, "y": 2.0 * x[:, 0] - 1.5 * x[:, 3] + 0.5 * noise(40, seed=12)}

    def make() -> tuple[nn.Module, Any]:
        model = Horseshoe()
        return model, autoguide.AutoNormal(model)

    def check(model: Any, guide: Any) -> None:
        median = guide.median()
        w = median["raw"] * median["lambda"] * median["tau"]
        used = torch.tensor([True, False, False, True, False, False])
        assert (w[used].abs() > 1.0).all()
        assert (w[~used].abs() < 0.3).all()

    return Case(make, data, check, steps=250, rate=0.03, elbo=Trace_ELBO, margin=0.1)


# ---- censored times: conjugate


class Censored(nn.Module):
    """rate ~ Gamma(2, 2); times ~ Exponential(rate), of which those that are cut off are only known to be longer."""

    def forward(self, t: Tensor, cut: Tensor) -> None:
        rate = pyro.sample("rate", dist.Gamma(torch.tensor(2.0), torch.tensor(2.0)))
        with pyro.plate("data", len(t)):
            seen = dist.Exponential(rate).log_prob(t)
            pyro.factor("t", torch.where(cut, -rate * t, seen))


def censored() -> Case:
    t = torch.distributions.Exponential(torch.tensor(1.5)).icdf(
        torch.rand(60, generator=torch.Generator().manual_seed(11))
    )
    cut = t > 1.0
    data = {"t": t.clamp(max=1.0), "cut": cut}

    def make() -> tuple[nn.Module, Any]:
        model = Censored()
        return model, autoguide.AutoNormal(model)

    def check(model: Any, guide: Any) -> None:
        shape, rate = 2.0 + float((~cut).sum()), 2.0 + float(data["t"].sum())
        mean, sd = moments(guide, data, "rate")
        assert abs(float(mean) - shape / rate) < 0.2 * math.sqrt(shape) / rate
        assert abs(float(sd) / (math.sqrt(shape) / rate) - 1.0) < 0.2

    return Case(make, data, check, steps=250, rate=0.05, decay=True)


def censored_posterior(data: dict[str, Tensor]) -> tuple[float, float, float]:
    """Return mean, standard deviation and log evidence."""
    seen, total = float((~data["cut"]).sum()), float(data["t"].double().sum())
    shape, rate = 2.0 + seen, 2.0 + total
    evidence = 2.0 * math.log(2.0) - math.lgamma(2.0) + math.lgamma(shape) - shape * math.log(rate)
    return shape / rate, math.sqrt(shape) / rate, evidence


# ---- a second plate that is subsampled


class Panel(nn.Module):
    """mu ~ N(0, 3); y_ij ~ N(mu, 1) for rows i and 12 items j, of which some are looked at in each step."""

    def forward(self, y: Tensor, looked_at: int = 4) -> None:
        mu = pyro.sample("mu", dist.Normal(torch.tensor(0.0), 3.0))
        items = pyro.plate("items", 12, subsample_size=looked_at, dim=-2)
        with pyro.plate("data", len(y), dim=-1), items as index:
            pyro.sample("y", dist.Normal(mu, 1.0), obs=y.T[index])


def panel() -> Case:
    data = {"y": 1.2 + noise(20, 12)}

    def make() -> tuple[nn.Module, Any]:
        model = Panel()
        return model, autoguide.AutoNormal(model)

    def check(model: Any, guide: Any) -> None:
        precision = 1.0 / 9.0 + data["y"].numel()
        mean, sd = guide.quantiles([0.5])["mu"][0], guide.scales.mu
        assert abs(float(mean) - float(data["y"].sum()) / precision) < 1.0 * precision**-0.5
        assert abs(float(sd.detach()) * precision**0.5 - 1.0) < 0.3

    objective = objectives.make("elbo", num_particles=10, vectorize_particles=True)
    return Case(make, data, check, objective, steps=300, rate=0.05, batch_size=7, decay=True)


# ---- a Gaussian process: the whole curve is one row


class Process(nn.Module):
    """Length ~ LogNormal; y ~ N(0, exp(-(x - x')^2 / 2 length^2) + 0.1 I)."""

    def forward(self, x: Tensor, y: Tensor) -> None:
        length = pyro.sample("length", dist.LogNormal(torch.tensor(0.0), 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("y", self.curve(x, length), obs=y)

    @staticmethod
    def curve(x: Tensor, length: Tensor) -> Any:
        gap = (x.unsqueeze(-1) - x.unsqueeze(-2)).square()
        covariance = torch.exp(-0.5 * gap / length.unsqueeze(-1).unsqueeze(-1).square()) + 0.1 * torch.eye(x.shape[-1])
        return dist.MultivariateNormal(torch.zeros(x.shape[-1]), covariance)


def process_grid(data: dict[str, Tensor]) -> tuple[float, float, float]:
    """Return mean and standard deviation of log length, and the log evidence, by quadrature."""
    logs = torch.linspace(-4.0, 4.0, 801, dtype=torch.float64)
    x, y = data["x"].double(), data["y"].double()
    gap = (x.unsqueeze(-1) - x.unsqueeze(-2)).square()
    covariance = torch.exp(-0.5 * gap / (2 * logs).exp()[:, None, None]) + 0.1 * torch.eye(x.shape[-1]).double()
    curve = torch.distributions.MultivariateNormal(torch.zeros(x.shape[-1]).double(), covariance)
    joint = curve.log_prob(y) + torch.distributions.Normal(0.0, 1.0).log_prob(logs)
    weight = joint.softmax(0)
    mean = float((weight * logs).sum())
    sd = math.sqrt(float((weight * (logs - mean).square()).sum()))
    return mean, sd, float(joint.logsumexp(0)) + math.log(0.01)


def process() -> Case:
    x = torch.linspace(-3.0, 3.0, 15)[None]
    data = {"x": x, "y": torch.sin(1.3 * x) + 0.3 * noise(1, 15)}

    def make() -> tuple[nn.Module, Any]:
        model = Process()
        return model, autoguide.AutoNormal(model)

    def check(model: Any, guide: Any) -> None:
        mean, sd, _ = process_grid(data)
        assert abs(float(guide.locs.length.detach()) - mean) < 0.3 * sd
        assert abs(float(guide.scales.length.detach()) / sd - 1.0) < 0.25

    return Case(make, data, check, steps=200, rate=0.05, decay=True)


# ---- a network with random weights, and a flow


class BayesianNetwork(PyroModule):
    """Two layers whose weights are random; y ~ N(network(x), 0.2)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = PyroModule[nn.Linear](1, 8)
        self.second = PyroModule[nn.Linear](8, 1)
        for layer, width in ((self.first, 1), (self.second, 8)):
            out = layer.out_features
            layer.weight = PyroSample(dist.Normal(0.0, 1.0).expand([out, width]).to_event(2))
            layer.bias = PyroSample(dist.Normal(0.0, 1.0).expand([out]).to_event(1))

    def forward(self, x: Tensor, y: Tensor | None = None) -> None:
        mean = self.second(torch.tanh(self.first(x)))[..., 0]
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(mean, 0.2), obs=y)


def bayesian_network() -> Case:
    x = torch.linspace(-2.0, 2.0, 40)[:, None]
    data = {"x": x, "y": torch.sin(1.5 * x[:, 0]) + 0.2 * noise(40)}

    def make() -> tuple[nn.Module, Any]:
        model = BayesianNetwork()
        return model, autoguide.AutoNormal(model, init_scale=0.02)

    return Case(make, data, steps=250, rate=0.03, elbo=Trace_ELBO, margin=0.8)


class Banana(nn.Module):
    """a ~ N(0, 1), b ~ N(a^2, 0.5); y_i ~ N(b, 1): a posterior with a bend."""

    def forward(self, y: Tensor) -> None:
        a = pyro.sample("a", dist.Normal(torch.tensor(0.0), 1.0))
        b = pyro.sample("b", dist.Normal(a.square(), 0.5))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(b, 1.0), obs=y)


def banana_evidence(y: Tensor) -> float:
    """Return the log evidence by quadrature."""
    a, b = torch.meshgrid(torch.linspace(-5, 5, 401), torch.linspace(-4, 12, 641), indexing="ij")
    joint = dist.Normal(0.0, 1.0).log_prob(a) + dist.Normal(a.square(), 0.5).log_prob(b)
    joint = joint + dist.Normal(b.unsqueeze(-1), 1.0).log_prob(y).sum(-1)
    return float(joint.double().reshape(-1).logsumexp(0)) + math.log(0.025 * 0.025)


def flow() -> Case:
    data = {"y": torch.tensor([0.3, 0.9, 0.5])}

    def make() -> tuple[nn.Module, Any]:
        model = Banana()
        return model, autoguide.AutoIAFNormal(model, hidden_dim=[8], num_transforms=2)

    def check(model: Any, guide: Any) -> None:
        case = Case(make, data)
        gap = 3.0 * loss_of(case, model, guide, 400) + banana_evidence(data["y"])
        assert -0.1 < gap < 1.5

    return Case(make, data, check, steps=300, rate=0.02, elbo=Trace_ELBO, margin=0.4)


CASES = {
    "regression, AutoNormal": lambda: regression("mean field", autoguide.AutoNormal),
    "regression, AutoMultivariateNormal": lambda: regression("full", autoguide.AutoMultivariateNormal),
    "regression, AutoLowRankMultivariateNormal": lambda: regression(
        "full", lambda model: autoguide.AutoLowRankMultivariateNormal(model, rank=2)
    ),
    "regression, AutoDelta": lambda: regression("point", autoguide.AutoDelta),
    "regression, AutoLaplaceApproximation": lambda: regression("laplace", autoguide.AutoLaplaceApproximation),
    "horseshoe regression": horseshoe,
    "censored times": censored,
    "a subsampled second plate": panel,
    "Gaussian process": process,
    "network with random weights": bayesian_network,
    "flow guide": flow,
}
