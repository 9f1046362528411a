"""Memories of places: weights reproduce positions, sums do not care for order, tiles keep to themselves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from phlogiston.errors import DataError, UnknownNameError
from phlogiston.networks.lattice import MessagePassing, bilinear, edges, plain_messages
from phlogiston.networks.scene_memory import Frame, GraphMemory, PooledMemory, SceneMemory, State, shifted

CORNER, WIDTH = -0.4, 0.7
KINDS: list[dict[str, Any]] = [
    {"nodes": "hub"},
    {"nodes": "lattice"},
    {"nodes": "both"},
    {"nodes": "both", "write": "soft"},
    {"nodes": "ground"},
    {"pool": "mean"},
    {"pool": "sum"},
]


def make(options: dict[str, Any]) -> SceneMemory:
    torch.manual_seed(0)
    memory: SceneMemory
    if "pool" in options:
        memory = PooledMemory(3, 4, widths=(4, 4), **options)
    else:
        memory = GraphMemory(3, 4, 8, steps=2, widths=(4, 4), **options)
        if hasattr(memory, "positions"):
            torch.nn.init.normal_(memory.positions, std=0.2)
    return memory.double()


def frame(scenes: int, side: int, origin: float = CORNER) -> Frame:
    return Frame(torch.full((scenes, 2), origin).double(), side, WIDTH)


def views(scenes: int, count: int, side: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    poses = torch.zeros(scenes, count, 6).double()
    poses[..., :2] = CORNER + WIDTH * side * torch.rand(scenes, count, 2, generator=g).double()
    poses[..., 3] = 6 * torch.rand(scenes, count, generator=g).double()
    return torch.rand(scenes, count, 3, 16, 16, generator=g).double(), poses


def answer(memory: SceneMemory, state: State, seed: int = 9) -> Tensor:
    _, poses = views(len(state.poses), 5, state.frame.side, seed)
    return memory.read(state, poses)


# ---- weights


@settings(max_examples=60, deadline=None)
@given(
    at=st.lists(st.tuples(st.floats(0, 4), st.floats(0, 3)), min_size=1, max_size=6),
    snap=st.booleans(),
)
def test_bilinear_weights_reproduce_positions(at: list[tuple[float, float]], snap: bool) -> None:
    place = torch.tensor(at, dtype=torch.float64)
    place = place.round() if snap else place  # nodes, edges and corners, too
    found = bilinear(place, 5, 4)
    assert bool((found.weight >= 0).all())
    assert found.weight.shape[-1] == 4
    torch.testing.assert_close(found.weight.sum(-1), torch.ones(len(at)).double(), rtol=0, atol=1e-12)
    node = torch.stack([found.index // 4, found.index % 4], -1).double()
    torch.testing.assert_close((found.weight[..., None] * node).sum(-2), place, rtol=0, atol=1e-12)
    assert bool((found.index < 20).all())


def test_positions_outside_are_refused_or_clamped_but_never_wrapped() -> None:
    place = torch.tensor([[-0.1, 1.0], [4.2, 3.7]])
    with pytest.raises(DataError, match="outside the memory's lattice"):
        bilinear(place, 5, 4, outside="error")
    found = bilinear(place, 5, 4)
    node = torch.stack([found.index // 4, found.index % 4], -1).float()
    torch.testing.assert_close((found.weight[..., None] * node).sum(-2), torch.tensor([[0.0, 1.0], [4.0, 3.0]]))


def test_lattices_have_the_edges_of_the_reference() -> None:
    for side, nodes, count in ((1, 25, 80), (3, 169, 624)):
        n = 4 * side + 1
        assert n * n == nodes
        assert len(edges(n, n)) == count


@pytest.mark.parametrize("moved", [False, True])
def test_factorised_messages_are_the_plain_ones(moved: bool) -> None:
    torch.manual_seed(0)
    passing = MessagePassing(6, 5, 3).double()
    nodes = torch.randn(2, 4, 5, 6).double()
    shift = 0.1 * torch.randn(4, 5, 2).double() if moved else None
    torch.testing.assert_close(passing(nodes, shift), plain_messages(passing, nodes, shift), rtol=0, atol=1e-10)


# ---- what a memory holds


@pytest.mark.parametrize("options", KINDS)
def test_the_order_of_views_does_not_matter(options: dict[str, Any]) -> None:
    memory = make(options)
    images, poses = views(2, 6, 2)
    order = torch.randperm(6)
    one = memory.observe(images, poses, None, frame(2, 2))
    two = memory.observe(images[:, order], poses[:, order], None, frame(2, 2))
    torch.testing.assert_close(answer(memory, one), answer(memory, two), rtol=0, atol=1e-10)


@pytest.mark.parametrize("options", KINDS)
def test_adding_views_is_observing_them_all(options: dict[str, Any]) -> None:
    memory = make(options)
    images, poses = views(1, 7, 2)
    whole = memory.observe(images, poses, None, frame(1, 2))
    grown = memory.observe(images[:, :3], poses[:, :3], None, frame(1, 2))
    grown = memory.add(grown, images[:, 3:6], poses[:, 3:6])
    grown = memory.add(grown, images[:, 6:], poses[:, 6:])
    torch.testing.assert_close(answer(memory, grown), answer(memory, whole), rtol=0, atol=1e-10)
    keep = torch.arange(7)[None] < 3
    fewer = memory.observe(images[:, :3], poses[:, :3], None, frame(1, 2))
    torch.testing.assert_close(answer(memory, memory.keep(grown, keep)), answer(memory, fewer), rtol=0, atol=1e-10)


@pytest.mark.parametrize("options", KINDS)
def test_padding_and_other_scenes_change_nothing(options: dict[str, Any]) -> None:
    memory = make(options)
    images, poses = views(2, 5, 1)
    mask = torch.tensor([[True] * 5, [True, True, True, False, False]])
    garbage = images.clone()
    garbage[1, 3:] = 1e3
    ragged = answer(memory, memory.observe(garbage, poses, mask, frame(2, 1)))
    _, asked = views(2, 5, 1, 9)
    for scene, count in ((0, 5), (1, 3)):
        part = slice(scene, scene + 1)
        alone = memory.observe(images[part, :count], poses[part, :count], None, frame(1, 1))
        torch.testing.assert_close(ragged[part], memory.read(alone, asked[part]), rtol=0, atol=1e-10)


@pytest.mark.parametrize("options", [k for k in KINDS if "nodes" in k])
def test_moving_a_grid_changes_nothing(options: dict[str, Any]) -> None:
    memory = make(options)
    images, poses = views(1, 6, 2)
    _, asked = views(1, 5, 2, 9)
    here = memory.observe(images, poses, None, frame(1, 2))
    by = torch.tensor([3.1, -2.3]).double()
    moved, where = poses.clone(), asked.clone()
    moved[..., :2] += by
    where[..., :2] += by
    there = memory.observe(images, moved, None, Frame(here.frame.origin + by, 2, WIDTH))
    torch.testing.assert_close(memory.read(there, where), memory.read(here, asked), rtol=0, atol=1e-9)
    torch.testing.assert_close(memory.read(shifted(here, by), where), memory.read(here, asked), rtol=0, atol=1e-9)
    torch.testing.assert_close(memory.local(where, there.frame), memory.local(asked, here.frame), rtol=0, atol=1e-9)


@pytest.mark.parametrize("options", [k for k in KINDS if "nodes" in k])
def test_far_compartments_are_bit_identical_and_near_ones_are_not(options: dict[str, Any]) -> None:
    memory = make(options)  # two rounds of messages: half a tile
    images, poses = views(1, 6, 3)
    poses[:, :3, :2] = CORNER + 0.1  # three views at the first corner
    poses[:, 3:, :2] = CORNER + 2.5 * WIDTH  # three in the tile at the far corner
    other = images.clone()
    other[:, :3] = 1.0 - other[:, :3]
    asked = poses[:, 3:].clone()
    asked[..., :2] += 0.05
    one = memory.observe(images, poses, None, frame(1, 3))
    two = memory.observe(other, poses, None, frame(1, 3))
    assert torch.equal(memory.read(one, asked), memory.read(two, asked))
    near = poses[:, :3].clone()
    near[..., :2] += 0.05
    assert not torch.equal(memory.read(one, near), memory.read(two, near))


@pytest.mark.parametrize("options", [{"nodes": "hub"}, {"nodes": "both"}, {"nodes": "ground"}])
def test_a_place_in_a_larger_lattice_answers_the_same(options: dict[str, Any]) -> None:
    """In the middle tile's middle, further from the added nodes than messages travel."""
    memory = make({**options})
    images, poses = views(1, 6, 1)
    poses[..., :2] = CORNER + 0.5 * WIDTH + 0.05 * torch.randn(1, 6, 2).double()
    small = memory.observe(images, poses, None, frame(1, 1))
    large = memory.reframe(small, Frame(small.frame.origin - WIDTH, 3, WIDTH))
    asked = poses[:, :2].clone()
    # nodes at the edge of the small lattice have fewer neighbours: one round of messages stays clear of them
    if isinstance(memory, GraphMemory) and memory.nodes == "both":
        memory.messages.steps = 1
    small, large = memory.reframe(small, small.frame), memory.reframe(large, large.frame)
    torch.testing.assert_close(memory.read(small, asked), memory.read(large, asked), rtol=0, atol=1e-10)


@pytest.mark.parametrize("options", KINDS)
def test_a_scene_never_seen_can_be_asked(options: dict[str, Any]) -> None:
    memory = make(options)
    empty = memory.observe(torch.zeros(1, 0, 3, 16, 16).double(), torch.zeros(1, 0, 6).double(), None, frame(1, 1))
    assert bool(torch.isfinite(answer(memory, empty)).all())


def test_kinds_are_refused_with_the_nearest_name() -> None:
    with pytest.raises(UnknownNameError, match="lattice"):
        GraphMemory(nodes="latice")
    with pytest.raises(UnknownNameError, match="mean"):
        PooledMemory(pool="meen")
