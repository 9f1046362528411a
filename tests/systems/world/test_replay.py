"""Lists of actions in a dream and in the game: what `play`, `dream_game` and the memory say of the same actions."""

from __future__ import annotations

import pytest
import torch

import phlogiston as ph
from phlogiston.datasets.generated.games.dodge import DodgeEnv
from phlogiston.errors import ConfigError
from phlogiston.systems.world.system import WorldModel


@pytest.fixture(scope="module")
def system() -> WorldModel:
    return ph.load("world/dodge")


def test_the_game_is_the_first_that_is_played_and_ends_where_it_ends(system: WorldModel) -> None:
    random = system.play("random", 1, seed=4, keep=True)
    steps = int(random.length[0]) - 1
    found = system.replay((), [*random.action[0].tolist(), 1, 1], seed=4).game
    assert found is not None
    assert found.over == bool(random.ended[0])
    assert found.action.tolist() == random.action[0, :steps].tolist()  # behind the end nothing counts
    assert torch.equal(found.frames, random.frames[0, : steps + 1])
    assert torch.equal(found.reward, random.reward[0, :steps])
    assert found.ahead.tolist() == [0.0] * 3
    end = system.model.predict_all(found.code.unsqueeze(0), torch.nn.functional.pad(found.action, (0, 1))[None])[0].end
    assert torch.allclose(found.end[1:], end.sigmoid()[0, 1:], atol=1e-5)
    assert float(found.end[0]) == 0.0


def test_the_dream_is_that_of_the_dream_as_a_game(system: WorldModel) -> None:
    game, actions = system.dream_game(tau=1.3), [0, 2, 2, 1, 0, 1]
    state = game.reset(1, seed=9)
    frames, total = [game.render(state)], 0.0
    for action in actions:
        state, reward, over = game.step(state, torch.tensor([action]))
        frames.append(game.render(state))
        total += float(reward)
    found = system.replay(actions, tau=1.3, seed=9)
    assert torch.equal(found.dream.frames, torch.cat(frames))
    assert float(found.dream.reward.sum()) == total
    assert found.dream.over == bool(over)
    assert found.game is not None
    assert len(found.game.frames) == 1


def test_what_is_ahead_is_what_comes(system: WorldModel) -> None:
    """The probability told for an action is the one told of the frame that it leads to."""
    before = system.replay([1] * 9, [1] * 9, seed=2)
    for action in range(3):
        after = system.replay([*[1] * 9, action], [*[1] * 9, action], seed=2)
        for old, new in zip(before, after, strict=True):
            assert old is not None
            assert new is not None
            assert float(new.end[-1]) == pytest.approx(float(old.ahead[action]), abs=1e-6)


def test_a_dream_that_is_shown_the_game_begins_with_it_and_goes_on_by_itself(system: WorldModel) -> None:
    actions = [0, 0, 2, 1, 1, 0, 1, 2]
    found = system.replay(actions, actions, shown=4, seed=4)
    assert found.game is not None
    assert torch.equal(found.dream.code[:4], found.game.code[:4])
    assert not torch.equal(found.dream.code[4], found.game.code[4])
    # what it dreams of the ball is close to what comes: that is what the memory is for
    other = system.replay(actions, actions, seed=4)
    near = (found.dream.frames - found.game.frames)[4:].square().mean()
    far = (other.dream.frames - found.game.frames)[4:].square().mean()
    assert float(near) < 0.5 * float(far)
    with pytest.raises(ConfigError, match=r"first 3 actions"):
        system.replay([1, 1, 1], [0, 0, 0], shown=4)


def test_action_by_action_is_the_same_as_all_at_once_and_an_agent_acts_as_in_play(system: WorldModel) -> None:
    both = system.side_by_side(shown=3, seed=5)
    both.let_agent(10)
    both.play([1], [2])
    piecewise = both.result()
    whole = system.replay(piecewise.dream.action.tolist(), piecewise.game.action.tolist(), shown=3, seed=5)  # type: ignore[union-attr]
    for one, other in zip(piecewise, whole, strict=True):
        assert torch.equal(one.frames, other.frames)  # type: ignore[union-attr]
        assert torch.equal(one.end, other.end)  # type: ignore[union-attr]
    played = system.play(None, 1, seed=5, keep=True)
    assert whole.game is not None
    assert torch.equal(whole.game.action[:10], played.action[0, :10])


def test_a_game_is_cut_off_at_its_limit_and_a_wrong_action_is_named(system: WorldModel) -> None:
    idle = DodgeEnv(**system.schema["game"]).limit
    found = system.replay([1] * 300, seed=0)
    assert len(found.dream.action) <= system.longest == idle
    for wrong in (3, -1, 1.0, True, "left"):
        with pytest.raises(ConfigError, match="there is no action"):
            system.replay([wrong])  # type: ignore[list-item]


def test_a_game_that_cannot_be_played_is_left_out_or_refused(
    system: WorldModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(system.schema, "game", None)
    assert system.replay([0, 1]).game is None
    with pytest.raises(ConfigError, match="shown is 2"):
        system.replay([0], shown=2)
    with pytest.raises(ConfigError, match="cannot be played here"):
        system.replay([0], game=True)
