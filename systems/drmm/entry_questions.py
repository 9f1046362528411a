"""Questions to a deep residual mixture that name single entries and categories only: all rows of evidence at once.

The answers are those of `DRMMQuery.ask` row by row: the same paths weighed, the same random numbers in the same order.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from phlogiston.distributions.mixtures.conditioned_rows import draw_given, draw_noise, remoteness_of_rows
from phlogiston.distributions.mixtures.known_cells import KnownCells
from phlogiston.inference.query.answer import FAR, Answer, check_alive
from phlogiston.models.drmm import DRMM
from phlogiston.systems.drmm.paths import Paths
from phlogiston.systems.drmm.question import CENTRED, EntryQuestions, EvidenceCompiler


def answer(
    model: DRMM,
    compiler: EvidenceCompiler,
    q: EntryQuestions,
    paths: Paths,
    streams: Mapping[str, Tensor],
    n: int,
    noise: bool,
    generator: torch.Generator | None,
) -> tuple[Answer, dict[str, float]]:
    """Answer R questions.

    Args:
        model: in float64.
        compiler: what read the questions.
        q: the questions.
        paths: all of them.
        streams: categorical column -> log probabilities (P, V) by path.
        n: samples per row.
        noise: False for the paths' constrained means.
        generator: source of randomness.

    Returns:
        The answer of R rows, and what lies farther than `FAR` from all that the model learned, with its distance.

    Raises:
        EvidenceError: evidence too improbable to tell paths apart.
    """
    rows = len(q.original)
    log_prior = prior_given_labels(q, paths, streams)
    cells = _known_cells(q, compiler, model)
    points = q.model if cells is None else cells.points
    sizes = [log_probs.shape[1] for log_probs in streams.values()]
    analysers = paths.analysers
    rank = 0 if analysers is None else analysers.loadings.shape[-1]
    independent = analysers is not None or paths.factors.dim() == 2
    normals, races = draw_noise(points, n, independent, noise, generator, sizes, rank)
    if analysers is not None:
        spread, drawn = analysers.spread, analysers.draw_given(log_prior, points, normals)
    elif cells is None:
        spread = paths.factors if independent else paths.factors.norm(dim=-1)
        drawn = draw_given(log_prior, paths.means, paths.factors, points, normals)
    else:
        spread, drawn = paths.factors, cells.draw_given(log_prior, paths.means, paths.factors, normals)
    x = torch.empty(rows, n, model.features, dtype=torch.float64)
    component = torch.empty(rows, n, dtype=torch.long)
    log_evidence = torch.empty(rows, dtype=torch.float64)
    distances: dict[str, float] = {}
    for index, draws in drawn:
        x[index], component[index], log_evidence[index] = draws.x, draws.component, draws.log_evidence
        far, together = remoteness_of_rows(log_prior[index], paths.means, spread, q.model[index], draws, FAR)
        _note(compiler, far, together, distances)
    check_alive(log_evidence.unsqueeze(0).expand(n, -1), "query")
    x = model.rounded(model.values(x))
    x = torch.where(q.original.known.unsqueeze(1), q.original.value.unsqueeze(1), compiler.complete(x))
    samples = {"x": x.transpose(0, 1).contiguous()}
    for (name, log_probs), race in zip(streams.items(), races, strict=True):
        chosen = log_probs[component.T]  # (n, R, V)
        if name in q.allowed:
            chosen = chosen.masked_fill(~q.allowed[name], -torch.inf)
        samples[name] = (chosen.softmax(-1) / race).argmax(-1)
    log_evidence = log_evidence + q.log_constant
    return Answer(
        samples,
        log_evidence.expand(n, -1),
        log_evidence,
        None if q.centred else torch.zeros(rows, dtype=torch.float64),
        paths.method + (f", {CENTRED}" if q.centred else ""),
        torch.full((rows,), float(n), dtype=torch.float64),
        {"codes": paths.codes[component.T], **({"log_evidence_error": CENTRED} if q.centred else {})},
    ), distances


def prior_given_labels(q: EntryQuestions, paths: Paths, streams: Mapping[str, Tensor]) -> Tensor:
    """Log probabilities of the paths and of the values of categories left: (R, P)."""
    log_prior = paths.log_prior.expand(len(q.original), -1)
    for name, allowed in q.allowed.items():
        sets, which = allowed.unique(dim=0, return_inverse=True)
        log_prior = log_prior + torch.stack([streams[name][:, s].logsumexp(-1) for s in sets])[which]
    return log_prior


def log_masses(
    model: DRMM, compiler: EvidenceCompiler, q: EntryQuestions, paths: Paths, streams: Mapping[str, Tensor]
) -> Tensor:
    """Log probability of every path together with the evidence of R questions, in the data's units: (R, P)."""
    assert paths.analysers is not None
    masses = paths.analysers.log_masses(prior_given_labels(q, paths, streams), q.model)
    return masses + q.log_constant.unsqueeze(1)


def _known_cells(q: EntryQuestions, compiler: EvidenceCompiler, model: DRMM) -> KnownCells | None:
    """The cells that known values stand for, in the model's coordinates; None where there are none."""
    if model.cells is None:
        return None
    values = q.original.value[:, compiler.varying]
    low, high = (model.coordinates(side) for side in model.cells.enclose(values, values))
    return KnownCells.of(q.model, compiler.whole, low, high)


def _note(compiler: EvidenceCompiler, far: Tensor, together: Tensor, distances: dict[str, float]) -> None:
    """Note the columns that lie far out, the worst of all rows."""
    if max(float(far.max()), float(together.max())) <= FAR:
        return
    worst = far.amax(0)
    for i, distance in zip(compiler.varying.tolist(), worst.tolist(), strict=True):
        if distance > FAR:
            name = f"column {compiler.columns[i]!r}"
            distances[name] = max(distance, distances.get(name, 0.0))
    alone = together[(far <= FAR).all(1)]
    if len(alone) and float(alone.max()) > FAR:
        name = "the known values together"
        distances[name] = max(float(alone.max()), distances.get(name, 0.0))


def prior(model: DRMM, compiler: EvidenceCompiler, n: int, noise: bool, generator: torch.Generator | None) -> Answer:
    """Answer where nothing is known and paths are too many to weigh: independent draws, all of the same weight.

    Args:
        model, compiler, noise, generator: as in `answer`.
        n: how many.
    """
    with torch.random.fork_rng(devices=[], enabled=generator is not None):
        if generator is not None:
            torch.manual_seed(generator.initial_seed())
        codes, drawn = model.generate(n, noise=noise)
        probs = {name: model.stream_logits(name, codes).softmax(-1) for name in compiler.categorical}
        samples = {name: torch.multinomial(p, 1).squeeze(-1) for name, p in probs.items()}
    x = compiler.complete(model.rounded(drawn.double()))
    zero = torch.zeros((), dtype=torch.float64)
    ess = torch.tensor(float(n), dtype=torch.float64)
    return Answer({"x": x, **samples}, zero.expand(n), zero, zero, "drawn from the model", ess, {"codes": codes})
