"""Main directions of what agents see: those of the dreams, whitened; searches along them stay in their span."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from phlogiston.errors import ConfigError
from phlogiston.models.dreaming import Linear, Random, dream, num_weights
from phlogiston.models.world import World
from phlogiston.systems.world.directions import DREAMS, main_directions
from phlogiston.systems.world.system import WorldModel
from phlogiston.systems.world.training import search


@pytest.fixture(scope="module")
def world() -> World:
    torch.manual_seed(0)
    found = World(1, 8, 3, 4, (8,), 16, 6).eval()
    with torch.no_grad():
        found.head[-1].bias[-1] = -30.0  # nothing ends, so that all dreams count alike
    return found


@pytest.mark.parametrize(("looks", "count"), [("zh", 5), ("z", 24), ("h", 3)])
def test_along_main_directions_what_random_dreams_show_is_white(world: World, looks: str, count: int) -> None:
    basis = main_directions(world, Random(3, 0.5), looks, count, 8, 7)
    inputs = {"zh": 10, "z": 4, "h": 6}[looks]
    kept = min(count, inputs)
    assert basis.shape == (num_weights(world, looks), 3 * (kept + 1))
    seen = dream(world, Random(3, 0.5), DREAMS, 8, seed=7, keep=True)
    assert seen.code is not None
    assert seen.action is not None
    with torch.no_grad():
        code = seen.code[:, :-1]
        out = world.predict_all(code, seen.action)[1]
    x = torch.cat({"zh": (code, out), "z": (code,), "h": (out,)}[looks], -1).flatten(0, 1).double()
    # the first columns are the first action's: along each direction, then a constant
    first = basis[: inputs + 1, : kept + 1].double()
    along = x @ first[:-1] + first[-1]
    torch.testing.assert_close(along[:, -1], torch.ones(len(x)).double())
    torch.testing.assert_close(along[:, :-1].mean(0), torch.zeros(kept).double(), atol=1e-3, rtol=0)
    white = along[:, :-1].T @ along[:, :-1] / len(x)
    torch.testing.assert_close(white, torch.eye(kept).double(), atol=1e-2, rtol=0)
    # and no others hold more of the variance
    values = torch.linalg.eigvalsh(x.T.cov())
    lost = x - x.mean(0) - along[:, :-1] @ torch.linalg.pinv(first[:-1, :-1])
    torch.testing.assert_close(lost.square().sum() / (len(x) - 1), values[: inputs - kept].sum(), atol=1e-4, rtol=1e-2)


def test_every_action_has_directions_of_its_own(world: World) -> None:
    basis = main_directions(world, Random(3), "z", 2, 4, 0)
    weights = torch.zeros(9)
    weights[5] = 1.0  # the second action's constant
    agent = Linear((basis @ weights).unsqueeze(0), world, "z")
    assert agent.bias.tolist() == [[0.0, 1.0, 0.0]]
    assert bool((agent.weight == 0).all())


def test_inputs_that_never_change_are_no_directions() -> None:
    still = World(1, 8, 2, 3, (8,), 16, 4).eval()
    with torch.no_grad():
        still.rnn.net.weight_ih_l0.zero_()
        still.rnn.net.weight_hh_l0.zero_()
        still.rnn.net.bias_ih_l0.fill_(-1.0)
        still.rnn.net.bias_hh_l0.zero_()
        still.rnn.net.bias_ih_l0[:4] = -100.0  # gates stay shut
    assert main_directions(still, Random(2), "h", 4, 1, 0).shape == (10, 2)


def test_a_search_along_directions_stays_in_their_span(world: World) -> None:
    size = num_weights(world, "z")
    basis = torch.linalg.qr(torch.randn(size, 4, generator=torch.Generator().manual_seed(0)))[0]
    start = torch.linspace(-1, 1, size)
    target = start + basis @ torch.tensor([0.5, -0.3, 0.1, 0.2])

    def score(points: Tensor, number: int) -> Tensor:
        assert points.shape == (8, size)
        return -(points - target).square().sum(1)

    found = search(score, world, "z", 60, 8, 0.3, 0, start, basis=basis)
    torch.testing.assert_close(found.weights, target, atol=0.02, rtol=0)
    moved = found.weights - start
    torch.testing.assert_close(basis @ (basis.T @ moved), moved, atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def system() -> WorldModel:
    games = {"frames": torch.rand(4, 6, 1, 8, 8), "action": torch.arange(24).reshape(4, 6) % 2}
    games["done"] = (torch.arange(6) == 5).expand(4, 6)
    sizes = {"features": 16, "code": 4, "hidden": 12, "frame_steps": 1, "steps": 1, "generations": 0, "population": 4}
    return WorldModel(sizes).fit(games, progress="off")


def test_agents_have_all_weights_whichever_way_they_are_searched(system: WorldModel) -> None:
    with pytest.raises(ConfigError, match="directions=3"):
        system.train_agent(bounds=1.0, directions=3)
    plain, along = (system.train_agent(directions=n, generations=2, seed=1).weights for n in (0, 3))
    assert plain.shape == along.shape == (2 * 17,)
    # what the two actions' inputs are multiplied by lies in three directions, whichever they are
    third = system.train_agent(directions=3, generations=1, seed=1).weights
    rows = torch.cat([w.reshape(2, -1)[:, :-1] for w in (along, third)])
    assert int(torch.linalg.matrix_rank(rows.double(), rtol=1e-5)) == 3


def test_chance_moves_as_the_recording_did_or_without_preference(system: WorldModel) -> None:
    system.schema["moves"] = [[0.9, 0.1], [0.1, 0.9]]
    for policy, share in (("random", 0.9), ("uniform", 0.5)):
        actions = system.dream(policy, 1_000, max_steps=6, keep=True).action
        assert actions is not None
        kept = float((actions[:, 1:] == actions[:, :-1]).float().mean())
        assert kept == pytest.approx(share, abs=0.04)  # of 5,000 moves
    del system.schema["moves"]
