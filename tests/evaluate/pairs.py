"""Model/guide pairs whose evidence and posterior are known."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn


class LinearGaussian(nn.Module):
    """z ~ N(0, I); x | z ~ N(W z, sd^2 I): posterior and evidence are normal and known."""

    def __init__(self, features: int = 3, latent: int = 2, sd: float = 0.5, seed: int = 0) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.register_buffer("weight", torch.randn(features, latent, generator=draw))
        self.sd = sd

    def forward(self, x: Tensor) -> None:
        zero = torch.zeros(self.weight.shape[1])
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(zero, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.weight.T, self.sd).to_event(1), obs=x)

    def evidence(self, x: Tensor) -> Tensor:
        """Exact log p(x), (rows,)."""
        covariance = self.weight @ self.weight.T + self.sd**2 * torch.eye(len(self.weight))
        return dist.MultivariateNormal(torch.zeros(len(self.weight)), covariance).log_prob(x)

    def draw(self, rows: int) -> Tensor:
        """Data from the model."""
        z = torch.randn(rows, self.weight.shape[1])
        return z @ self.weight.T + self.sd * torch.randn(rows, len(self.weight))


class Posterior(nn.Module):
    """The exact posterior of `LinearGaussian`, its scale multiplied by `stretch` and its mean moved by `shift`."""

    def __init__(self, model: LinearGaussian, stretch: float = 1.0, shift: float = 0.0) -> None:
        super().__init__()
        precision = torch.eye(model.weight.shape[1]) + model.weight.T @ model.weight / model.sd**2
        covariance = torch.linalg.inv(precision)
        self.register_buffer("gain", covariance @ model.weight.T / model.sd**2)
        self.register_buffer("scale", torch.linalg.cholesky(covariance) * stretch)
        self.shift = shift

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(x @ self.gain.T + self.shift, scale_tril=self.scale))
