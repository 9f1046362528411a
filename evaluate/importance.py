"""Log-likelihood of any model/guide pair by importance sampling, and how far to trust it.

With z_1 ... z_K from the guide and w_k = p(x, z_k) / q(z_k | x), log (1/K) sum w_k is in expectation a lower bound of
log p(x) that tightens with K (Burda, Grosse and Salakhutdinov, *Importance weighted autoencoders*, 2016). A model that
has a method `exact_log_prob(**batch) -> (rows,)` declares it exact and is used.

Latents outside the plate over rows whose distribution in the guide does not depend on the data are global ones that
training fitted (weights of a regression under an AutoGuide). A row's score then is its predictive density under their
trained posterior, log (1/K) sum p(x | w_k) with w_k from the guide: all rows of a batch share these draws, and the
error bar of the mean counts that.

On data drawn from the model itself one exact posterior draw is available, the one that made the data. With it among the
K the same average bounds log p(x) from above in expectation (Grosse, Ghahramani and Adams, *Sandwiching the marginal
likelihood with bidirectional Monte Carlo*, 2015): the two bounds bracket the truth, and their gap shows how good the
guide is, whatever the model.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from phlogiston.distributions.pyro_modules import own_parameters
from phlogiston.distributions.pyro_programs import RandomLayers, draw_sites, is_delta, sites_that_follow_data
from phlogiston.errors import ConfigError, DataError, SampleSizeWarning, ShapeError
from phlogiston.evaluate.metric import Metric, from_rows
from phlogiston.evaluate.score import Score
from phlogiston.evaluate.vectorised import check_particles
from phlogiston.evaluate.weights import effective_size, group_bound, mean_and_error, pareto_shape

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Program = Callable[..., Any]
Batch = Mapping[str, Any]
PARTICLES = "importance_particles"
POOR = 0.7  # Pareto shapes above this: the error bar itself cannot be trusted (Vehtari et al., section 3)


@dataclass(frozen=True)
class Likelihood:
    """The result of importance sampling.

    Attributes:
        score: per row, in nats.
        ess: effective number of particles per row, (rows,), or None when the score is exact.
        pareto_k: shape of the weights' tail per row, (rows,); below 0.5 all is well, above 0.7 nothing is. NaN where
            there are fewer than 25 particles.
        curve: number of particles -> bound per row at that number, (rows,), from the same draws.
        particles: K.
        global_latents: which sites were scored under their trained posterior, in words; empty where none were.
        shared_error: Monte Carlo standard error of the mean over rows, where rows share draws.
    """

    score: Score
    ess: Tensor | None = None
    pareto_k: Tensor | None = None
    curve: Mapping[int, Tensor] | None = None
    particles: int = 0
    global_latents: str = ""
    shared_error: float | None = None

    def metrics(self) -> dict[str, Metric]:
        """Return `log_likelihood` and, unless exact, `elbo`, `ess` (share of the particles) and `pareto_k`."""
        detail: dict[str, Any] = {"particles": self.particles} if self.particles else {}
        mean = self.score.mean()
        error = mean.std_error
        if self.global_latents and self.shared_error is not None:
            # the spread between rows does not show what all rows share
            error = None if error is None else math.hypot(error, self.shared_error)
            detail["global_latents"] = self.global_latents
            detail["monte_carlo_std_error"] = self.shared_error
        out = {"log_likelihood": Metric(mean.value, error, mean.n, mean.kind, True, {**mean.detail, **detail})}
        if self.ess is None or self.pareto_k is None or self.curve is None:
            return out
        out["elbo"] = from_rows(self.curve[1], "lower bound", True, {"unit": "nats per row", "particles": 1})
        out["ess"] = from_rows(self.ess / self.particles, "estimate", True, {"unit": "share of particles", **detail})
        known = self.pareto_k[torch.isfinite(self.pareto_k)]
        if len(known):
            share = float((known > POOR).double().mean())
            out["pareto_k"] = from_rows(known, "estimate", False, {"share_above_0.7": share, **detail})
        return out

    def curve_metrics(self) -> dict[int, Metric]:
        """Return the mean bound for each number of particles."""
        return {k: from_rows(rows, "lower bound", True) for k, rows in (self.curve or {}).items()}

    def figure(self, exact: float | None = None) -> Figure:
        """Draw the mean bound against the number of particles.

        Raises:
            DataError: the score is exact; there is no curve.
        """
        from phlogiston.evaluate.figures import interval_curve

        if not self.curve:
            raise DataError("the score is exact: there is no curve of bounds to draw.")
        rows = self.curve_metrics()
        errors = [metric.std_error or 0.0 for metric in rows.values()]
        return interval_curve(
            list(rows),
            [m.value for m in rows.values()],
            errors,
            reference=exact,
            xlabel="particles",
            ylabel="nats per row",
        )


def log_likelihood(
    model: Program,
    guide: Program,
    data: Any,
    particles: int = 100,
    *,
    chunk: int = 50,
    batch_size: int = 100,
    plate: str = "data",
    seed: int = 0,
    exact: bool = True,
) -> Likelihood:
    """Estimate log p(x) of every row.

    Memory holds `batch_size` x `particles` weights and one run of the pair over `batch_size` x `chunk` at a time.

    A batch draws its noise at once, so that a row's estimate changes, within its error, with the rows around it. A
    system's `log_prob` seeds each row by its content, which takes a run of the pair per row.

    Args:
        model: a Pyro program `model(**batch)`; latent and observed sites stand inside the plate over rows, but for
            global latents that the guide was fitted to.
        guide: its guide; every latent it samples must be the model's (or be marked auxiliary).
        data: a dict of tensors with equal first dimension, or anything with `__len__` and batches by slice.
        particles: K.
        chunk: particles computed at once.
        batch_size: rows computed at once.
        plate: name of the plate over rows.
        seed: of the draws; the global random state is left as it was.
        exact: use the model's `exact_log_prob` where it has one.

    Returns:
        The likelihood with its diagnostics. Warns where the weights' tails are too heavy to be trusted.

    Raises:
        ConfigError: a site outside the plate, or guide and model do not match.
        DataError: no rows, or NaN weights.
    """
    known = getattr(model, "exact_log_prob", None)
    if exact and callable(known):
        with torch.no_grad():
            values = torch.cat([known(**batch) for batch in _batches(data, batch_size)])
        return Likelihood(Score(values.detach().double(), "exact"))
    if particles < 1 or chunk < 1 or batch_size < 1:
        raise ConfigError(f"particles is {particles}, chunk {chunk}, batch_size {batch_size}; all must be positive.")
    sizes = _curve_sizes(particles)
    parts: list[tuple[Tensor, ...]] = []
    curve: dict[int, list[Tensor]] = {k: [] for k in sizes}
    fitted: tuple[str, ...] | None = None
    shared = 0.0
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(seed)
        for batch in _batches(data, batch_size):
            if fitted is None:
                fitted = fitted_globals(model, guide, batch, plate)
                check_particles(model, guide, batch, plate_nesting(model, guide, batch))
            weights = log_weights(model, guide, batch, particles, chunk=chunk, plate=plate, fitted=fitted)
            if fitted and particles > 1:  # by the delta method, as a row's own error, but of the sum over rows
                total = (weights - weights.logsumexp(0) + math.log(particles)).exp().sum(1)
                shared += float(total.var() / particles)
            parts.append((*mean_and_error(weights), effective_size(weights), pareto_shape(weights)))
            for k in sizes:
                curve[k].append(group_bound(weights, k))
    value, error, ess, shape = (torch.cat(column) for column in zip(*parts, strict=True))
    poor = float((shape > POOR).double().mean())
    if poor > 0.1:
        warnings.warn(
            f"the importance weights of {poor:.0%} of the rows have a Pareto shape above {POOR}: their bounds are "
            f"loose and their error bars too small. Use more particles than {particles}, or a better guide",
            SampleSizeWarning,
            stacklevel=2,
        )
    curves = {k: torch.cat(rows) for k, rows in curve.items()}
    stated = error if particles > 1 else None  # one weight tells no error
    likelihood = Likelihood(Score(value, "lower bound", stated), ess, shape, curves, particles)
    if not fitted:
        return likelihood
    return replace(
        likelihood, shared_error=math.sqrt(shared) / len(value), global_latents=_in_words(guide, batch, fitted)
    )


def _in_words(guide: Program, batch: Batch, fitted: Collection[str]) -> str:
    one, two = (draw_sites(guide, batch, fitted, seed) for seed in (0, 1))
    points = [name for name in fitted if torch.equal(one[name], two[name])]
    rest = [name for name in fitted if name not in points]
    parts = [f"{', '.join(rest)} under the trained posterior"] if rest else []
    return "; ".join([*parts, *([f"{', '.join(points)} at the point estimate"] if points else [])])


def fitted_globals(model: Program, guide: Program, batch: Batch, plate: str = "data") -> tuple[str, ...]:
    """Name the latents outside the plate over rows that the guide draws independently of the data.

    Raises:
        ConfigError: the guide draws local and global latents from one auxiliary site.
    """
    own_parameters(model, guide)
    proposed: Mapping[str, Any] = poutine.trace(guide).get_trace(**batch).nodes
    outside = [
        name
        for name, site in proposed.items()
        if _is_random(site) and not site["infer"].get("is_auxiliary") and not _inside(site, plate)
    ]
    if not outside:
        return ()
    follow = sites_that_follow_data(guide, batch, outside)
    fitted = tuple(name for name in outside if name not in follow)
    local = [name for name, site in proposed.items() if _is_random(site) and _inside(site, plate)]
    for name in local:
        if fitted and is_delta(proposed[name]["fn"]) and f"{name}_unconstrained" not in proposed:
            raise ConfigError(
                f"the guide draws {name!r}, inside the plate {plate!r}, and {fitted[0]!r}, outside, from one auxiliary "
                f"site: their densities cannot be separated. Use AutoNormal, or a guide for each in an AutoGuideList."
            )
    return fitted


def _inside(site: Mapping[str, Any], plate: str) -> bool:
    return any(frame.name == plate for frame in site["cond_indep_stack"])


def log_weights(
    model: Program,
    guide: Program,
    batch: Batch,
    particles: int,
    *,
    chunk: int = 50,
    plate: str = "data",
    fitted: Collection[str] = (),
) -> Tensor:
    """Draw log importance weights, float64 (particles, rows), a chunk of particles at a time.

    Those of `fitted`, global latents, do not count: the guide is their distribution. Raises as `log_likelihood`.
    """
    nesting = plate_nesting(model, guide, batch)
    out = []
    for start in range(0, particles, chunk):
        number = min(chunk, particles - start)
        with pyro.plate(PARTICLES, number, dim=-nesting - 1), RandomLayers(nesting):
            proposed = poutine.trace(guide).get_trace(**batch)
            target = poutine.trace(poutine.replay(model, trace=proposed)).get_trace(**batch)
        out.append(_weigh(target, proposed, plate, nesting, number, fitted))
    return torch.cat(out)


def plate_nesting(model: Program, guide: Program, batch: Batch) -> int:
    """Return how many batch dimensions the plates of a pair take."""
    own_parameters(model, guide)
    with torch.no_grad():
        proposed = poutine.trace(guide).get_trace(**batch)
        target = poutine.trace(poutine.replay(model, trace=proposed)).get_trace(**batch)
    dims = [
        -frame.dim
        for trace in (proposed, target)
        for site in trace.nodes.values()
        if site["type"] == "sample"
        for frame in site["cond_indep_stack"]
        if frame.vectorized and frame.dim is not None
    ]
    return max(dims, default=0)


def _weigh(
    target: Any, proposed: Any, plate: str, nesting: int, particles: int, fitted: Collection[str] = ()
) -> Tensor:
    """Return log p(x, z) - log q(z | x) per particle and row of two traces, but for global latents."""
    target.compute_log_prob()
    proposed.compute_log_prob()
    apart = set(fitted)
    if fitted:
        apart |= {
            name for name, s in proposed.nodes.items() if s["type"] == "sample" and s["infer"].get("is_auxiliary")
            and not _inside(s, plate)
        }  # fmt: skip
    for name, site in proposed.nodes.items():
        if _is_random(site) and name not in target.nodes and not site["infer"].get("is_auxiliary"):
            raise ConfigError(f"the guide samples {name!r}, which the model does not have.")
    total = torch.zeros(())
    for name, site in target.nodes.items():
        # a latent the guide leaves alone was drawn from the model itself: its ratio is one
        if _is_random(site) and name not in apart and (site["is_observed"] or name in proposed.nodes):
            total = total + per_row(name, site, plate, nesting)
    for name, site in proposed.nodes.items():
        if _is_random(site) and name not in apart and not (site["is_observed"] and name not in target.nodes):
            total = total - per_row(name, site, plate, nesting)
    if total.ndim != 2:
        raise ConfigError(f"the model has no observed site in a plate named {plate!r}.")
    if bool(torch.isnan(total).any()):
        raise DataError(f"the importance weights of {int(torch.isnan(total).any(0).sum())} rows are NaN.")
    return total.expand(particles, -1)


def _is_random(site: Mapping[str, Any]) -> bool:
    return site["type"] == "sample" and type(site["fn"]).__name__ != "_Subsample"


def per_row(name: str, site: Mapping[str, Any], plate: str, nesting: int) -> Tensor:
    """Sum a site's log density over everything but particles and rows, (particles or 1, rows); scales do not count.

    Raises:
        ConfigError: the site stands outside the plate over rows.
    """
    dims = [frame.dim for frame in site["cond_indep_stack"] if frame.name == plate]
    if not dims:
        raise ConfigError(
            f"site {name!r} is outside the plate {plate!r}: its density cannot be divided over rows. Fix its value "
            "first (pyro.poutine.condition), or name the plate over rows."
        )
    log_prob = site["unscaled_log_prob"].double()
    if log_prob.ndim > nesting + 1:
        raise ConfigError(
            f"site {name!r} is not vectorised over particles: its log density has shape {tuple(log_prob.shape)} where "
            f"{nesting + 1} axes were expected. Index and sum from the right (w[..., 0], x.sum(-1)): scoring runs "
            f"several particles at once, along one more leading axis."
        )
    mask = site["mask"]
    if mask is not None and mask is not True:
        log_prob = torch.where(torch.as_tensor(mask).expand(log_prob.shape), log_prob, torch.zeros_like(log_prob))
    log_prob = log_prob.reshape((1,) * (nesting + 1 - log_prob.ndim) + tuple(log_prob.shape))
    rows = log_prob.ndim + dims[0]
    others = [dim for dim in range(1, log_prob.ndim) if dim != rows]
    return log_prob.sum(others) if others else log_prob


def simulate(model: Program, batch: Batch, seed: int | None = None) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Draw latents and data from a model's joint distribution, with the row count, masks and inputs of a batch.

    Args:
        model: a Pyro program; observed sites take their values from the batch.
        batch: gives the shapes; entries that no site observes (inputs, masks) stay.
        seed: of the draw; None continues the global random state.

    Returns:
        The batch with its observed entries replaced, and the latents by site name.

    Raises:
        ConfigError: an observed site's value is not an entry of the batch, so that it cannot be replaced.
    """
    own_parameters(model)
    with torch.no_grad(), torch.random.fork_rng(enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        given = poutine.trace(model).get_trace(**batch)
        observed: dict[str, Any] = {name: site["value"] for name, site in given.nodes.items() if _is_data(site)}
        keys = {name: _key_of(name, value, batch) for name, value in observed.items()}
        drawn = poutine.trace(poutine.uncondition(model)).get_trace(**batch)
    values: dict[str, Any] = {name: s["value"] for name, s in drawn.nodes.items() if _is_random(s)}
    fresh = {key: values[name].detach().reshape(batch[key].shape) for name, key in keys.items()}
    latents = {
        name: value.detach()
        for name, value in values.items()
        if name not in keys and not drawn.nodes[name]["is_observed"]
    }
    return {**batch, **fresh}, latents


def _is_data(site: Mapping[str, Any]) -> bool:
    return _is_random(site) and site["is_observed"] and type(site["fn"]).__name__ != "Unit"


def _key_of(name: str, value: Tensor, batch: Batch) -> str:
    tensors = {key: entry for key, entry in batch.items() if isinstance(entry, Tensor)}
    for key, entry in tensors.items():
        if entry is value:
            return key
    for key, entry in tensors.items():  # a model may have reshaped or converted it
        if entry.numel() == value.numel() and bool((entry.reshape(value.shape).to(value.dtype) == value).all()):
            return key
    raise ConfigError(
        f"the observed site {name!r} is not an entry of the batch ({', '.join(tensors)}) but computed from it; data "
        "drawn from the model cannot be put back."
    )


def sandwich(
    model: Program,
    guide: Program,
    batch: Batch,
    particles: int = 100,
    *,
    chunk: int = 50,
    plate: str = "data",
    seed: int = 0,
) -> dict[str, Metric]:
    """Bracket log p(x) of data drawn from the model itself, from below and from above.

    Args:
        model, guide, chunk, plate: as for `log_likelihood`; the guide's sites must all be the model's.
        batch: gives the shapes of the rows to draw.
        particles: K on both sides.
        seed: of data and draws.

    Returns:
        `lower`, `upper` and `gap` (upper minus lower, paired by row), in nats per row.

    Raises:
        ConfigError: as `log_likelihood`, or a guide with auxiliary sites.
    """
    drawn, latents = simulate(model, batch, seed)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(seed + 1)
        weights = log_weights(model, guide, drawn, particles, chunk=chunk, plate=plate)
        true = _true_weight(model, guide, drawn, latents, plate)
    lower = weights.logsumexp(0) - math.log(particles)
    upper = torch.cat([true, weights[1:]]).logsumexp(0) - math.log(particles)
    detail = {"particles": particles, "unit": "nats per row", "data": "drawn from the model"}
    return {
        "lower": from_rows(lower, "lower bound", None, detail),
        "upper": from_rows(upper, "upper bound", None, detail),
        "gap": from_rows(upper - lower, "upper bound", False, detail),
    }


def _true_weight(model: Program, guide: Program, batch: Batch, latents: Mapping[str, Tensor], plate: str) -> Tensor:
    """Return the log weight of the latents that made the data, (1, rows)."""
    nesting = plate_nesting(model, guide, batch)
    proposed = poutine.trace(poutine.condition(guide, data=dict(latents))).get_trace(**batch)
    for name, site in proposed.nodes.items():
        if _is_random(site) and name not in latents:
            raise ConfigError(f"the guide's site {name!r} is not the model's; an upper bound needs its true value.")
    target = poutine.trace(poutine.condition(model, data=dict(latents))).get_trace(**batch)
    target.compute_log_prob()
    proposed.compute_log_prob()
    total = torch.zeros(())
    for name, site in target.nodes.items():
        if _is_random(site) and (name not in latents or name in proposed.nodes):
            total = total + per_row(name, site, plate, nesting)
    for name, site in proposed.nodes.items():
        if _is_random(site):
            total = total - per_row(name, site, plate, nesting)
    return total


def _curve_sizes(particles: int) -> list[int]:
    steps = [base * 10**power for power in range(9) for base in (1, 2, 5)]
    return sorted({1, particles, *(k for k in steps if k <= particles // 2)})


def _batches(data: Any, size: int) -> Iterator[dict[str, Any]]:
    """Yield batches of rows from a dict of tensors, or from anything that gives them by slice."""
    if isinstance(data, Mapping):
        lengths = {len(entry) for entry in data.values() if isinstance(entry, Tensor) and entry.ndim}
        if len(lengths) != 1:
            raise ShapeError(f"the tensors of the data have first dimensions {sorted(lengths)}; they must agree.")
        rows = lengths.pop()
        if rows == 0:
            raise DataError("the data have no rows.")
        for start in range(0, rows, size):
            cut = slice(start, start + size)
            yield {k: v[cut] if isinstance(v, Tensor) and v.ndim else v for k, v in data.items()}
        return
    if len(data) == 0:
        raise DataError("the data have no rows.")
    for start in range(0, len(data), size):
        yield data[start : min(start + size, len(data))]
