"""World models of recorded games play outside: in environments, blindfolded, trained there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from phlogiston.errors import ConfigError, RunError, ShapeError, UnknownNameError
from phlogiston.models.world import World
from phlogiston.systems.world.system import WorldModel
from phlogiston.systems.world.training import search
from phlogiston.systems.world.videos import clips_of

from .recorded import SMALL, Catch


def test_games_are_played_alike_however_many_are_open_at_a_time(
    system: WorldModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = system.agent
    assert agent is not None
    weights = torch.stack([agent.weights, torch.randn_like(agent.weights)])
    whole = system.play(weights, 5, game=Catch, keep=True)
    alone = system.play(weights, 5, game=Catch())
    monkeypatch.setattr("phlogiston.systems.world.outside.AT_ONCE", 3)
    parts = system.play(weights, 5, game=Catch, keep=True)
    for name in ("score", "ended", "length"):
        assert torch.equal(getattr(whole, name), getattr(parts, name)), name
        assert torch.equal(getattr(whole, name), getattr(alone, name)), name
    assert whole.frames is not None
    assert whole.frames.shape == (10, 13, 3, 8, 8)
    assert whole.reward is not None
    assert parts.reward is not None
    assert torch.equal(whole.reward, parts.reward)
    torch.testing.assert_close(whole.reward.sum(1), whole.score)
    told = [score[-1] for _, _, _, score in clips_of(system, "game", system.play(None, 5, game=Catch, keep=True))]
    assert told == whole.score[:5].tolist()  # what a video says is what the game gave
    assert torch.equal(whole.length, torch.full((10,), 13))


def test_a_blindfold_shows_another_game(system: WorldModel) -> None:
    code, out = system.model.code, system.model.hidden
    weights = torch.zeros(2, code + out + 1)
    seen = system.encode(torch.eye(8)[:, None, None, :].expand(8, 3, 8, 8))["code_loc"]  # the column at 0, 1, ...
    line = torch.linalg.lstsq(seen, torch.linspace(1, -1, 8)[:, None]).solution[:, 0]
    weights[1, :code] = line  # goes right where the column seems to be left
    sees, blind = (system.play(weights.flatten(), 40, game=Catch, blindfold=b) for b in (False, True))
    assert not torch.equal(sees.score, blind.score)
    assert torch.equal(blind.score, system.play(weights.flatten(), 40, game=Catch, blindfold=True).score)
    with pytest.raises(ConfigError, match="two games"):
        system.play(weights.flatten(), 1, game=Catch, blindfold=True)


def test_agents_are_trained_in_environments_and_by_the_library(system: WorldModel, tmp_path: Path) -> None:
    pytest.importorskip("cmaes", reason="the library's search needs phlogiston[games]")
    agent = system.agent
    assert agent is not None
    options: dict[str, Any] = {"generations": 6, "population": 8, "rollouts": 2, "spread": 1.0, "start": agent}
    options["bounds"] = 1.1 * float(agent.weights.abs().max())
    found = system.train_agent(inside=Catch, **options)
    assert found.inside == "game"
    assert float(found.weights.abs().max()) <= options["bounds"]
    assert torch.equal(found.weights, system.train_agent(inside=Catch, **options).weights)
    assert max(mean for mean, _ in found.curve) > found.curve[0][0] or found.curve[0][0] > 6
    path = found.export(tmp_path / "agent.npz", 2)
    with np.load(path) as arrays:
        assert arrays["weight"].shape == (2, 16)
        assert np.array_equal(np.column_stack([arrays["weight"], arrays["bias"]]).ravel(), found.weights.numpy())
    with pytest.raises(RunError, match="exists"):
        found.export(path, 2)
    with pytest.raises(ShapeError, match="3 actions"):
        found.export(tmp_path / "b.npz", 3)
    for options, words in (
        ({"bounds": 1.0, "method": "own"}, "cmaes"),
        ({"bounds": -1.0}, "bounds"),
        ({"start": torch.zeros(3)}, "start has shape"),
        ({"method": "luck"}, "method of search"),
    ):
        with pytest.raises((ConfigError, ShapeError), match=words):
            system.train_agent(generations=1, **options)  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="nor environment"):
        system.train_agent(inside="school")


def test_environments_that_were_opened_are_closed_and_others_left_open(system: WorldModel) -> None:
    closed: list[int] = []

    class Closes(Catch):
        def close(self) -> None:
            closed.append(1)

    system.train_agent(inside=Closes, generations=1, population=4, rollouts=2)
    assert len(closed) == 8
    system.play("random", 3, game=Closes)
    assert len(closed) == 11
    mine = Closes()
    system.play("random", 3, game=mine)
    system.train_agent(inside=mine, generations=1, population=4, rollouts=1)
    assert len(closed) == 11


def test_the_librarys_search_finds_what_ours_finds() -> None:
    pytest.importorskip("cmaes", reason="the library's search needs phlogiston[games]")
    world = World(1, 8, 2, 1, (8,), 16, 1)
    target = torch.tensor([0.5, -0.3, 0.1, 0.2])

    def score(points: torch.Tensor, number: int) -> torch.Tensor:
        return -(points - target).square().sum(1)

    for method in ("own", "cmaes"):
        found = search(score, world, "z", 60, 8, 0.3, 0, method=method)  # type: ignore[arg-type]
        torch.testing.assert_close(found.weights, target, atol=0.02, rtol=0)
    held = search(score, world, "z", 60, 8, 0.1, 0, bounds=0.25, method="cmaes")
    torch.testing.assert_close(held.weights, target.clamp(-0.25, 0.25), atol=0.05, rtol=0)


def test_an_environment_of_another_kind_is_refused(system: WorldModel, pole: WorldModel) -> None:
    with pytest.raises(ConfigError, match="of an object"):
        system.play()
    assert not system.playable
    assert pole.playable
    with pytest.raises((ShapeError, ConfigError)):
        system.play(game="CartPole-v1")
    own = {"frames": torch.rand(4, 6, 1, 8, 8), "action": torch.zeros(4, 6, dtype=torch.long)}
    own["done"] = torch.zeros(4, 6).bool()
    own["done"][:, -1] = True
    other = WorldModel({**SMALL, "frame_steps": 1, "steps": 1, "generations": 0}).fit(own, progress="off")
    with pytest.raises(ConfigError, match="did not come from"):
        other.play("random", game="CartPole-v1")
