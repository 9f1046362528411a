"""Questions answered by Pyro's no-U-turn sampler, for pairs whose unknown sites are continuous."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor

from phlogiston.errors import ConfigError, EvidenceError
from phlogiston.inference.answer import Answer
from phlogiston.inference.coordinates import Coordinates
from phlogiston.inference.program import Program

_SEARCH = 1000  # proposals among which a starting point is looked for


def run_nuts(program: Program, n: int, warmup: int | None = None) -> Answer:
    """Answer a question by NUTS.

    Boxes and supports become transforms, half-spaces walls, soft evidence a factor.

    Args:
        program: the pair with its question.
        n: samples kept.
        warmup: adaptation steps, thrown away; `min(n, 500)` by default.

    Raises:
        ConfigError: unknown discrete sites, or nothing unknown at all.
        EvidenceError: no starting point satisfies the evidence.
    """
    from pyro.infer import MCMC, NUTS

    from phlogiston.inference.query import finish

    particles = program.propose(_SEARCH)
    best = int(particles.log_weights.argmax())
    if not math.isfinite(float(particles.log_weights[best])):
        raise EvidenceError(
            "query (NUTS): no starting point satisfies the evidence: it is impossible or too improbable"
        )
    start = {name: value[best : best + 1].double() if value.is_floating_point() else value[best : best + 1]
             for name, value in particles.values.items()}  # fmt: skip
    coordinates = Coordinates(program, start, box=True)
    if coordinates.discrete:
        names = ", ".join(coordinates.discrete)
        raise ConfigError(f'method="hmc" needs continuous unknowns, but {names} is discrete; use "importance" or "smc"')
    if coordinates.size == 0:
        raise ConfigError("nothing is unknown: every site is fixed by the evidence")

    def potential(parameters: dict[str, Tensor]) -> Tensor:
        values, log_det = coordinates.decode(parameters["u"].unsqueeze(0), start)
        scores = program.score(values)
        total = scores.joint + scores.soft + log_det
        if bool((scores.violations > 1e-9).any()):
            total = total - math.inf
        return -total.sum()

    kernel = NUTS(potential_fn=potential)
    mcmc = MCMC(
        kernel,
        num_samples=n,
        warmup_steps=min(n, 500) if warmup is None else warmup,
        initial_params={"u": coordinates.encode(start)[0]},
        disable_progbar=True,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pyro's progress bar and linear algebra warn about things users cannot change
        mcmc.run()
    u = mcmc.get_samples()["u"].detach()
    with torch.no_grad():
        wide = {name: value.expand(n, *value.shape[1:]) for name, value in start.items()}
        values, _ = coordinates.decode(u, wide)
    answer = finish(program, values, torch.zeros(n, dtype=torch.float64), None, None, "NUTS")
    return _with_ess(answer, u)


def _with_ess(answer: Answer, u: Tensor) -> Answer:
    """Replace the weights' sample size, which is trivial here, by that of the autocorrelated chain."""
    from dataclasses import replace

    from pyro.ops.stats import effective_sample_size

    size: Any = effective_sample_size(u.unsqueeze(0), 0, 1) if len(u) >= 4 else torch.tensor(float(len(u)))
    worst = torch.nan_to_num(size, nan=float(len(u))).min().clamp(1.0, float(len(u)))
    return replace(answer, ess=worst.double())
