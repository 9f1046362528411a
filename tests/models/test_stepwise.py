"""The three models of sequences: one model, whether all steps are known or drawn one by one; padding never matters."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pyro
import pytest
import torch
from pyro import poutine

from phlogiston.errors import ConfigError, ShapeError
from phlogiston.guides.sketch import SketchEncoder
from phlogiston.inference.svi import objectives
from phlogiston.models.generation import RowNoise, Stream, export_step, generate
from phlogiston.models.handwriting import Handwriting
from phlogiston.models.sequence import MDNRNN
from phlogiston.models.sketch import SketchRNN
from phlogiston.models.stepwise import Stepwise, select

ROWS, STEPS = 5, 7
LENGTH = torch.tensor([7, 3, 1, 5, 7])
TEXT = torch.tensor([[0, 1, 2, -1], [3, 2, -1, -1], [1, 1, 1, 1], [2, -1, -1, -1], [0, 3, 2, 1]])


def stir(model: torch.nn.Module) -> Any:
    """Random parameters: nothing may hold only at the start."""
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return model


def touches(grid: float | None, cell: Any = "lstm", kind: str = "diag", **options: Any) -> MDNRNN:
    model = MDNRNN(
        3, levels=[0, 1], positive=[2], hidden=8, cell=cell, num_components=4, grid=grid, kind=kind, **options
    )
    model.initialise(torch.rand(ROWS, STEPS, 3), LENGTH)
    return stir(model)


def pen(kind: str = "bivariate") -> MDNRNN:
    return stir(MDNRNN(2, pen=True, hidden=8, num_components=3, kind=kind))


def sketch(latent: int, plan: int = 0) -> SketchRNN:
    model = SketchRNN(latent, 8, 3, plan=plan)
    model.initialise(strokes(), LENGTH)
    return stir(model)


def hand() -> Handwriting:
    model = Handwriting(4, 8, 2, 3)
    model.initialise(strokes(), LENGTH, TEXT)
    return stir(model)


def strokes(rows: int = ROWS) -> torch.Tensor:
    x = torch.randn(rows, STEPS, 3)
    x[..., 2] = (torch.rand(rows, STEPS) > 0.6).float()
    return x


MODELS: dict[str, tuple[Callable[[], Any], Callable[[], torch.Tensor], dict[str, Any]]] = {
    "touches": (lambda: touches(1e-3), lambda: torch.rand(ROWS, STEPS, 3), {}),
    "touches, density": (lambda: touches(None), lambda: torch.rand(ROWS, STEPS, 3), {}),
    "touches, gru": (lambda: touches(1e-3, "gru"), lambda: torch.rand(ROWS, STEPS, 3), {}),
    "touches, full": (lambda: touches(None, kind="full"), lambda: torch.rand(ROWS, STEPS, 3), {}),
    "touches on a screen": (
        lambda: touches(1e-3, bounds=(0.0, 1.0), lattices=(600, 100)),
        lambda: (torch.rand(ROWS, STEPS, 3) * 100).round() / 100,
        {},
    ),
    "pen": (pen, strokes, {}),
    "sketch": (lambda: sketch(0), strokes, {}),
    "sketch with latent": (lambda: sketch(3), strokes, {}),
    "sketch with a plan": (lambda: sketch(3, plan=4), strokes, {}),
    "handwriting": (hand, strokes, {"text": TEXT}),
}


@pytest.fixture(params=MODELS)
def case(request: pytest.FixtureRequest) -> tuple[Any, torch.Tensor, dict[str, Any]]:
    make, data, extra = MODELS[request.param]
    return make(), data(), extra


def known(model: Any, z: torch.Tensor | None) -> Any:
    """The program with its latent, if it has one, at a given value."""
    return model if z is None else pyro.condition(model, data={"z": z})


def latent(model: Any) -> torch.Tensor | None:
    return torch.randn(ROWS, model.latent) if getattr(model, "latent", 0) else None


def test_free_running_and_teacher_forced_are_one_model(case: Any) -> None:
    """The log density of a sequence is the same whether its steps are scored at once or one after the other."""
    model, x, extra = case
    z = latent(model)
    at_once = poutine.trace(known(model, None if z is None else z.unsqueeze(1))).get_trace(x, LENGTH, **extra)
    one_by_one = poutine.trace(known(model, z)).get_trace(x, LENGTH, steps=STEPS + 1, **extra)
    if model.pen_states != 3:
        one_by_one = poutine.trace(known(model, z)).get_trace(x, LENGTH, steps=STEPS, **extra)
    torch.testing.assert_close(at_once.log_prob_sum(), one_by_one.log_prob_sum(), rtol=1e-4, atol=1e-3)
    by_row = [model.log_likelihood(x, LENGTH, *extra.values())] if z is None else [model.log_likelihood(x, LENGTH, z)]
    found = by_row[0][0] if isinstance(by_row[0], tuple) else by_row[0]
    prior = 0.0 if z is None else model.prior().log_prob(z).sum()
    torch.testing.assert_close(found.sum() + prior, at_once.log_prob_sum(), rtol=1e-4, atol=1e-3)


def test_padding_never_changes_a_number(case: Any) -> None:
    model, x, extra = case
    z = latent(model)
    more = torch.cat([x, x.flip(0)[:, :4]], 1)  # garbage behind the ends
    extra_more = {k: torch.cat([v, torch.full_like(v, -1)], 1) for k, v in extra.items()}
    arguments = () if z is None else (z,)
    a = model.log_likelihood(x, LENGTH, *extra.values(), *arguments)
    b = model.log_likelihood(more, LENGTH, *extra_more.values(), *arguments)
    a, b = (v[0] if isinstance(v, tuple) else v for v in (a, b))
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def begin(model: Any, extra: dict[str, Any]) -> Any:
    z = latent(model)
    return model.start(ROWS, *extra.values()) if z is None else model.start(ROWS, z)


def test_a_row_is_drawn_alike_alone_and_among_others(case: Any) -> None:
    model, _, extra = case
    state = begin(model, extra)
    many = generate(model, state, 10, RowNoise(model, ROWS, 4))
    for row in range(ROWS):
        one = generate(model, select(state, torch.tensor([row])), 10, RowNoise(model, [row], 4))
        n = int(many.length[row])
        assert int(one.length[0]) == n
        torch.testing.assert_close(one.x[0, :n], many.x[row, :n], rtol=1e-4, atol=1e-5)


def test_every_row_counts_its_own_clipped_steps(case: Any) -> None:
    """What a limit changed lies on the limit; rows that end, by the pen or by a clock, count the steps they have."""
    model, _, extra = case
    limit = 0.1

    def constrain(value: torch.Tensor) -> torch.Tensor:
        return torch.cat([value[:, :1].clamp(-limit, limit), value[:, 1:]], 1)

    def stop(step: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return value[:, 0] == limit if int(step) > 2 else torch.zeros(len(value), dtype=torch.bool)

    drawn = generate(model, begin(model, extra), 10, RowNoise(model, ROWS, 4), constrain=constrain, stop=stop)
    on_limit = (drawn.x[..., 0].abs() == limit) & (torch.arange(drawn.x.shape[1]) < drawn.length.unsqueeze(1))
    torch.testing.assert_close(drawn.clipped, on_limit.sum(1) / drawn.length.clamp_min(1))
    assert bool((drawn.clipped > 0).any())


def test_streaming_draws_what_a_batch_draws(case: Any) -> None:
    model, _, extra = case
    state = select(begin(model, extra), torch.tensor([1]))
    whole = generate(model, state, 6, RowNoise(model, 1, 9))
    stream = Stream(model, state, 9)
    for t in range(int(whole.length[0])):
        torch.testing.assert_close(stream.step(), whole.x[0, t])


def test_one_exported_step_is_the_models_step(case: Any) -> None:
    model, _, extra = case
    state = select(begin(model, extra), torch.tensor([0]))
    program = export_step(model, state).module()
    noise = RowNoise(model, 1, 2)
    mine, theirs = state, tuple(state)
    for _ in range(3):
        now = noise.step()
        with torch.no_grad():
            law, after = model.predict(mine)
            value = law.draw(now)
            mine = model.observe(after, value)
            drawn, theirs = program(*now, theirs)
        torch.testing.assert_close(drawn, value)


def test_reading_a_prefix_at_once_leads_to_the_state_of_reading_it_step_by_step() -> None:
    for model, x, arguments in ((touches(1e-3), torch.rand(ROWS, STEPS, 3), ()), (hand(), strokes(), (TEXT,))):
        state = model.start(ROWS, *arguments)
        at_once = model.consume(model.consume(state, x[:, :2]), x[:, 2:])
        for t in range(STEPS):
            _, state = model.predict(state)
            state = model.observe(state, x[:, t])
        for a, b in zip(at_once, state, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_windows_with_a_carried_state_are_the_whole_sequence() -> None:
    model = touches(1e-3)
    x = torch.rand(2, 9, 3)
    whole, _ = model.log_likelihood(x, torch.tensor([9, 9]))
    first, hidden = model.log_likelihood(x[:, :4], torch.tensor([4, 4]))
    second, _ = model.log_likelihood(x[:, 4:], torch.tensor([5, 5]), x[:, 2:4], torch.tensor([4, 4]), hidden)
    torch.testing.assert_close(first + second, whole)


def test_generated_rows_are_complete_drawings() -> None:
    model = sketch(0)
    trace = poutine.trace(model).get_trace(steps=12, rows=6)
    x = trace.nodes["_RETURN"]["value"]
    for row in x:
        after = (row[:, 2] == 2).long().cumsum(0) > 0
        assert bool((row[after][:, 2] == 2).all()), "nothing follows the end"
    assert bool(torch.isfinite(trace.log_prob_sum()))


# ---- the latent


@pytest.mark.parametrize("plan", [0, 4, 12])
def test_the_encoder_reads_exactly_the_steps_there_are(plan: int) -> None:
    model, x = sketch(3, plan), strokes()
    guide = SketchEncoder(model, 6)
    longer = torch.cat([x, torch.randn(ROWS, 3, 3)], 1)
    for a, b in zip(guide.encode(x, LENGTH), guide.encode(longer, LENGTH), strict=True):
        torch.testing.assert_close(a, b)
    reverse = guide.encode(x.flip(1), torch.full((ROWS,), STEPS))[0]
    forwards = guide.encode(x, torch.full((ROWS,), STEPS))[0]
    assert float((reverse - forwards).detach().abs().max()) > 1e-3, "order matters"


def test_a_plan_leads_back() -> None:
    """Where the pen is makes no difference to the decoder but by how far it is from where the plan wants it."""
    model, z = sketch(3, plan=4), torch.randn(ROWS, 3)
    with torch.no_grad():
        model.enter.weight.zero_()  # leaves what the latent says
    state = model.start(ROWS, z)
    moved = torch.randn(ROWS, 2)
    there, _ = model.predict(state._replace(position=moved))
    shift = torch.nn.functional.pad(moved, (0, 3)).unsqueeze(1)
    planned, _ = model.predict(state._replace(plan=state.plan - shift))
    torch.testing.assert_close(there.values.base.loc, planned.values.base.loc)
    straight, _ = model.predict(state)
    assert float((there.values.base.loc - straight.values.base.loc).detach().abs().max()) > 1e-3


def test_a_decoder_is_led_astray_in_training_alone() -> None:
    """It sees points that lie off the line, and is asked for the next point of the line all the same."""
    model, x, z = sketch(3, plan=4), strokes(), torch.randn(ROWS, 3)
    model.wander = 0.7
    size = model._astray(torch.zeros(6000, STEPS, 3)).square().mean((1, 2)).sqrt() / float(model.unit[0])
    assert float((size == 0).double().mean()) == pytest.approx(0.5, abs=0.03)
    assert float(size[size > 0].mean()) == pytest.approx(0.35, abs=0.03)
    torch.manual_seed(0)
    found = model.train().steps_log_prob(x, LENGTH, z)
    torch.manual_seed(0)
    off = torch.cat([torch.zeros(ROWS, 1, 2), model._astray(x)], 1)  # how far off the pen is before each step
    offsets = x[..., :2] + off[:, 1:] - off[:, :-1]
    true = torch.cat([x[..., :2] - off[:, :-1], x[..., 2:]], -1)
    with torch.no_grad():
        law = model.eval().predictions(torch.cat([offsets, x[..., 2:]], -1), z)
    inside = torch.arange(STEPS) < LENGTH.unsqueeze(1)
    torch.testing.assert_close(found[inside], law.log_prob(true)[inside], rtol=1e-4, atol=1e-4)
    plain = model.steps_log_prob(x, LENGTH, z)
    torch.testing.assert_close(plain, model.steps_log_prob(x, LENGTH, z))


def test_the_bound_is_reconstruction_minus_divergence() -> None:
    model, x = sketch(3), strokes()
    guide = SketchEncoder(model, 6)
    loc, scale = guide.encode(x, LENGTH)
    normal = torch.distributions.Normal
    divergence = torch.distributions.kl_divergence(normal(loc, scale), normal(0.0, 1.0)).sum()
    torch.manual_seed(0)
    loss = objectives.make("mean_field").differentiable_loss(model, guide, x=x, length=LENGTH)
    torch.manual_seed(0)
    z = normal(loc.unsqueeze(1), scale.unsqueeze(1)).rsample().squeeze(1)
    torch.testing.assert_close(loss, divergence - model.log_likelihood(x, LENGTH, z).sum())


def test_more_particles_tighten_the_bound() -> None:
    model, x = sketch(3), strokes()
    guide = SketchEncoder(model, 6)
    losses = [objectives.make("iwae", num_particles=k).loss(model, guide, x=x, length=LENGTH) for k in (2, 2000)]
    assert losses[1] < losses[0] + 1.0


# ---- the window


def test_windows_move_forwards_only_and_see_only_the_text() -> None:
    model, x = hand(), strokes()
    ended, _ = model.finish(x, torch.full((ROWS,), STEPS))
    _, phi = model.predictions(ended, TEXT)
    state = model.start(ROWS, TEXT)
    places = []
    for t in range(STEPS):
        _, state = model.predict(state)
        places.append(state.kappa)
        torch.testing.assert_close(state.phi, phi[:, t], rtol=1e-4, atol=1e-5)
        seen = (state.phi.unsqueeze(-1) * state.text).sum(1)
        torch.testing.assert_close(state.window, seen, rtol=1e-4, atol=1e-5)
        state = model.observe(state, x[:, t])
    assert all(bool((b > a).all()) for a, b in pairwise(places))


def test_bad_input_is_refused() -> None:
    with pytest.raises(ShapeError, match="rows, steps, 3"):
        sketch(0)(torch.zeros(2, 4))
    with pytest.raises(ConfigError, match="text"):
        hand()(strokes(), LENGTH)
    with pytest.raises(ShapeError, match="codes"):
        hand()(strokes(), LENGTH, torch.full((ROWS, 2), 9))
    with pytest.raises(ConfigError, match="positive at once"):
        MDNRNN(3, levels=[0], positive=[0])
    with pytest.raises(ConfigError, match="closed form"):
        MDNRNN(2, kind="full", grid=0.1)
    with pytest.raises(ConfigError, match="latent"):
        SketchEncoder(sketch(0))


def test_a_single_step_and_a_single_row_are_sequences(case: Any) -> None:
    model, x, extra = case
    one = {k: v[:1] for k, v in extra.items()}
    trace = poutine.trace(model).get_trace(x[:1, :1], torch.tensor([1]), **one)
    assert bool(torch.isfinite(trace.log_prob_sum()))
    assert isinstance(model, Stepwise)
