"""Tempered sequential Monte Carlo for questions that importance sampling hardly ever meets.

Particles start as plain proposals and pass through laws

    pi_b  proportional to  proposal^(1-b) * (joint * soft factors)^b * exp(-b / (1-b) * violation)

as b rises from 0 to 1, each step as large as keeps half of the particles effective; hard constraints grow as penalties
and are strict at the end. Between steps particles are resampled and moved by Hamiltonian dynamics on the continuous
entries and, where there are discrete sites, by proposing all sites afresh; both leave pi_b unchanged (Del Moral, Doucet
and Jasra, "Sequential Monte Carlo samplers", JRSS B 68, 2006). The estimate of the evidence is unbiased up to the
adaptive choice of steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from phlogiston.distributions.resampling import effective_size, log_mean, systematic
from phlogiston.errors import ConfigError, EvidenceError
from phlogiston.inference.answer import Answer
from phlogiston.inference.coordinates import Coordinates
from phlogiston.inference.program import Program, Scores

_MAX_STEPS = 500


def temper(program: Program, n: int, moves: int = 4, leapfrog: int = 8) -> Answer:
    """Answer a question by tempering.

    Args:
        program: the pair with its question.
        n: particles.
        moves: Hamiltonian moves per temperature.
        leapfrog: steps per move.

    Raises:
        EvidenceError: the sequence got stuck: the evidence is impossible or far too improbable.
        ConfigError: options out of range.
    """
    if moves < 1 or leapfrog < 1:
        raise ConfigError(f"moves and leapfrog must be at least 1; got {moves} and {leapfrog}")
    from phlogiston.inference.query import finish

    state = _State(program, program.propose(n, only_known=True).values)
    b, log_evidence = 0.0, torch.zeros((), dtype=torch.float64)
    variance = torch.zeros((), dtype=torch.float64)
    step = 0.3
    for _ in range(_MAX_STEPS):
        following = _next(state, b)
        increment = state.log_density(following) - state.log_density(b)
        log_evidence = log_evidence + log_mean(increment)
        variance = variance + ((n / effective_size(increment).clamp_min(1e-300) - 1) / n).clamp_min(0.0)
        if following == 1.0:
            return finish(program, state.values, increment, log_evidence, variance.sqrt(), "tempered SMC")
        if following <= b:
            break
        b = following
        state.choose(systematic(increment.softmax(0), n))
        step = state.move(b, step, moves, leapfrog)
    raise EvidenceError(
        "query (tempered SMC): the particles cannot reach the evidence. It is impossible or far too improbable: loosen "
        "it, or raise num_samples."
    )


def _next(state: _State, b: float) -> float:
    """The largest temperature at which half of the particles stay effective, by bisection."""
    n = state.size

    def share(candidate: float) -> float:
        return float(effective_size(state.log_density(candidate) - state.log_density(b))) / n

    if share(1.0) >= 0.5:
        return 1.0
    low, high = b, 1.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        if share(middle) >= 0.5:
            low = middle
        else:
            high = middle
    return low


class _State:
    """Particles with their scores, in values and in unbounded coordinates."""

    def __init__(self, program: Program, values: Mapping[str, Tensor]) -> None:
        self.program = program
        self.values = dict(values)
        self.size = len(next(iter(values.values())))
        self.coordinates = Coordinates(program, self.values, box=False)
        self.discrete = self.coordinates.discrete
        with torch.no_grad():
            self.scores = program.score(self.values)
            # violations are counted in units of their own spread among the proposals
            outside = self.scores.violations
            self.unit = torch.ones(outside.shape[1], dtype=outside.dtype)
            if len(self.unit):
                spread = outside.std(0, correction=0)
                self.unit = torch.where(spread > 0, spread, outside.mean(0)).clamp_min(1e-12)

    def log_density(self, b: float, scores: Scores | None = None) -> Tensor:
        """Log pi_b of the particles, (n,), up to its constant."""
        s = self.scores if scores is None else scores
        total = (1 - b) * s.proposal + b * (s.joint + s.soft) if b > 0 else s.proposal
        if s.violations.shape[1]:
            if b == 1.0:
                total = torch.where((s.violations > 0).any(1), -math.inf, total)
            elif b > 0:
                total = total - b / (1 - b) * (s.violations / self.unit).sum(1)
        return torch.where(torch.isnan(total), -math.inf, total)

    def choose(self, index: Tensor) -> None:
        """Resample."""
        self.values = {k: v[index] for k, v in self.values.items()}
        s = self.scores
        self.scores = Scores(s.joint[index], s.proposal[index], s.soft[index], s.violations[index])

    def move(self, b: float, step: float, moves: int, leapfrog: int) -> float:
        """Move all particles by kernels that keep pi_b; returns the adapted step size."""
        if self.discrete:
            self._independent(b)
        if self.coordinates.size == 0:
            return step
        u = self.coordinates.encode(self.values)
        width = u.std(0).clamp_min(1e-6)
        for _ in range(moves):
            jitter = step * (0.8 + 0.4 * torch.rand(()).item())
            u, rate = self._hamiltonian(u, b, jitter, width, leapfrog)
            step = min(1.5, max(1e-4, step * math.exp(rate - 0.75)))
        return step

    def _energy(self, u: Tensor, b: float) -> tuple[Tensor, Tensor, dict[str, Tensor], Scores]:
        u = u.detach().requires_grad_(True)
        with torch.enable_grad():
            values, log_det = self.coordinates.decode(u, self.values)
            scores = self.program.score(values)
            total = self.log_density(b, scores) + log_det
            (grad,) = torch.autograd.grad(torch.where(torch.isfinite(total), total, 0.0).sum(), u)
        plain = Scores(*(t.detach() for t in (scores.joint, scores.proposal, scores.soft, scores.violations)))
        return total.detach(), torch.nan_to_num(grad), {k: v.detach() for k, v in values.items()}, plain

    def _hamiltonian(self, u: Tensor, b: float, step: float, width: Tensor, leapfrog: int) -> tuple[Tensor, float]:
        start, grad, values, scores = self._energy(u, b)
        momentum = torch.randn_like(u)
        kinetic = 0.5 * momentum.square().sum(1)
        position, current = u, start
        for _ in range(leapfrog):
            momentum = momentum + 0.5 * step * width * grad
            position = position + step * width * momentum
            current, grad, values, scores = self._energy(position, b)
            momentum = momentum + 0.5 * step * width * grad
        log_ratio = current - 0.5 * momentum.square().sum(1) - start + kinetic
        accept = torch.rand(len(u), dtype=u.dtype).log() < torch.nan_to_num(log_ratio, nan=-math.inf)
        self._take(accept, values, scores)
        chance = torch.nan_to_num(log_ratio.clamp(max=0.0).exp(), nan=0.0).mean().item()
        return torch.where(accept.unsqueeze(1), position, u), chance

    @torch.no_grad()
    def _independent(self, b: float) -> None:
        """Propose every site afresh."""
        values = self.program.propose(self.size, only_known=True).values
        scores = self.program.score(values)
        log_ratio = self.log_density(b, scores) - scores.proposal - self.log_density(b) + self.scores.proposal
        self._take(torch.rand(self.size, dtype=torch.float64).log() < log_ratio, values, scores)

    def _take(self, accept: Tensor, values: Mapping[str, Tensor], scores: Scores) -> None:
        def pick(new: Tensor, old: Tensor) -> Tensor:
            return torch.where(accept.reshape(-1, *(1,) * (new.dim() - 1)), new, old)

        self.values = {k: pick(values[k], v) for k, v in self.values.items()}
        s = self.scores
        self.scores = Scores(
            pick(scores.joint, s.joint),
            pick(scores.proposal, s.proposal),
            pick(scores.soft, s.soft),
            pick(scores.violations, s.violations),
        )
