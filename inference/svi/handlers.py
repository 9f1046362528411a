"""Handlers: annealing, tempering and weighting as Pyro messengers, so that no model needs an argument for them.

Each handler is entered around model and guide together, changes only the named sites, and is independent of how many
particle or plate axes lie to the left: it works under vectorised particles, under enumeration and in plain traces.
Their weights are ordinary attributes, which a schedule of a `Stage` (or the user) may change during training.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import torch
from pyro.distributions.torch_distribution import ExpandedDistribution, TorchDistribution
from pyro.poutine.messenger import Messenger
from torch import Tensor

from phlogiston.distributions.shapes import joint_shape
from phlogiston.errors import ConfigError

DATA_PLATE = "data"
"""Name of the plate over data points in every model and guide of this package."""


def in_data_plate(site: Mapping[str, Any]) -> bool:
    """Say whether a site of a trace (or a message) lies inside the plate over data points."""
    return any(frame.name == DATA_PLATE for frame in site["cond_indep_stack"])


def is_subsampled(frame: Any) -> bool:
    """Say whether a plate frame is over data points and stands for more of them than it holds."""
    return frame.name == DATA_PLATE and frame.full_size not in (None, frame.size)


class ScaleSites(Messenger):
    """See `scale_sites`. Attribute `weights` may be changed at any time."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        super().__init__()
        for name, weight in weights.items():
            if not float(weight) >= 0.0:
                raise ConfigError(f"scale_sites: the weight of {name!r} is {weight}; it must not be negative.")
        self.weights: dict[str, float] = dict(weights)

    @property
    def site_names(self) -> Collection[str]:
        """The sites this handler means to find in model or guide."""
        return self.weights.keys()

    def _pyro_sample(self, msg: Any) -> None:
        weight = self.weights.get(msg["name"])
        if weight is not None:
            msg["scale"] = msg["scale"] * weight

    def describe(self) -> dict[str, Any]:
        """Return the handler as JSON-able data."""
        return {"handler": "scale_sites", "weights": {k: float(v) for k, v in self.weights.items()}}


def scale_sites(weights: Mapping[str, float]) -> ScaleSites:
    """Multiply the log-density of the named sites, in model and guide alike.

    With a latent site this weights its whole Kullback-Leibler term (beta-VAE, annealing); with an observed one it
    tempers its likelihood.

    Args:
        weights: factor per site name, not negative.

    Returns:
        A messenger: use it as a context, or put it into `Stage(handlers={"anneal": scale_sites({...})})`.

    Raises:
        ConfigError: if a weight is negative.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> def model():
        ...     pyro.sample("pose", dist.Normal(0.0, 1.0), obs=torch.tensor(0.0))
        >>> with scale_sites({"pose": 30.0}):
        ...     trace = pyro.poutine.trace(model).get_trace()
        >>> round(float(trace.log_prob_sum()), 3)
        -27.568
    """
    return ScaleSites(weights)


class Setting(Messenger):
    """See `setting`. Attribute `value` may be changed at any time while the handler is not entered."""

    def __init__(self, target: Any, name: str, value: Any) -> None:
        super().__init__()
        if not hasattr(target, name):
            raise ConfigError(f"setting: a {type(target).__name__} has no attribute {name!r}.")
        self.target, self.name, self.value = target, name, value

    def __enter__(self) -> Any:
        self._before = getattr(self.target, self.name)
        setattr(self.target, self.name, self.value)
        return super().__enter__()

    def __exit__(self, *args: Any) -> Any:
        setattr(self.target, self.name, self._before)
        return super().__exit__(*args)

    def describe(self) -> dict[str, Any]:
        """Return the handler as JSON-able data."""
        return {"handler": "setting", "of": type(self.target).__name__, "name": self.name, "value": self.value}


def setting(target: Any, name: str, value: Any) -> Setting:
    """Give an attribute of a module another value while the handler is entered: a temperature that is annealed.

    Args:
        target: the module (or any object).
        name: an attribute it has.
        value: what the attribute is inside; a schedule `"<handler name>.value"` may drive it.

    Returns:
        A messenger.

    Raises:
        ConfigError: if there is no such attribute.
    """
    return Setting(target, name, value)


