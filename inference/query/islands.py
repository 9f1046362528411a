"""Particles in independent groups, so that a filter can estimate its own error.

Each group (island) is a small particle filter of its own: its mean weight estimates the probability of the evidence
without bias, so the mean over the islands does, and their spread is the error. What the particles of an answer are
worth is counted over their ancestors: particles that share what was drawn at some step are one draw of it.

References: Vergé, Dubarry, Del Moral and Moulines, "On parallel implementation of sequential Monte Carlo methods: the
island particle model", Statistics and Computing 25, 2015.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from phlogiston.distributions.resampling import effective_size, group_sizes, grouped_error, log_mean, replace_dead
from phlogiston.inference.query.answer import Answer, judge_error, warn_if_poor


class Islands:
    """Weights and ancestors of particles in independent groups, for one row of evidence or for several side by side.

    Args:
        count: particles of each row.
        generator: source of randomness.
        rows: of evidence; their particles come one row after the other.

    Attributes:
        log_weights: float64 (rows x count,); a row's log mean is its log evidence so far, resampled or not.
        random: bool (rows,), whether anything has been drawn for a row's particles.
    """

    def __init__(self, count: int, generator: torch.Generator, rows: int = 1) -> None:
        self.count, self.generator = count, generator
        self.sizes = group_sizes(count)
        self.log_weights = torch.zeros(rows * count, dtype=torch.float64)
        self.random = torch.zeros(rows, dtype=torch.bool)
        self._ancestors: list[tuple[Tensor, Tensor]] = []  # of the particles, and for which rows they are told apart
        size = torch.tensor(self.sizes).repeat(rows).unsqueeze(1)
        steps = torch.arange(max(self.sizes))
        self._size, self._pad = size, steps >= size
        self._slots = ((size.cumsum(0) - size) + steps).masked_fill(self._pad, 0)  # (islands, particles)

    def remember(self, drawn: Tensor | None = None) -> None:
        """Count what has just been drawn for each particle as that particle's own, in rows `drawn` or in all."""
        drawn = torch.ones_like(self.random) if drawn is None else drawn
        self._ancestors.append((torch.arange(len(self.log_weights)), drawn))
        self.random = self.random | drawn

    def resample(self) -> Tensor | None:
        """Resample the islands whose weights have become uneven.

        Returns:
            int64 (rows x count,), whom each particle continues; None where all stay.
        """
        weights = self.log_weights[self._slots].masked_fill_(self._pad, -torch.inf)
        worth = effective_size(weights, 1)
        uneven = torch.nonzero((worth > 0) & (worth < 0.5 * self._size.squeeze(1))).squeeze(1)
        if len(uneven) == 0:
            return None
        weights, size, slots = weights[uneven], self._size[uneven], self._slots[uneven]
        inside = ~self._pad[uneven]
        index = torch.arange(len(self.log_weights))
        index[slots[inside]] = slots.reshape(-1)[_systematic(weights.softmax(1), size, self.generator)]
        level = weights.logsumexp(1, keepdim=True) - size.log()
        self.log_weights[slots[inside]] = level.expand_as(slots)[inside]
        self._ancestors = [(ancestors[index], drawn) for ancestors, drawn in self._ancestors]
        return index

    def effective_size(self) -> Tensor:
        """Effective sample size, (rows,): that of the step whose draws most particles share."""
        log_weights = self.log_weights.view(-1, self.count)
        least, weights = effective_size(log_weights, 1), log_weights.softmax(1).reshape(-1)
        for ancestors, drawn in self._ancestors:
            family = torch.zeros_like(weights).index_add(0, ancestors, weights).view(-1, self.count)
            least = torch.where(drawn, torch.minimum(least, 1 / family.square().sum(1)), least)
        return least

    def log_evidence(self) -> Tensor:
        """Log of the mean weight, (rows,)."""
        return log_mean(self.log_weights.view(-1, self.count), 1)

    def _error(self, row: int) -> tuple[Tensor | None, dict[str, str]]:
        """Standard error of a row's log evidence, or None and why (see `inference.query.answer.judge_error`)."""
        if not bool(self.random[row]):
            return torch.zeros((), dtype=torch.float64), {}
        error = grouped_error(self.log_weights.view(-1, self.count)[row], self.sizes)
        return judge_error(error, f"{self.count} particles are too few to estimate it; raise num_samples")

    def answers(self, samples: Mapping[str, Tensor], log_constant: Tensor | float) -> list[Answer]:
        """The filter's answer to each row, with copies of living particles in place of dead ones.

        Args:
            samples: site -> (rows x count, ...), what each particle has come to.
            log_constant: nats of evidence that do not depend on the particle, () or (rows,).
        """
        ess, evidence = self.effective_size(), self.log_evidence() + log_constant
        warn_if_poor(ess, self.count, "query (particle filter)")
        constants = torch.as_tensor(log_constant, dtype=torch.float64).expand(len(ess))
        answers = []
        for row, log_weights in enumerate(self.log_weights.view(-1, self.count)):
            index, weights = replace_dead(log_weights, self.generator)
            drawn = {name: value.view(-1, self.count, *value.shape[1:])[row, index] for name, value in samples.items()}
            error, why = self._error(row)
            answers.append(
                Answer(
                    drawn,
                    weights + constants[row],
                    evidence[row],
                    error,
                    "particle filter",
                    ess[row],
                    dict(why),
                )
            )
        return answers


def _systematic(weights: Tensor, size: Tensor, generator: torch.Generator) -> Tensor:
    """`resampling.systematic` of many islands: weights (I, S), sizes (I, 1) -> positions in weights, flat."""
    ends = weights.cumsum(1)
    offset = torch.rand(len(ends), 1, dtype=torch.float64, generator=generator)
    before = torch.ceil(ends * (size / ends[:, -1:]) - offset).clamp_min(0).minimum(size)
    before = torch.where(ends == ends[:, -1:], size, before).long()  # however the last end was rounded
    counts = torch.diff(before, dim=1, prepend=before.new_zeros(len(ends), 1)).reshape(-1)
    return torch.arange(len(counts)).repeat_interleave(counts)
