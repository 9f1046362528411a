"""Queries of any model/guide pair.

    answer = query(model, guide, {"x": [Known(v, mask), Within(lo, hi)]}, ask=["z"], num_samples=1000)

- `"importance"`: the guide proposes where it can use what is known, the prior elsewhere; sites that evidence speaks
  about are drawn in accordance with it (Gaussian and categorical sites exactly, others by weighting), and importance
  weights put right what remains. Unbiased for the probability of the evidence.
- `"smc"`: particles move from the proposal to the answer through a tempered sequence of distributions, by Hamiltonian
  moves on continuous entries and independence moves on everything. For evidence that importance sampling hardly ever
  meets.
- `"hmc"`: Pyro's NUTS on continuous entries, boxes and supports handled by transforms. Equal weights, no evidence.

It names no system. Systems with better paths answer by those instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from phlogiston.arrays import at_least
from phlogiston.distributions.pyro_modules import own_parameters
from phlogiston.distributions.resampling import log_mean
from phlogiston.errors import unknown_name
from phlogiston.inference.query.answer import Answer, judge_weights, stack, warn_if_poor
from phlogiston.inference.query.compilation import asked_sites, count_rows
from phlogiston.inference.query.evidence import Evidence, normalise
from phlogiston.inference.query.finish import finish
from phlogiston.inference.query.hmc import run_nuts
from phlogiston.inference.query.outlying import warn_if_outlying
from phlogiston.inference.query.program import Program
from phlogiston.inference.query.proposals import GlobalLatents
from phlogiston.inference.query.smc import temper
from phlogiston.inference.query.vectorised import check_vectorised
from phlogiston.inference.svi.batchwise import propose_each

Method = Literal["importance", "smc", "hmc"]
METHODS = ("importance", "smc", "hmc")


def query(
    model: Callable[..., Any],
    guide: Callable[..., Any] | None,
    evidence: Mapping[str, Any] | None = None,
    ask: Sequence[str] | None = None,
    num_samples: int = 1000,
    method: Method = "importance",
    *,
    batch: Mapping[str, Any] | None = None,
    vectors: Iterable[str] | None = None,
    global_latents: GlobalLatents = "posterior",
    seed: int | None = None,
    **options: Any,
) -> Answer:
    """Sample sites of a model given evidence.

    Args:
        model: a Pyro program whose data arguments may be None and that is vectorised over leading plates.
        guide: a Pyro program proposing latent sites, called with the data that are known; None for the prior.
        evidence: site -> evidence, see `inference.query.evidence`; sites of the model, latent or data alike. A site's
            entries are flattened, last axis fastest. Several rows are several questions.
        ask: sites to return; all that are not in the batch by default.
        num_samples: samples per row of evidence.
        method: see the module's description.
        batch: further arguments of both programs (covariates, data that are not in question).
        vectors: sites whose evidence's last axis is entries rather than rows; all continuous sites by default.
        seed: of this call; None draws from torch's generator.
        **options: of the method: `moves`, `leapfrog` for smc; `warmup`, `chains` for hmc.

    Returns:
        The answer; every sample satisfies every hard constraint, known values come back bit for bit.

    Raises:
        EvidenceError: evidence that is malformed, impossible, or that no draw satisfied.
        ConfigError: options out of range.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model(x=None):
        ...     z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...     pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> answer = query(model, None, {"x": 2.0}, ask=["z"], num_samples=4000, seed=0)
        >>> round(answer.mean("z").item(), 1)
        1.0
    """
    at_least("num_samples", num_samples, 1)
    if method not in METHODS:
        raise unknown_name("query method", method, METHODS)
    question = normalise(evidence)
    own_parameters(model, guide)
    with torch.random.fork_rng(enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        names = _vectors(model, batch, question) if vectors is None else list(vectors)
        rows = count_rows(question, names)
        answers = []
        for row in range(rows or 1):
            program = Program(model, guide, question, batch, row, global_latents=global_latents)
            if row == 0:
                check_vectorised(program)
            answers.append(_answer(program, num_samples, method, options))
    answer = answers[0] if rows is None else stack(answers)
    moved = ", or let particles move to the answer: method='smc'" if method == "importance" else ""
    warn_if_poor(answer.ess, num_samples, f"query ({answer.method})", moved)
    return replace(answer, samples={name: answer.samples[name] for name in asked_sites(ask, answer.samples)})


def _vectors(
    model: Callable[..., Any], batch: Mapping[str, Any] | None, question: Mapping[str, tuple[Evidence, ...]]
) -> list[str]:
    """Sites with more than one entry: the last axis of their evidence is not rows."""
    if not any(getattr(getattr(p, f), "ndim", 0) for ps in question.values() for p in ps for f in p.rowwise):
        return list(question)
    plain = Program(model, None, {}, batch)
    return [name for name in question if name not in plain.shapes or plain.shapes[name].numel() > 1]


def _answer(program: Program, n: int, method: Method, options: Mapping[str, Any]) -> Answer:
    """The answer for one row of evidence."""
    answer = _sample(program, n, method, options)
    if program.fitted and "posterior" not in answer.method:
        latents = ", ".join(sorted(program.fitted))
        answer = replace(answer, method=f"{answer.method}, global latents ({latents}) under their trained posterior")
    warn_if_outlying(program, answer)
    return answer


def _sample(program: Program, n: int, method: Method, options: Mapping[str, Any]) -> Answer:
    if method == "importance":
        _no_more(method, options)
        particles, _ = propose_each(program, n)
        values, weights = particles.values, particles.log_weights
        answer = finish(program, values, weights, log_mean(weights), None, "importance sampling")
        return _with_doubts(answer, weights)
    if method == "smc":
        return temper(program, n, **_known_options(method, options, ("moves", "leapfrog")))
    return run_nuts(program, n, **_known_options(method, options, ("warmup", "chains")))


def _with_doubts(answer: Answer, log_weights: Tensor) -> Answer:
    """Give the log evidence its error bar; take back figures that the weights cannot bear, and say why."""
    alive = log_weights[torch.isfinite(log_weights)]
    if len(alive) and float(alive.abs().max()) > _UNRESOLVED:  # in single precision weights that differ look alike
        why = f"log weights of about {float(alive[0]):.2g} nats cannot be distinguished in single precision"
        return replace(
            answer,
            log_evidence_error=None,
            ess=torch.ones_like(answer.ess),
            details={**answer.details, "log_evidence_error": why, "ess": why},
        )
    error, reason = judge_weights(log_weights)
    return replace(answer, log_evidence_error=error, details={**answer.details, **reason})


_UNRESOLVED = 1e8  # nats; sums of ordinary terms stay far below


def _no_more(method: str, options: Mapping[str, Any]) -> None:
    _known_options(method, options, ())


def _known_options(method: str, options: Mapping[str, Any], allowed: Sequence[str]) -> dict[str, Any]:
    for name in options:
        if name not in allowed:
            raise unknown_name(f"option of method {method!r}", name, allowed)
    return dict(options)
