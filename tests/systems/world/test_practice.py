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
from phlogiston.systems.world.practice import Exploring
from phlogiston.systems.world.system import WorldModel

from .recorded import SMALL, Catch


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


def test_an_agent_gets_better_by_playing(tmp_path: Path) -> None:
    data = datasets.record(lambda: Catch(lasts=16), tmp_path / "games", episodes=60, size=8)
    options = {**SMALL, "frame_steps": 150, "steps": 100, "frame_batch": 16, "generations": 0, "max_steps": 16}
    system, lasting = WorldModel(options).fit(data, progress="off"), lambda: Catch(lasts=16)
    agent = system.train_agent(inside=lasting, method="improve", generations=3, population=16, discount=0.8)
    assert len(agent.curve) == 3
    assert agent.inside == "game"
    # who always steps to the right has at most four steps to go
    assert float(system.play(agent, 32, game=lasting).score.mean()) > 13.0
    assert float(system.play("random", 32, game=lasting).score.mean()) < 11.0


def test_it_gets_better_by_dreaming(system: WorldModel) -> None:
    agent = system.train_agent(method="improve", generations=4, population=64, discount=0.8, tau=1.0)
    assert agent.inside == "dream"
    dreams = [system.dream(policy, 256, tau=1.0).score for policy in (agent, "random")]
    error = float((dreams[0].var() + dreams[1].var()).sqrt()) / 16
    assert float(dreams[0].mean() - dreams[1].mean()) > 3 * error


def test_what_practice_cannot_take_is_refused(system: WorldModel) -> None:
    for options in ({"explore": 0.6}, {"discount": 1.0}, {"bounds": 1.0, "directions": 0}):
        with pytest.raises(ConfigError):
            system.train_agent(method="improve", generations=1, **options)
