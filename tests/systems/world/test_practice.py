"""An agent that gets better by playing: what it learns from, and that it does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from phlogiston import datasets
from phlogiston.errors import ConfigError
from phlogiston.models.dreaming import Linear, Random
from phlogiston.models.world import World
from phlogiston.systems.world.practice import Exploring, practise, rolls
from phlogiston.systems.world.system import WorldModel

from .recorded import SMALL, Catch
from .test_improvement import Match


class Always:
    """Does one thing."""

    def __init__(self, action: int) -> None:
        self.action = action

    def act(self, code: Tensor, out: Tensor, generator: torch.Generator) -> Tensor:
        return torch.full((len(code),), self.action)

    def select(self, index: Tensor) -> Always:
        return self


def test_another_agent_acts_as_often_as_told_in_every_game() -> None:
    share = torch.tensor([0.0, 0.2, 1.0]).repeat_interleave(5_000)
    both, none = Exploring(Always(0), Always(1), share), torch.zeros(15_000, 1)
    found = both.act(none, none, torch.Generator().manual_seed(0)).float().unflatten(0, (3, -1)).mean(1)
    torch.testing.assert_close(found, torch.tensor([0.0, 0.2, 1.0]), atol=0.02, rtol=0)
    some = both.select(torch.tensor([0, 14_999]))
    assert some.act(none[:2], none[:2], torch.Generator()).tolist() == [0, 1]


def test_in_games_that_are_left_early_the_same_is_explored() -> None:
    world = World(1, 8, 2, 4, (8,), 16, 12)
    agent = Exploring(Linear(torch.zeros(1, 34), world).spread(6), Random(2), torch.full((6,), 0.5))
    some = agent.select(torch.tensor([1, 4]))
    assert some.act(torch.zeros(2, 4), torch.zeros(2, 12), torch.Generator()).shape == (2,)


@pytest.fixture(scope="module")
def catch(tmp_path_factory: pytest.TempPathFactory) -> WorldModel:
    """Knows the game a little."""
    games = tmp_path_factory.mktemp("catch") / "games"
    data = datasets.record(lambda: Catch(lasts=16), games, episodes=60, size=8)
    options = {**SMALL, "frame_steps": 150, "steps": 100, "frame_batch": 16, "generations": 0, "max_steps": 16}
    return WorldModel(options).fit(data, progress="off")


def test_an_agent_gets_better_by_playing(catch: WorldModel) -> None:
    game: Any = lambda: Catch(lasts=16)  # noqa: E731
    agent = catch.train_agent(inside=game, method="improve", generations=3, population=16, discount=0.8)
    assert len(agent.curve) == 3
    assert agent.inside == "game"
    # who always steps to the right has at most four steps to go
    assert float(catch.play(agent, 32, game=game).score.mean()) > 13.0
    assert float(catch.play("random", 32, game=game).score.mean()) < 11.0


def test_what_is_right_in_a_dream_is_found() -> None:
    class Whole(Match):
        def predict_all(self, code: Tensor, action: Tensor) -> tuple[None, Tensor]:
            return None, torch.zeros(*action.shape, 1)

    world: Any = Whole()
    roll = rolls(world, None, None, 0, 40, 1, 1.0, "sampled", 0)
    found = practise(world, roll, lambda: Random(2), "z", 3, 64, explore=0.3, discount=0.9)
    codes = torch.tensor([[-2.0], [-0.5], [0.5], [2.0]])
    acts = Linear(found.weights.unsqueeze(0), world, "z").act(codes, codes, torch.Generator())
    assert acts.tolist() == [0, 0, 1, 1]
    # the agent that is disturbed now and then lasts longer than chance, which played first
    assert min(mean for mean, _ in found.curve[1:]) > 1.5 * found.curve[0][0]


def test_what_practice_cannot_take_is_refused(system: WorldModel) -> None:
    for options in ({"explore": 0.6}, {"discount": 1.0}, {"bounds": 1.0, "directions": 0}):
        with pytest.raises(ConfigError):
            system.train_agent(method="improve", generations=1, **options)


def test_the_agent_of_a_run_may_be_trained_in_the_game(tmp_path: Path) -> None:
    data = datasets.record("CartPole-v1", tmp_path / "pole", episodes=10)
    options = {**SMALL, "inside": "game", "method": "improve", "max_steps": 20}
    agent = WorldModel(options).fit(data, progress="off", out=tmp_path / "run").agent
    assert agent is not None
    assert agent.inside == "game"
    assert len(agent.curve) == options["generations"]
    assert agent.curve[-1][1] <= 20
    again = WorldModel.load(tmp_path / "run").agent
    assert again is not None
    assert torch.equal(again.weights, agent.weights)


def test_a_game_that_cannot_be_played_is_refused_before_anything_is_trained(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not name its environment"):
        WorldModel({**SMALL, "inside": "game"}).fit(datasets.load(folder), progress="off", out=tmp_path / "run")
    assert not list((tmp_path / "run").glob("checkpoints/*"))
