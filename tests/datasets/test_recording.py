"""Recorded games: what is on disk is what was played, whatever the environment's habits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from phlogiston import datasets
from phlogiston.cli.main import app
from phlogiston.datasets.recording.actions import list_actions
from phlogiston.datasets.recording.environment import Environment, GameSpec, again, game_spec
from phlogiston.datasets.recording.policies import keeps
from phlogiston.datasets.recording.store import RecordedGames
from phlogiston.datasets.recording.undrawn import Hastened
from phlogiston.datasets.recording.views import View, view_of
from phlogiston.errors import ConfigError, DataError, RunError, ShapeError

gymnasium = pytest.importorskip("gymnasium", reason="games need phlogiston[games]")
from gymnasium import spaces  # noqa: E402


class Steps(gymnasium.Env):  # type: ignore[misc,name-defined]
    """A picture that shows the time; it ends after `lasts` steps, with a screen that goes black."""

    def __init__(self, lasts: int = 5, limit: int = 0, black: bool = True, space: Any = None) -> None:
        self.observation_space = spaces.Box(0, 255, (20, 16, 3), np.uint8)
        self.action_space = spaces.Discrete(3) if space is None else space
        self.lasts, self.limit, self.black = lasts, limit, black
        self.done: list[Any] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        return self._frame(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.done.append(action)
        self.time += 1
        cut = self.time == self.limit
        over = self.time == self.lasts
        frame = self._frame()
        return (frame * 0 if (over or cut) and self.black else frame), float(self.time), over or cut, cut, {}

    def _frame(self) -> Any:
        return np.full((20, 16, 3), (10 * self.time + 1) % 256, np.uint8)


def test_steps_of_carracing_that_nobody_sees_are_not_drawn_and_nothing_else_changes() -> None:
    pytest.importorskip("Box2D", reason="CarRacing needs phlogiston[games]")
    env = gymnasium.make("CarRacing-v3", continuous=False)
    spec = game_spec("CarRacing-v3", env, {"continuous": False}, size=16, skip=4, cap=10)
    game = Environment(env, spec)
    inner, drawn = env.unwrapped, []
    draw = type(inner)._render
    counting = pytest.MonkeyPatch()
    counting.setattr(type(inner), "_render", lambda self, mode: (drawn.append(mode), draw(self, mode))[1])
    try:
        frames, rewards = [game.reset(3)], []
        drawn.clear()
        while not game.over:
            frame, reward, ended, _ = game.step(3)
            frames.append(frame)
            rewards.append(reward)
            assert not ended
        assert len(frames) == 1 + 3  # 4, 4 and 2 steps: the last is cut off
        assert drawn == ["state_pixels"] * 3
    finally:
        counting.undo()
    assert "_render" not in vars(inner)
    plain = env.reset(seed=3)[0]
    seen, gained = [plain], []
    for _ in range(10):
        plain, reward, *_ = env.step(3)
        seen.append(plain)
        gained.append(float(reward))
    for frame, number in zip(frames, (0, 4, 8, 10), strict=True):
        assert np.array_equal(frame, spec.view.frame(seen[number], env))
    assert rewards == pytest.approx([sum(gained[:4]), sum(gained[4:8]), sum(gained[8:])])
    env.close()


def games(data: datasets.Dataset) -> RecordedGames:
    """All games, those set aside for testing, too."""
    assert isinstance(data.train, RecordedGames)
    return RecordedGames(data.train.recordings)


def test_frames_actions_rewards_and_ends_are_those_of_the_game(tmp_path: Path) -> None:
    env = Steps()
    data = datasets.record(env, tmp_path / "g", episodes=2, size=8, seed=1)
    rows = games(data).split([0, 1]).tensors
    assert rows["frames"].shape == (2, 6, 3, 8, 8)
    assert rows["frames"][0, :, 0, 0, 0].tolist() == [1, 11, 21, 31, 41, 41]  # the black one is the last again
    assert rows["reward"][0].tolist() == [0, 1, 2, 3, 4, 5]  # what came with each frame
    assert rows["done"][0].tolist() == [False] * 5 + [True]
    assert rows["length"].tolist() == [6, 6]
    assert [int(a) for a in rows["action"][:, :5].flatten()] == env.done
    assert rows["action"][:, 5].tolist() == [0, 0]


def test_a_limit_is_no_end_though_the_environment_says_terminated(tmp_path: Path) -> None:
    cut = games(datasets.record(Steps(lasts=9, limit=4), tmp_path / "a", episodes=1, size=8))
    assert cut.lengths.tolist() == [5]
    assert not cut.ended.any()
    capped = games(datasets.record(Steps(lasts=9), tmp_path / "b", episodes=1, size=8, cap=6, skip=4))
    assert capped.lengths.tolist() == [3]  # four steps, then two
    assert not capped.ended.any()
    assert capped.split(0).tensors["reward"].tolist() == [[0, 10, 11]]
    just = games(datasets.record(Steps(lasts=6), tmp_path / "c", episodes=1, size=8, cap=6, skip=4))
    assert just.ended.tolist() == [True]  # an end on the last step counts


@pytest.mark.parametrize("mode", ["NEXT_STEP", "SAME_STEP", "DISABLED"])
def test_in_a_vector_no_game_begins_with_the_last_frame_of_another(mode: str, tmp_path: Path) -> None:
    from gymnasium.vector import AutoresetMode, SyncVectorEnv

    env = SyncVectorEnv([lambda n=n: Steps(n, black=False) for n in (3, 5)], autoreset_mode=AutoresetMode[mode])  # type: ignore[misc]
    found = games(datasets.record(env, tmp_path / "g", episodes=5, size=8))
    assert sorted(found.lengths.tolist()) == [4, 4, 4, 6, 6]
    for game in range(5):
        rows = found.split(game).tensors
        n = int(rows["length"])
        assert rows["frames"][0, :n, 0, 0, 0].tolist() == [10 * t + 1 for t in range(n)]
        assert rows["reward"][0, :n].tolist() == list(range(n))
        assert int(rows["done"].sum()) == 1
    with pytest.raises(ConfigError, match="single environments"):
        datasets.record(env, tmp_path / "h", skip=2)


def test_games_are_the_same_by_several_processes_and_from_the_shell(tmp_path: Path) -> None:
    one = games(datasets.record("CartPole-v1", tmp_path / "one", episodes=18, policy="sticky:0.5", seed=3, cap=30))
    arguments = ["--episodes", "18", "--policy", "sticky:0.5", "--seed", "3", "--cap", "30", "--jobs", "2", "--json"]
    result = CliRunner().invoke(app, ["data", "record", "CartPole-v1", "--out", str(tmp_path / "two"), *arguments])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["games"] == 18
    two = games(datasets.load(tmp_path / "two"))
    for name in ("action", "reward", "ended", "offsets"):
        assert np.array_equal(getattr(one.recordings[0], name), getattr(two.recordings[0], name)), name
    assert one.digest() == two.digest()
    made = again(two.spec)()
    first = two.spec.scaled(made.reset(0)[None])
    assert first.shape == (1, 1, 1, 4)
    assert 0 <= first.min() <= first.max() <= 1
    fewer = games(datasets.record("CartPole-v1", tmp_path / "few", episodes=3, policy="sticky:0.5", seed=3, cap=30))
    n = int(fewer.recordings[0].offsets[-1])
    assert np.array_equal(fewer.recordings[0].action, one.recordings[0].action[:n])


def test_a_sticky_policy_keeps_its_action_as_often_as_it_says(tmp_path: Path) -> None:
    found = games(datasets.record(Steps(lasts=2_000), tmp_path / "g", episodes=1, policy="sticky:0.7", size=8))
    action = found.recordings[0].action[:-1]
    same = float((action[1:] == action[:-1]).mean())
    assert same == pytest.approx(0.7 + 0.3 / 3, abs=5 * (0.8 * 0.2 / 2_000) ** 0.5)


def test_a_policy_may_prefer_actions(tmp_path: Path) -> None:
    policy = "sticky:0.5:1,0,3"
    found = games(datasets.record(Steps(lasts=4_000), tmp_path / "g", episodes=1, policy=policy, size=8))
    recording = found.recordings[0]
    counts = np.bincount(recording.action[:-1], minlength=3) / 4_000
    assert counts[1] == 0
    # actions that come in runs of 2 on average: three times the variance of independent ones
    assert float(counts[2]) == pytest.approx(0.75, abs=5 * (3 * 0.75 * 0.25 / 4_000) ** 0.5)
    assert keeps(policy) is None  # so that dreams move as the recording did, not all alike
    for wrong in ("sticky:0.5:1,2", "sticky:0.5:0,0,0", "sticky:0.5:1,-1,2", "sticky:0.5:a,b,c"):
        with pytest.raises(ConfigError, match="weight"):
            datasets.record(Steps(), tmp_path / "i", policy=wrong)


def test_policies_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []

    def policy(frame: Any, generator: Any) -> int:
        seen.append(frame.shape)
        return 2

    found = games(datasets.record(Steps(), tmp_path / "g", episodes=1, policy=policy, size=8, grey=True))
    assert found.recordings[0].action.tolist() == [2] * 5 + [0]
    assert set(seen) == {(1, 8, 8)}
    assert datasets.reader(tmp_path / "g") == "recorded_games"
    (tmp_path / "mine.py").write_text("def one(frame, generator):\n    return 1\n")
    monkeypatch.chdir(tmp_path)
    found = games(datasets.record(Steps(), "h", episodes=1, policy="mine:one", size=8))
    assert found.recordings[0].action.tolist() == [1] * 5 + [0]
    for wrong, words in (("mine:two", "cannot be imported"), ("mine", "module:function"), ("sticky:2", "below 1")):
        with pytest.raises(ConfigError, match=words):
            datasets.record(Steps(), "i", policy=wrong)
    with pytest.raises(ConfigError, match="chose action 7"):
        datasets.record(Steps(), "i", policy=lambda f, g: 7)
    assert not list(tmp_path.glob("*i*")) or not (tmp_path / "i").exists()


def test_actions_of_every_kind_are_listed() -> None:
    assert list_actions(spaces.Discrete(3, start=-1)) == [-1, 0, 1]
    assert list_actions(spaces.MultiBinary(2)) == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert list_actions(spaces.MultiDiscrete([2, 2])) == [[0, 0], [0, 1], [1, 0], [1, 1]]
    box = spaces.Box(np.array([-1.0, 0.0], np.float32), np.array([1.0, 1.0], np.float32), dtype=np.float32)
    assert list_actions(box, 2) == [[-1, 0], [-1, 1], [1, 0], [1, 1]]
    assert len(list_actions(box, 5)) == 25
    assert list_actions(box, chosen=[[0.5, 0.5]]) == [[0.5, 0.5]]
    wrong: list[tuple[Any, dict[str, Any], str]] = [
        (box, {"chosen": [[2.0, 0.0]]}, "not in"),
        (box, {"chosen": [[0.0]]}, "not in"),
        (box, {"bins": 1}, "bins"),
        (spaces.Box(-np.inf, np.inf, (1,)), {}, "without borders"),
        (spaces.Discrete(1000), {}, "1,000 actions"),
        (spaces.MultiDiscrete([20, 20]), {}, "400 actions"),
        (spaces.Dict({"a": spaces.Discrete(2)}), {}, "Dict space"),
    ]
    for space, options, words in wrong:
        with pytest.raises(ConfigError, match=words):
            list_actions(space, **options)


def test_continuous_actions_reach_the_environment_as_its_space_takes_them(tmp_path: Path) -> None:
    env = Steps(space=spaces.Box(-1.0, 1.0, (2,), np.float32))
    found = games(datasets.record(env, tmp_path / "g", episodes=1, size=8, bins=3))
    assert len(found.spec.actions) == 9
    taken = found.recordings[0].action[:-1]
    for action, number in zip(env.done, taken, strict=True):
        assert action.dtype == np.float32
        assert action.tolist() == found.spec.actions[number]


def test_pictures_of_any_form_become_frames() -> None:
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
    box = spaces.Box(0, 255, (40, 60, 3), np.uint8)
    frame = view_of(box, crop=(8, 24, 0, 60), size=8).frame(colours)
    means = colours[8:24].reshape(8, 2, 60, 3).mean(1)  # each row of 8 has the mean of 2; columns are 7.5 wide
    assert frame.shape == (3, 8, 8)
    assert frame.mean() == pytest.approx(means.mean(), abs=0.6)
    exact = view_of(box, crop=(0, 32, 0, 32), size=16).frame(colours)
    assert (
        np.abs(exact - colours[:32, :32].reshape(16, 2, 16, 2, 3).mean((1, 3)).transpose(2, 0, 1)).max() <= 1
    )  # rounded once per axis
    first = view_of(spaces.Box(0, 255, (3, 40, 60), np.uint8), size=8).frame(colours.transpose(2, 0, 1))
    assert np.array_equal(first, view_of(box, size=8).frame(colours))
    floats = view_of(spaces.Box(-1.0, 1.0, (8, 8), np.float32), size=0)
    assert floats.frame(np.full((8, 8), -1.0)).max() == 0
    assert floats.frame(np.full((8, 8), 1.0)).min() == 255
    grey = view_of(box, size=8, grey=True).frame(np.full((40, 60, 3), (255, 0, 0), np.uint8))
    assert np.unique(grey).tolist() == [76]
    parts = spaces.Dict({"screen": box, "health": spaces.Box(0, 1, (1,))})
    assert view_of(parts).key == "screen"
    assert view_of(parts, key="health").vector == 1
    assert View(key="s", vector=4, categories=4).frame({"s": 2}).tolist() == [0, 0, 1, 0]
    wrong: list[tuple[Any, dict[str, Any], str]] = [
        (spaces.Dict({"a": box, "b": box}), {}, "2 of them are pictures"),
        (parts, {"key": "armour"}, "armour"),
        (box, {"key": "screen"}, "no dictionary"),
        (box, {"size": 24}, "size is 24"),
        (spaces.Box(0, 255, (84, 84, 4), np.uint8), {}, "stacked frames"),
        (spaces.Box(-np.inf, np.inf, (8, 8)), {}, "without borders"),
        (spaces.Text(3), {}, "Text space"),
    ]
    for space, options, words in wrong:
        with pytest.raises(ConfigError, match=words):
            view_of(space, **options)
    with pytest.raises(ConfigError, match="40 rows"):
        view_of(box, crop=(0, 50, 0, 10), size=8).frame(colours)
    with pytest.raises(ShapeError, match="expected 2"):
        View(vector=2).frame(np.zeros(3))


def test_rows_are_read_from_disk_when_they_are_used(tmp_path: Path) -> None:
    whole = games(datasets.record(Steps(), tmp_path / "g", episodes=40, size=8, seed=0))
    data = datasets.load(tmp_path / "g")
    assert (len(data.train), len(data.test), len(whole.sample())) == (36, 4, 40)
    frames = whole.frames(np.array([3, 3, 30]), np.array([0, 4, 2]))
    assert frames[:, 0, 0, 0].tolist() == [1, 41, 21]
    both = games(datasets.load(tmp_path / "g", more=(str(tmp_path / "g"),)))
    assert len(both) == 80
    assert both.frames(np.array([75]), np.array([3]))[0, 0, 0, 0] == 31
    action, reward, done = both.labels(np.array([0, 75]), np.array([-1, 4]), 3)
    assert reward.tolist() == [[0, 0, 1], [4, 5, 0]]
    assert done.tolist() == [[False] * 3, [False, True, False]]
    assert action[0, 0] == action[1, 2] == 0
    assert both.select([1, 75]).split(slice(None)).tensors["length"].tolist() == [6, 6]
    assert torch.equal(datasets.load(tmp_path / "g").test.tensors["length"], torch.full((4,), 6))


def test_what_exists_is_left_alone_and_nothing_half_is_left(tmp_path: Path) -> None:
    class Breaks(Steps):
        def step(self, action: Any) -> Any:
            raise RuntimeError("the game has crashed")

    with pytest.raises(RuntimeError, match="crashed"):
        datasets.record(Breaks(), tmp_path / "g", size=8)
    assert not list(tmp_path.iterdir())
    datasets.record(Steps(), tmp_path / "g", episodes=1, size=8)
    with pytest.raises(RunError, match="exists already"):
        datasets.record(Steps(), tmp_path / "g")
    wrong: list[tuple[Any, dict[str, Any], str]] = [
        (3, {}, "env is 3"),
        ("NoSuchGame-v3", {}, "cannot be made"),
        (Steps(), {"jobs": 2}, "as an id"),
        (Steps(), {"episodes": 0}, "episodes=0"),
        (Steps(), {"skip": 0}, "skip=0"),
        (Steps(), {"crop": (1, 2)}, "four numbers"),
        (Steps(), {"options": {"a": 1}}, "made already"),
        (Steps(), {"render": True}, "rgb_array"),
    ]
    for env, options, words in wrong:
        with pytest.raises(ConfigError, match=words):
            datasets.record(env, tmp_path / "h", **options)


def test_a_recording_is_checked_before_it_is_used(tmp_path: Path) -> None:
    def damaged(name: str, change: Any) -> Path:
        path = tmp_path / name
        datasets.record(Steps(), path, episodes=3, size=8)
        change(path)
        return path

    def short(path: Path) -> None:
        content = (path / "frames.npy").read_bytes()
        (path / "frames.npy").write_bytes(content[:-9])

    changes: list[tuple[Any, str]] = [
        (short, "truncated"),
        (lambda p: np.save(p / "action.npy", np.full(18, 7, np.int16)), "beyond its list"),
        (lambda p: np.save(p / "offsets.npy", np.array([0, 6, 12, 17])), "damaged"),
        (lambda p: np.save(p / "reward.npy", np.full(18, np.nan, np.float32)), "no finite"),
        (lambda p: np.save(p / "ended.npy", np.zeros((2, 2), bool)), "one axis"),
        (lambda p: (p / "recording.json").write_text('{"format": "other"}'), "this version reads"),
        (lambda p: (p / "recording.json").write_text('{"format": "phlogiston recording 1"}'), "recording"),
    ]
    for i, (change, words) in enumerate(changes):
        with pytest.raises(DataError, match=words):
            datasets.load(damaged(f"g{i}", change))


def test_no_package_is_imported_for_a_recordings_sake() -> None:
    with pytest.raises(ConfigError, match="import it first"):
        again(GameSpec(env="antigravity:Fly-v0", actions=[0]))
    with pytest.raises(ConfigError, match="of an object"):
        again(GameSpec(actions=[0]))


def test_take_cover_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("vizdoom", reason="take cover needs phlogiston[games]")
    import warnings

    monkeypatch.chdir(tmp_path)  # the game leaves its settings where it is started
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the package's own
        data = datasets.record(
            "VizdoomTakeCover-v1", tmp_path / "g", episodes=2, skip=4, crop=(90, 154, 0, 320), size=32, cap=200
        )
    found = games(data)
    assert found.shape == (3, 32, 32)
    assert found.spec.actions == [0, 1, 2]
    assert int(found.lengths.max()) <= 51
    reward = found.recordings[0].reward
    assert sorted(set(reward[reward > 0].tolist()))[-1] == 4  # a tick each


def test_polygons_of_carracing_outside_of_the_picture_are_not_drawn_and_the_pictures_are_the_same() -> None:
    pytest.importorskip("Box2D", reason="CarRacing needs phlogiston[games]")
    plain, env = (gymnasium.make("CarRacing-v3", continuous=False) for _ in range(2))
    hastened = Hastened(env)
    counts = {}
    for name, made in (("plain", plain), ("hastened", env)):
        counts[name] = 0
        draw = made.unwrapped._draw_colored_polygon

        def counting(*args: Any, name: str = name, draw: Any = draw, **options: Any) -> None:
            counts[name] += 1
            draw(*args, **options)

        made.unwrapped._draw_colored_polygon = counting
    for seed in (0, 1):
        with hastened:
            frame = env.reset(seed=seed)[0]
        assert np.array_equal(frame, plain.reset(seed=seed)[0])
        for step in range(60):
            action = 3 if step % 9 else 1  # onto the road, so that tiles change their colours
            with hastened:
                frame = env.step(action)[0]
            assert np.array_equal(frame, plain.step(action)[0])
    assert "_render_road" not in vars(env.unwrapped)
    assert counts["hastened"] < 0.5 * counts["plain"]
    for made in (plain, env):
        made.close()
