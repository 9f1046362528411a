"""VIMCO: the importance-weighted bound for guides with discrete sites, with an unbiased gradient of low variance.

With log weights `lw_k = log p(x, z_k) - log q(z_k | x)` of K particles the bound of a row is
`L = log 1/K sum_k exp(lw_k)`. Its gradient has two parts. One is what autograd finds: through reparameterised draws
and through the direct dependence of every density on the parameters. The other is the score of the draws that are not
reparameterised, for which the other particles are the baseline:

    sum_j (L - c_j) grad log q_disc(z_j),    c_j = log 1/K (sum_{k != j} exp(lw_k) + exp(mean_{k != j} lw_k)).

`c_j` does not depend on z_j, so the estimate is unbiased (Mnih and Rezende, *Variational Inference for Monte Carlo
Objectives*, ICML 2016, equations 7-10). Leaving out the first part's `-w_j grad log q_disc(z_j)`, as is easily done,
makes it biased.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions.util import is_identically_zero
from pyro.infer.util import is_validation_enabled
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from phlogiston.distributions.shapes import joint_shape
from phlogiston.errors import ConfigError, unknown_name
from phlogiston.inference.svi.bounds import ParticleBound, runs_the_model
from phlogiston.inference.svi.densities import is_reparameterised, stacked_log_probs
from phlogiston.inference.svi.pair.record import run_pair

SIGNALS = ("iwae", "elbo")
BASELINES = ("geometric", "arithmetic", "none")
_DENSE = 100  # up to this many particles the (K, K, rows) tensor of replaced weights is small


@dataclass
class Weights:
    """Log weights of particles.

    Attributes:
        log_weights: (particles, *rows), nats; rows are the axes of the plates that all sites share.
        score: (particles, *rows), log-density of the guide's draws that are not reparameterised; None without any.
        scale: factor that all sites share because their plates are subsampled.
    """

    log_weights: Tensor
    score: Tensor | None
    scale: float

    def bound(self) -> Tensor:
        """The importance-weighted bound per row, unscaled, in nats."""
        return torch.logsumexp(self.log_weights, 0) - math.log(len(self.log_weights))

    def expand(self, particles: int) -> Weights:
        """Give the particle axis its length, where no site depends on the particle."""

        def whole(part: Tensor) -> Tensor:
            return part.expand(particles, *part.shape[1:])

        return Weights(whole(self.log_weights), None if self.score is None else whole(self.score), self.scale)


def leave_one_out(log_weights: Tensor, baseline: str = "geometric") -> Tensor:
    """What the bound would be if particle j were an average particle: (particles, *rows), detached.

    Args:
        log_weights: (particles, *rows), at least two particles.
        baseline: the average of the others: `"geometric"` (of the weights), `"arithmetic"`, or `"none"` (zero).
    """
    weights = log_weights.detach()
    count = len(weights)
    if baseline == "none":
        return torch.zeros_like(weights)
    if baseline == "arithmetic":  # replacing a weight by the mean of the others leaves the mean of the others
        return torch.stack([_without(weights, j).logsumexp(0) - math.log(count - 1) for j in range(count)])
    average = (weights.sum(0) - weights) / (count - 1)
    if count > _DENSE:
        rows = [torch.logaddexp(_without(weights, j).logsumexp(0), average[j]) for j in range(count)]
        return torch.stack(rows) - math.log(count)
    own = torch.eye(count, dtype=torch.bool, device=weights.device).reshape(count, count, *[1] * (weights.dim() - 1))
    return torch.where(own, average.unsqueeze(1), weights.unsqueeze(0)).logsumexp(1) - math.log(count)


def _without(weights: Tensor, index: int) -> Tensor:
    return torch.cat([weights[:index], weights[index + 1 :]])


class VIMCO(ParticleBound):
    """The importance-weighted bound of any mix of reparameterised and other sites.

    Rows are the axes of the plates in which *every* site lies; with none, the whole batch is one row.

    Args:
        num_particles: K, at least 2.
        signal: `"iwae"` is the gradient of the bound. `"elbo"` puts a particle's own weight in the bound's place and
            averages over particles: not the gradient of any objective, but what some published code does.
        baseline: what stands in for a particle's weight, see `leave_one_out`.
        max_plate_nesting: number of plate axes; determined by running the pair once if not given.
        vectorize_particles: run all particles at once, as an outermost plate, or one after the other.

    Raises:
        ConfigError: fewer than 2 particles.
        UnknownNameError: another signal or baseline.

    Reference:
        Mnih and Rezende, "Variational Inference for Monte Carlo Objectives", ICML 2016.
    """

    def __init__(
        self,
        num_particles: int = 5,
        signal: str = "iwae",
        baseline: str = "geometric",
        max_plate_nesting: float = math.inf,
        vectorize_particles: bool = True,
    ) -> None:
        if num_particles < 2:
            raise ConfigError(
                f"vimco: num_particles={num_particles}; at least 2 are needed, since the other particles are each "
                "one's baseline. Use objective 'elbo' for one."
            )
        if signal not in SIGNALS:
            raise unknown_name("signal of vimco", signal, SIGNALS)
        if baseline not in BASELINES:
            raise unknown_name("baseline of vimco", baseline, BASELINES)
        super().__init__(
            num_particles=num_particles, max_plate_nesting=max_plate_nesting, vectorize_particles=vectorize_particles
        )
        self.signal = signal
        self.baseline = baseline

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
        if is_validation_enabled() or runs_the_model(guide):
            return super()._get_trace(model, guide, args, kwargs)
        return run_pair(model, guide, args, kwargs)

    def weigh(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Weights:
        """Run the pair and return the log weights of its particles.

        Raises:
            ConfigError: for a site marked for enumeration.
        """
        parts = []
        for model_trace, guide_trace in self._get_traces(model, guide, args, kwargs):
            particles = -int(self.max_plate_nesting) if self.vectorize_particles and self.num_particles > 1 else None
            parts.append(_weigh(model_trace, guide_trace, particles))
        if len(parts) == 1:
            return parts[0].expand(self.num_particles) if self.vectorize_particles else parts[0].expand(1)
        score = None if parts[0].score is None else torch.cat([part.score for part in parts])  # type: ignore[misc]
        return Weights(torch.cat([part.log_weights for part in parts]), score, parts[0].scale)

    def log_weights(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Run the pair and return the log weights, (particles, *rows), in nats and unscaled."""
        return self.weigh(model, guide, *args, **kwargs).log_weights

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Return minus the bound, summed over rows and scaled, with the gradient of the estimate."""
        weighted = self.weigh(model, guide, *args, **kwargs)
        bound = weighted.bound()
        if weighted.score is not None:
            aim = weighted.log_weights.detach() if self.signal == "elbo" else bound.detach()
            signal = aim - leave_one_out(weighted.log_weights, self.baseline)
            term = (signal * weighted.score).sum(0)
            if self.signal == "elbo":
                term = term / len(signal)
            bound = bound + (term - term.detach())
        return -weighted.scale * bound.sum()


def log_weights(
    model: Any,
    guide: Any,
    batch: Mapping[str, Any],
    particles: int,
    *,
    chunk: int = 50,
    max_plate_nesting: float = math.inf,
) -> Tensor:
    """Draw log weights for evaluation, without gradients, at most `chunk` particles at once: (particles, *rows).

    Raises:
        ConfigError: fewer than one particle, or sites marked for enumeration.
    """
    if particles < 1 or chunk < 1:
        raise ConfigError(f"particles={particles}, chunk={chunk}: both must be positive.")
    out = []
    with torch.no_grad():
        while particles > 0:
            number = min(max(chunk, 2), particles)
            objective = VIMCO(max(number, 2), max_plate_nesting=max_plate_nesting)
            out.append(objective.log_weights(model, guide, **batch)[:number])
            max_plate_nesting = objective.max_plate_nesting
            particles -= number
    return torch.cat(out)


def _weigh(model_trace: Any, guide_trace: Any, particles: int | None) -> Weights:
    sites = [
        (name, site, sign)
        for trace, sign in ((model_trace, 1.0), (guide_trace, -1.0))
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and not site_is_subsample(site)
    ]
    for name, site, _ in sites:
        if site["infer"].get("enumerate"):
            raise ConfigError(f"vimco draws every site; {name!r} is marked for enumeration. Use objective 'enum'.")
    kept, scale = _common_plates(site for _, site, _ in sites)
    total: Tensor | float = 0.0
    score: Tensor | None = None
    together: set[int] = set()
    for trace, sign in ((model_trace, 1.0), (guide_trace, -1.0)):
        own = [site for _, site, of in sites if of == sign and not (sign < 0 and site["is_observed"])]
        for group, log_prob in stacked_log_probs(own):
            term = _reduce(log_prob.sum(0), particles, kept)
            total = total + sign * term
            if sign < 0 and not is_reparameterised(group[0]):
                score = term if score is None else score + term
            for site in group:
                together.add(id(site))
                site["log_prob"] = site["score_parts"] = None  # counted
        trace.compute_log_prob() if sign > 0 else trace.compute_score_parts()
    for _, site, sign in sites:
        if id(site) in together:
            continue
        total = total + sign * _reduce(site["log_prob"], particles, kept)
        if sign > 0 or site["is_observed"] or is_identically_zero(site["score_parts"].score_function):
            continue
        term = _reduce(_unscaled(site), particles, kept)
        score = term if score is None else score + term
    if not isinstance(total, Tensor):
        raise ConfigError("vimco: neither model nor guide has a sample site.")
    shape = joint_shape(total.shape, () if score is None else score.shape)
    if score is not None:
        score = score.expand(shape)
    return Weights((total / scale if scale != 1.0 else total).expand(shape), score, scale)


def _unscaled(site: Mapping[str, Any]) -> Tensor:
    """The log-density of a draw whatever weight it has in the bound; where it is masked out it has no say."""
    log_prob: Tensor = site["unscaled_log_prob"]
    mask = site["mask"]
    if mask is None or mask is True:
        return log_prob
    return torch.where(torch.as_tensor(mask, device=log_prob.device), log_prob, torch.zeros_like(log_prob))


def _common_plates(sites: Iterable[Mapping[str, Any]]) -> tuple[list[int], float]:
    """Return the axes of the plates that all sites share (leftmost first), and the scale these plates bring."""
    shared: dict[Any, Any] | None = None
    for site in sites:
        frames = {f.name: f for f in site["cond_indep_stack"] if f.vectorized and f.name != _PARTICLES}
        shared = frames if shared is None else {name: f for name, f in shared.items() if name in frames}
    shared_frames = sorted((shared or {}).values(), key=lambda frame: frame.dim)
    scale = math.prod(1.0 if f.full_size is None else f.full_size / f.size for f in shared_frames)
    return [f.dim for f in shared_frames], scale


_PARTICLES = "num_particles_vectorized"


def _reduce(log_prob: Any, particles: int | None, kept: list[int]) -> Tensor:
    """Sum over every axis but particles and `kept`: (particles or 1, *kept)."""
    out = torch.as_tensor(log_prob)
    axes = ([] if particles is None else [particles]) + kept
    least = max((-dim for dim in axes), default=0)
    if out.dim() < least:
        out = out.reshape((1,) * (least - out.dim()) + tuple(out.shape))
    others = [dim for dim in range(-out.dim(), 0) if dim not in axes]
    out = out.sum(others) if others else out
    return out.unsqueeze(0) if particles is None else out
