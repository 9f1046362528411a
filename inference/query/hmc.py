"""Questions answered by Pyro's no-U-turn sampler, for pairs whose unknown sites are continuous.

Several chains start from particles of a small tempered population, whose covariance also makes their coordinates
comparable, so that little is left to adapt. Split, rank-normalised R-hat and effective sample sizes (Vehtari, Gelman,
Simpson, Carpenter and Bürkner, "Rank-normalization, folding, and localization: an improved R-hat", Bayesian Analysis
16, 2021) come from arviz; a chain that has not found the others, or trajectories that diverge, are a warning.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from phlogiston.errors import ConfigError, EvidenceError, QueryWarning
from phlogiston.inference.query.answer import Answer
from phlogiston.inference.query.coordinates import Coordinates
from phlogiston.inference.query.finish import finish
from phlogiston.inference.query.numerical_faults import is_numerical
from phlogiston.inference.query.population import Population, spread_factor
from phlogiston.inference.query.program import Program
from phlogiston.inference.query.smc import reach
from phlogiston.inference.svi.batchwise import propose_each

_SEARCH = 1000  # proposals among which starting points are looked for where tempering fails
_PILOT = 200  # particles of the tempered population
_FEWEST_DRAWS = 25  # per chain; fewer samples are spread over fewer chains
_R_HAT = 1.05  # above this the chains disagree, unless they are so short that chance explains it


@dataclass
class _Chain:
    """Draws of one chain and what happened on the way."""

    draws: Tensor  # (draws, size)
    divergences: int
    walls: int  # trajectories' points outside hard constraints that no transform takes care of


def run_nuts(program: Program, n: int, warmup: int | None = None, chains: int = 4) -> Answer:
    """Answer a question by NUTS.

    Boxes and supports become transforms, half-spaces walls, soft evidence a factor.

    Args:
        program: the pair with its question.
        n: samples kept, of all chains together.
        warmup: adaptation steps per chain, thrown away; a quarter of `n`, but at least 75 and at most 250, by default.
        chains: how many chains share the samples; fewer where each would get less than 25.

    Returns:
        Equally weighted samples, chain after chain. `details` hold `chain` (n,), the chain of each sample; `r_hat`, the
        largest of any coordinate; `ess_bulk` and `ess_tail`, the smallest; `divergences`, how many of all samples.

    Raises:
        ConfigError: unknown discrete sites, or nothing unknown at all; options out of range.
        EvidenceError: no starting point satisfies the evidence.
    """
    if chains < 1:
        raise ConfigError(f"chains must be at least 1; got {chains}")
    steps = min(250, max(75, n // 4)) if warmup is None else warmup
    if steps < 1:
        raise ConfigError(f"warmup must be at least 1; got {steps}")
    count = max(1, min(chains, n // _FEWEST_DRAWS))
    each = -(-n // count)
    program.set_trailing_aside()
    coordinates = Coordinates(program, propose_each(program, 2)[0].values, box=True)
    if coordinates.discrete:
        names = ", ".join(coordinates.discrete)
        raise ConfigError(f'method="hmc" needs continuous unknowns, but {names} is discrete; use "importance" or "smc"')
    if coordinates.size == 0:
        raise ConfigError("nothing is unknown: every site is fixed by the evidence")
    starts, factor = _starting_points(program, coordinates, count)
    run = [_run(program, coordinates, start, factor, each, steps) for start in starts]
    u = torch.cat([c.draws for c in run])[:n]
    with torch.no_grad():
        wide = {name: value.expand(n, *value.shape[1:]) for name, value in starts[0].items()}
        values, _ = coordinates.decode(u, wide)
    method = "NUTS, 1 chain" if count == 1 else f"NUTS, {count} chains"
    answer = finish(program, values, torch.zeros(n, dtype=torch.float64), None, None, method)
    return _diagnosed(replace(answer, method=method), run, each)


def _starting_points(program: Program, coordinates: Coordinates, count: int) -> tuple[list[dict[str, Tensor]], Tensor]:
    """A particle for each chain, and a factor (D, D) of the covariance of all."""
    try:
        population = Population(program, _PILOT)
        reach(population, moves=20, leapfrog=16)
        values, index = population.values, torch.randperm(_PILOT)[:count]
        factor = spread_factor(coordinates.encode(values))
    except EvidenceError:
        values, index = _plausible(program, count)
        factor = torch.eye(coordinates.size, dtype=torch.float64)
    return [{name: value[i : i + 1] for name, value in values.items()} for i in index.tolist()], factor


def _plausible(program: Program, count: int) -> tuple[dict[str, Tensor], Tensor]:
    """Proposals, and the most plausible of as many groups of them as there are chains."""
    particles, _ = propose_each(program, _SEARCH)
    alive = torch.nonzero(torch.isfinite(particles.log_weights)).flatten()
    if len(alive) == 0:
        raise EvidenceError(
            "query (NUTS): no starting point satisfies the evidence: it is impossible or too improbable"
        )
    groups = [alive[i::count] if len(alive) >= count else alive for i in range(count)]
    best = [int(group[particles.log_weights[group].argmax()]) for group in groups]
    return particles.values, torch.tensor(best)


@dataclass
class _Potential:
    """Minus the log density of a chain's coordinates; counts how often it was outside hard constraints."""

    program: Program
    coordinates: Coordinates
    start: dict[str, Tensor]
    origin: Tensor  # (1, D): coordinates of the start
    factor: Tensor  # (D, D): what a step in each of the chain's own coordinates is in the program's
    walls: int = field(default=0)

    def __post_init__(self) -> None:
        single = any(self.start[name].dtype != torch.float64 for name in self.program.evidence if name in self.start)
        self.tolerance = 1e-5 if single else 1e-9  # values on a limit are off by a rounding error, which `finish` mends

    def __call__(self, parameters: dict[str, Tensor]) -> Tensor:
        u = self.origin + parameters["w"].unsqueeze(0) @ self.factor.T
        try:
            values, log_det = self.coordinates.decode(u, self.start)
            scores = self.program.score(values)
        except Exception as error:
            if not is_numerical(error):
                raise
            return math.inf + 0.0 * u.sum()  # ends the trajectory, not the run
        total = scores.joint + scores.soft + log_det
        if bool((scores.violations > self.tolerance).any()):
            self.walls += 1
            return math.inf + 0.0 * u.sum()
        if not bool(torch.isfinite(total).all()):  # a density that vanishes here, or has a pole that rounding fell on
            return math.inf + 0.0 * u.sum()
        return -total.sum()


