"""Missing steps and columns of a sequence by a particle filter.

Particles walk from the first step to the last. At a step whose columns are partly known the mixture is conditioned on
them in closed form: the particle's weight is multiplied by the probability of what is known, and the rest is drawn from
the conditional distribution. Boxes and soft values weigh what was drawn. When the weights have become uneven, particles
are resampled within independent islands, whole paths at a time, so that earlier steps take later ones into account
(smoothing by ancestors). The mean weight estimates the probability of the evidence without bias; its standard error
comes from the islands.

Reference: Doucet, de Freitas and Gordon, "Sequential Monte Carlo methods in practice", 2001.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from phlogiston.arrays import at_least
from phlogiston.distributions.linear_constraints import LinearEvidence
from phlogiston.distributions.normal_interval import log_normal_density
from phlogiston.distributions.warped import Warped
from phlogiston.errors import EvidenceError
from phlogiston.inference.query.answer import FAR, Answer, check_alive, stack, warn_if_far
from phlogiston.inference.query.compilation import asked_sites, compile_vector, count_rows
from phlogiston.inference.query.evidence import Evidence, OneOf, normalise
from phlogiston.inference.query.islands import Islands
from phlogiston.models.stepwise import Prediction, Stepwise, select
from phlogiston.systems.calls import drawn_seed

_FIELDS = ("value", "mask", "mean", "sd", "lower", "upper", "weight")
_TOGETHER = 2**16  # particles that walk at once, of as many rows of evidence as they make


@torch.no_grad()
def filter_particles(
    model: Stepwise,
    evidence: Any,
    ask: Sequence[str] | None,
    num_samples: int,
    steps: int | None,
    typical: int,
    seed: int | None,
    start: Callable[[int], Any] | None = None,
    columns: Sequence[str] | None = None,
) -> Answer:
    """Sample sequences given evidence about any of their entries; see `StepwiseSystem.query`.

    Args:
        model: of the sequences.
        evidence: about `x`; several rows are several questions.
        ask: `["x"]` or None.
        num_samples: particles, and samples, of each row.
        steps: length of the sequence; that of the evidence by default.
        typical: length where neither `steps` nor the evidence gives one.
        seed: of the draws.
        start: makes the first state of so many rows; the model's own by default.
        columns: names of a step's columns, for messages; numbered by default.

    Raises:
        EvidenceError: malformed evidence, half-spaces, or evidence no particle satisfies.
        ConfigError: fewer than two particles.
    """
    at_least("num_samples", num_samples, 2)
    asked_sites(ask, ["x"])
    question = normalise(evidence, ("x",))
    for piece in question.get("x", ()):
        if piece.couples:
            raise EvidenceError("evidence for 'x': half-spaces and sums tie steps together; use Known, Near or Within")
        if isinstance(piece, OneOf):
            raise EvidenceError("evidence for 'x' speaks about categories; give the pen as Known or Within")
    pieces = [_flat(piece, model.width) for piece in question.get("x", ())]
    shapes = [value.shape for p in pieces for f in _FIELDS if isinstance(value := getattr(p, f, None), Tensor)]
    sizes = {shape[-1] for shape in shapes if len(shape)} - {1}
    if len(sizes) > 1 or (sizes and next(iter(sizes)) % model.width):
        raise EvidenceError(f"evidence for 'x' has {sorted(sizes)} entries; expected steps times {model.width}")
    given = sizes.pop() // model.width if sizes else None
    if steps is not None and given is not None and steps < given:
        raise EvidenceError(f"steps is {steps}, but the evidence is about {given} steps")
    count = steps or given or typical
    if given is not None and count > given:
        pieces = [_longer(piece, given, count, model.width) for piece in pieces]
    rows = count_rows({"x": tuple(pieces)}, ["x"])
    seed = drawn_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    names = list(columns) if columns is not None else [str(i) for i in range(model.width)]
    answers: list[Answer] = []
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # a model may draw a latent for every particle
        for some in torch.arange(rows or 1).split(max(1, _TOGETHER // num_samples)):
            about = _About.of([compile_vector("x", pieces, count * model.width, r) for r in some.tolist()], count)
            state = (start or model.start)(len(some) * num_samples)
            islands = Islands(num_samples, generator, len(some))
            answers += _walk(model, state, about, islands, names)
    return answers[0] if rows is None else stack(answers)


@dataclass(frozen=True, eq=False)
class _About:
    """What is known about R sequences.

    Attributes:
        known: bool (R, steps, width).
        values: float64 (R, steps, width).
        lower, upper: float64 (R, steps, width).
        mean, sd: float64 (R, steps, width), of soft entries; sd is `inf` where there is none.
        constant: float64 (R,), nats that hold whatever the other entries are.
    """

    known: Tensor
    values: Tensor
    lower: Tensor
    upper: Tensor
    mean: Tensor
    sd: Tensor
    constant: Tensor

    @staticmethod
    def of(compiled: Sequence[tuple[LinearEvidence, Tensor]], steps: int) -> _About:
        """Join what was compiled row by row.

        Raises:
            EvidenceError: masks between 0 and 1.
        """
        evidence = [linear for linear, _ in compiled]
        if any(bool((e.soft_fraction > 0).any()) for e in evidence):
            raise EvidenceError("evidence for 'x': fractional masks are not for sequences; use Near")
        mean = torch.stack([torch.zeros_like(e.values).index_copy(0, e.soft, e.soft_mean) for e in evidence])
        sd = torch.stack([torch.full_like(e.values, math.inf).index_copy(0, e.soft, e.soft_sd) for e in evidence])
        parts = [torch.stack([getattr(e, name) for e in evidence]) for name in ("known", "values", "lower", "upper")]
        constant = torch.stack([constant for _, constant in compiled])
        known, values, lower, upper, mean, sd = (part.unflatten(1, (steps, -1)) for part in (*parts, mean, sd))
        return _About(known, values, lower, upper, mean, sd, constant)


def _flat(piece: Evidence, width: int) -> Evidence:
    """Evidence about (steps, columns) as evidence about its entries in a row."""
    fields = {}
    for name in piece.fields:
        value = getattr(piece, name)
        if isinstance(value, Tensor) and value.dim() >= 2:
            if value.shape[-1] != width or value.dim() > 3:
                expected = f"(steps, {width}) or (rows, steps, {width})"
                raise EvidenceError(f"evidence for 'x' has shape {tuple(value.shape)}; expected {expected}")
            value = value.flatten(-2)
        fields[name] = value
    return type(piece)(**fields)


def _longer(piece: Evidence, given: int, count: int, width: int) -> Evidence:
    """The same statement about a longer sequence, of whose later steps it says nothing."""
    from phlogiston.inference.query.evidence import Known, Near, Within

    def longer(value: Any, beyond: float) -> Tensor:
        value = torch.as_tensor(value).double()
        value = value.expand(*value.shape[:-1], given * width)
        return torch.nn.functional.pad(value, (0, (count - given) * width), value=beyond)

    if isinstance(piece, Known):
        return Known(longer(piece.value, 0.0), longer(1.0 if piece.mask is None else piece.mask, 0.0))
    if isinstance(piece, Within):
        return Within(longer(piece.lower, -math.inf), longer(piece.upper, math.inf))
    if isinstance(piece, Near):
        raise EvidenceError("Near about a part of a longer sequence: give it for all steps, with sd=inf where unknown")
    return piece


def _walk(model: Stepwise, state: Any, about: _About, islands: Islands, names: Sequence[str]) -> list[Answer]:
    rows, steps, width = about.known.shape
    n = islands.count
    path = torch.zeros(rows * n, steps, width)
    ended = torch.zeros(rows * n, dtype=torch.bool)
    over = torch.tensor([0.0] * model.targets + [2.0] * (width - model.targets))
    distances: dict[str, float] = {}
    if any(part.dim() and bool((part != part[:1]).any()) for part in state):
        islands.remember()  # a latent for every particle
    for t in range(steps):
        prediction, state = model.predict(state)
        _measure(prediction.values, about, t, n, names, distances)
        known, values, lower, upper, mean, sd = (
            part[:, t].repeat_interleave(n, 0)
            for part in (about.known, about.values, about.lower, about.upper, about.mean, about.sd)
        )
        values = values.float()
        drawn, gain = _step(prediction, model, known, values, islands.generator)
        if bool(ended.any()):  # nothing follows the end: evidence of more excludes a particle
            agrees = ((values == over) | ~known).all(1)
            gain = torch.where(ended, torch.where(agrees, 0.0, -math.inf), gain)
            drawn = torch.where(ended.unsqueeze(1), over, drawn)
        inside = (((drawn >= lower) & (drawn <= upper)) | known).all(1)
        gain = torch.where(inside, gain, -math.inf)
        soft = sd < math.inf
        if bool(soft.any()):
            log_density = log_normal_density((drawn.double() - mean) / sd) - sd.log()
            gain = gain + torch.where(soft, log_density, 0.0).sum(1)
        islands.log_weights = islands.log_weights + gain
        check_alive(islands.log_weights.view(rows, n).T, f"query, step {t}")
        path[:, t] = drawn
        state = model.observe(state, drawn)
        if model.pen_states == 3:
            ended = ended | (drawn[:, -1] > 1.5)
        open_rows = ~about.known[:, t].all(1)
        if bool(open_rows.any()):
            islands.remember(open_rows)
        index = islands.resample() if t + 1 < steps else None
        if index is not None:
            state, path, ended = select(state, index), path[index], ended[index]
    warn_if_far(distances, "query (particle filter)")
    known, values = (part.repeat_interleave(n, 0) for part in (about.known, about.values))
    return islands.answers({"x": path.double().where(~known, values)}, about.constant)


def _measure(values: Warped, about: _About, t: int, n: int, names: Sequence[str], distances: dict[str, float]) -> None:
    """Note how far evidence of step t lies from the components of all particles, in standard deviations."""
    base = values.base
    width = base.loc.shape[-1]
    known, sd = about.known[:, t, :width], about.sd[:, t, :width]
    said = known | (sd < math.inf)
    if not bool(said.any()):
        return
    full = torch.where(known, about.values[:, t, :width], about.mean[:, t, :width]).float().repeat_interleave(n, 0)
    slack = torch.where(known | (sd == math.inf), 0.0, sd).float().repeat_interleave(n, 0)
    slack = torch.where(values.positive, 0.0, slack / values.unit)
    if values.grid is not None:  # all of a cell is one value
        slack = slack + values.forward(full + values.grid) - values.forward(full - values.grid)
    scale = torch.hypot(base.component_scales(), slack.unsqueeze(-2))
    gap = ((values.forward(full).unsqueeze(-2) - base.loc) / scale).abs()  # (rows n, K, D)
    nearest = torch.where(said, gap.reshape(len(known), -1, width).amin(1), 0.0).amax(0)
    for column, distance in enumerate(nearest.tolist()):
        if distance > FAR:
            distances[f"column {names[column]!r} of step {t}"] = distance


def _step(
    prediction: Prediction, model: Stepwise, known: Tensor, values: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw what is not known of a step, and the log probability of what is: all (n, width), (n,)."""
    d = model.targets
    if model.pen_states == 3:
        at_end = known[:, d:] & (values[:, d:] > 1.5)
        known = torch.cat([known[:, :d] & ~at_end, known[:, d:]], 1)  # the end has no numbers
    numbers, gain = _numbers(prediction.values, known[:, :d], values[:, :d], generator)
    if not model.pen_states:
        return numbers, gain.double()
    assert prediction.pen is not None
    log_pen, told = prediction.pen.log_softmax(-1), known[:, d]
    state = values[:, d].long()
    wrong = told & ((state < 0) | (state >= model.pen_states))
    if bool(wrong.any()):
        given = float(values[wrong, d][0])
        raise EvidenceError(f"the pen is known to be {given:g}; expected 0 ... {model.pen_states - 1}")
    if not bool(told.all()):
        state = torch.where(told, state, torch.multinomial(log_pen.exp(), 1, generator=generator).squeeze(1))
    gain = gain + torch.where(told, log_pen.gather(1, state.unsqueeze(1)).squeeze(1), 0.0)
    if model.pen_states == 3:
        # where the drawing ends there is no point: known numbers speak against it
        end = state == 2
        numbers = torch.where(end.unsqueeze(1), 0.0, numbers)
        gain = torch.where(end & (known[:, :d] & (values[:, :d] != 0)).any(1), -math.inf, gain)
    return torch.cat([numbers, state.float().unsqueeze(1)], 1), gain.double()


def _numbers(step: Warped, known: Tensor, full: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    if bool(known.all()):
        return full, step.log_prob(full)
    n = len(full)
    step = step.expand(torch.Size((n,)))
    uniform = torch.rand(n, step.num_choices, generator=generator)
    if not bool(known.any()):
        return step.place(uniform, torch.randn(full.shape, generator=generator)), torch.zeros(n)
    if step.grid is not None:
        rest, gain = step.given(full, known)
        value = rest.place(uniform, torch.randn(full.shape, generator=generator))
        return torch.where(known, full, value), gain
    given = step.base.given(step.forward(full), known)
    value = step.inverse(given.sample(generator=generator))
    # from the mixture's coordinates to the data's, for the columns that are known
    jacobian = step.unit.log() + torch.where(step.positive, full.clamp_min(1e-7).log(), 0.0)
    gain = given.log_evidence - torch.where(known, jacobian, 0.0).sum(-1)
    return torch.where(known, full, value), gain
