"""The world model: one law whether a game is known or dreamt, and a program that trains, scores and generates."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.util import check_model_guide_match
from torch import Tensor

from phlogiston.errors import ConfigError, ShapeError, UnknownNameError
from phlogiston.guides.world import FrameGuide, NoGuide, WorldGuide
from phlogiston.inference.svi.objectives import make
from phlogiston.models.dream_game import DreamGame
from phlogiston.models.dreaming import Linear, Random, dream, num_weights, play
from phlogiston.models.world import FARTHEST, CodePath, FrameModel, MemoryModel, World

ROWS, STEPS, CODE = 5, 7, 3
LENGTH = torch.tensor([7, 3, 2, 5, 7])


def pair(kind: str = "factorised", layers: int = 1) -> tuple[World, WorldGuide]:
    world = World(1, 8, 3, CODE, (8,), 16, 8, layers, 3, kind, noise=0.2)
    guide = WorldGuide(world, (8,), 16)
    with torch.no_grad():  # nothing may hold only at the start
        for p in [*world.parameters(), *guide.parameters()]:
            p.add_(0.2 * torch.randn_like(p))
    return world, guide


def batch() -> dict[str, Tensor]:
    done = torch.zeros(ROWS, STEPS)
    done[torch.arange(ROWS), LENGTH - 1] = torch.tensor([1.0, 1.0, 0.0, 1.0, 0.0])
    return {
        "frames": torch.rand(ROWS, STEPS, 1, 8, 8),
        "action": torch.randint(3, (ROWS, STEPS)),
        "done": done,
        "length": LENGTH,
    }


@pytest.mark.parametrize("kind", ["factorised", "diag"])
@pytest.mark.parametrize("layers", [1, 2])
def test_teacher_forced_and_free_running_are_the_same_law(kind: str, layers: int) -> None:
    world, _ = pair(kind, layers)
    action = torch.randint(3, (ROWS, STEPS))
    path = CodePath(world, action, torch.ones(ROWS, STEPS, dtype=torch.bool))
    code = path.sample()
    prediction, out = world.predict_all(code, action)
    state = world.start(ROWS)
    total = torch.zeros(ROWS)
    for t in range(STEPS):
        step = world.predict(state)
        torch.testing.assert_close(state.out, out[:, t], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(step.end, prediction.end[:, t], rtol=1e-4, atol=1e-5)
        total = total + step.code.log_prob(code[:, t])
        state = world.observe(state, code[:, t], action[:, t])
    torch.testing.assert_close(path.log_prob(code), total, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(prediction.code.log_prob(code).sum(-1), total, rtol=1e-4, atol=1e-5)


def test_the_program_scores_a_game_as_its_steps_do() -> None:
    world, guide = pair()
    given = batch()
    trace = poutine.trace(guide).get_trace(**given)
    trace = poutine.trace(poutine.replay(world, trace)).get_trace(**given)
    trace.compute_log_prob()
    code = trace.nodes["code"]["value"]
    prediction, _ = world.predict_all(code, given["action"])
    for row in range(ROWS):
        n = int(LENGTH[row])
        parts = prediction.code.log_prob(code)[row, :n].sum()
        torch.testing.assert_close(trace.nodes["code"]["log_prob"][row], parts)
        ends = dist.Bernoulli(logits=prediction.end[row, 1:n]).log_prob(given["done"][row, 1:n]).sum()
        torch.testing.assert_close(trace.nodes["done"]["log_prob"][row], ends)
        pixels = dist.Normal(world.picture(code[row, :n]), 0.2).log_prob(given["frames"][row, :n]).sum()
        torch.testing.assert_close(trace.nodes["frames"]["log_prob"][row], pixels)


def test_padding_has_no_influence() -> None:
    world, guide = pair()
    given = batch()
    other = {
        **given,
        "frames": given["frames"].clone(),
        "action": given["action"].clone(),
        "done": given["done"].clone(),
    }
    behind = torch.arange(STEPS) >= LENGTH.unsqueeze(1)
    other["frames"][behind] = torch.rand(int(behind.sum()), 1, 8, 8)
    other["action"][behind] = 0
    other["done"][behind] = 1.0
    losses = []
    for one in (given, other):
        torch.manual_seed(3)
        losses.append(Trace_ELBO().differentiable_loss(world, guide, **one).item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_the_pair_matches_and_every_stage_reaches_its_parameters() -> None:
    world, guide = pair()
    given = batch()
    trace = poutine.trace(guide).get_trace(**given)
    check_model_guide_match(poutine.trace(poutine.replay(world, trace)).get_trace(**given), trace)
    vision = make("free_bits", nats=0.5 * CODE, each=True)
    vision.differentiable_loss(FrameModel(world), FrameGuide(guide), frames=given["frames"]).backward()
    code = torch.randn(ROWS, STEPS, CODE)
    rest = {name: given[name] for name in ("action", "done", "length")}
    Trace_ELBO().differentiable_loss(MemoryModel(world), NoGuide(), code=code, **rest).backward()
    for name, p in [*world.named_parameters(), *guide.named_parameters()]:
        assert p.grad is not None, name
        assert float(p.grad.abs().max()) > 0, name


def test_particles_are_vectorised() -> None:
    world, guide = pair()
    given = batch()
    one = make("iwae", num_particles=1)
    many = make("iwae", num_particles=64)
    torch.manual_seed(0)
    loose = sum(one.differentiable_loss(world, guide, **given).item() for _ in range(20)) / 20
    tight = many.differentiable_loss(world, guide, **given).item()
    assert math.isfinite(tight)
    assert tight < loose


@pytest.mark.parametrize("known", [(), ("action",), ("frames", "action", "done", "length")])
def test_the_program_generates_what_is_not_given(known: tuple[str, ...]) -> None:
    world, _ = pair()
    given = {name: value for name, value in batch().items() if name in known}
    trace = poutine.trace(world).get_trace(**given, rows=ROWS, steps=STEPS)
    assert trace.nodes["frames"]["value"].shape == (ROWS, STEPS, 1, 8, 8)
    assert trace.nodes["code"]["value"].shape == (ROWS, STEPS, CODE)
    assert trace.nodes["done"]["value"].shape == (ROWS, STEPS)
    assert ("action" in trace.nodes) == ("action" not in known)


def test_pyro_conditions_the_program() -> None:
    world, _ = pair()
    action = torch.zeros(ROWS, STEPS, dtype=torch.long)
    held = pyro.condition(world, {"action": action})
    trace = poutine.trace(held).get_trace(rows=ROWS, steps=STEPS)
    assert torch.equal(trace.nodes["action"]["value"], action)


def test_the_weight_of_the_end_leaves_its_probability_calibrated() -> None:
    # one constant chance p: the weighted cost with the shifted logit has its minimum at logit p, whatever the weight
    p = 0.03
    for weight in (1.0, 10.0):
        world = World(1, 8, 3, CODE, (8,), 16, 8, noise=0.2, end_weight=weight)
        with torch.no_grad():
            world.head[-1].weight[-1] = 0.0
        done = torch.zeros(100, 2)
        done[: int(100 * p), 1] = 1.0
        given = {"code": torch.zeros(100, 2, CODE), "action": torch.zeros(100, 2, dtype=torch.long), "done": done}
        costs = []
        grid = torch.linspace(-6, -1, 51)
        for logit in grid:
            with torch.no_grad():
                world.head[-1].bias[-1] = logit
                trace = poutine.trace(MemoryModel(world)).get_trace(**given, length=torch.full((100,), 2))
                trace.compute_log_prob()
                costs.append(-float(trace.nodes["done"]["log_prob_sum"]))
        assert float(grid[torch.tensor(costs).argmin()]) == pytest.approx(math.log(p / (1 - p)), abs=0.1)


# ---- dreams


def test_dreams_follow_the_laws_of_the_program() -> None:
    world, _ = pair()
    with torch.no_grad():
        world.head[-1].bias[-1] = -2.0
    found = dream(world, Random(3), 4000, 6, seed=1, keep=True)
    assert found.code is not None
    with torch.no_grad():
        prediction, _ = world.predict_all(found.code[:, :2], found.action[:, :2])  # type: ignore[index]
    chance = prediction.end[:, 1].sigmoid().double()
    ended = (found.score == 1).double()
    assert float(ended.mean()) == pytest.approx(float(chance.mean()), abs=4 * float(chance.std() + 0.5) / 4000**0.5)
    first = prediction.code.mean[:, 0].double().mean(0)
    spread = prediction.code.variance[:, 0].double().mean(0).sqrt()
    assert bool(((found.code[:, 0].double().mean(0) - first).abs() < 5 * spread / 4000**0.5).all())


def test_controllers_have_their_own_rows_and_what_leaves_early_changes_nothing() -> None:
    world, _ = pair()
    weights = torch.randn(4, num_weights(world, "zh"))
    agent = Linear(weights, world)
    code, out = torch.randn(12, CODE), torch.randn(12, 8)
    chosen = agent.act(code, out, torch.Generator())
    for i in range(4):
        own = Linear(weights[i : i + 1], world).act(code[3 * i : 3 * i + 3], out[3 * i : 3 * i + 3], torch.Generator())
        assert torch.equal(chosen[3 * i : 3 * i + 3], own)
    index = torch.tensor([0, 4, 5, 11])
    assert torch.equal(agent.select(index).act(code[index], out[index], torch.Generator()), chosen[index])
    again = agent.select(index).select(torch.tensor([1, 3]))
    assert torch.equal(again.act(code[[4, 11]], out[[4, 11]], torch.Generator()), chosen[[4, 11]])


def test_what_a_controller_looks_at_is_all_it_sees() -> None:
    world, _ = pair()
    code, out = torch.randn(50, CODE), torch.randn(50, 8)
    for looks, blind in (("z", (code, torch.randn(50, 8))), ("h", (torch.randn(50, CODE), out))):
        agent = Linear(torch.randn(1, num_weights(world, looks)), world, looks)
        assert torch.equal(agent.act(code, out, torch.Generator()), agent.act(*blind, torch.Generator()))


def test_higher_temperature_makes_codes_wander_further() -> None:
    world, _ = pair()
    with torch.no_grad():
        world.head[-1].bias[-1] = -30.0
    spread = [
        float(dream(world, Random(3), 200, 10, tau=tau, seed=2, keep=True).code.diff(dim=1).square().mean())  # type: ignore[union-attr]
        for tau in (0.2, 1.0, 2.0)
    ]
    assert spread[0] < spread[1] < spread[2]


def test_a_dream_that_strays_stays_in_sight() -> None:
    torch.manual_seed(3)
    world, _ = pair()
    world.eval()
    with torch.no_grad():
        world.head[-1].bias[:-1].unflatten(0, (CODE, -1))[:, 3:6].fill_(5.0)  # locations: every step adds some five
        world.head[-1].bias[-1] = -100.0
    found = dream(world, Random(3), 4, 200, seed=0, keep=True)
    assert found.code is not None
    assert found.action is not None
    assert float(found.code.abs().max()) < FARTHEST + 40  # not the thousand that it would add up to
    assert float(found.code[:, 50:].abs().max()) > FARTHEST  # what is drawn is not cut off, but what is remembered is
    prediction, _ = world.predict_all(found.code[:, :-1], found.action)
    state = world.start(4)
    for t in range(30):
        step = world.predict(state)
        torch.testing.assert_close(step.code.mean, prediction.code.mean[:, t], atol=1e-4, rtol=1e-4)
        assert float(state.code.abs().max()) <= FARTHEST
        state = world.observe(state, found.code[:, t], found.action[:, t])


def test_the_rule_ends_where_the_weighted_law_passes_one_half() -> None:
    world, _ = pair()
    with torch.no_grad():
        world.head[-1].weight[-1] = 0.0
    for logit, score in ((-math.log(10.0) + 0.01, 1.0), (-math.log(10.0) - 0.01, 4.0)):
        with torch.no_grad():
            world.head[-1].bias[-1] = logit
        assert bool((dream(world, Random(3), 8, 4, ends="rule").score == score).all())


def test_the_dream_is_a_game_like_any_other() -> None:
    world, _ = pair()
    with torch.no_grad():
        world.head[-1].bias[-1] = -1.0
    game = DreamGame(world)
    state = game.reset(200, seed=4)
    total = torch.zeros(200)
    for _ in range(8):
        before = state
        state, reward, over = game.step(state, torch.randint(3, (200,)))
        total += reward
        assert torch.equal(reward, (~before.over).float())
        assert torch.equal(game.render(state)[before.over], game.render(before)[before.over])
        assert bool((over | ~before.over).all())
    assert bool(over.any())
    assert float(total.mean()) > 1


def test_equal_seeds_dream_alike() -> None:
    world, _ = pair()
    weights = torch.randn(2, num_weights(world, "zh"))
    one, two = (dream(world, Linear(weights, world), 10, 12, seed=5).score for _ in range(2))
    assert torch.equal(one, two)


def test_a_game_outside_counts_its_own_steps() -> None:
    from phlogiston.datasets.generated.games.dodge import DodgeEnv

    world = World(1, 16, 3, CODE, (8, 8), 16, 8)
    guide = WorldGuide(world, (8, 8), 16)
    game = DodgeEnv()
    never = torch.zeros(1, num_weights(world, "zh"))
    never[0, num_weights(world, "zh") // 3 * 2 - 1] = 1.0  # the bias of "stay"
    found = play(world, guide.encode, Linear(never, world), game, torch.arange(20), 60, keep=True)
    assert bool((found.action == 1).all())
    state = game.reset(torch.arange(20))
    score = torch.zeros(20)
    for _ in range(60):
        state, reward, _ = game.step(state, torch.ones(20, dtype=torch.long))
        score += reward
    assert torch.equal(found.score, score)
    brief = play(world, guide.encode, Linear(never, world), game, torch.arange(20), 60)
    assert torch.equal(brief.score, score)


def test_bad_input_is_named() -> None:
    world, _ = pair()
    with pytest.raises(ConfigError, match="kind"):
        World(kind="full")
    with pytest.raises(ConfigError, match="positive"):
        World(noise=0.0)
    with pytest.raises(ShapeError, match="expected \\(controllers, "):
        Linear(torch.zeros(1, 5), world)
    with pytest.raises(UnknownNameError, match="zh"):
        num_weights(world, "x")
    wrong: list[tuple[type[Exception], dict[str, Any]]] = [
        (ConfigError, {"tau": 0.0}), (UnknownNameError, {"ends": "never"}), (ConfigError, {"steps": 0}),
    ]  # fmt: skip
    for error, options in wrong:
        steps = options.pop("steps", 3)
        with pytest.raises(error):
            dream(world, Random(3), 2, steps, **options)


def test_paths_of_codes_refuse_what_cannot_be_and_keep_doing_so_when_expanded() -> None:
    world, _ = pair()
    action, valid = torch.randint(3, (ROWS, STEPS)), torch.arange(STEPS) < LENGTH.unsqueeze(1)
    with pytest.raises(ValueError, match="action"):
        CodePath(world, action - 3, valid, validate_args=True)
    path = CodePath(world, action, valid, validate_args=True)
    code = path.sample()
    assert torch.isfinite(path.log_prob(code)).all()
    for law in (path, path.expand((2, ROWS))):
        with pytest.raises(ValueError, match="support"):
            law.log_prob(torch.full_like(code, math.nan))
