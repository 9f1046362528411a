"""Embed and classify: a memory recognises photographs of its own places."""

from __future__ import annotations

import pytest
import torch

from phlogiston import datasets
from phlogiston.errors import ConfigError
from phlogiston.models.scene_matching import SceneMatching
from phlogiston.networks.scene_memory import GraphMemory
from phlogiston.systems.scene.matching import accuracy, train


def test_the_highest_score_belongs_to_the_nearest_embedding() -> None:
    model = SceneMatching(GraphMemory(4, 3, nodes="hub", widths=(4, 4)), 6, 8, 4, widths=(4, 4))
    candidates = torch.randn(9, 6)
    scores = model.scores(candidates[[3, 7]] + 0.01, candidates)
    assert scores.argmax(-1).tolist() == [3, 7]
    torch.testing.assert_close(scores[0, 3], -torch.tensor(6 * 0.01**2), rtol=1e-3, atol=1e-6)
    with pytest.raises(ConfigError, match="matching needs"):
        model()


@pytest.mark.parametrize("memory", ["graph", "pooled"])
@pytest.mark.parametrize("fresh", [False, True])
def test_candidates_are_counted_as_the_experiment_has_them(memory: str, fresh: bool) -> None:
    data = datasets.load("courts", sizes=(16, 0, 18), size=16, views=17)
    options = {"nodes": "hub"} if memory == "graph" else {}
    model = train(data, memory, 2, bins=4, values=3, widths=(4, 4), **options)  # type: ignore[arg-type]
    one, two = (accuracy(model, data.test, side, queries=16, fresh=fresh) for side in (1, 3))
    assert one.detail["candidates"] == 144
    assert two.detail["candidates"] == 18 * 9
    assert 0 <= one.value <= 1


@pytest.mark.slow
def test_it_learns_to_recognise() -> None:
    data = datasets.load("courts", sizes=(200, 0, 32), size=16)
    model = train(data, "graph", 240, bins=16, values=8, widths=(12, 16), nodes="hub", sides=(1,), learning_rate=0.004)
    assert accuracy(model, data.test, queries=640).value > 0.025  # 0.05 to 0.09 in trials; by chance 0.007 +- 0.003
