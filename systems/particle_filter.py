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
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from phlogiston.distributions.linear_constraints import LinearEvidence
from phlogiston.distributions.normal_interval import log_normal_density
from phlogiston.distributions.warped import Warped
from phlogiston.errors import ConfigError, EvidenceError
from phlogiston.inference.query.answer import FAR, Answer, check_alive, warn_if_far
from phlogiston.inference.query.compilation import compile_vector
from phlogiston.inference.query.evidence import Evidence, OneOf, normalise
from phlogiston.inference.query.islands import Islands
from phlogiston.models.stepwise import Prediction, Stepwise, select

_FIELDS = ("value", "mask", "mean", "sd", "lower", "upper", "weight")


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
        evidence: about `x`.
        ask: `["x"]` or None.
        num_samples: particles, and samples.
        steps: length of the sequence; that of the evidence by default.
        typical: length where neither `steps` nor the evidence gives one.
        seed: of the draws.
        start: makes the first state of so many rows; the model's own by default.
        columns: names of a step's columns, for messages; numbered by default.

    Raises:
        EvidenceError: malformed evidence, half-spaces, or evidence no particle satisfies.
        ConfigError: fewer than two particles.
    """
    if num_samples < 2:
        raise ConfigError(f"num_samples is {num_samples}; a particle filter needs at least 2")
    if list(ask or ["x"]) != ["x"]:
        raise EvidenceError(f"ask is {list(ask or ())}; sequences have one site, 'x'")
    question = normalise(evidence, ("x",))
    for piece in question.get("x", ()):
        if piece.couples:
            raise EvidenceError("evidence for 'x': half-spaces and sums tie steps together; use Known, Near or Within")
        if isinstance(piece, OneOf):
            raise EvidenceError("evidence for 'x' speaks about categories; give the pen as Known or Within")
    pieces = [_flat(piece, model.width) for piece in question.get("x", ())]
    sizes = {n for piece in pieces for f in _FIELDS if (n := getattr(getattr(piece, f, None), "numel", int)()) > 1}
    if len(sizes) > 1 or (sizes and next(iter(sizes)) % model.width):
        raise EvidenceError(f"evidence for 'x' has {sorted(sizes)} entries; expected steps times {model.width}")
    given = sizes.pop() // model.width if sizes else None
    if steps is not None and given is not None and steps < given:
        raise EvidenceError(f"steps is {steps}, but the evidence is about {given} steps")
    count = steps or given or typical
    if given is not None and count > given:
        pieces = [_longer(piece, given, count, model.width) for piece in pieces]
    about, constant = compile_vector("x", pieces, count * model.width)
    if bool((about.soft_fraction > 0).any()):
        raise EvidenceError("evidence for 'x': fractional masks are not for sequences; use Near")
    seed = int(torch.randint(2**31, ())) if seed is None else seed
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # a model may draw a latent for every particle
        state = (start or model.start)(num_samples)
    names = list(columns) if columns is not None else [str(i) for i in range(model.width)]
    return _walk(model, state, about, float(constant), num_samples, count, generator, names)


def _flat(piece: Evidence, width: int) -> Evidence:
    """Evidence about (steps, columns) as evidence about its entries in a row."""
    fields = {}
    for name in piece.fields:
        value = getattr(piece, name)
        if isinstance(value, Tensor) and value.dim() == 2:
            if value.shape[1] != width:
                raise EvidenceError(f"evidence for 'x' has shape {tuple(value.shape)}; expected (steps, {width})")
            value = value.reshape(-1)
        elif isinstance(value, Tensor) and value.dim() > 2:
            raise EvidenceError(f"evidence for 'x' has shape {tuple(value.shape)}; ask about one sequence at a time")
        fields[name] = value
    return type(piece)(**fields)


def _longer(piece: Evidence, given: int, count: int, width: int) -> Evidence:
    """The same statement about a longer sequence, of whose later steps it says nothing."""
    from phlogiston.inference.query.evidence import Known, Near, Within

    extra = (count - given) * width
    if isinstance(piece, Known):
        value = torch.as_tensor(piece.value).double().expand(given * width)
        known = (
            torch.ones_like(value) if piece.mask is None else torch.as_tensor(piece.mask).double().expand(given * width)
        )
        return Known(torch.cat([value, value.new_zeros(extra)]), torch.cat([known, known.new_zeros(extra)]))
    if isinstance(piece, Within):
        low = torch.as_tensor(piece.lower).double().expand(given * width)
        high = torch.as_tensor(piece.upper).double().expand(given * width)
        return Within(
            torch.cat([low, low.new_full((extra,), -math.inf)]), torch.cat([high, high.new_full((extra,), math.inf)])
        )
    if isinstance(piece, Near):
        raise EvidenceError("Near about a part of a longer sequence: give it for all steps, with sd=inf where unknown")
    return piece


def _walk(
    model: Stepwise,
    state: Any,
    about: LinearEvidence,
    constant: float,
    n: int,
    steps: int,
    generator: torch.Generator,
    names: Sequence[str],
) -> Answer:
    width = model.width
    known, values = about.known.reshape(steps, width), about.values.reshape(steps, width).float()
    lower, upper = about.lower.reshape(steps, width), about.upper.reshape(steps, width)
    soft: dict[int, list[tuple[int, float, float]]] = {}
    for i, entry in enumerate(about.soft.tolist()):
        item = (entry % width, float(about.soft_mean[i]), float(about.soft_sd[i]))
        soft.setdefault(entry // width, []).append(item)
    path = torch.zeros(n, steps, width)
    ended = torch.zeros(n, dtype=torch.bool)
    over = torch.tensor([0.0] * model.targets + [2.0] * (width - model.targets))
    islands = Islands(n, generator)
    distances: dict[str, float] = {}
    if any(part.dim() and bool((part != part[:1]).any()) for part in state):
        islands.remember()  # a latent for every particle
    for t in range(steps):
        prediction, state = model.predict(state)
        given = {i: (float(values[t, i]), 0.0) for i in torch.nonzero(known[t]).flatten().tolist()}
        given |= {column: (mean, sd) for column, mean, sd in soft.get(t, ())}
        _measure(prediction.values, given, t, names, distances)
        drawn, gain = _step(prediction, model, known[t], values[t], n, generator)
        if bool(ended.any()):  # nothing follows the end: evidence of more excludes a particle
            agrees = bool((values[t] == over)[known[t]].all())
            gain = torch.where(ended, 0.0 if agrees else -math.inf, gain)
            drawn = torch.where(ended.unsqueeze(1), over, drawn)
        boxed = torch.isfinite(lower[t]) | torch.isfinite(upper[t])
        free = boxed & ~known[t]
        if bool(free.any()):
            inside = ((drawn >= lower[t]) & (drawn <= upper[t]))[:, free].all(1)
            gain = torch.where(inside, gain, -math.inf)
        for column, mean, sd in soft.get(t, ()):
            z = (drawn[:, column].double() - mean) / sd
            gain = gain + log_normal_density(z) - math.log(sd)
        islands.log_weights = islands.log_weights + gain
        check_alive(islands.log_weights.unsqueeze(1), f"query, step {t}")
        path[:, t] = drawn
        state = model.observe(state, drawn)
        if model.pen_states == 3:
            ended = ended | (drawn[:, -1] > 1.5)
        if not bool(known[t].all()):
            islands.remember()
        index = islands.resample() if t + 1 < steps else None
        if index is not None:
            state, path, ended = select(state, index), path[index], ended[index]
    warn_if_far(distances, "query (particle filter)")
    return islands.answer({"x": path.double().where(~known, about.values.reshape(steps, width))}, constant)


def _measure(
    values: Warped,
    given: Mapping[int, tuple[float, float]],
    t: int,
    names: Sequence[str],
    distances: dict[str, float],
) -> None:
    """Note how far evidence of step t lies from the components of all particles, in standard deviations."""
    base = values.base
    width = base.loc.shape[-1]
    numbers = [column for column in given if column < width]
    if not numbers:
        return
    full = torch.zeros(width)
    full[numbers] = torch.tensor([given[column][0] for column in numbers])
    slack = torch.zeros(width)
    slack[numbers] = torch.tensor([given[column][1] for column in numbers])
    slack = torch.where(values.positive, 0.0, slack / values.unit)
    if values.grid is not None:  # all of a cell is one value
        slack = slack + values.forward(full + values.grid) - values.forward(full - values.grid)
    scale = torch.hypot(base.component_scales(), slack.unsqueeze(-2))
    gap = ((values.forward(full).unsqueeze(-2) - base.loc) / scale).abs()  # (n, K, D)
    nearest = gap.reshape(-1, width).amin(0)
    for column in numbers:
        if float(nearest[column]) > FAR:
            what = f"column {names[column]!r}"
            distances[f"{what} of step {t}"] = float(nearest[column])


def _step(
    prediction: Prediction, model: Stepwise, known: Tensor, values: Tensor, n: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw what is not known of a step, and the log probability of what is: (n, width), (n,)."""
    d = model.targets
    if model.pen_states == 3 and bool(known[d]) and float(values[d]) > 1.5:
        known = torch.cat([torch.zeros_like(known[:d]), known[d:]])  # the end has no numbers
    numbers, gain = _numbers(prediction.values, known[:d], values[:d], n, generator)
    if not model.pen_states:
        return numbers, gain.double()
    assert prediction.pen is not None
    log_pen = prediction.pen.log_softmax(-1)
    if bool(known[d]):
        state = values[d].long().expand(n)
        if not 0 <= int(values[d]) < model.pen_states:
            raise EvidenceError(f"the pen is known to be {float(values[d]):g}; expected 0 ... {model.pen_states - 1}")
        gain = gain + log_pen.gather(1, state.unsqueeze(1)).squeeze(1)
    else:
        state = torch.multinomial(log_pen.exp(), 1, generator=generator).squeeze(1)
    if model.pen_states == 3:
        # where the drawing ends there is no point: known numbers speak against it
        end = state == 2
        numbers = torch.where(end.unsqueeze(1), 0.0, numbers)
        gain = torch.where(end & bool((known[:d] & (values[:d] != 0)).any()), -math.inf, gain)
    return torch.cat([numbers, state.float().unsqueeze(1)], 1), gain.double()


def _numbers(step: Warped, known: Tensor, values: Tensor, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    if bool(known.all()):
        value = values.expand(n, -1)
        return value, step.log_prob(value)
    step = step.expand(torch.Size((n,)))
    uniform = torch.rand(n, step.num_choices, generator=generator)
    if not bool(known.any()):
        return step.place(uniform, torch.randn(n, len(known), generator=generator)), torch.zeros(n)
    full = values.expand(n, -1)
    if step.grid is not None:
        rest, gain = step.given(full, known.expand(n, -1))
        value = rest.place(uniform, torch.randn(n, len(known), generator=generator))
        return torch.where(known, full, value), gain
    given = step.base.given(step.forward(full), known.expand(n, -1))
    value = step.inverse(given.sample(generator=generator))
    # from the mixture's coordinates to the data's, for the columns that are known
    jacobian = step.unit.log() + torch.where(step.positive, full.clamp_min(1e-7).log(), 0.0)
    gain = given.log_evidence - torch.where(known, jacobian, 0.0).sum(-1)
    return torch.where(known, full, value), gain
