"""The mixture family: Gaussian mixtures as distributions that give more than a density.

    p(y) = sum_k pi_k N(y; loc_k, S_k),   pi = softmax(logits),   y of event shape (D,)

| class               | parameters besides `logits` (..., K)              | component                                 |
|---------------------|----------------------------------------------------|-------------------------------------------|
| `DiagMixture`       | loc (..., K, D), scale (..., K, D)                 | independent coordinates                   |
| `IsotropicMixture`  | loc (..., K, D), scale (..., K)                    | a ball (Bishop, 1994)                     |
| `BivariateMixture`  | loc (..., K, 2), scale (..., K, 2), rho (..., K)   | correlated pair (Graves, 2013)            |
| `FullMixture`       | loc (..., K, D), scale_tril (..., K, D, D)         | full covariance                           |
| `FactorisedMixture` | logits, loc, scale (..., D, K)                     | a mixture of its own for every coordinate |

All of them answer `log_prob`, `sample`, `draw` (temperatures), `mean`, `variance`, `covariance`, `cdf`, `quantile`,
`interval`, `crps` (these four per coordinate), `modes`, `entropy_bounds`, `component_posterior`, `condition`,
`marginal`, `log_prob_known` and `affine`; those with independent coordinates also `interval_log_prob`. This module
holds what they share; `diagonal` and `full` hold the classes.

References: Bishop, "Mixture Density Networks", 1994; Graves, "Generating sequences with recurrent neural networks",
arXiv 1308.0850.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, Self, cast

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from phlogiston.distributions.mixtures import univariate as line
from phlogiston.distributions.mixtures.univariate import Intervals
from phlogiston.distributions.normal_interval import squared
from phlogiston.distributions.shapes import joint_shape
from phlogiston.errors import ConfigError, ShapeError, unknown_name

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


class Modes(NamedTuple):
    """Local maxima of a density, highest first.

    Attributes:
        points: (..., M, D); NaN where `mask` is False.
        log_density: (..., M); -inf where `mask` is False.
        mask: bool (..., M).
    """

    points: Tensor
    log_density: Tensor
    mask: Tensor


def take(parameter: Tensor, index: Tensor, trailing: int) -> Tensor:
    """Pick one component's parameters per draw.

    Args:
        parameter: (*batch, K, *rest) with `trailing` axes after the batch.
        index: int64 (*sample, *batch).
        trailing: number of axes after the batch, K included.

    Returns:
        (*sample, *batch, *rest).
    """
    ahead = index.dim() - (parameter.dim() - trailing)
    wide = parameter.reshape((1,) * ahead + parameter.shape)
    position = index.reshape(index.shape + (1,) * trailing)
    return torch.take_along_dim(wide, position, dim=-trailing).squeeze(-trailing)


def temper_logits(logits: Tensor, temperature: float) -> Tensor:
    """Divide logits by a temperature; at 0 all probability goes to the largest.

    Raises:
        ConfigError: a negative temperature.
    """
    if temperature < 0:
        raise ConfigError(f"a temperature is {temperature}; it must be 0 or more")
    if temperature == 0:
        best = torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).bool()
        return torch.where(best, 0.0, -math.inf).to(logits.dtype)
    return logits / temperature


def choose(logits: Tensor, shape: torch.Size, generator: torch.Generator | None) -> Tensor:
    """Draw component indices by the Gumbel trick: logits (*batch, K) -> int64 (*shape, *batch)."""
    uniform = torch.rand(shape + logits.shape, dtype=logits.dtype, device=logits.device, generator=generator)
    tiny = torch.finfo(logits.dtype).tiny
    return (logits - (-uniform.clamp_min(tiny).log()).clamp_min(tiny).log()).argmax(-1)


def normal(shape: torch.Size, like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normals of a shape, in the dtype and on the device of `like`."""
    return torch.randn(shape, dtype=like.dtype, device=like.device, generator=generator)


