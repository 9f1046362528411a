"""Guides over the weights of a Bayesian mixture density network: independent normals, or ones that share directions.

    mean field   w_i ~ N(m_i, s_i^2)
    low rank     w = m + U a + s e,   a ~ N(0, I_r),  e ~ N(0, I)

Both start at given weights (a network trained by maximum likelihood) with small standard deviations, and both are
plain modules: their parameters are theirs alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from phlogiston.errors import ConfigError
from phlogiston.models.mdn import BayesianMDN


def _key(name: str) -> str:
    return name.replace(".", "_")


class _WeightGuide(nn.Module):
    """Centre and scales of the posterior: the part that both guides have in common.

    Args:
        model: the program whose weights are random.
        init_scale: option of `systems.mdn.config.Config`, described there.
    """

    def __init__(self, model: BayesianMDN, init_scale: float = 0.05) -> None:
        super().__init__()
        if init_scale <= 0:
            raise ConfigError(f"init_scale is {init_scale}; it must be positive")
        self.shapes = dict(model.shapes)
        self.loc = nn.ParameterDict(
            {_key(name): nn.Parameter(model.point_value(name).detach().clone()) for name in self.shapes}
        )
        self.log_scale = nn.ParameterDict(
            {
                _key(name): nn.Parameter(torch.full(tuple(shape), math.log(init_scale * model.prior_scales[name])))
                for name, shape in self.shapes.items()
            }
        )

    def locations(self) -> dict[str, Tensor]:
        """Return the centre of the posterior, by weight name."""
        return {name: self.loc[_key(name)] for name in self.shapes}

    @torch.no_grad()
    def start_at(self, weights: Mapping[str, Tensor]) -> None:
        """Move the centre."""
        for name, value in weights.items():
            self.loc[_key(name)].copy_(value)

    def draw(self, n: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Draw `n` sets of weights: name -> (n, *shape), without gradients."""
        raise NotImplementedError


class MeanFieldGuide(_WeightGuide):
    """Independent normals."""

    def forward(self, x: Tensor | None = None, y: Tensor | None = None, weight: Tensor | None = None) -> None:
        """Sample every weight site; arguments as the model's."""
        for name in self.shapes:
            loc, scale = self.loc[_key(name)], self.log_scale[_key(name)].exp()
            pyro.sample(f"net.{name}", dist.Normal(loc, scale).to_event())

    def draw(self, n: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """See `_WeightGuide.draw`."""
        out = {}
        for name, shape in self.shapes.items():
            loc, scale = self.loc[_key(name)].detach(), self.log_scale[_key(name)].detach().exp()
            out[name] = loc + scale * torch.randn(n, *shape, dtype=loc.dtype, generator=generator)
        return out


class LowRankGuide(_WeightGuide):
    """Normals that move together along `rank` directions, over all weights at once.

    Args:
        model: the program whose weights are random.
        rank, init_scale: options of `systems.mdn.config.Config`, described there.
    """

    def __init__(self, model: BayesianMDN, rank: int = 10, init_scale: float = 0.05) -> None:
        super().__init__(model, init_scale)
        if rank < 1:
            raise ConfigError(f"rank is {rank}; it must be at least 1")
        total = sum(math.prod(shape) for shape in self.shapes.values())
        start = torch.cat([self.log_scale[_key(name)].detach().flatten().exp() for name in self.shapes])
        self.directions = nn.Parameter(start.unsqueeze(-1) * torch.randn(total, rank) / math.sqrt(rank))

    def joint(self) -> dist.LowRankMultivariateNormal:
        """Return the distribution of all weights as one vector, in the order of `shapes`."""
        loc = torch.cat([self.loc[_key(name)].flatten() for name in self.shapes])
        log_scale = torch.cat([self.log_scale[_key(name)].flatten() for name in self.shapes])
        return dist.LowRankMultivariateNormal(loc, self.directions, (2 * log_scale).exp())

    def _parts(self, vector: Tensor) -> dict[str, Tensor]:
        sizes = [math.prod(shape) for shape in self.shapes.values()]
        pieces = vector.split(sizes, -1)
        return {n: p.reshape(*p.shape[:-1], *s) for (n, s), p in zip(self.shapes.items(), pieces, strict=True)}

    def forward(self, x: Tensor | None = None, y: Tensor | None = None, weight: Tensor | None = None) -> None:
        """Sample all weights at once, then hand each site its part; arguments as the model's."""
        vector = pyro.sample("net_weights", self.joint(), infer={"is_auxiliary": True})
        for name, value in self._parts(vector).items():
            pyro.sample(f"net.{name}", dist.Delta(value, event_dim=len(self.shapes[name])))

    def draw(self, n: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """See `_WeightGuide.draw`."""
        with torch.no_grad():
            joint = self.joint()
            rank = self.directions.shape[-1]
            shared = torch.randn(n, rank, dtype=joint.loc.dtype, generator=generator)
            own = torch.randn(n, len(joint.loc), dtype=joint.loc.dtype, generator=generator)
            vector = joint.loc + shared @ self.directions.T + joint.cov_diag.sqrt() * own
            return self._parts(vector)
