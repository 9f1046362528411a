"""The simulation behind docs/clusters.md, where its answer is known."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

MB = 1 << 20


@pytest.fixture(scope="module")
def clusters(script: Callable[[str], ModuleType]) -> Any:
    return script("benchmarks/clusters.py")


def profile(clusters: Any, *sizes: int, steps: tuple[float, ...] = (1.0,)) -> Any:
    return clusters.Profile(0.3, 0.6, 0.1, steps, sizes)


def test_one_process_or_a_link_without_cost_takes_the_time_of_a_step(clusters: Any) -> None:
    alone = profile(clusters, 4 * MB, 4 * MB)
    slow = clusters.Link("slow", 1.0, 1.0)
    assert clusters.simulate(alone, 1, slow.all_reduce) == pytest.approx(1.0)
    assert clusters.simulate(alone, 64, lambda size, world: 0.0, faster=10) == pytest.approx(0.1)


def test_buckets_are_hidden_by_the_backward_pass_up_to_the_last(clusters: Any) -> None:
    alone = profile(clusters, 4 * MB, 4 * MB)
    assert alone.buckets() == [(0.5, 4 * MB), (1.0, 4 * MB)]
    # the first is ready at 0.6 and done at 0.8, before the second is, at 0.9: that one is waited for
    assert clusters.simulate(alone, 2, lambda size, world: 0.2) == pytest.approx(0.9 + 0.2 + 0.1)
    # here the first is done at 1.1, and the second at 1.6
    assert clusters.simulate(alone, 2, lambda size, world: 0.5) == pytest.approx(1.6 + 0.1)
    assert profile(clusters, MB, MB, 9 * MB, 1).buckets() == [(pytest.approx(1.0), 11 * MB), (1.0, 1)]


def test_a_step_waits_for_the_slowest_process(clusters: Any) -> None:
    uneven = profile(clusters, MB, steps=(0.5, 1.5))
    for world in (1, 2, 4):  # the mean of the largest of `world` draws
        expected = 1.5 - 0.5**world
        assert clusters.simulate(uneven, world, lambda *_: 0.0, draws=200_000) == pytest.approx(expected, abs=0.01)


def test_an_exchange_takes_the_quicker_of_ring_and_tree(clusters: Any) -> None:
    link = clusters.Link("link", 1e9, 1e-3)
    assert link.all_reduce(1e9, 1) == 0.0
    assert link.all_reduce(1e9, 4) == pytest.approx(6 * (1e-3 + 0.25))  # 2 (W - 1) messages of a W-th each
    assert link.all_reduce(1.0, 64) == pytest.approx(12e-3, rel=1e-3)  # six levels, up and down
