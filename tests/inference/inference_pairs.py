"""Small pairs of model and guide with known answers, shared by the tests here and by the scripts they start."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import config_enumerate
from torch import Tensor, nn


class LinearGaussian(nn.Module):
    """z ~ N(0, I); x | z ~ N(W z + b, s^2 I), whose evidence is a Gaussian."""

    def __init__(self, features: int = 3, latent: int = 2, scale: float = 0.7) -> None:
        super().__init__()
        self.linear = nn.Linear(latent, features)
        self.scale = scale
        self.latent = latent

    def forward(self, x: Tensor | None = None, rows: int = 1) -> None:
        rows = rows if x is None else len(x)
        with pyro.plate("data", rows):
            z = pyro.sample("z", dist.Normal(self.linear.weight.new_zeros(self.latent), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.linear(z), self.scale).to_event(1), obs=x)

    @torch.no_grad()
    def evidence(self, x: Tensor) -> Tensor:
        """Return log p(x) of each row."""
        weight = self.linear.weight
        covariance = weight @ weight.T + self.scale**2 * torch.eye(len(weight))
        return torch.distributions.MultivariateNormal(self.linear.bias, covariance).log_prob(x)


class GaussianGuide(nn.Module):
    """q(z | x) = N(A x + a, diag(exp(c))^2)."""

    def __init__(self, features: int = 3, latent: int = 2) -> None:
        super().__init__()
        self.loc = nn.Linear(features, latent)
        self.log_scale = nn.Parameter(torch.zeros(latent))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.loc(x), self.log_scale.exp()).to_event(1))


class PointGuide(nn.Module):
    """q(z | x) = a point that depends on x: objectives without noise."""

    def __init__(self, features: int = 3, latent: int = 2) -> None:
        super().__init__()
        self.loc = nn.Linear(features, latent)

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(self.loc(x)).to_event(1))


class GlobalMean(nn.Module):
    """m ~ N(0, 1) once; x | m ~ N(m + c, 1) for each row."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(0.3))

    def forward(self, x: Tensor) -> None:
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(m + self.shift, 1.0), obs=x)


class GlobalGuide(nn.Module):
    """q(m) = a point, or N(loc, exp(log_scale))."""

    def __init__(self, point: bool = True) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.tensor(0.5))
        self.point = point
        if not point:
            self.log_scale = nn.Parameter(torch.tensor(-1.0))

    def forward(self, x: Tensor) -> None:
        pyro.sample("m", dist.Delta(self.loc) if self.point else dist.Normal(self.loc, self.log_scale.exp()))


class Mixture(nn.Module):
    """k ~ Categorical; x | k ~ N(mean_k, 0.5)."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.means = nn.Parameter(torch.linspace(-1.0, 1.0, classes))
        self.logits = nn.Parameter(torch.zeros(classes))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(logits=self.logits))
            pyro.sample("x", dist.Normal(self.means[k], 0.5), obs=x)


class MixtureGuide(nn.Module):
    """q(k | x) = Categorical(softmax(A x + a)), marked for enumeration where `enumerated`."""

    def __init__(self, classes: int = 4, enumerated: bool = True) -> None:
        super().__init__()
        self.net = nn.Linear(1, classes)
        self.run = config_enumerate(self._run) if enumerated else self._run

    def forward(self, x: Tensor) -> None:
        self.run(x)

    def _run(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Categorical(logits=self.net(x[:, None])))


def pair(kind: str = "gaussian", seed: int = 0) -> tuple[Any, Any]:
    """Return a freshly seeded pair."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if kind == "gaussian":
            return LinearGaussian(), GaussianGuide()
        if kind == "point":
            return LinearGaussian(), PointGuide()
        if kind == "global":
            return GlobalMean(), GlobalGuide()
        return Mixture(), MixtureGuide(enumerated=kind == "enumerated")


def rows(kind: str = "gaussian", count: int = 60, seed: int = 1) -> dict[str, Tensor]:
    """Return data for a pair."""
    generator = torch.Generator().manual_seed(seed)
    if kind in ("gaussian", "point"):
        return {
            "x": torch.randn(count, 3, generator=generator) @ torch.tensor([[1.0, 0.5, 0], [0, 1, 0.2], [0, 0, 0.6]])
        }
    return {"x": torch.randn(count, generator=generator) + math.pi / 3}


def flat(*modules: nn.Module) -> Tensor:
    """Return all parameters in one vector."""
    return torch.cat([p.detach().reshape(-1).clone() for m in modules for p in m.parameters()])