class Mixture(TorchDistribution):
    """What every member of the family does by its one-dimensional marginals; see the module's table.

    A subclass stores its parameters as attributes, lists them in `trailing` (name -> axes after the batch), and
    defines `log_prob`, `draw`, `marginal_parameters`, `covariance` and what else cannot be done by marginals.
    """

    kind: ClassVar[str]
    trailing: ClassVar[Mapping[str, int]]
    arg_constraints: ClassVar[dict[str, Any]]
    support = constraints.real_vector
    has_rsample = False
    logits: Tensor
    loc: Tensor

    def _finish(self, features: int, validate_args: bool | None) -> None:
        shapes = [getattr(self, name).shape for name in self.trailing]
        axes = list(self.trailing.values())
        batch = joint_shape(*(shape[: len(shape) - n] for shape, n in zip(shapes, axes, strict=True)))
        super().__init__(batch, torch.Size((features,)), validate_args=validate_args)

    def _like(self, parameters: Mapping[str, Tensor]) -> Self:
        make: Any = type(self)
        return cast(Self, make(**parameters, validate_args=False))

    def map_parameters(self, change: Any) -> Self:
        """Return the same distribution with `change(parameter, axes after the batch)` for every parameter."""
        new = self._like({name: change(getattr(self, name), axes) for name, axes in self.trailing.items()})
        new._validate_args = self._validate_args
        return new

    def expand(self, batch_shape: Any, _instance: Any = None) -> Self:
        """Return the same distribution over a larger batch."""
        shape = torch.Size(batch_shape)
        return self.map_parameters(lambda t, axes: t.expand(shape + t.shape[t.dim() - axes :]))

    def __getitem__(self, index: Any) -> Self:
        """Index the batch, as a tensor of that shape would be."""
        full = self.expand(self.batch_shape)
        indices = index if isinstance(index, tuple) else (index,)
        return full.map_parameters(lambda t, axes: t[(*indices, Ellipsis, *[slice(None)] * axes)])

    def unsqueeze(self, dim: int) -> Self:
        """Insert a batch axis of size one; `dim` counts from the right, -1 being the last."""
        if dim >= 0:
            raise ConfigError(f"dim is {dim}; give a negative number, -1 for a new last batch axis")
        full = self.expand(self.batch_shape)
        return full.map_parameters(lambda t, axes: t.unsqueeze(dim - axes))

    def detach(self) -> Self:
        """The same distribution cut from the graph of gradients."""
        return self.map_parameters(lambda t, axes: t.detach())

    def to(self, dtype: torch.dtype) -> Self:
        """The same distribution in another floating-point type."""
        return self.map_parameters(lambda t, axes: t.to(dtype))

    @property
    def features(self) -> int:
        """D."""
        return int(self.event_shape[0])

    @property
    def num_components(self) -> int:
        """K."""
        return int(self.logits.shape[-1])

    def _value(self, value: Any) -> Tensor:
        value = torch.as_tensor(value, dtype=self.loc.dtype, device=self.loc.device)
        if value.dim() == 0 or value.shape[-1] != self.features:
            raise ShapeError(f"value has shape {tuple(value.shape)}; expected the last axis to be {self.features}")
        return value

    # ----- to be provided -----------------------------------------------------------------------------------------

    def marginal_parameters(self) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, locations and scales of the mixture each coordinate follows by itself: (..., D, K) each."""
        raise NotImplementedError

    def sharpen(self, factor: Tensor | float) -> Self:
        """The same mixture with every standard deviation multiplied by `factor`."""
        raise NotImplementedError

    def _draw(self, logits: Tensor, shape: torch.Size, spread: float, generator: torch.Generator | None) -> Tensor:
        """Draw by these logits, with standard deviations multiplied by `spread`."""
        raise NotImplementedError

    def draw(
        self,
        sample_shape: Any = (),
        *,
        pi_temperature: float = 1.0,
        sigma_temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw values, sharpened or flattened.

        Args:
            sample_shape: axes in front of the batch.
            pi_temperature: logits are divided by it; 0 always takes the most probable component.
            sigma_temperature: variances are multiplied by it; 0 returns the component's mean.
            generator: source of randomness; torch's own by default.

        Returns:
            (*sample_shape, *batch, D), without gradients.

        Raises:
            ConfigError: a negative temperature.
        """
        if sigma_temperature < 0:
            raise ConfigError(f"sigma_temperature is {sigma_temperature}; it must be 0 or more")
        with torch.no_grad():
            full = self.expand(self.batch_shape)
            logits = temper_logits(full.logits, pi_temperature)
            return full._draw(logits, torch.Size(sample_shape), math.sqrt(sigma_temperature), generator)

    def temper(self, pi_temperature: float = 1.0, sigma_temperature: float = 1.0) -> Self:
        """The mixture with logits divided and variances multiplied by a temperature; both positive.

        Raises:
            ConfigError: a temperature of 0 or less (`draw` accepts 0).
        """
        if pi_temperature <= 0 or sigma_temperature <= 0:
            raise ConfigError(f"temperatures are {pi_temperature}, {sigma_temperature}; a density needs positive ones")
        new = self.sharpen(math.sqrt(sigma_temperature))
        new.logits = self.logits / pi_temperature
        return new

    def bias(self, b: float) -> Self:
        """Sharpen by a probability bias: logits times (1 + b), log standard deviations minus b (Graves, 2013)."""
        new = self.sharpen(math.exp(-b))
        new.logits = self.logits * (1 + b)
        return new

    # ----- by marginals -------------------------------------------------------------------------------------------

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw values: (*sample_shape, *batch, D)."""
        return self.draw(sample_shape)

    @property
    def mean(self) -> Tensor:
        """(..., D)."""
        logits, loc, _ = self.marginal_parameters()
        return (logits.softmax(-1) * loc).sum(-1).expand(self.batch_shape + self.event_shape)

    @property
    def stddev(self) -> Tensor:
        """Per coordinate, (..., D); in any unit, where the variance may leave the range of the dtype."""
        logits, loc, scale = self.marginal_parameters()
        weight = logits.softmax(-1)
        # around the mean, not as a difference of squares: components far from zero keep their digits
        gap = loc - (weight * loc).sum(-1, keepdim=True)
        unit = torch.maximum(scale, gap.abs()).amax(-1, keepdim=True).detach()
        square = (weight * ((scale / unit).square() + (gap / unit).square())).sum(-1)
        return (unit.squeeze(-1) * square.sqrt()).expand(self.batch_shape + self.event_shape)

    @property
    def variance(self) -> Tensor:
        """Per coordinate, (..., D); the square of `stddev`, with a warning where the dtype does not hold it."""
        return squared(self.stddev)

    def marginal_log_prob(self, value: Any) -> Tensor:
        """Log density of each coordinate by itself: value (..., D) -> (..., D)."""
        return line.log_density(self._value(value), *self.marginal_parameters())

    def cdf(self, value: Any) -> Tensor:
        """P(Y_d <= value_d) for each coordinate by itself: value (..., D) -> (..., D)."""
        return line.cdf(self._value(value), *self.marginal_parameters())

    def quantile(self, q: Any) -> Tensor:
        """Quantile of each coordinate by itself.

        Args:
            q: probabilities, one number or any shape (*shape).

        Returns:
            (*shape, *batch, D).
        """
        q = torch.as_tensor(q, dtype=torch.double, device=self.loc.device)
        if bool(((q < 0) | (q > 1)).any()):
            raise ConfigError("q holds a number outside [0, 1]; quantiles need probabilities")
        rank = len(self.batch_shape) + 1
        return line.quantile(q.reshape(q.shape + (1,) * rank), *self.marginal_parameters())

    def icdf(self, value: Any) -> Tensor:
        """Quantiles, one probability per coordinate: value (..., D) -> (..., D)."""
        return line.quantile(self._value(value), *self.marginal_parameters())

    def interval(self, p: float = 0.9, kind: Literal["central", "hpd"] = "central") -> Intervals:
        """Intervals that hold each coordinate with probability `p`.

        Args:
            p: probability inside, in (0, 1).
            kind: `"central"` leaves (1 - p) / 2 on either side: one interval. `"hpd"` is the shortest region: one
                interval per branch.

        Returns:
            Intervals (..., D, M); M is 1 for central ones, K for highest-density ones.

        Raises:
            ConfigError: p outside (0, 1), or an unknown kind.
        """
        if not 0 < p < 1:
            raise ConfigError(f"p is {p}; the probability inside an interval must lie between 0 and 1")
        if kind == "central":
            low, high = self.quantile(0.5 - 0.5 * p), self.quantile(0.5 + 0.5 * p)
            return Intervals(
                low.unsqueeze(-1), high.unsqueeze(-1), torch.ones_like(low, dtype=torch.bool).unsqueeze(-1)
            )
        if kind == "hpd":
            return line.highest_density(p, *self.marginal_parameters())
        raise unknown_name("kind of interval", kind, ("central", "hpd"))

    def crps(self, value: Any) -> Tensor:
        """Continuous ranked probability score of each coordinate, in its units, lower is better: (..., D)."""
        return line.crps(self._value(value), *self.marginal_parameters())

    def highest_density_level(self, p: float, n: int = 1000, generator: torch.Generator | None = None) -> Tensor:
        """The log density above which probability `p` lies, from `n` draws: (...). Inside is `log_prob(y) >= level`."""
        if not 0 < p < 1:
            raise ConfigError(f"p is {p}; it must lie between 0 and 1")
        heights = self.log_prob(self.draw((n,), generator=generator)).detach()
        return heights.quantile(1 - p, dim=0)


def distinct(points: Tensor, heights: Tensor, good: Tensor, width: Tensor, n: int | None) -> Modes:
    """Merge points that are the same mode and sort by height.

    Args:
        points: (..., M, D).
        heights: (..., M), log densities.
        good: bool (..., M), which points are local maxima at all.
        width: (..., D): points closer than a tenth of it in every coordinate are one.
        n: keep this many; all by default.
    """
    heights = torch.where(good, heights, -math.inf)
    order = heights.argsort(-1, descending=True)
    heights = heights.gather(-1, order)
    points = points.gather(-2, order.unsqueeze(-1).expand(points.shape))
    near = ((points.unsqueeze(-2) - points.unsqueeze(-3)).abs() < 0.1 * width[..., None, None, :]).all(-1)
    many = heights.shape[-1]
    keep = heights > -math.inf
    for i in range(1, many):  # a point stays unless a higher one that stayed is next to it
        keep[..., i] &= ~(near[..., i, :i] & keep[..., :i]).any(-1)
    order = torch.argsort((~keep).to(torch.uint8), dim=-1, stable=True)[..., :n]
    keep, heights = keep.gather(-1, order), heights.gather(-1, order)
    points = points.gather(-2, order.unsqueeze(-1).expand(*order.shape, points.shape[-1]))
    return Modes(torch.where(keep.unsqueeze(-1), points, math.nan), torch.where(keep, heights, -math.inf), keep)


def positions(dims: Sequence[int] | int, features: int) -> list[int]:
    """Check coordinates and count negative ones from the end.

    Raises:
        ConfigError: a coordinate that does not exist, or one named twice.
    """
    requested = [dims] if isinstance(dims, int) else list(dims)
    chosen = [d + features if d < 0 else d for d in requested]
    if any(not 0 <= d < features for d in chosen) or len(set(chosen)) < len(chosen) or not chosen:
        raise ConfigError(f"coordinates {requested} do not fit {features} of them, each at most once and at least one")
    return chosen
