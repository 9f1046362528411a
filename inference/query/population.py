"""Particles of a tempered sequence, and the moves that keep one of its distributions.

Continuous entries move by Hamiltonian dynamics, preconditioned by the particles' own covariance; discrete entries by
changes of one entry at a time; all sites together by independent proposals as long as that is accepted now and then.
How far the particles have forgotten where they were is measured, and moves continue until they have.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from phlogiston.inference.query.coordinates import Coordinates
from phlogiston.inference.query.genealogy import genealogical_size
from phlogiston.inference.query.program import Program, Scores
from phlogiston.inference.svi.batchwise import propose_each, score_each

_FORGOTTEN = 0.1  # correlation with the start of a temperature at which moves stop, beyond what chance makes
_TARGET = 0.8  # acceptance probability the step size is adapted to
_TRAJECTORY = 1.6  # length of a Hamiltonian trajectory in units of the particles' spread: about a quarter of a period
_LARGEST_STEP = 1.4
_PATIENCE = 8  # rounds in which the correlation has to fall by a twentieth
_FREELY = 0.1  # acceptance of fresh proposals from which they take part in every round
_WORTHWHILE = 0.02  # acceptance of fresh proposals below which no more are made


class Population:
    """Particles with their scores, in values and in unbounded coordinates.

    Args:
        program: the pair with its question.
        n: particles, drawn from the proposal.

    Attributes:
        values: site -> (n, ...).
        scores: their log densities.
        ancestors: int64 (n,), which of the first n particles each comes from.
        acceptance: share of the last Hamiltonian proposals that were accepted.
    """

    def __init__(self, program: Program, n: int) -> None:
        self.program, self.size = program, n
        particles, failed = propose_each(program, n, only_known=True)
        self.values = dict(particles.values)
        self.ancestors = torch.arange(n)
        self.coordinates = Coordinates(program, self.values, box=False)
        with torch.no_grad():
            self.scores = score_each(program, self.values)
            self.scores.joint = torch.where(failed, -math.inf, self.scores.joint)
            # violations are counted in units of their own spread among the proposals
            outside = self.scores.violations
            self.unit = torch.ones(outside.shape[1], dtype=outside.dtype)
            if len(self.unit):
                spread = outside.std(0, correction=0)
                self.unit = torch.where(spread > 0, spread, outside.mean(0)).clamp_min(1e-12)
        self.entries = self._discrete_entries()
        self.acceptance = 1.0
        self._step = 0.8
        self._fresh = 0.0 if bool(failed.any()) else 1.0  # a program that fails proposes too slowly to do so again

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
        self.ancestors = self.ancestors[index]

    def effective_size(self) -> float:
        """Effective sample size of the particles, if they are equally weighted, by the ancestors they share."""
        return genealogical_size(self._quantities(1.0), self.ancestors)

    def move(self, b: float, most: int, leapfrog: int) -> float:
        """Move all particles by kernels that keep pi_b, until they have forgotten where they were.

        Args:
            b: the temperature.
            most: at most how many rounds of moves.
            leapfrog: at most how many steps per Hamiltonian trajectory.

        Returns:
            The largest correlation left between a quantity's values before and after, over the particles.
        """
        start, left = self._quantities(b), 1.0
        enough = _FORGOTTEN + math.sqrt(2.0 * math.log(2.0 * start.shape[1]) / self.size)
        if self._fresh >= _WORTHWHILE:
            self._propose_afresh(b)
        factor = spread_factor(self.coordinates.encode(self.values)) if self.coordinates.size else None
        history: list[float] = []
        for turn in range(most):
            if turn and self._fresh >= _FREELY:
                self._propose_afresh(b)
            for _ in range(min(len(self.entries), 8)):
                self._change_one(b)
            if factor is not None:
                self._hamiltonian(b, factor, leapfrog)
            left = _correlation(start, self._quantities(b))
            history.append(left)
            if left < enough or (factor is None and not self.entries and self._fresh < _FREELY):
                break
            if turn >= _PATIENCE and left > 0.95 * history[turn - _PATIENCE]:
                break  # what is left these moves will not undo: modes far from each other
            if factor is not None and turn == 2:
                factor = spread_factor(self.coordinates.encode(self.values))  # duplicates have come apart by now
        return left

    def _quantities(self, b: float) -> Tensor:
        """What mixing is judged by: coordinates, discrete entries and the log density, (n, Q)."""
        columns = [self.log_density(b).clamp_min(-1e300).unsqueeze(1)]
        if self.coordinates.size:
            columns.append(self.coordinates.encode(self.values))
        columns += [self.values[name].reshape(self.size, -1).double() for name in self.coordinates.discrete]
        return torch.cat(columns, 1)

    def _energy(self, u: Tensor, b: float) -> tuple[Tensor, Tensor, dict[str, Tensor], Scores]:
        u = u.detach().requires_grad_(True)
        with torch.enable_grad():
            values, log_det = self.coordinates.decode(u, self.values)
            scores = score_each(self.program, values)
            total = self.log_density(b, scores) + log_det
            (grad,) = torch.autograd.grad(torch.where(torch.isfinite(total), total, 0.0).sum(), u)
        plain = Scores(*(t.detach() for t in (scores.joint, scores.proposal, scores.soft, scores.violations)))
        grad = torch.nan_to_num(grad, nan=0.0, posinf=0.0, neginf=0.0)
        return total.detach(), grad, {k: v.detach() for k, v in values.items()}, plain

    def _hamiltonian(self, b: float, factor: Tensor, leapfrog: int) -> None:
        start = self.coordinates.encode(self.values)
        before, grad, values, scores = self._energy(start, b)
        momentum = torch.randn_like(start)
        kinetic = 0.5 * momentum.square().sum(1)
        step = self._step * (0.7 + 0.6 * torch.rand(len(start), 1, dtype=start.dtype))
        position, current = start, before
        alive = torch.isfinite(before)
        for _ in range(max(1, min(leapfrog, round(_TRAJECTORY / self._step)))):
            momentum = momentum + 0.5 * step * (grad @ factor)
            position = torch.where(alive.unsqueeze(1), position + step * (momentum @ factor.T), start)
            current, grad, values, scores = self._energy(position, b)
            alive = alive & torch.isfinite(current)  # a particle that has left the support goes nowhere any more
            momentum = momentum + 0.5 * step * (grad @ factor)
        log_ratio = current - 0.5 * momentum.square().sum(1) - before + kinetic
        log_ratio = torch.where(alive, torch.nan_to_num(log_ratio, nan=-math.inf), -math.inf)
        self._take(torch.rand(len(start), dtype=torch.float64).log() < log_ratio, values, scores)
        self.acceptance = log_ratio.clamp(max=0.0).exp().mean().item()
        self._step = min(_LARGEST_STEP, max(1e-4, self._step * math.exp(self.acceptance - _TARGET)))

    @torch.no_grad()
    def _propose_afresh(self, b: float) -> None:
        """Propose every site independently of its present value."""
        particles, failed = propose_each(self.program, self.size, only_known=True)
        values, scores = particles.values, score_each(self.program, particles.values)
        log_ratio = self.log_density(b, scores) - scores.proposal - self.log_density(b) + self.scores.proposal
        log_ratio = log_ratio.masked_fill(failed, -math.inf)
        accept = torch.rand(self.size, dtype=torch.float64).log() < log_ratio
        self._take(accept, values, scores)
        self._fresh = accept.double().mean().item()

    def _discrete_entries(self) -> list[tuple[str, int, tuple[float, float]]]:
        """Every discrete entry with a support of its own: site, index and range; a one-hot vector is one entry."""
        entries = []
        for name in self.coordinates.discrete:
            ends, width = discrete_range(self.program.supports[name]), self._width(name)
            if width > 1:
                ends = 0.0, width - 1.0
            if ends is not None:
                entries += [(name, i, ends) for i in range(self.values[name][0].numel() // width)]
        return entries

    def _width(self, name: str) -> int:
        """Numbers that make one entry of a discrete site: the categories of a one-hot site, 1 otherwise."""
        one_hot = getattr(self.program.supports[name], "base_constraint", self.program.supports[name])
        return self.values[name].shape[-1] if one_hot is constraints.one_hot else 1

    @torch.no_grad()
    def _change_one(self, b: float) -> None:
        """Propose another value for one discrete entry, each particle for an entry of its own choice."""
        widths = {name: self._width(name) for name in self.coordinates.discrete}
        values = {
            name: self.values[name].reshape(self.size, -1, width).argmax(-1)
            if width > 1
            else self.values[name].clone().reshape(self.size, -1)
            for name, width in widths.items()
        }
        chosen = torch.randint(len(self.entries), (self.size,))
        for number, (name, i, (low, high)) in enumerate(self.entries):
            rows = torch.nonzero(chosen == number).flatten()
            old = values[name][rows, i]
            if math.isfinite(high - low):
                new = low + (old - low + torch.randint(1, max(2, int(high - low) + 1), old.shape)) % (high - low + 1)
            else:
                reach = max(1, round(float(self.values[name].double().std())))
                new = old + torch.randint(1, reach + 1, old.shape) * (2 * torch.randint(0, 2, old.shape) - 1)
                new = torch.where((new < low) | (new > high), old, new)
            values[name][rows, i] = new.to(old.dtype)
        changed = dict(self.values)
        for name, v in values.items():
            old = self.values[name]
            wide = torch.nn.functional.one_hot(v, widths[name]).to(old.dtype) if widths[name] > 1 else v
            changed[name] = wide.reshape(old.shape)
        scores = score_each(self.program, changed)
        log_ratio = self.log_density(b, scores) - self.log_density(b)
        self._take(torch.rand(self.size, dtype=torch.float64).log() < log_ratio, changed, scores)

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


def spread_factor(u: Tensor) -> Tensor:
    """A factor (D, D) of the covariance of particles (n, D); diagonal where there are too few of them for more."""
    middle = u.median(0).values
    width = 6.0 * (u - middle).abs().median(0).values  # far outliers must not set the scale
    u = torch.where(width > 0, torch.minimum(torch.maximum(u, middle - width), middle + width), u)
    different = len(torch.unique(u[:, 0]))
    d = u.shape[1]
    variance = u.var(0).clamp_min(1e-12)
    if d > 200 or d > different / 3:
        return torch.diag(variance.sqrt())
    share = d / (d + different)
    covariance = (1 - share) * torch.cov(u.T).reshape(d, d) + share * torch.diag(variance)
    factor, failed = torch.linalg.cholesky_ex(covariance)
    return torch.diag(variance.sqrt()) if int(failed) else factor


def discrete_range(support: Any) -> tuple[float, float] | None:
    """Lowest and highest value of a support of single whole numbers; None for any other discrete support."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    if support is constraints.boolean:
        return 0.0, 1.0
    low, high = getattr(support, "lower_bound", None), getattr(support, "upper_bound", None)
    if low is None or int(getattr(support, "event_dim", 0)) > 0:
        return None
    top = math.inf if high is None else float(torch.as_tensor(high).max())
    return float(torch.as_tensor(low).min()), top


def _correlation(before: Tensor, after: Tensor) -> float:
    """The largest correlation over particles between quantities before and after; constant ones count as mixed.

    Quantities without ties go by their ranks, which no outlier can dominate.
    """
    ties = torch.tensor([len(torch.unique(column)) < 0.2 * len(column) for column in after.T])
    x, y = (torch.where(ties, v, _ranks(v)) for v in (before, after))
    x, y = x - x.mean(0), y - y.mean(0)
    scale = (x.square().mean(0) * y.square().mean(0)).sqrt()
    r = (x * y).mean(0) / scale.clamp_min(1e-300)
    return float(torch.where(scale > 0, r, 0.0).max())


def _ranks(values: Tensor) -> Tensor:
    """Ranks of each column (n, Q), equal values in random order."""
    order = torch.randperm(len(values))
    return values[order].argsort(0).argsort(0).double()[order.argsort()]
