"""Tempered sequential Monte Carlo for questions that importance sampling hardly ever meets.

Particles start as plain proposals and pass through distributions

    pi_b  proportional to  proposal^(1-b) * (joint * soft factors)^b * exp(-b / (1-b) * violation)

as b rises from 0 to 1, each step as large as keeps two thirds of the particles effective; hard constraints grow as
penalties and are strict at the end. Between steps particles are resampled and moved by kernels that leave pi_b
unchanged, until they have forgotten where they were (Del Moral, Doucet and Jasra, "Sequential Monte Carlo samplers",
JRSS B 68, 2006; `inference.query.population`). The estimate of the evidence is unbiased up to the adaptive
choice of steps.

Proposals of zero probability are dropped in a step of their own: what is left of the evidence is their share.

Effective sample size and error of the evidence are those of the particles' ancestors (`inference.query.genealogy`).
Where the moves do not mix, or few ancestors are left, there is no error bar, `answer.details` says why, and a warning
is given.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from phlogiston.distributions.resampling import effective_size, log_mean, systematic
from phlogiston.errors import ConfigError, EvidenceError, QueryWarning
from phlogiston.inference.query.answer import Answer
from phlogiston.inference.query.finish import finish
from phlogiston.inference.query.genealogy import FEWEST_FAMILIES, effective_families, evidence_variance, family_masses
from phlogiston.inference.query.population import Population
from phlogiston.inference.query.program import Program

_MAX_STEPS = 500
_EFFECTIVE = 0.65  # share of particles that a step keeps effective
_UNMIXED = 0.5  # correlation left after all moves above which a temperature has not mixed


def temper(program: Program, n: int, moves: int = 40, leapfrog: int = 16) -> Answer:
    """Answer a question by tempering.

    Args:
        program: the pair with its question.
        n: particles.
        moves: at most how many rounds of moves per temperature; they end when the particles have mixed.
        leapfrog: at most how many steps per Hamiltonian trajectory.

    Returns:
        Equally weighted samples. `details` hold `temperatures`, how many there were; `correlation`, the largest one
        left after the moves of any temperature; `acceptance`, the lowest of Hamiltonian moves; `families`, the
        effective number of ancestors.

    Raises:
        EvidenceError: the sequence got stuck: the evidence is impossible or far too improbable.
        ConfigError: options out of range, or sites whose entries come and go.
    """
    if moves < 1 or leapfrog < 1:
        raise ConfigError(f"moves and leapfrog must be at least 1; got {moves} and {leapfrog}")
    program.set_trailing_aside()
    emptying = [name for name in program.emptying if name in program.state]
    if emptying and (program.evidence or program.observed):
        raise ConfigError(
            f'method="smc" cannot move {", ".join(emptying)}: which of its entries exist depends on other sites; use '
            f'"importance"'
        )
    population = Population(program, n)
    return _finish(population, reach(population, moves, leapfrog))


@dataclass
class Path:
    """What happened on the way to temperature one.

    Attributes:
        log_weights: (n,), of the particles.
        log_evidence: ().
        masses: (n,), weight of each family before the last resampling.
        correlations: left after the moves of each temperature.
        acceptances: of the last Hamiltonian moves of each temperature.
    """

    log_weights: Tensor
    log_evidence: Tensor
    masses: Tensor
    correlations: list[float]
    acceptances: list[float]


def reach(population: Population, moves: int, leapfrog: int) -> Path:
    """Take particles from the proposal to the answer.

    Raises:
        EvidenceError: they cannot get there.
    """
    n = population.size
    log_evidence = _leave_zero(population)
    b = 0.0
    correlations: list[float] = []
    acceptances: list[float] = []
    for _ in range(_MAX_STEPS):
        following = _next(population, b)
        if following <= b:
            break
        increment = population.log_density(following) - population.log_density(b)
        log_evidence = log_evidence + log_mean(increment)
        b = following
        masses = family_masses(increment, population.ancestors)
        done = b == 1.0
        if done and float(effective_size(increment)) > 0.99 * n and not correlations:
            return Path(increment, log_evidence, masses, correlations, acceptances)
        population.choose(systematic(increment.softmax(0), n))
        correlations.append(population.move(b, moves, leapfrog))
        acceptances.append(population.acceptance)
        if done:
            return Path(torch.zeros_like(increment), log_evidence, masses, correlations, acceptances)
    raise EvidenceError(
        "query (tempered SMC): the particles cannot reach the evidence. It is impossible or far too improbable: loosen "
        "it, or raise num_samples."
    )


def _leave_zero(population: Population) -> Tensor:
    """Drop particles of zero probability; the log of the share that is left, ()."""
    n = population.size
    alive = torch.isfinite(population.log_density(0.5))
    count = int(alive.sum())
    if count == n:
        return torch.zeros((), dtype=torch.float64)
    if count == 0:
        raise EvidenceError(
            f"query (tempered SMC): the evidence has probability zero at each of {n} proposals. It is impossible, or "
            f"too improbable for this many: loosen it, or raise num_samples."
        )
    population.choose(systematic(alive.double(), n))
    return torch.tensor(math.log(count / n), dtype=torch.float64)


def _next(population: Population, b: float) -> float:
    """The largest temperature at which enough of the particles stay effective, by bisection."""
    now = population.log_density(b)

    def share(candidate: float) -> float:
        return float(effective_size(population.log_density(candidate) - now)) / population.size

    if share(1.0) >= _EFFECTIVE:
        return 1.0
    low, high = 0.0, 300.0  # by orders of magnitude: densities of proposals may differ by more than e^(10^100)
    for _ in range(60):
        middle = 0.5 * (low + high)
        if share(b + (1.0 - b) * 10.0**-middle) >= _EFFECTIVE:
            high = middle
        else:
            low = middle
    return b + (1.0 - b) * 10.0**-high


def _finish(population: Population, path: Path) -> Answer:
    n, steps = population.size, len(path.correlations)
    families, worst = effective_families(path.masses), max(path.correlations, default=0.0)
    reason = ""
    if worst > _UNMIXED:
        unmixed = sum(r > _UNMIXED for r in path.correlations)
        reason = (
            f"the moves did not mix at {unmixed} of {steps} temperatures (correlation {worst:.2f} with where particles "
            f"had been); raise moves, or write the model in other coordinates"
        )
    elif families < FEWEST_FAMILIES:
        reason = f"all particles go back to {families:.1f} of the first {n} draws; raise num_samples"
    if reason:
        warnings.warn(f"query (tempered SMC): no error bar: {reason}", QueryWarning, stacklevel=5)
    error = None if reason else evidence_variance(path.masses).sqrt()
    answer = finish(population.program, population.values, path.log_weights, path.log_evidence, error, "tempered SMC")
    lowest = min(path.acceptances, default=1.0)
    figures: dict[str, Any] = {"temperatures": steps, "correlation": worst, "acceptance": lowest}
    details: dict[str, Any] = {k: torch.tensor(float(v)) for k, v in {**figures, "families": families}.items()}
    if reason:
        details["log_evidence_error"] = reason
    size = min(float(answer.ess), population.effective_size()) if steps else float(answer.ess)
    ess = torch.tensor(size, dtype=torch.float64)
    return replace(answer, ess=ess, details={**answer.details, **details})
