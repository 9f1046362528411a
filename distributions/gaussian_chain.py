"""A whole Gaussian Markov chain as one distribution: steps are drawn one after the other, and scored all at once.

    z_0 ~ N(m_0, s_0),    z_t | z_{t-1} ~ N(m_t(z_{t-1}), s_t(z_{t-1})),   t = 1 ... T - 1

One site of a program holds the path, event (T, Z), where `T` sites of one step each would cost as many times Pyro's
overhead. The divergence between two such chains is taken at the path drawn from the first: analytic in each step,
given its parent, exactly as the sum over `T` sites would be.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import constraints, kl_divergence, register_kl
from torch.distributions.normal import Normal

from phlogiston.distributions.shapes import joint_shape

Step = Callable[[Tensor, slice], tuple[Tensor, Tensor]]


class GaussianChain(TorchDistribution):
    """The distribution of a path.

    Args:
        first: location and scale of the first value, (*batch, Z) each, broadcastable.
        step: given values (..., n, Z) and the times of their successors (a slice of 0 ... T - 1), the successors'
            locations and scales (..., n, Z); must not mix rows.
        length: `T`, at least 1.
        active: bool, broadcastable with (*batch, T): steps that count in densities and divergences; all if not given.
            Only a tail may be left out: what is inactive is integrated out, and nothing active may follow it.
        batch_shape: of the distribution; that of `first` if not given.

    Example:
        >>> walk = GaussianChain((torch.zeros(3), torch.ones(3)), lambda z, t: (z, torch.ones_like(z)), length=5)
        >>> tuple(walk.rsample().shape), walk.event_shape
        ((5, 3), torch.Size([5, 3]))
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "first_loc": constraints.real_vector,
        "first_scale": constraints.independent(constraints.positive, 1),
    }
    support = constraints.independent(constraints.real, 2)
    has_rsample = True

    def __init__(
        self,
        first: tuple[Tensor, Tensor],
        step: Step,
        length: int,
        active: Tensor | None = None,
        batch_shape: torch.Size | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self.first, self.step, self.length, self.active = first, step, length, active
        size = first[0].shape[-1]
        if batch_shape is None:
            batch_shape = joint_shape(first[0].shape, first[1].shape)[:-1]
            if active is not None:
                batch_shape = joint_shape(batch_shape, active.shape[:-1])
        self._drawn: tuple[Tensor, Tensor, Tensor] | None = None
        super().__init__(batch_shape, torch.Size((length, size)), validate_args=validate_args)

    @property
    def first_loc(self) -> Tensor:
        """Location of the first value, (*batch, Z)."""
        return self.first[0]

    @property
    def first_scale(self) -> Tensor:
        """Scale of the first value, (*batch, Z)."""
        return self.first[1]

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the path drawn last, which belongs to a graph of gradients and cannot be copied."""
        return {**self.__dict__, "_drawn": None}

    def expand(self, batch_shape: Any, _instance: Any = None) -> GaussianChain:
        """The same distribution for more rows."""
        new = GaussianChain(self.first, self.step, self.length, self.active, torch.Size(batch_shape), False)
        new._validate_args = self._validate_args
        return new

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draw paths, (*sample, *batch, T, Z), differentiably."""
        loc, scale = self.first
        shape = torch.Size(sample_shape) + self.batch_shape + self.event_shape
        noise = torch.randn(shape, dtype=loc.dtype, device=loc.device)
        locs, scales = [loc.expand(noise[..., 0, :].shape)], [scale.expand(noise[..., 0, :].shape)]
        z = loc + scale * noise[..., 0, :]
        path = [z]
        for t in range(1, self.length):
            loc, scale = (m.squeeze(-2) for m in self.step(z.unsqueeze(-2), slice(t, t + 1)))
            z = loc + scale * noise[..., t, :]
            path.append(z)
            locs.append(loc)
            scales.append(scale)
        drawn = torch.stack(path, -2)
        self._drawn = (drawn, torch.stack(locs, -2), torch.stack(scales, -2))
        return drawn

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        with torch.no_grad():
            return self.rsample(sample_shape)

    def moments(self, path: Tensor) -> tuple[Tensor, Tensor]:
        """Return location and scale of every step given the path's own values before it, (..., T, Z) each."""
        if self._drawn is not None and self._drawn[0] is path:
            return self._drawn[1], self._drawn[2]
        loc, scale = (m.unsqueeze(-2).expand(*path.shape[:-2], 1, path.shape[-1]) for m in self.first)
        if self.length == 1:
            return loc, scale
        later_loc, later_scale = self.step(path[..., :-1, :], slice(1, self.length))
        return torch.cat([loc, later_loc], -2), torch.cat([scale, later_scale], -2)

    def means(self) -> Tensor:
        """Return the path that follows every step's location, (*batch, T, Z)."""
        z = self.first[0].expand(*self.batch_shape, -1)
        path = [z]
        for t in range(1, self.length):
            z = self.step(z.unsqueeze(-2), slice(t, t + 1))[0].squeeze(-2)
            path.append(z)
        return torch.stack(path, -2)

    def _total(self, terms: Tensor) -> Tensor:
        """Sum (..., T, Z) over what counts."""
        steps = terms.sum(-1)
        if self.active is not None:
            steps = steps * self.active
        return steps.sum(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density of the steps that count, (...), in nats."""
        if self._validate_args:
            self._validate_sample(value if self.active is None else torch.where(self.active.unsqueeze(-1), value, 0.0))
        shape = joint_shape(value.shape, self.batch_shape + self.event_shape)
        if value.shape != shape:
            value = value.expand(shape)
        loc, scale = self.moments(value)
        return self._total(Normal(loc, scale, validate_args=self._validate_args).log_prob(value))


@register_kl(GaussianChain, GaussianChain)  # type: ignore[untyped-decorator]
def _kl_chain_chain(p: GaussianChain, q: GaussianChain) -> Tensor:
    """Divergence from the path drawn last from `p`; unbiased, analytic in each step given its parent."""
    if p._drawn is None:
        raise NotImplementedError("no path was drawn from the first chain")
    path, loc, scale = p._drawn
    other_loc, other_scale = q.moments(path)
    steps = kl_divergence(Normal(loc, scale, validate_args=False), Normal(other_loc, other_scale, validate_args=False))
    return p._total(steps)
