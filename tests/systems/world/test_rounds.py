"""Further rounds: the agent's own games join those that are trained on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from phlogiston import datasets, systems
from phlogiston.datasets.recording.store import RecordedGames
from phlogiston.errors import ConfigError
from phlogiston.systems.world.games import describe_recording
from phlogiston.systems.world.rounds import together
from phlogiston.systems.world.system import WorldModel

from .recorded import SMALL, Catch

pytest.importorskip("gymnasium", reason="games need phlogiston[games]")


def test_games_longer_than_all_before_join_the_training_games(tmp_path: Path) -> None:
    data = datasets.record(Catch(6), tmp_path / "short", episodes=10, size=0)
    datasets.record(Catch(15), tmp_path / "long", episodes=3, size=0)
    both = together(data, tmp_path / "long")
    assert len(both.train) == len(data.train) + 3
    assert isinstance(both.train, RecordedGames)
    assert isinstance(data.train, RecordedGames)
    first, second = describe_recording(data.train), describe_recording(both.train)
    assert second["recorded_score"] == first["recorded_score"]  # of the recording's policy, not of the agent
    assert (first["longest"], second["longest"]) == (6, 15)
    for name, value in data.test.tensors.items():  # the test games are the same, with zeros behind
        now, before = torch.as_tensor(both.test.tensors[name]), torch.as_tensor(value)
        if name == "length":
            assert torch.equal(now, before)
            continue
        assert now.shape[1] == 16
        assert torch.equal(now[:, :7], before)
        assert not bool(now[:, 7:].any())


def test_further_rounds_are_trained_on_what_the_agent_plays(tmp_path: Path) -> None:
    data = datasets.record("CartPole-v1", tmp_path / "games", episodes=8)
    options = {**SMALL, "frame_steps": 4, "steps": 3, "rounds": 2, "round_games": 3, "generations": 1}
    system = WorldModel(options).fit(data, out=tmp_path / "run", progress="off")
    again = datasets.load(tmp_path / "run-round-1" / "games", test=0.0).train
    assert isinstance(again, RecordedGames)
    assert len(again) == 3
    first = systems.load(tmp_path / "run-round-1")
    assert isinstance(first, WorldModel)
    code = first.play(first.agent, 3, game="CartPole-v1")  # the same agent, in other games
    assert code.score.shape == (3,)
    loaded = systems.load(tmp_path / "run")
    assert torch.equal(loaded.sample(1, seed=0)["frames"], system.sample(1, seed=0)["frames"])
    from phlogiston.systems.run_data import data_of

    rows = data_of(tmp_path / "run", None, {}, loaded.schema)
    assert len(rows.train) == 7 + 3
    with pytest.raises(ConfigError, match="rounds need a recording"):
        WorldModel(options).fit(datasets.load("dodge", sizes=(4, 0, 1), limit=20))
    with pytest.raises(ConfigError, match="generations"):
        WorldModel(rounds=2, generations=0)
