"""World models of recorded games: trained from disk, played outside, dreamt as environments for agents of others."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from phlogiston import datasets, systems
from phlogiston.datasets.base import Split
from phlogiston.datasets.recording.store import RecordedGames, SampledGames
from phlogiston.errors import ConfigError, DataWarning, RunError, ShapeError, UnknownNameError
from phlogiston.evaluate.held_out import scored_on
from phlogiston.models.world import Before, World
from phlogiston.systems.world.agent import TrainedAgent
from phlogiston.systems.world.dream_pictures import as_picture
from phlogiston.systems.world.games import describe_rewards, first_moves
from phlogiston.systems.world.rows import GameRows, RecordedRows
from phlogiston.systems.world.system import WorldModel
from phlogiston.systems.world.training import DrawCodes, DrawFrames, search
from phlogiston.systems.world.videos import clips_of

gymnasium = pytest.importorskip("gymnasium", reason="games need phlogiston[games]")
from gymnasium import spaces  # noqa: E402

SMALL: dict[str, Any] = {
    "features": 16, "code": 4, "hidden": 12, "frame_steps": 20, "steps": 10, "frame_batch": 4, "batch_size": 8,
    "generations": 2, "population": 4, "rollouts": 2, "noise": 0.1,
}  # fmt: skip


class Catch(gymnasium.Env):  # type: ignore[misc,name-defined]
    """A bright column moves as told; being on the right is worth a point, and the game is over after some steps."""

    def __init__(self, lasts: int = 12) -> None:
        self.observation_space = spaces.Box(0, 255, (8, 8, 3), np.uint8)
        self.action_space = spaces.Discrete(2)
        self.lasts = lasts

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time, self.at = 0, int(self.np_random.integers(8))
        return self._frame(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.time += 1
        self.at = min(7, max(0, self.at + 2 * int(action) - 1))
        return self._frame(), float(self.at >= 4), self.time >= self.lasts, False, {}

    def _frame(self) -> Any:
        frame = np.zeros((8, 8, 3), np.uint8)
        frame[:, self.at] = 255
        return frame


class Endless(gymnasium.Env):  # type: ignore[misc,name-defined]
    """Looks like CartPole and never ends."""

    observation_space = spaces.Box(-4.0, 4.0, (4,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        return np.zeros(4, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return np.zeros(4, np.float32), 1.0, False, False, {}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("games") / "catch"
    datasets.record(Catch(), path, episodes=24, size=0, policy="sticky:0.5")
    return path


@pytest.fixture(scope="module")
def system(folder: Path) -> WorldModel:
    return WorldModel(SMALL).fit(datasets.load(folder), progress="off")


@pytest.fixture(scope="module")
def pole(tmp_path_factory: pytest.TempPathFactory) -> WorldModel:
    path = tmp_path_factory.mktemp("games") / "pole"
    return WorldModel(SMALL).fit(datasets.record("CartPole-v1", path, episodes=20), progress="off")


# ---- training


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


# ---- acting


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


# ---- the dream as an environment


@pytest.mark.parametrize("observe", ["state", "frames"])
def test_the_dream_is_an_environment_as_gymnasium_wants_it(observe: str, system: WorldModel, pole: WorldModel) -> None:
    from gymnasium.utils.env_checker import check_env

    for model in (system, pole):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", message=".*(infinity|unwrapped|spec).*")
            env = model.as_env(observe=observe, render_mode="rgb_array")  # type: ignore[arg-type]
            check_env(env, skip_render_check=False)
    with pytest.raises(UnknownNameError, match="observation of dreams"):
        system.as_env(observe="smell")  # type: ignore[arg-type]


def test_a_dream_goes_on_alike_from_the_same_state(system: WorldModel) -> None:
    env = system.as_env(max_steps=9)
    first, _ = env.reset(seed=4)
    env.step(1)
    kept = env.state
    one = [env.step(a) for a in (0, 1, 1)]
    torch.rand(5)  # chance elsewhere is no chance here
    env.state = kept
    two = [env.step(a) for a in (0, 1, 1)]
    for a, b in zip(one, two, strict=True):
        assert np.array_equal(a[0], b[0])
        assert a[1:4] == b[1:4]
    assert np.array_equal(env.reset(seed=4)[0], first)
    assert not np.array_equal(env.reset()[0], first)


def test_dreams_side_by_side_are_those_dreamt_alone(system: WorldModel) -> None:
    from gymnasium.vector import SyncVectorEnv

    alone = SyncVectorEnv([lambda: system.as_env(max_steps=6)] * 3)
    beside = system.as_env(num_envs=3, max_steps=6)
    a, _ = alone.reset(seed=7)
    b, _ = beside.reset(seed=7)
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    rng = np.random.default_rng(0)
    for _ in range(20):
        action = rng.integers(0, 2, 3)
        for x, y in zip(alone.step(action)[:4], beside.step(action)[:4], strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-3)
    before = beside.state
    some, _ = beside.reset(options={"reset_mask": np.array([True, False, False])})
    assert torch.equal(beside.state.code[1:], before.code[1:])
    assert int(beside.state.time[0]) == 0
    assert some.shape == (3, 16)
    with pytest.raises(ConfigError, match="reset_mask"):
        beside.reset(options={"reset_mask": np.array([True])})


def test_dreams_as_a_game_follow_the_same_distribution_as_rollouts(system: WorldModel) -> None:
    rows, steps = 3000, 3
    game = system.dream_game(tau=1.3)
    state = game.reset(rows, seed=1)
    total = torch.zeros(rows)
    for _ in range(steps):
        state, reward, over = game.step(state, torch.ones(rows, dtype=torch.long))
        total += reward

    class Always:
        def act(self, code: Any, out: Any, generator: Any) -> Any:
            return torch.ones(len(code), dtype=torch.long)

        def select(self, index: Any) -> Any:
            return self

    from phlogiston.models.dreaming import dream

    other = dream(system.model, Always(), rows, steps, tau=1.3, seed=2)
    for a, b in ((over.double(), other.ended.double()), (total.double(), other.score.double())):
        error = math.hypot(float(a.std()), float(b.std())) / rows**0.5
        assert float(a.mean()) == pytest.approx(float(b.mean()), abs=4.5 * error + 1e-6)
    spread = state.code.std(0)
    assert bool((spread > 0).all())


def test_games_of_an_environment_are_played_action_by_action(pole: WorldModel) -> None:
    played = pole.play("random", 1, seed=3, keep=True)
    actions = played.action[0, : int(played.length[0]) - 1].tolist()
    with pytest.raises(ConfigError, match="first 3 actions"):
        pole.replay([0, 0, 0], [1, 1, 1], shown=4, seed=3)
    found = pole.replay(actions, actions, shown=4, seed=3)
    assert found.game is not None
    assert torch.equal(found.game.frames, played.frames[0, : len(actions) + 1])
    assert torch.equal(found.game.reward, played.reward[0, : len(actions)])
    assert found.game.over
    assert torch.equal(found.dream.code[:4], found.game.code[:4])
    assert as_picture(found.dream.frames[-1]).ndim == 3  # what the page shows of a vector


def test_an_agent_of_another_library_learns_inside_a_dream(system: WorldModel) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sb3 = pytest.importorskip("stable_baselines3", reason="an agent of others: pip install stable-baselines3")
        model = sb3.PPO("MlpPolicy", system.as_env(max_steps=8), n_steps=128, batch_size=64, n_epochs=2, seed=0)
        before = {name: value.clone() for name, value in model.policy.state_dict().items()}
        model.learn(256)
    assert any(not torch.equal(before[name], value) for name, value in model.policy.state_dict().items())


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
