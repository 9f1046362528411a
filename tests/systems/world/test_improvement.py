"""Where a search for agents begins: returns and regressions against their definitions, and agents that are better."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from phlogiston import datasets
from phlogiston.errors import DataWarning
from phlogiston.models.dreaming import Linear, Random
from phlogiston.models.world import State
from phlogiston.systems.world.improvement import Moments, Trial, improvements, returns
from phlogiston.systems.world.system import WorldModel


def test_returns_are_discounted_sums_of_what_follows() -> None:
    reward = torch.tensor([[1.0, 0.0, 2.0, 3.0], [4.0, 0.0, 0.0, 0.0]])
    want = [[sum(0.5**k * row[t + k] for k in range(4 - t)) for t in range(4)] for row in reward.tolist()]
    torch.testing.assert_close(returns(reward, 0.5), torch.tensor(want))


def test_the_regression_finds_what_an_action_gains() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40_000, 3, generator=generator) * torch.tensor([1.0, 5.0, 0.2]) + torch.tensor([0.0, 7.0, -1.0])
    truth, bias = torch.tensor([[1.0, 0.0, 0.0], [-1.0, 0.2, 0.0], [0.0, 0.0, 4.0]]), torch.tensor([0.5, -1.0, 4.0])
    action = torch.randint(3, (len(x),), generator=generator)
    values = x @ truth.T + bias
    gain = values.gather(1, action[:, None])[:, 0] + torch.randn(len(x), generator=generator)
    found = advantages(x, action, gain, 3)
    assert found is not None
    table = found.reshape(3, 4)
    centred = values - values.mean(1, keepdim=True)
    want = centred / centred.std(0).mean()
    torch.testing.assert_close(x @ table[:, :-1].T + table[:, -1], want, atol=0.1, rtol=0)
    assert float((x @ table[:, :-1].T + table[:, -1]).std(0).mean()) == pytest.approx(1.0, abs=1e-4)


def test_along_main_directions_it_finds_what_these_hold() -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(20_000, 3, generator=generator) * torch.tensor([5.0, 2.0, 0.1])
    x[:, 2] += x[:, 1]  # the third is told by the second but for a little
    action = torch.randint(2, (len(x),), generator=generator)
    gain = torch.where(action == 1, x[:, 0] + x[:, 1] + 3 * x[:, 2], 0.0)
    for count, weights in ((1, (1.0, 0.0, 0.0)), (2, (1.0, 2.0, 2.0)), (3, (1.0, 1.0, 3.0)), (0, (1.0, 1.0, 3.0))):
        found = advantages(x, action, gain, 2, count)
        assert found is not None
        table = found.reshape(2, 4)
        torch.testing.assert_close(table[1], -table[0], atol=1e-5, rtol=0)
        scale = (x @ torch.tensor(weights)).std()
        torch.testing.assert_close(table[1, :3], torch.tensor(weights) / scale, atol=0.03, rtol=0)


def test_an_action_taken_twice_promises_no_more_than_its_mean() -> None:
    generator = torch.Generator().manual_seed(1)
    x, action = torch.randn(2_000, 40, generator=generator), torch.zeros(2_000, dtype=torch.long)
    action[:2] = 1
    table = advantages(x, action, 3 * x[:, 0], 2)
    assert table is not None
    rows = table.reshape(2, 41)[:, :-1]
    apart = (rows[1] - rows[0]) / rows.norm()  # the first action's weight on the first entry, and hardly more
    assert float(apart[0].abs()) == pytest.approx(2**0.5, abs=0.1)
    assert float(apart[1:].norm()) < 0.35


@pytest.mark.parametrize(("gain", "action"), [(1.0, 1), (0.0, 1), (1.0, 0)])
def test_nothing_is_learned_where_gains_are_alike_or_actions_missing(gain: float, action: int) -> None:
    taken = torch.arange(50) % 2 * action
    gains = torch.full((50,), gain) if action else torch.arange(50.0)
    assert advantages(torch.randn(50, 2), taken, gains, 2) is None


def advantages(
    x: torch.Tensor, action: torch.Tensor, gain: torch.Tensor, actions: int, count: int = 0
) -> torch.Tensor | None:
    moments = Moments(actions, x.shape[1])
    for part in torch.arange(len(x)).split(len(x) // 3):  # however they come
        moments.add(x[part], action[part], gain[part])
    return moments.advantages(count)


class Match:
    """In place of a `World`: codes are normal numbers; an action that does not match their sign is often the end."""

    actions, code, hidden, end_weight, zero, rewards = 2, 1, 1, 1.0, torch.zeros(()), None

    def start(self, rows: int) -> State:
        return State(torch.zeros(rows, 1, 1), torch.zeros(rows, 1), torch.zeros(rows, 1), torch.zeros(rows))

    def predict(self, state: State) -> SimpleNamespace:
        def draw(generator: torch.Generator, **_: float) -> torch.Tensor:
            return torch.randn(len(state.out), 1, generator=generator)

        return SimpleNamespace(code=SimpleNamespace(draw=draw), end=torch.where(state.hidden[:, 0, 0] > 0, 0.0, -4.0))

    def gained(self, state: State, code: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(code))

    def observe(self, state: State, code: torch.Tensor, action: torch.Tensor) -> State:
        wrong = (code[:, 0] > 0).long() != action
        return State(wrong.float()[:, None, None], state.out, code, state.seen + 1)


def test_what_is_right_in_a_dream_is_found_and_kept() -> None:
    world: Any = Match()
    chance = lambda: Random(2)  # noqa: E731
    for weights in (w for count in (0, 1) for w in improvements(world, chance(), "z", 40, count=count, seed=1)):
        assert weights.shape == (4,)
        codes = torch.tensor([[-2.0], [-0.5], [0.5], [2.0]])
        acts = Linear(weights.unsqueeze(0), world, "z").act(codes, codes, torch.Generator())
        assert acts.tolist() == [0, 0, 1, 1]
    trial = Trial(world, chance, "z", 40, tau=1.0, ends="sampled", seed=0)
    begin = trial.beginning()
    assert begin is not None
    assert torch.equal(trial.better(begin, -begin), begin)
    assert torch.equal(trial.better(-begin, begin), begin)
    with pytest.warns(DataWarning, match="less than the .* of the recording's policy"):
        assert torch.equal(trial.better(None, -begin), -begin)


def test_a_policy_that_is_best_already_is_not_where_a_search_begins() -> None:
    world: Any = Match()
    best = torch.tensor([-1.0, 0.0, 1.0, 0.0])
    trial = Trial(world, lambda: Linear(best.unsqueeze(0), world, "z"), "z", 40, tau=1.0, ends="sampled", seed=0)
    begin = trial.beginning()  # of an action given its code there is only one to learn from
    assert begin is None or float(trial._score(begin, 3).mean()) > 0.9 * float(trial._score(best, 3).mean())


def test_an_agent_in_a_dream_is_no_worse_than_where_its_search_began() -> None:
    data = datasets.load("dodge", sizes=(60, 0, 2), limit=30)
    options = {"hidden": 24, "features": 32, "code": 4, "frame_steps": 60, "steps": 40, "generations": 0}
    system = WorldModel(options).fit(data, progress="off")
    trial = Trial(system.model.eval(), lambda: Random(3), "zh", 30, tau=1.0, ends="sampled", seed=0)
    begin = trial.beginning()
    assert begin is not None
    # a search with a spread so large that it forgets where it began
    agent = system.train_agent(tau=1.0, generations=1, population=4, rollouts=1, spread=1e4)
    kept, lost = (system.dream(w, 128, tau=1.0, seed=5).score.mean() for w in (agent, begin))
    assert kept >= 0.9 * lost
    from_nothing = system.train_agent(tau=1.0, generations=1, start=torch.zeros(len(begin)), directions=0, spread=1e-9)
    assert float(from_nothing.weights.abs().max()) < 1e-6
