"""Dodge: the rules hold in every game, chance is fair, and no game depends on those played beside it."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from phlogiston import datasets
from phlogiston.datasets import preview
from phlogiston.datasets.generated.games.dodge import BALL, PLAYER, DodgeEnv, Games, random_actions, uniform
from phlogiston.errors import ConfigError, DataError, ShapeError


def walk(game: DodgeEnv, state: Games, steps: int, keep: float = 0.7) -> list[Games]:
    action = random_actions(state, steps, keep)
    path = [state]
    for t in range(steps):
        path.append(game.step(path[-1], action[:, t])[0])
    return path


def touching(state: Games) -> Tensor:
    """The rule, written pixel-free: two boxes overlap."""
    vertical = (state.y < 16.0) & (state.y + BALL > 15.0)
    left = torch.maximum(state.x, state.player.unsqueeze(1))
    right = torch.minimum(state.x + BALL, state.player.unsqueeze(1) + PLAYER)
    return (vertical & (right > left)).any(1)


@pytest.mark.parametrize("balls", [1, 2, 3])
def test_a_game_ends_exactly_when_a_ball_touches_the_player_or_time_is_up(balls: int) -> None:
    game = DodgeEnv(balls=balls, limit=60)
    path = walk(game, game.reset(300, seed=1), 60)
    for before, after in pairwise(path):
        over = game.over(before)
        assert torch.equal(after.hit[~over], touching(after)[~over])
        assert all(torch.equal(a[over], b[over]) for a, b in zip(after, before, strict=True)), "what is over stays"
    assert bool(game.over(path[-1]).all())
    assert int(path[-1].hit.sum()) > 0


def test_balls_fall_straight_but_for_their_drift_and_never_leave_the_frame_sideways() -> None:
    game = DodgeEnv(balls=3)
    path = walk(game, game.reset(200, seed=2), 80)
    for before, after in pairwise(path):
        going = ~game.over(before)
        same = (after.visits == before.visits) & going.unsqueeze(1)
        assert torch.equal(after.y[same], before.y[same] + 1)
        assert float(torch.where(same, after.x - before.x, 0.0).abs().max()) <= game.drift + 1e-12
        assert 0 <= float(after.x.min()) <= float(after.x.max()) <= 16 - BALL
        assert 0 <= float(after.player.min()) <= float(after.player.max()) <= 16 - PLAYER
    straight = (path[5].x - path[4].x - path[4].drift).abs()
    bounced = path[5].drift != path[4].drift
    assert float(straight[~bounced].max()) < 1e-12


def test_frames_show_what_the_state_says() -> None:
    game = DodgeEnv(balls=1)
    state = game.reset(64, seed=3)
    for _ in range(14):
        state, _, _ = game.step(state, torch.full((64,), 2))
    frame = game.render(state)[:, 0]
    assert float(frame.min()) >= 0
    assert float(frame.max()) <= 1
    above, bottom = frame[:, :15], frame[:, 15]
    whole = (state.y[:, 0] >= 0) & (state.y[:, 0] + BALL <= 15)
    assert bool(whole.any())
    torch.testing.assert_close(above[whole].sum((1, 2)), torch.full((int(whole.sum()),), BALL * BALL))
    column = (above * (torch.arange(16) + 0.5)).sum((1, 2)) / above.sum((1, 2)).clamp_min(1e-9)
    torch.testing.assert_close(column[whole].double(), state.x[whole, 0] + BALL / 2, atol=1e-5, rtol=0)
    torch.testing.assert_close(bottom[whole].sum(1), torch.full((int(whole.sum()),), 0.6 * PLAYER))


def test_larger_frames_show_the_same_game() -> None:
    small, large = DodgeEnv(16), DodgeEnv(32)
    state = walk(small, small.reset(32, seed=4), 12)[-1]
    pooled = torch.nn.functional.avg_pool2d(large.render(state), 2)
    torch.testing.assert_close(pooled, small.render(state), atol=0.26, rtol=0)  # the brighter of two edges
    torch.testing.assert_close(pooled.mean(), small.render(state).mean(), atol=2e-3, rtol=0)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.lists(st.integers(0, 2**40), min_size=2, max_size=6, unique=True))
def test_a_game_depends_on_its_seed_and_number_alone(seed: int, numbers: list[int]) -> None:
    game = DodgeEnv()
    together = walk(game, game.reset(torch.tensor(numbers), seed), 30)[-1]
    alone = walk(game, game.reset(torch.tensor(numbers[-1:]), seed), 30)[-1]
    assert all(torch.equal(a[-1:], b) for a, b in zip(together, alone, strict=True))


def test_counted_randomness_is_uniform_and_uncorrelated() -> None:
    drawn = uniform(torch.arange(400).unsqueeze(1), torch.arange(500))
    n = drawn.numel()
    counts = torch.histc(drawn.float(), 20, 0, 1)
    chi = float(((counts - n / 20).square() / (n / 20)).sum())
    assert chi < 50  # 19 degrees of freedom: once in ten thousand
    centred = (drawn - 0.5) * 12**0.5
    for a, b in ((centred[:-1], centred[1:]), (centred[:, :-1], centred[:, 1:])):
        assert abs(float((a * b).mean())) < 4 / a.numel() ** 0.5


def test_columns_are_uniform_and_random_players_are_hit_by_about_two_balls_in_five() -> None:
    game = DodgeEnv(balls=1)
    state = game.reset(4000, seed=5)
    share = state.x[:, 0] / (16 - BALL)
    assert torch.histc(share.float(), 4, 0, 1).div(4000).sub(0.25).abs().max() < 0.03
    after = walk(game, state, 30)[-1]
    # a ball has 13 units of room, and touches a player within 6 of them
    assert 0.3 < float(after.hit.double().mean()) < 0.6


def dodged(drift: float, knows: bool, games: int = 300) -> float:
    """Mean score of a scripted player who steps out of where the ball will land, or of where it is now."""
    game = DodgeEnv(drift=drift)
    state = game.reset(games, seed=7)
    total = torch.zeros(games)
    room = 16 - BALL
    for _ in range(game.limit):
        left = (16 - BALL - state.y[:, 0]).clamp_min(0)
        land = (state.x[:, 0] + state.drift[:, 0] * left * knows) % (2 * room)
        land = torch.where(land > room, 2 * room - land, land)
        places = (state.player + torch.tensor([[0.0], [-1.0], [1.0]])).clamp(0, 16 - PLAYER)
        cost = (BALL + 0.6 - (land - places).abs()).clamp_min(0) + 1e-3 * (places - 6.5).abs()
        state, reward, _ = game.step(state, torch.tensor([1, 0, 2])[cost.argmin(0)])
        total += reward
    return float(total.mean())


def test_seeing_the_drift_pays_and_the_more_the_further_balls_drift() -> None:
    near, far = (dodged(drift, True) / dodged(drift, False) for drift in (0.1, 0.5))
    assert near < 1.15
    assert far > 1.4


def test_random_actions_are_even_and_kept_as_often_as_asked() -> None:
    action = random_actions(DodgeEnv().reset(500, seed=6), 200, keep=0.7)
    assert torch.bincount(action.flatten(), minlength=3).div(1e5).sub(1 / 3).abs().max() < 0.02
    again = (action[:, 1:] == action[:, :-1]).double().mean()
    assert float(again) == pytest.approx(0.7 + 0.3 / 3, abs=0.01)


def test_rows_hold_whole_games_and_nothing_behind_their_end() -> None:
    data = datasets.load("dodge", sizes=(40, 5, 5), limit=50)
    part = data.train.tensors
    valid = torch.arange(51) < part["length"].unsqueeze(1)
    assert not bool(part["frames"][~valid].any())
    assert bool((part["frames"][valid].flatten(1).amax(1) > 0).all())
    last = torch.zeros_like(valid)
    last[torch.arange(40), part["length"] - 1] = True
    assert not bool(part["done"][~last].any())
    assert bool((part["done"][last] | (part["length"] == 51)).all()), "only time ends a game without a hit"
    frame = DodgeEnv().render(DodgeEnv().reset(1, seed=0))
    assert torch.equal(part["frames"][0, 0], (255 * frame[0]).round().to(torch.uint8))
    assert preview.figure(data).axes


def test_the_first_games_do_not_depend_on_how_many_were_asked_for_and_parts_differ() -> None:
    few, many = (datasets.load("dodge", sizes=(n, 2, 2), limit=20) for n in (3, 9))
    for name, value in few.train.tensors.items():
        assert torch.equal(value, many.train.tensors[name][:3]), name
    assert not torch.equal(few.train.tensors["frames"][:2], few.test.tensors["frames"])
    assert not torch.equal(few.valid.tensors["frames"], few.test.tensors["frames"])


def test_bad_input_is_named() -> None:
    with pytest.raises(ConfigError, match="multiple of 16"):
        DodgeEnv(size=24)
    with pytest.raises(ConfigError, match="1, 2 or 3"):
        DodgeEnv(balls=4)
    with pytest.raises(DataError, match="three numbers"):
        datasets.load("dodge", sizes=(1, 2))
    with pytest.raises(DataError, match="probability"):
        datasets.load("dodge", sizes=(1, 1, 1), keep=1.5)
    game = DodgeEnv()
    state = game.reset(3)
    with pytest.raises(ShapeError, match="expected"):
        game.step(state, torch.tensor([0]))
    with pytest.raises(ConfigError, match="expected 0, 1 or 2"):
        game.step(state, torch.tensor([0, 3, 1]))
