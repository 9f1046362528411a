"""Mixtures of what is measured on unlike scales: levels, steps from the last level, positive times.

    u = (g(y) - shift) / unit,   g(y) = y, or log y for columns that are positive;   u ~ a mixture of normals

With a `grid` the value is scored by the probability of the cell of that width around it: data that lie on a grid, or
repeat themselves exactly, have no bounded density.

Two things more can be said of columns scored so. `bounds`: values lie on a screen, and components are cut off where it
ends. `pitches`: a device reports multiples of a pitch only, and a component may say so; it is then a distribution of
those multiples, each with the mass of its neighbourhood, and a cell holds what the multiples inside it have.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from phlogiston.distributions.cells import log_cell
from phlogiston.distributions.mixtures.base import normal, take, temper_logits
from phlogiston.distributions.mixtures.diagonal import DiagMixture
from phlogiston.distributions.mixtures.joint import JointMixture
from phlogiston.distributions.mixtures.noise import pick, squeeze, transport
from phlogiston.distributions.normal_interval import log_normal_density
from phlogiston.distributions.shapes import joint_shape
from phlogiston.errors import ConfigError

TINY = 1e-7  # where the logarithm of a positive column starts
NEVER = -80.0  # log probability of what cannot be, finite so that gradients are


class _Columns(constraints.Constraint):  # type: ignore[misc]
    """Real vectors whose entries are not negative in the columns said to be positive."""

    event_dim = 1

    def __init__(self, positive: Tensor) -> None:
        self.positive = positive
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        return ((value >= 0) | (~self.positive & ~torch.isnan(value))).all(-1)


class Warped(TorchDistribution):
    """A mixture in other coordinates.

    Columns that are positive have no density below zero; a recorded 0 counts as `TINY`.

    Args:
        base: the mixture of `u`, batch (...), event (D,).
        shift: (..., D) or (D,).
        unit: (D,), positive.
        positive: bool (D,), columns whose logarithm is meant.
        grid: width of the cells, or None for a density. Needs independent coordinates.
        bounds: (2, D), what columns lie within, both ends included; infinite for columns that know no bounds. Needs a
            grid, and columns that are not positive.
        pitches: of devices; columns with bounds may lie on multiples of one of them.
        choices: logits (..., (1 + pitches) K) of a pitch (none first) and a component together; those of the base, and
            no pitch, by default.

    Raises:
        ConfigError: a grid, and components with correlated coordinates; bounds or pitches without a grid.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "shift": constraints.real_vector,
        "unit": constraints.independent(constraints.positive, 1),
    }
    has_rsample = False

    def __init__(
        self,
        base: JointMixture,
        shift: Tensor,
        unit: Tensor,
        positive: Tensor,
        grid: float | None = None,
        validate_args: bool | None = None,
        *,
        bounds: Tensor | None = None,
        pitches: Sequence[float] = (),
        choices: Tensor | None = None,
    ) -> None:
        if grid is not None and not isinstance(base, DiagMixture):
            raise ConfigError(f"cells need components with independent coordinates; got a {type(base).__name__}")
        if bounds is not None and grid is None:
            raise ConfigError("bounds are for values on a grid; grid is None")
        if pitches and (bounds is None or choices is None):
            raise ConfigError("pitches are those of columns with bounds, and need the logits of choices")
        self.base, self.shift, self.unit, self.positive, self.grid = base, shift, unit, positive, grid
        self.bounds, self.pitches, self.choices = bounds, tuple(pitches), choices
        batch = joint_shape(base.batch_shape, shift.shape[:-1])
        if choices is not None:
            batch = joint_shape(batch, choices.shape[:-1])
        super().__init__(batch, base.event_shape, validate_args=validate_args)
        if self._validate_args and grid is not None and not grid > 0:
            raise ValueError(f"grid is {grid}; the width of a cell is positive")

    @constraints.dependent_property(is_discrete=False, event_dim=1)  # type: ignore[untyped-decorator]
    def support(self) -> Any:
        """Real vectors, not negative in positive columns."""
        return _Columns(self.positive)

    @property
    def logits(self) -> Tensor:
        """Of every choice a draw begins with: (..., C); c is component c mod K on lattice c div K, 0 for none."""
        return self.base.logits if self.choices is None else self.choices

    @property
    def num_choices(self) -> int:
        """C."""
        return self.base.num_components * (1 + len(self.pitches))

    def _like(self, base: JointMixture, shift: Tensor, choices: Tensor | None) -> Warped:
        new = Warped(
            base, shift, self.unit, self.positive, self.grid, validate_args=False,
            bounds=self.bounds, pitches=self.pitches, choices=choices,
        )  # fmt: skip
        new._validate_args = self._validate_args
        return new

    def expand(self, batch_shape: Any, _instance: Any = None) -> Warped:
        """Return the same distribution over a larger batch."""
        shape = torch.Size(batch_shape)
        choices = None if self.choices is None else self.choices.expand(*shape, -1)
        return self._like(self.base.expand(shape), self.shift.expand(shape + self.event_shape), choices)

    def __getitem__(self, index: Any) -> Warped:
        """Index the batch."""
        full = self.expand(self.batch_shape)
        choices = None if full.choices is None else full.choices[index]
        return self._like(full.base[index], full.shift[index], choices)

    def forward(self, value: Tensor) -> Tensor:
        """Values in the coordinates of the mixture: (..., D)."""
        return (self._warp(value) - self.shift) / self.unit

    def inverse(self, u: Tensor) -> Tensor:
        """Coordinates of the mixture as values: (..., D)."""
        y = self.shift + self.unit * u
        return torch.where(self.positive, y.clamp_max(60.0).exp(), y)

    def _warp(self, value: Tensor) -> Tensor:
        return torch.where(self.positive, value.clamp_min(TINY).log(), value)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability of the cell, or log density: (...), in nats and in the units of the value."""
        if self._validate_args:
            self._validate_sample(value)
        if self.grid is None:
            inside = self.base.log_prob(self.forward(value))
            jacobian = self.unit.log().sum() + torch.where(self.positive, value.clamp_min(TINY).log(), 0.0).sum(-1)
            possible = ((value >= 0) | ~self.positive).all(-1)
            return torch.where(possible, inside - jacobian, -math.inf)
        return torch.logsumexp(self.logits.log_softmax(-1) + self._cells(value).sum(-1), -1)

    def _cells(self, value: Tensor) -> Tensor:
        """Log probability of every coordinate's cell under every choice: (..., C, D)."""
        assert self.grid is not None
        low, high = value - 0.5 * self.grid, value + 0.5 * self.grid
        plain = self._mass(self.forward(low), self.forward(high), slice(None))
        plain = torch.where(((high <= 0) & self.positive).unsqueeze(-2), NEVER, plain)
        if self.bounds is None:
            return plain
        at = torch.isfinite(self.bounds).all(0).nonzero().squeeze(-1)
        floor, ceiling = self.bounds[0, at] - 0.5 * self.grid, self.bounds[1, at] + 0.5 * self.grid
        low, high = low[..., at], high[..., at]
        inside = ((low >= floor - 1e-6) & (high <= ceiling + 1e-6)).unsqueeze(-2)
        shift, unit = self.shift[..., at], self.unit[at]
        whole = self._mass((floor - shift) / unit, (ceiling - shift) / unit, at)
        result = [plain.index_copy(-1, at, torch.where(inside, plain[..., at] - whole, NEVER))]
        for pitch in self.pitches:
            first, last = (low / pitch).ceil(), (high / pitch).floor()  # the multiples inside the cell
            a, b = ((first - 0.5) * pitch).maximum(floor), ((last + 0.5) * pitch).minimum(ceiling)
            some = (first <= last).unsqueeze(-2) & inside
            b = torch.where(first <= last, b, a + pitch)
            mass = self._mass((a - shift) / unit, (b - shift) / unit, at)
            result.append(plain.index_copy(-1, at, torch.where(some, mass - whole, NEVER)))
        return torch.cat(result, -2)

    def _mass(self, low: Tensor, high: Tensor, at: Any) -> Tensor:
        """Log probability of intervals (..., d) of some columns under every component: (..., K, d)."""
        assert isinstance(self.base, DiagMixture)
        loc, scale = self.base.loc[..., at], self.base.scale[..., at]
        centre, half = 0.5 * (low + high).unsqueeze(-2), 0.5 * (high - low).unsqueeze(-2)
        return log_cell((centre - loc) / scale, half / scale)

    def log_parts(self, value: Tensor) -> Tensor:
        """Log probability (or density) of each column by itself, the others integrated out: (..., D)."""
        weight = self.logits.log_softmax(-1).unsqueeze(-1)
        if self.grid is not None:
            return torch.logsumexp(weight + self._cells(value), -2)
        scale = self.base.component_scales()
        z = (self.forward(value).unsqueeze(-2) - self.base.loc) / scale
        inside = torch.logsumexp(weight + log_normal_density(z) - scale.log(), -2)
        result = inside - self.unit.log() - torch.where(self.positive, value.clamp_min(TINY).log(), 0.0)
        return torch.where((value >= 0) | ~self.positive, result, -math.inf)

    def place(
        self,
        uniform: Tensor,
        noise: Tensor,
        pi_temperature: float = 1.0,
        sigma_temperature: float = 1.0,
        bias: float = 0.0,
    ) -> Tensor:
        """The value that given noise leads to: uniform (..., C) and normal (..., D); see `mixture_noise.transport`."""
        if self.bounds is None:
            return self.inverse(transport(self.base, uniform, noise, pi_temperature, sigma_temperature, bias))
        assert isinstance(self.base, DiagMixture)
        assert self.grid is not None
        if sigma_temperature < 0 or bias < 0:
            raise ConfigError(f"sigma_temperature={sigma_temperature}, bias={bias}; neither may be negative")
        index = pick(temper_logits(self.logits * (1.0 + bias), pi_temperature), uniform)
        component = index % self.base.num_components
        loc, scale = take(self.base.loc, component, 2), take(self.base.scale, component, 2)
        scale = scale * max(math.sqrt(sigma_temperature) * math.exp(-bias), 1e-12)
        bounded = torch.isfinite(self.bounds).all(0)
        half = 0.5 * self.grid
        low = torch.where(bounded, (self.bounds[0] - half - self.shift) / self.unit, -1e6)
        high = torch.where(bounded, (self.bounds[1] + half - self.shift) / self.unit, 1e6)
        value = self.inverse(loc + scale * squeeze(noise, (low - loc) / scale, (high - loc) / scale))
        for number, pitch in enumerate(self.pitches, 1):
            snapped = bounded & (index // self.base.num_components == number).unsqueeze(-1)
            value = torch.where(snapped, (value / pitch).round() * pitch, value)
        return torch.where(bounded, value.maximum(self.bounds[0]).minimum(self.bounds[1]), value)

    def given(self, value: Tensor, known: Tensor) -> tuple[Warped, Tensor]:
        """What is left open once some columns' cells are known, and the log probability of those: (...).

        Args:
            value: (..., D); entries that are not known may hold anything finite.
            known: bool (..., D).

        Returns:
            The distribution of this family whose columns that are not known are distributed as they should; its known
            ones mean nothing.
        """
        joint = self.logits.log_softmax(-1) + torch.where(known.unsqueeze(-2), self._cells(value), 0.0).sum(-1)
        chosen = joint.log_softmax(-1)
        if self.choices is not None:
            return self._like(self.base, self.shift, chosen), torch.logsumexp(joint, -1)
        assert isinstance(self.base, DiagMixture)
        base = DiagMixture(chosen, self.base.loc, self.base.scale, validate_args=False)
        return self._like(base, self.shift, None), torch.logsumexp(joint, -1)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw values, (*sample_shape, *batch, D); not rounded to the grid."""
        shape = torch.Size(sample_shape)
        with torch.no_grad():
            uniform = torch.rand(shape + self.batch_shape + (self.num_choices,), dtype=self.base.loc.dtype)
            noise = normal(shape + self.batch_shape + self.event_shape, self.base.loc, None)
            return self.place(uniform.to(self.base.loc.device), noise)
