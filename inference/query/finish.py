"""From the weighted particles of any method to an answer."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from phlogiston.distributions.linear_constraints import project
from phlogiston.distributions.resampling import effective_size, replace_dead
from phlogiston.inference.query.answer import Answer, check_alive
from phlogiston.inference.query.program import Program


def finish(
    program: Program,
    values: Mapping[str, Tensor],
    log_weights: Tensor,
    log_evidence: Tensor | None,
    log_evidence_error: Tensor | None,
    method: str,
) -> Answer:
    """Turn weighted particles into an answer: exact known values, rounding repaired, dead particles replaced.

    Args:
        program: the pair with its question.
        values: site -> (n, ...).
        log_weights: (n,).
        log_evidence: () or None.
        log_evidence_error: () or None.
        method: in words.

    Raises:
        EvidenceError: no particle satisfies the evidence.
    """
    n = len(log_weights)
    samples = {name: value.detach() for name, value in values.items()}
    for name, evidence in program.evidence.items():
        if evidence.linear is None or evidence.table is not None:
            continue
        flat, good = project(samples[name].reshape(n, -1).double(), evidence.linear)
        samples[name] = flat.reshape(n, *program.shapes[name])
        log_weights = torch.where(good, log_weights, -math.inf)
    latent, deterministic = program.complete(samples)
    computed = {name: value.detach() for name, value in deterministic.items() if value is not None}
    check_alive(log_weights.unsqueeze(1), "query")
    index, weights = replace_dead(log_weights)
    return Answer(
        {name: value[index] for name, value in {**latent, **computed}.items()},
        weights,
        log_evidence,
        log_evidence_error,
        f"{method}, proposals from the {program.proposes}",
        effective_size(log_weights),
    )
