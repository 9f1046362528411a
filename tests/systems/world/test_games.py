"""World models of recorded games: trained from disk, on whole games or windows, with what is known of the game."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from phlogiston import datasets, systems
from phlogiston.datasets.base import Split
from phlogiston.datasets.recording.store import RecordedGames, SampledGames
from phlogiston.errors import ConfigError, DataWarning, RunError
from phlogiston.evaluate.held_out import scored_on
from phlogiston.models.world import Before, World
from phlogiston.systems.world.agent import TrainedAgent
from phlogiston.systems.world.games import describe_rewards, first_moves
from phlogiston.systems.world.rows import GameRows, RecordedRows
from phlogiston.systems.world.system import WorldModel
from phlogiston.systems.world.training import DrawCodes, DrawFrames

from .recorded import SMALL, Catch, Endless, spaces


def test_a_recording_on_disk_and_the_same_games_in_memory_give_the_same_batches(folder: Path) -> None:
    games = datasets.load(folder).train
    assert isinstance(games, RecordedGames)
    disk, memory = RecordedRows(games), GameRows(games.split(slice(None)).tensors)
    index = torch.tensor([3, 0, 7])
    model = World(3, 8, 2, 4, (8,), 16, 12)
    from phlogiston.guides.world import WorldGuide

    guide = WorldGuide(model, (8,), 16)
    for make in (lambda: DrawFrames(2), lambda: DrawCodes(guide), lambda: DrawCodes(guide, 6)):
        found = []
        for rows in (disk, memory):
            torch.manual_seed(0)
            found.append(make()(rows[index], rows))
        for name, value in found[0].items():
            pairs = zip(value, found[1][name], strict=True) if isinstance(value, Before) else [(value, found[1][name])]
            for one, other in pairs:
                torch.testing.assert_close(one.float(), other.float(), msg=name)


def test_every_frame_is_in_a_window_as_often_as_any_other_and_only_once_counted() -> None:
    lengths = torch.tensor([2, 9, 40])
    action = torch.zeros(3, 40, dtype=torch.long)
    place = torch.arange(40).expand(3, -1) + torch.tensor([[0], [100], [200]])
    rows = GameRows({"frames": torch.zeros(3, 40, 1, 8, 8), "action": action, "done": torch.zeros(3, 40).bool(),
                     "reward": place.float(), "length": lengths})  # fmt: skip
    model = World(1, 8, 2, 4, (8,), 16, 12)
    from phlogiston.guides.world import WorldGuide

    batch = DrawCodes(WorldGuide(model, (8,), 16), 16)(
        {"row": torch.zeros(60_000, dtype=torch.long), "length": lengths[:1].expand(60_000)}, rows
    )
    steps = torch.arange(16)
    counted = batch["counts"] & (steps < batch["length"].unsqueeze(1))
    number = batch["reward"].long()[counted]
    seen = torch.bincount(number, minlength=240)
    inside = torch.cat([torch.arange(2), 100 + torch.arange(9), 200 + torch.arange(40)])
    assert int(seen.sum()) == int(seen[inside].sum())
    shares = seen[inside].double() / seen.sum()
    assert float((shares - 1 / 51).abs().max()) < 6 * (1 / 51 / float(seen.sum())) ** 0.5
    first = batch["reward"][:, 0] % 100
    assert torch.equal(batch["before"].begun, first > 0)


def test_parts_of_games_are_predicted_as_wholes_are_once_the_memory_has_begun() -> None:
    torch.manual_seed(0)
    world = World(1, 8, 3, 4, (8,), 16, 12)
    code, action = torch.randn(2, 9, 4), torch.randint(3, (2, 9))
    state = world.start(2)
    with torch.no_grad():
        fresh = world.rnn.start(2)
        inputs = world.enter(world._input(code[:, 3], action[:, 3]).unsqueeze(1))
        out, hidden = world.rnn(inputs, fresh)
        state = type(state)(hidden, out[:, 0], code[:, 3], torch.ones(2))
        expected = []
        for t in range(4, 9):
            expected.append(world.predict(state).code.log_prob(code[:, t]))
            state = world.observe(state, code[:, t], action[:, t])
        before = Before(code[:, 3], action[:, 3], torch.ones(2, dtype=torch.bool))
        found, _ = world.predict_all(code[:, 4:], action[:, 4:], before)
        torch.testing.assert_close(found.code.log_prob(code[:, 4:]), torch.stack(expected, 1), rtol=1e-4, atol=1e-4)
        none = Before(code[:, 3], action[:, 3], torch.zeros(2, dtype=torch.bool))
        whole, other = (world.predict_all(code, action, b)[0].code.log_prob(code) for b in (None, none))
        torch.testing.assert_close(whole, other)


def test_training_on_a_recording_learns_of_rewards_and_knows_the_game(system: WorldModel) -> None:
    schema = system.schema
    assert schema["actions"] == 2
    assert schema["keep"] == 0.5
    mean, spread = schema["rewards"]
    assert 0.2 < mean < 0.8
    assert spread == pytest.approx((mean * (1 - mean)) ** 0.5, rel=1e-3)
    assert system.model.rewards == (mean, spread)
    dreams = system.dream("random", 8, max_steps=5)
    assert bool((dreams.length >= 2).all() & (dreams.length <= 6).all())
    assert not torch.equal(dreams.score, dreams.length.float() - 1)


def test_the_reward_is_learned(folder: Path) -> None:
    options = {**SMALL, "frame_steps": 100, "steps": 100, "generations": 0, "noise": 0.2, "learning_rate": 0.01}
    system = WorldModel(options).fit(datasets.load(folder), progress="off")
    games = datasets.load(folder).test.tensors
    code = system.encode(games["frames"])["code_loc"]
    with torch.no_grad():
        _, out = system.model.predict_all(code, games["action"])
        found = system.model.reward(out[:, 1:], code[:, :-1], code[:, 1:]).mean
    error = (found - games["reward"][:, 1:]).square().mean()
    assert float(error) < 0.5 * float(games["reward"][:, 1:].var())


def test_what_rewards_mean_is_read_off_them() -> None:
    length = torch.tensor([4, 3])
    steps = torch.tensor([[0.0, 4, 4, 2, 0], [0, 4, 1, 0, 0]])
    assert describe_rewards(steps, length) == {"each": 4.0}
    assert describe_rewards(-steps, length) == {"each": -4.0}
    assert describe_rewards(0 * steps, length) == {}
    goal = torch.tensor([[0.0, -1, -1, 9, 0], [0, -1, 9, 0, 0]])
    told = describe_rewards(goal, length)["rewards"]
    values = torch.tensor([-1.0, -1, 9, -1, 9]).double()
    assert told == pytest.approx([float(values.mean()), float(values.std(unbiased=False))])


def test_random_moves_follow_those_of_the_recording() -> None:
    action = torch.tensor([[0, 1, 1, 1, 0, 0]])
    table = torch.tensor(first_moves(action, torch.tensor([6]), 2))  # of five moves, the last frame's is none
    torch.testing.assert_close(table, torch.tensor([[0.5 / 2, 1.5 / 2], [1.5 / 4, 2.5 / 4]]))


def test_games_without_end_or_reward_say_so(tmp_path: Path) -> None:
    data = datasets.record(Catch(lasts=10**6), tmp_path / "g", episodes=4, size=0, cap=8)
    rows = data.train.split(slice(None)).tensors  # type: ignore[union-attr]
    rows = {name: value for name, value in rows.items() if name != "reward"}
    with pytest.warns(DataWarning, match="no game ends"):
        WorldModel({**SMALL, "frame_steps": 1, "steps": 1, "generations": 1}).fit(rows, progress="off")


def test_vectors_are_trained_on_and_played(pole: WorldModel) -> None:
    assert pole.schema["vector"] == 4
    assert pole.schema["each"] == 1.0
    assert pole.longest < 500 == pole.limit  # games at random are short; an agent may play on
    balanced = torch.zeros(2, 2 * (4 + 12 + 1))
    assert int(pole.play(balanced, 2, game=Endless).length[0]) == 501
    assert pole.sample(2, seed=0, steps=3)["frames"].shape[2:] == (1, 1, 4)
    found = pole.play("random", 5)
    assert found.frames is None
    assert torch.equal(found.score, found.length.float() - 1)
    assert 8 < float(found.score.mean()) < 60


def test_it_is_loaded_with_all_it_knows_of_the_game(pole: WorldModel, tmp_path: Path) -> None:
    again = systems.load(pole.save(tmp_path / "copy"))
    assert isinstance(again, WorldModel)
    assert torch.equal(again.play(None, 3).score, pole.play(None, 3).score)
    assert torch.equal(again.dream(None, 3).score, pole.dream(None, 3).score)


def test_a_run_on_a_recording_is_resumed(folder: Path, tmp_path: Path) -> None:
    options = {**SMALL, "generations": 0, "window": 6}

    class Stop:
        def on_step(self, state: Any) -> None:
            if state.step == 25:
                raise KeyboardInterrupt

    whole = WorldModel(options).fit(datasets.load(folder), progress="off")
    with pytest.raises(KeyboardInterrupt):
        WorldModel(options).fit(datasets.load(folder), out=tmp_path / "r", callbacks=[Stop()], progress="off")
    resumed = WorldModel(options).fit(datasets.load(folder), out=tmp_path / "r", progress="off")
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_memory_and_agent_are_trained_anew_on_the_codes_of_another_run(
    folder: Path, system: WorldModel, tmp_path: Path
) -> None:
    run = system.save(tmp_path / "run")
    options = {**SMALL, "hidden": 20, "generations": 0, "start": str(run), "parts": "mc"}
    other = WorldModel(options).fit(datasets.load(folder), progress="off")
    for name, value in system.model.decoder.state_dict().items():
        assert torch.equal(value, other.model.decoder.state_dict()[name]), name
    for name, value in system.guide.state_dict().items():
        assert torch.equal(value, other.guide.state_dict()[name]), name
    assert other.model.hidden == 20
    assert next(r["stage"] for r in other.history.records) == "memory"  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match="another size"):
        WorldModel({**options, "code": 6}).fit(datasets.load(folder), progress="off")
    with pytest.raises(ConfigError, match="say which"):
        WorldModel(parts="mc")


def test_the_papers_preset_for_carracing_runs_on_frames_of_its_kind(tmp_path: Path) -> None:
    class Racing(Catch):
        def _frame(self) -> Any:
            return np.kron(super()._frame(), np.ones((12, 12, 1), np.uint8))

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            self.observation_space = spaces.Box(0, 255, (96, 96, 3), np.uint8)
            return super().reset(seed=seed)

    env = Racing()
    env.observation_space = spaces.Box(0, 255, (96, 96, 3), np.uint8)
    data = datasets.record(env, tmp_path / "g", episodes=3)
    short = {"frame_steps": 1, "steps": 1, "frame_batch": 2, "generations": 1, "population": 4, "rollouts": 1}
    system = WorldModel(preset="paper-carracing", **short).fit(data, progress="off")
    assert system.schema["size"] == 64
    assert system.model.rewards is not None
    assert system.agent is not None


def test_rare_colours_are_weighed_from_the_frames_and_kept(folder: Path, tmp_path: Path) -> None:
    found = WorldModel({**SMALL, "generations": 0, "rare": 0.5}).fit(datasets.load(folder), progress="off")
    assert found.model.weights is not None
    # a column of eight is white in each frame
    assert float(found.model.weights[-1] / found.model.weights[0]) == pytest.approx(7**0.5, rel=1e-3)
    found.save(tmp_path / "kept")
    assert torch.equal(systems.load(tmp_path / "kept").model.weights, found.model.weights)  # type: ignore[arg-type]
    vectors = {"frames": torch.rand(4, 6, 1, 1, 4), "action": torch.randint(2, (4, 6))}
    with pytest.raises(ConfigError, match="it weighs colours of pictures"):
        WorldModel({**SMALL, "rare": 0.5}).fit(vectors, progress="off")


def test_a_sample_of_a_recording_is_no_split_to_score(folder: Path, system: WorldModel) -> None:
    data = datasets.load(folder)
    known = data.train.sample()  # type: ignore[union-attr]
    assert isinstance(known, SampledGames)
    assert isinstance(system.prepare(known, "train"), RecordedRows)
    assert isinstance(system.prepare(known, "valid"), GameRows)
    assert isinstance(data.test, Split)
    assert math.isfinite(system.evaluate(data, ["memory"])["code_nats_per_step"].value)
    assert len(scored_on(data, "train").test) == len(known)
    assert len(scored_on(data, "all").test) == len(known) + len(data.test)
    with pytest.raises(RunError, match="no agent"):
        TrainedAgent.load("nowhere.json")
