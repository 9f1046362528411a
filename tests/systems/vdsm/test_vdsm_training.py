"""How VDSM sees its training clips: partners, frames that are drawn, colours that change, codes and their mixture."""

from __future__ import annotations

import pytest
import torch

from phlogiston.errors import DataError
from phlogiston.systems.vdsm.training import Clips, DrawFrames, fit_mixture, recoloured


def test_partners_are_other_clips_of_the_same_individual() -> None:
    group = torch.tensor([5, 5, 2, 5, 2, 9])
    frames = torch.arange(6, dtype=torch.uint8).reshape(6, 1, 1, 1, 1).expand(6, 4, 1, 2, 2).contiguous()
    clips = Clips(frames, None, group)
    torch.manual_seed(0)
    met: dict[int, set[int]] = {i: set() for i in range(6)}
    for _ in range(60):
        partner = clips[torch.arange(6)]["partner"][:, 0, 0, 0, 0].tolist()
        for i, j in enumerate(partner):
            met[i].add(j)
    assert met == {0: {1, 3}, 1: {0, 3}, 2: {4}, 3: {0, 1}, 4: {2}, 5: {5}}
    drawn = DrawFrames(3)(clips[torch.tensor([0, 1])])
    assert drawn["frames"].shape == (2, 3, 1, 2, 2)
    assert drawn["who"].shape == (2, 2, 1, 2, 2)
    assert set(drawn) == {"frames", "who"}
    assert set((drawn["frames"] * 255).round().flatten(1).unique(dim=1).flatten().tolist()) == {0.0, 1.0}
    assert set((drawn["who"][0] * 255).round().unique().tolist()) <= {1.0, 3.0}


def test_frames_are_drawn_among_those_known() -> None:
    frames = torch.arange(5, dtype=torch.uint8).reshape(1, 5, 1, 1, 1).expand(40, 5, 1, 1, 1).contiguous()
    mask = torch.tensor([True, False, True, True, False]).expand(40, 5)
    drawn = DrawFrames(3)({"frames": frames, "mask": mask, "row": torch.arange(40)})
    assert bool(drawn["mask"].all())
    assert set((drawn["frames"] * 255).round().flatten().tolist()) == {0.0, 2.0, 3.0}


def test_identities_are_read_from_frames_that_are_not_explained() -> None:
    frames = torch.arange(6, dtype=torch.uint8).reshape(1, 6, 1, 1, 1).expand(30, 6, 1, 1, 1).contiguous()

    def numbers(x: torch.Tensor) -> list[set[int]]:
        return [set(clip) for clip in (255 * x).round().flatten(1).int().tolist()]

    torch.manual_seed(0)
    draw = DrawFrames(3, 2 / 3, others=True)
    drawn = draw({"frames": frames, "row": torch.arange(30)})
    assert drawn["who"].shape == (30, 2, 1, 1, 1)
    assert all(not one & two for one, two in zip(numbers(drawn["frames"]), numbers(drawn["who"]), strict=True))
    assert len({tuple(sorted(who)) for who in numbers(drawn["who"])}) > 5
    # of clips with too few known frames, known ones that are explained, too; never one that is missing
    mask = (torch.arange(6) < torch.tensor([[2], [4], [6]])).repeat(10, 1)
    drawn = draw({"frames": frames, "mask": mask, "row": torch.arange(30)})
    for row, who in enumerate(numbers(drawn["who"])):
        assert max(who) < (2, 4, 6)[row % 3]
    assert draw.describe()["others"]
    assert "who" not in DrawFrames(3)({"frames": frames, "row": torch.arange(30)})


def test_recolouring_changes_colours_and_nothing_else() -> None:
    torch.manual_seed(0)
    palette = torch.rand(40, 4, 3)
    palette[:, 0] = 0.0
    drawn = torch.randint(0, 4, (40, 5, 6, 6))
    frames = palette[torch.arange(40)[:, None, None, None], drawn].movedim(-1, 2)
    made = recoloured(frames, 1.0)
    assert made.shape == frames.shape
    assert 0.0 <= float(made.min()) <= float(made.max()) <= 1.0
    for clip, labels in zip(made.movedim(2, -1), drawn, strict=True):
        for colour in range(4):  # one colour before, one colour after; black stays black
            seen = clip[labels == colour]
            assert float((seen - seen[0]).abs().max()) < 1e-6
        assert float(clip[labels == 0].abs().max()) == 0.0
    # what channel is brightest no longer says what it was, and clips differ from one another
    before, after = frames.mean((1, 3, 4)).argmax(1), made.mean((1, 3, 4)).argmax(1)
    assert 0.1 < float((before == after).double().mean()) < 0.7
    grey = torch.full((30, 2, 1, 2, 2), 0.5)
    assert len(recoloured(grey, 1.0)[:, 0, 0, 0, 0].unique()) == 30
    mild = (recoloured(grey, 0.01) - grey).abs().max()
    assert 0 < float(mild) < 0.01


def test_poses_are_read_from_recoloured_frames_and_frames_explained_as_they_are() -> None:
    frames = torch.randint(1, 255, (4, 6, 3, 8, 8), dtype=torch.uint8)
    clips = Clips(frames, None, torch.tensor([0, 0, 1, 1]))
    drawn = DrawFrames(6, 0.5, 1.0)(clips[torch.arange(4)])
    assert set(drawn) == {"frames", "who", "posed"}
    torch.testing.assert_close(drawn["frames"], frames / 255.0)
    assert float((drawn["posed"] - drawn["frames"]).abs().mean()) > 0.05
    assert "recolour" not in DrawFrames(6).describe()


def test_a_mixture_of_codes_finds_their_clusters() -> None:
    torch.manual_seed(0)
    centres = torch.tensor([[4.0, 0.0], [-4.0, 0.0]])
    weights, means, factors = fit_mixture(centres.repeat_interleave(100, 0) + 0.1 * torch.randn(200, 2), 2)
    torch.testing.assert_close(means[means[:, 0].argsort()], centres.flip(0), atol=0.1, rtol=0.0)
    torch.testing.assert_close(weights, torch.tensor([0.5, 0.5]), atol=0.02, rtol=0.0)
    assert factors.shape == (2, 2, 2)
    with pytest.raises(DataError):
        fit_mixture(torch.zeros(1, 2), 2)