def _run(
    program: Program, coordinates: Coordinates, start: dict[str, Tensor], factor: Tensor, draws: int, warmup: int
) -> _Chain:
    from pyro.infer import MCMC, NUTS

    origin = coordinates.encode(start)
    potential = _Potential(program, coordinates, start, origin, factor)
    kernel = NUTS(potential_fn=potential)
    mcmc = MCMC(
        kernel,
        num_samples=draws,
        warmup_steps=warmup,
        initial_params={"w": torch.zeros(coordinates.size, dtype=torch.float64)},
        disable_progbar=True,
    )
    with warnings.catch_warnings(), torch.enable_grad():  # whatever the caller has switched off
        warnings.simplefilter("ignore")  # Pyro's progress bar and linear algebra warn about things users cannot change
        mcmc.run()
        diverged = mcmc.diagnostics()["divergences"]["chain 0"] if draws >= 8 else []
    draws_u = origin + mcmc.get_samples()["w"].detach() @ factor.T
    return _Chain(draws_u, len(diverged), potential.walls)


def _diagnosed(answer: Answer, run: list[_Chain], each: int) -> Answer:
    """Put the chains' diagnostics in the answer, instead of the weights' sample size, which is trivial here."""
    from arviz_stats.base.array import array_stats

    n = answer.num_samples
    draws = torch.stack([c.draws for c in run]).double().numpy()  # (chains, draws, coordinates)
    where = {"chain_axis": 0, "draw_axis": 1}
    details = dict(answer.details)
    details["chain"] = torch.arange(len(run)).repeat_interleave(each)[:n]
    details["divergences"] = torch.tensor(sum(c.divergences for c in run))
    if each < 8:
        details["ess"] = "too few samples per chain to tell how much they depend on each other"
        return replace(answer, details=details)
    halves = draws if len(run) > 1 else draws[:, : each // 2 * 2].reshape(2, each // 2, -1)
    with np.errstate(all="ignore"):  # a coordinate that never moved divides by zero, and counts as one draw below
        bulk = torch.as_tensor(array_stats.ess(draws, method="bulk", **where))
        tail = torch.as_tensor(array_stats.ess(draws, method="tail", prob=(0.05, 0.95), **where))
        r_hat = torch.as_tensor(array_stats.rhat(halves, **where))
    figures = {"ess_bulk": bulk.nan_to_num(1.0).min(), "ess_tail": tail.nan_to_num(1.0).min()}
    details |= {name: value.clamp(1.0, float(n)) for name, value in figures.items()}
    details["r_hat"] = r_hat.nan_to_num(math.inf).max()
    if float(details["r_hat"]) > max(_R_HAT, 1.0 + 12.0 / _within(draws)):
        warnings.warn(
            f"query ({answer.method}): R-hat is {float(details['r_hat']):.2f}: the chains have not found the same "
            f"distribution; raise warmup or num_samples, or write the model in other coordinates",
            QueryWarning,
            stacklevel=5,
        )
    if int(details["divergences"]) and not any(c.walls for c in run):
        warnings.warn(
            f"query ({answer.method}): {int(details['divergences'])} of {n} trajectories diverged: parts of the "
            f"distribution may be missing; write the model in other coordinates",
            QueryWarning,
            stacklevel=5,
        )
    return replace(answer, ess=details["ess_bulk"].double(), details=details)


def _within(draws: np.ndarray) -> float:
    """Effective sample size of the worst coordinate if all chains had the same distribution, (chains, draws, D)."""
    from arviz_stats.base.array import array_stats

    with np.errstate(all="ignore"):
        each = [array_stats.ess(chain[None], chain_axis=0, draw_axis=1, method="bulk") for chain in draws]
    return max(1.0, float(np.nan_to_num(np.sum(each, 0), nan=1.0).min()))
