"""Dreams as environments for agents of others."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch

from phlogiston.errors import ConfigError, UnknownNameError
from phlogiston.systems.world.dream_pictures import as_picture
from phlogiston.systems.world.system import WorldModel


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
