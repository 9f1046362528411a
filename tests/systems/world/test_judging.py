"""What scores of agents are compared with, and what frames hold: counted right on cases known in advance."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch

from phlogiston import datasets
from phlogiston.datasets.generated.games.dodge import DodgeEnv
from phlogiston.errors import ConfigError, DataWarning
from phlogiston.evaluate.metric import Metric
from phlogiston.models.world import World
from phlogiston.systems.world import report
from phlogiston.systems.world.judging import Sweep, best_sweep, play_blind, small_bright, sweeps
from phlogiston.systems.world.system import WorldModel


class Metronome:
    """A game that goes on as long as the player moves left and right in turn, four steps each."""

    def reset(self, games: Any, seed: int = 0) -> Any:
        from phlogiston.systems.world.outside import Playing

        return Playing(torch.zeros(len(games), dtype=torch.long), torch.zeros(len(games), 1, 8, 8))

    def step(self, state: Any, action: Any) -> Any:
        right = action == state.slot // 4 % 2 * 2
        return state._replace(slot=state.slot + 1), torch.ones(len(action)), ~right

    def render(self, state: Any) -> Any:
        return state.frame


def test_the_best_blind_sweep_is_found() -> None:
    world = World(1, 8, 3, 2, (8,), 8, 4)
    found, score = best_sweep(world, Metronome(), torch.arange(2), 40)
    assert found == Sweep((0, 2), 4)
    assert score == 40
    assert play_blind(world, Metronome(), Sweep((0,)), torch.arange(3), 40).score.tolist() == [5, 5, 5]
    assert len(sweeps(3)) == 3 + 3 * 7
    assert len(sweeps(27)) == 27 + 15 * 7


def test_small_bright_things_are_counted_by_size_and_found_again_or_not() -> None:
    frames = np.full((2, 3, 32, 32), 0.3)
    frames[0, 0, 4, 4] = 0.9  # one pixel, red
    frames[0, :, 10:12, 10:12] = 0.9  # four
    frames[0, :, 20, 20:24] = 0.6  # four, less bright
    frames[1, :, 8:11, 8:11] = 0.9  # nine
    frames[1, :, 20:28, 20:28] = 0.9  # too large for any
    again = np.full_like(frames, 0.3)
    again[0, :, 10:12, 10:12] = 0.62  # more than half as bright
    again[0, :, 20, 20:24] = 0.42  # less
    again[1, :, 8:11, 8:11] = 0.9
    assert small_bright(frames, again) == {(1, 2): (1, 0), (3, 5): (2, 1), (6, 12): (1, 1)}
    assert small_bright(frames, frames) == {(1, 2): (1, 1), (3, 5): (2, 2), (6, 12): (1, 1)}


def test_balls_are_hidden_where_they_should_be_and_nowhere_else() -> None:
    seen, hidden = DodgeEnv(), DodgeEnv(hidden=6)
    state = seen.reset(3, seed=1)
    for _ in range(18):
        plain, dark = seen.render(state), hidden.render(state)
        assert torch.equal(plain[:, :, :9], dark[:, :, :9])
        assert not dark[:, :, 9:15].any()
        assert torch.equal(plain[:, :, 15], dark[:, :, 15])
        state, _, _ = seen.step(state, torch.ones(3, dtype=torch.long))
    with pytest.raises(ConfigError, match="hidden is 13"):
        DodgeEnv(hidden=13)
    one, two = (datasets.load("dodge", sizes=(3, 0, 1), limit=20, hidden=h).train.tensors for h in (0, 6))
    assert torch.equal(one["action"], two["action"])
    assert not torch.equal(one["frames"], two["frames"])


@pytest.fixture(scope="module")
def system() -> WorldModel:
    data = datasets.load("dodge", sizes=(12, 2, 4), limit=20, hidden=6)
    small = {"widths": (8, 8), "features": 16, "code": 4, "hidden": 12, "frame_steps": 3, "steps": 2}
    return WorldModel({**small, "generations": 1, "population": 4, "rollouts": 1}).fit(data, progress="off")


def test_metrics_of_sight_stand_beside_each_other(system: WorldModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "PLAYED", 12)
    data = datasets.load("dodge", sizes=(1, 0, 4), limit=20, hidden=6)
    assert system.schema["game"]["hidden"] == 6
    found = system.evaluate(data, ["sight", "temperatures", "bright"])
    names = {"survival", "survival_blindfold", "survival_random", "survival_blind"}
    assert names <= set(found)
    assert {f"survival_dreamt_{tau:g}" for tau in report.TAUS} <= set(found)
    assert found["survival"].value == pytest.approx(float(system.play(None, 12).score.mean()))
    sweep, score = system.play_blind(8, 12)
    assert found["survival_blind"].value == pytest.approx(float(score.score.mean()))
    assert found["survival_blind"].detail["hold"] == sweep.hold
    assert all(math.isfinite(metric.value) for metric in found.values())


def test_games_and_dreams_are_shown_side_by_side(system: WorldModel) -> None:
    data = datasets.load("dodge", sizes=(1, 0, 4), limit=20, hidden=6)
    shown = system.views()["beside"](system, data.test, 2, 0)["frames"]
    assert shown.dtype == torch.uint8
    assert shown.shape[0] == 4
    assert shown.shape[2:] == (3, 96 + 15, 96)
    games = system.play(None, 2, seed=0, keep=True)
    assert games.frames is not None
    first = (255 * games.frames[0, 0, 0]).round().to(torch.uint8)
    assert torch.equal(shown[0, 0, 0, 15::6, ::6], first)
    figures = system.figures(data, names=["the agent in the game and in a dream"])
    assert len(figures) == 1


@pytest.mark.parametrize(("game", "told"), [(170.0, True), (340.0, True), (900.0, False)])
def test_an_agent_that_is_good_in_its_dream_alone_is_told_of(game: float, told: bool) -> None:
    def metric(value: float) -> Metric:
        return Metric(value, 10.0, 100, "estimate", None)

    found = {"survival": metric(game), "survival_random": metric(360.0), "survival_dreamt": metric(840.0)}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        report._compare(found, metric(350.0))
    assert [w.category for w in said] == [DataWarning] * told
    assert all("+490 relative to the recording's policy" in str(w.message) for w in said)
