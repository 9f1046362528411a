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

from phlogiston.distributions.resampling import (
    effective_size,
    group_sizes,
    grouped_error,
    log_mean,
    replace_dead,
    systematic,
)
from phlogiston.inference.query.answer import Answer, judge_error, warn_if_poor


class Islands:
    """Weights and ancestors of particles in independent groups.

    Args:
        count: particles.
        generator: source of randomness.

    Attributes:
        log_weights: float64 (count,); their log mean is the log evidence so far, resampled or not.
    """

    def __init__(self, count: int, generator: torch.Generator) -> None:
        self.count, self.generator = count, generator
        self.sizes = group_sizes(count)
        self.log_weights = torch.zeros(count, dtype=torch.float64)
        self._ancestors: list[Tensor] = []
        self.random = False

    def remember(self) -> None:
        """Count what has just been drawn for each particle as that particle's own."""
        self._ancestors.append(torch.arange(self.count))
        self.random = True

    def resample(self) -> Tensor | None:
        """Resample the islands whose weights have become uneven.

        Returns:
            int64 (count,), whom each particle continues; None where all stay.
        """
        index, start, moved = torch.arange(self.count), 0, False
        for size in self.sizes:
            part = slice(start, start + size)
            start += size
            worth = float(effective_size(self.log_weights[part]))
            if not 0 < worth < 0.5 * size:
                continue
            index[part] = part.start + systematic(self.log_weights[part].softmax(0), size, self.generator)
            self.log_weights[part] = log_mean(self.log_weights[part])
            moved = True
        if not moved:
            return None
        self._ancestors = [ancestors[index] for ancestors in self._ancestors]
        return index

    def effective_size(self) -> Tensor:
        """Effective sample size, (): that of the step whose draws most particles share."""
        sizes = [effective_size(self.log_weights)]
        weights = self.log_weights.softmax(0)
        for ancestors in self._ancestors:
            family = torch.zeros(self.count, dtype=torch.float64).index_add(0, ancestors, weights)
            sizes.append(1 / family.square().sum())
        return torch.stack(sizes).min()

    def log_evidence(self) -> Tensor:
        """Log of the mean weight, ()."""
        return log_mean(self.log_weights)

    def error(self) -> tuple[Tensor | None, dict[str, str]]:
        """Standard error of the log evidence, or None and why (see `inference.query.answer.judge_error`)."""
        if not self.random:
            return torch.zeros((), dtype=torch.float64), {}
        error = grouped_error(self.log_weights, self.sizes)
        return judge_error(error, f"{self.count} particles are too few to estimate it; raise num_samples")

    def answer(self, samples: Mapping[str, Tensor], log_constant: Tensor | float) -> Answer:
        """The answer of the filter, with copies of living particles in place of dead ones.

        Args:
            samples: site -> (count, ...), what each particle has come to.
            log_constant: nats of evidence that do not depend on the particle.
        """
        ess, (error, why) = self.effective_size(), self.error()
        warn_if_poor(ess, self.count, "query (particle filter)")
        index, weights = replace_dead(self.log_weights, self.generator)
        drawn = {name: value[index] for name, value in samples.items()}
        evidence = self.log_evidence() + log_constant
        return Answer(drawn, weights + log_constant, evidence, error, "particle filter", ess, dict(why))
