"""An object that is held where it is: in the frames of a video, where it was lost, and in those that follow."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import phlogiston as ph
from phlogiston import datasets
from phlogiston.errors import DataError
from phlogiston.systems.sqair import freezing


def scene(ids: list[int], at: float) -> freezing.Scene:
    """A frame with objects of these identities, -1 for an empty slot; places tell frame and slot."""
    there = torch.tensor([ids]) >= 0
    where = (at + torch.arange(len(ids)) / 10)[None, :, None].expand(1, -1, 4) * there.unsqueeze(-1)
    return {
        "presence": there.float(),
        "where": where,
        "what": where + 5.0 * there.unsqueeze(-1),
        "ids": torch.tensor([ids]),
    }


def test_it_stays_where_it_was_and_takes_a_free_slot_where_it_was_lost() -> None:
    scenes = [scene([0, 1, -1], 1), scene([0, 1, -1], 2), scene([0, 1, -1], 3), scene([0, -1, 2], 4)]
    found = freezing.freeze(scenes, 1, first=1)
    for t in (0, 1):
        assert all(torch.equal(found[t][key], scenes[t][key]) for key in scenes[t])
    for t in (2, 3):
        assert torch.equal(found[t]["where"][0, 1], scenes[1]["where"][0, 1])
        assert torch.equal(found[t]["what"][0, 1], scenes[1]["what"][0, 1])
        assert found[t]["presence"][0, 1] == 1
        assert found[t]["ids"][0, 1] == 1
        for slot in (0, 2):  # the others go on
            assert all(torch.equal(found[t][key][0, slot], scenes[t][key][0, slot]) for key in scenes[t])


def test_what_is_not_there_or_has_no_slot_is_named() -> None:
    scenes = [scene([0, 1], 1), scene([0, 2], 2)]
    with pytest.raises(DataError, match=r"no object 1 from frame 1 on; the identities there are \[0, 2\]"):
        freezing.freeze(scenes, 1, first=1)
    with pytest.raises(DataError, match="no slot is free"):
        freezing.freeze(scenes, 1)


def test_a_frozen_object_stays_while_the_scene_is_rolled_forward() -> None:
    system: Any = ph.load("sqair/moving-digits")
    video = datasets.load("moving_digits", source="digits", sizes=(1, 1, 12)).test[2:3]["x"]
    plain = system.edit(video, propagate=6, num_particles=8)
    names = sorted({int(i) for i in plain["ids"].flatten() if i >= 0})
    assert len(names) == 2
    frozen = system.edit(video, freeze=names[0], first=3, propagate=6, num_particles=8)
    assert frozen["x"].shape[1] == frozen["boxes"].shape[1] == video.shape[1] + 6

    def boxes(result: dict[str, torch.Tensor], name: int) -> torch.Tensor:
        return torch.stack([b[i == name][0] for b, i in zip(result["boxes"][0], result["ids"][0], strict=True)][3:])

    held = boxes(frozen, names[0])
    assert torch.equal(held, held[:1].expand_as(held))
    assert torch.equal(held[0], boxes(plain, names[0])[0])
    assert float((boxes(plain, names[0]) - held).abs().max()) > 3.0  # pixels: it had moved on
    seen = video.shape[1] - 3
    assert torch.equal(boxes(frozen, names[1])[:seen], boxes(plain, names[1])[:seen])
    with pytest.raises(DataError, match="no object 7"):
        system.edit(video, freeze=7)