class PerDatum(Messenger):
    """See `per_datum`. Attribute `weight` is set by the engine at every step."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def _pyro_sample(self, msg: Any) -> None:
        if not in_data_plate(msg):
            msg["scale"] = msg["scale"] * self.weight
        for frame in msg["cond_indep_stack"]:
            if is_subsampled(frame):  # the plate counts its rows for all of them; here they count as what they are
                msg["scale"] = msg["scale"] * frame.size / frame.full_size

    def describe(self) -> dict[str, Any]:
        """Return the handler as JSON-able data."""
        return {"handler": "per_datum"}


def per_datum(weight: float) -> PerDatum:
    """Multiply the log-density of every site outside the plate "data" by `weight`.

    A batch of B rows out of N has each global term once; with `weight = B / N` the loss divided by B estimates the
    loss of the whole data set divided by N, whatever the batch size. A plate "data" over all N rows with `subsample=`
    the batch counts each of its rows N / B times by itself; that is taken back.
    """
    return PerDatum(weight)


def _nested(fn: Any) -> Any:
    """Return the `nested_log_prob` behind a distribution a plate may have expanded, or None."""
    method = getattr(fn, "nested_log_prob", None)
    if method is None and isinstance(fn, ExpandedDistribution):
        method = getattr(fn.base_dist, "nested_log_prob", None)
    return method


class _DepthWeighted(TorchDistribution):
    """A distribution whose log-density also counts, with a weight, the densities after fewer layers."""

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, base: Any, weight: float | Tensor) -> None:
        self.base = base
        self.weight = weight
        self.has_rsample = getattr(base, "has_rsample", False)
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        return self.base.support

    def expand(self, batch_shape: Any, _instance: Any = None) -> _DepthWeighted:
        return _DepthWeighted(self.base.expand(batch_shape), self.weight)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        return self.base.sample(sample_shape)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        return self.base.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        nested = _nested(self.base)(value)  # (..., depth)
        out = nested[..., -1] + self.weight * nested[..., :-1].sum(-1)
        return out.expand(joint_shape(out.shape, self.batch_shape))


class WeightDepths(Messenger):
    """See `weight_depths`. Attribute `weight`, if not None, stands for the weight of every site."""

    def __init__(self, weights: Mapping[str, float | Tensor]) -> None:
        super().__init__()
        self.weights = dict(weights)
        self.weight: float | Tensor | None = None

    @property
    def site_names(self) -> Collection[str]:
        """The sites this handler means to find in model or guide."""
        return self.weights.keys()

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] not in self.weights or not msg["is_observed"]:
            return
        if _nested(msg["fn"]) is None:
            raise ConfigError(
                f"weight_depths: site {msg['name']!r} is a {type(msg['fn']).__name__}, which has no method "
                "nested_log_prob(value) giving the log-density after each depth."
            )
        weight = self.weights[msg["name"]] if self.weight is None else self.weight
        msg["fn"] = _DepthWeighted(msg["fn"], weight)

    def describe(self) -> dict[str, Any]:
        """Return the handler as JSON-able data."""
        weights = {k: v.tolist() if isinstance(v, Tensor) else float(v) for k, v in self.weights.items()}
        return {"handler": "weight_depths", "weights": weights}


def weight_depths(weights: Mapping[str, float | Tensor]) -> WeightDepths:
    """Train a layered density at all its depths at once.

    For an observed site whose distribution has a method `nested_log_prob(value) -> (..., depth)` (the log-density after
    each of its layers, the last being the full one), the log-density becomes
    `nested[..., -1] + weight * nested[..., :-1].sum(-1)`. Sites without an observation are left as they are.

    Args:
        weights: per site, a number or a tensor that broadcasts against the batch shape.

    Returns:
        A messenger whose attribute `weight` (None at first) overrides all weights, so that the schedule key
        `"<handler name>.weight"` can drive it.

    Raises:
        ConfigError: when a named site is met whose distribution has no `nested_log_prob`.
    """
    return WeightDepths(weights)
