"""Programs that fail for single particles: a covariance that is not positive definite, a parameter out of range.

One particle in a thousand must not end a query. Where a whole batch raises a numerical error it is halved until the
particles at fault stand alone; those get zero probability. An error that every particle meets is the program's own
and is raised as it came.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from phlogiston.inference.query.numerical_faults import is_numerical
from phlogiston.inference.query.program import Particles, Program, Scores

_MOST_ALONE = 32  # particles that fail one by one, before it is taken for an error of the program


def score_each(program: Program, values: Mapping[str, Tensor]) -> Scores:
    """`program.score`, with `-inf` for particles it fails on.

    Raises:
        Exception: what the program raised, if it fails on every particle tried.
    """
    return _bisect(program.score, values, _Tally())


def propose_each(program: Program, n: int, only_known: bool = False) -> tuple[Particles, Tensor]:
    """`program.propose`, where draws that the program fails on are marked.

    Where a batch fails the draws are made one by one: halves of a batch would be drawn again, and their failures not
    counted.

    Returns:
        Particles, and bool (n,), true for failed ones: their values are copies of others, their weights `-inf`.

    Raises:
        Exception: what the program raised, if it fails on every draw tried.
    """
    try:
        return program.propose(n, only_known), torch.zeros(n, dtype=torch.bool)
    except Exception as error:
        if not is_numerical(error):
            raise
    good: list[Particles] = []
    for i in range(n):
        try:
            good.append(program.propose(1, only_known))
        except Exception as error:
            if not is_numerical(error) or (not good and i >= _MOST_ALONE):
                raise
    if not good:
        return program.propose(n, only_known), torch.zeros(n, dtype=torch.bool)
    index = torch.arange(n).clamp_max(len(good) - 1)
    failed = torch.arange(n) >= len(good)
    weights = torch.cat([p.log_weights for p in good])[index].masked_fill(failed, -math.inf)
    return Particles({k: torch.cat([p.values[k] for p in good])[index] for k in good[0].values}, weights), failed


class _Tally:
    """Results of the batches tried so far."""

    def __init__(self) -> None:
        self.good: Scores | None = None
        self.bad = 0


def _bisect(score: Callable[[Mapping[str, Tensor]], Scores], values: Mapping[str, Tensor], tally: _Tally) -> Scores:
    n = len(next(iter(values.values())))
    try:
        scores = score(values)
        tally.good = scores
        return scores
    except Exception as error:
        if not is_numerical(error):
            raise
        if n == 1:
            tally.bad += 1
            if tally.good is None and tally.bad >= _MOST_ALONE:
                raise
            return _impossible(tally.good, error)
        half = n // 2
        parts = [{k: v[:half] for k, v in values.items()}, {k: v[half:] for k, v in values.items()}]
        scored = []
        for part in parts:
            scored.append(_bisect(score, part, tally))
        if tally.good is None:
            raise
        return _join(scored)


def _impossible(like: Scores | None, error: Exception) -> Scores:
    columns = 0 if like is None else like.violations.shape[1]
    zero = torch.zeros(1, dtype=torch.float64)
    return Scores(zero - math.inf, zero, zero, torch.zeros(1, columns, dtype=torch.float64))


def _join(parts: list[Scores]) -> Scores:
    columns = max(p.violations.shape[1] for p in parts)

    def wide(outside: Tensor) -> Tensor:  # particles that failed before any other was scored have no columns yet
        return outside if outside.shape[1] == columns else outside.new_zeros(len(outside), columns)

    return Scores(
        torch.cat([p.joint for p in parts]),
        torch.cat([p.proposal for p in parts]),
        torch.cat([p.soft for p in parts]),
        torch.cat([wide(p.violations) for p in parts]),
    )
