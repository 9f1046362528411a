"""Segments that share a part: which pair is tried, what is kept, and what runs and older runs have to know."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from phlogiston import datasets, systems
from phlogiston.datasets.base import Dataset
from phlogiston.errors import ConfigError, RunError
from phlogiston.systems.vdsm import ties as module
from phlogiston.systems.vdsm.system import VDSM
from phlogiston.systems.vdsm.ties import TieSegments, next_tie, stage_names, tied, unexplained

P, C = 4, 3
TINY: dict[str, Any] = {
    "experts": 1, "segments": 3, "likelihood": "normal", "pose": 3, "dynamics": 5, "encoder_widths": (6, 6),
    "features": 16, "decoder_widths": (8, 6), "recurrent": 8, "steps": 4, "batch_size": 6, "warm_steps": 3,
    "sequence_steps": 2, "warmup": 1, "aggregate": 2, "tie_steps": 8,
}  # fmt: skip
QUIET: dict[str, Any] = {"progress": "off", "tensorboard": False}


@pytest.fixture(scope="module")
def data() -> Dataset:
    return datasets.load("figures", characters=(3, 0, 2), size=16, frames=5)


def ties(system: VDSM) -> list[int]:
    found = system.model.decoder.ties
    assert isinstance(found, torch.Tensor)
    return found.tolist()


# ----- which pair ---------------------------------------------------------------------------------------------------


def said_of(masks: Tensor, colours: Tensor, noise: float = 0.02) -> tuple[Tensor, Tensor]:
    """What clips say that look as masks (P, pixels) and colours (n, P, C) have it, and their squares."""
    draws = torch.Generator().manual_seed(5)
    x = torch.einsum("px,npc->nxc", masks, colours)
    x = x + noise * torch.randn(x.shape, generator=draws, dtype=x.dtype)
    cross = torch.einsum("px,nxc->npc", masks, x)
    return torch.cat([(masks @ masks.T).expand(len(x), -1, -1), cross], -1), x.square().sum((1, 2))


def parts() -> tuple[Tensor, Tensor]:
    """A ground, a part, a part drawn by two segments in other shares in every pixel; colours of sixty clips."""
    draws = torch.Generator().manual_seed(1)
    colours = torch.rand(60, P, C, generator=draws, dtype=torch.float64)
    colours[:, 3] = colours[:, 2]
    masks = torch.zeros(P, 100, dtype=torch.float64)
    masks[0, :60], masks[1, 60:80] = 1.0, 1.0
    masks[2, 80:] = torch.linspace(0.9, 0.3, 20)
    masks[3, 80:] = 1.0 - masks[2, 80:]
    return masks, colours


def test_what_ties_leave_is_the_error_of_a_regression_on_masks_added_up() -> None:
    masks, colours = parts()
    said, squares = said_of(masks, colours)
    x = torch.einsum("px,npc->nxc", masks, colours)
    x = x + 0.02 * torch.randn(x.shape, generator=torch.Generator().manual_seed(5), dtype=x.dtype)
    for found in ([0, 1, 2, 3], [0, 1, 2, 2], [0, 0, 2, 2]):
        t = torch.tensor(found)
        design = torch.stack([masks[t == p].sum(0) for p in t.unique()], 1)
        design = torch.cat([design, 1e-3**0.5 * torch.eye(design.shape[1])])  # a little of a ridge, for empty masks
        target = torch.cat([x, torch.zeros(60, design.shape[1], C)], 1)
        left = target - design @ torch.linalg.lstsq(design.expand(60, -1, -1), target).solution
        assert unexplained(said, squares, t) == pytest.approx(float(left.square().sum((1, 2)).mean()), rel=1e-6)


def test_the_pair_tried_first_is_the_cheapest_of_those_that_share_pixels() -> None:
    masks, colours = parts()
    colours[:, 1] = colours[:, 0] + 1e-3  # alike, but each has pixels of its own
    said, squares = said_of(masks, colours)
    own = torch.arange(P)
    first = next_tie(said, squares, own, [])
    assert first == (3, 2)
    assert next_tie(said, squares, own, [first]) is None
    together = tied(own, *first)
    assert together.tolist() == [0, 1, 2, 2]
    assert tied(together, 2, 0).tolist() == [0, 1, 0, 0]
    assert next_tie(said, squares, together, []) is None


def test_a_segment_that_is_nowhere_is_not_tied() -> None:
    masks, colours = parts()
    masks = torch.cat([masks, torch.zeros(1, 100, dtype=torch.float64)])
    said, squares = said_of(masks, torch.cat([colours, colours[:, :1]], 1))
    assert next_tie(said, squares, torch.arange(P + 1), [(3, 2)]) is None


# ----- in training --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 3, 4, 10])
def test_steps_are_shared_out_among_the_stages(steps: int) -> None:
    found = stage_names(steps)
    assert sum(found.values()) == steps
    assert max(found.values()) - min(found.values()) <= 1
    assert len(found) == min(steps, 4)
    counted = VDSM(TINY, tie_segments=True, tie_steps=steps).step_options()
    assert list(counted) == ["steps", "tie_steps", "warm_steps", "sequence_steps"]
    assert counted["tie_steps"] == steps
    assert "tie_steps" not in VDSM(TINY, tie_steps=steps).step_options()


class Watch:
    """A callback that remembers what the decoder held at the end of each stage."""

    def __init__(self, system: VDSM) -> None:
        self.system = system
        self.seen: list[tuple[str, list[int], dict[str, Tensor]]] = []

    def on_checkpoint(self, state: Any) -> None:
        values = {n: v.clone() for n, v in self.system.model.state_dict().items() if n.startswith("decoder")}
        self.seen.append((state.stage.name, ties(self.system), values))


@pytest.mark.parametrize("more", [0.0, 1e9])
def test_a_tie_is_kept_or_leaves_nothing_behind(data: Dataset, monkeypatch: pytest.MonkeyPatch, more: float) -> None:
    """With limits that nothing, or everything, stays below; masks at the start of training share all pixels."""
    monkeypatch.setattr(module, "MORE", more)
    system = VDSM(TINY, tie_segments=True)
    watch = Watch(system)
    system.fit(data, callbacks=[watch], **QUIET)
    stages = [name for name, _, _ in watch.seen]
    assert stages == ["frames", "ties 1", "ties 2", "ties 3", "ties 4", "codes", "sequences"]
    before, after = watch.seen[0], watch.seen[4]
    if more:
        assert [len(set(t)) for _, t, _ in watch.seen] == [3, 2, 1, 1, 1, 1, 1]
        assert not torch.equal(before[2]["decoder.centre"], after[2]["decoder.centre"])
        clips = data.test.tensors["frames"][:3]
        told = system.encode(clips)["identity_loc"].unflatten(1, (3, 3))
        own = ties(system)[0]
        assert all(float(told[:, p].abs().max()) == 0.0 for p in range(3) if p != own)
        return
    assert before[1] == after[1] == [0, 1, 2]
    for name, value in before[2].items():  # three pairs were tried, and the last stage had none left
        torch.testing.assert_close(watch.seen[3][2][name], value, rtol=0.0, atol=0.0)


def test_ties_are_kept_in_the_run(data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MORE", 1e9)
    system = VDSM(TINY, tie_segments=True, tie_steps=1).fit(data, out=tmp_path / "run", **QUIET)
    assert len(set(ties(system))) == 2
    clips = data.test.tensors["frames"][:3]
    again = systems.load(tmp_path / "run")
    assert isinstance(again, VDSM)
    assert ties(again) == ties(system)
    torch.testing.assert_close(again.swap(clips, clips.flip(0)), system.swap(clips, clips.flip(0)))

    taken = VDSM(TINY, tie_segments=True, stage1=str(tmp_path / "run"))
    assert "tie_steps" not in taken.step_options()
    assert ties(taken.fit(data, **QUIET)) == ties(system)
    with pytest.raises(RunError, match="tie_segments"):
        VDSM(TINY, stage1=str(tmp_path / "run")).fit(data, **QUIET)


@pytest.mark.parametrize("more", [0.0, 1e9])
def test_an_interrupted_stage_goes_on_with_its_tie(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: float
) -> None:
    monkeypatch.setattr(module, "MORE", more)

    class Stop:
        def on_checkpoint(self, state: Any) -> None:
            if state.step == 7:  # in the middle of the second of the stages
                raise KeyboardInterrupt

    options = {**TINY, "tie_segments": True, "tie_steps": 12}
    whole = VDSM(options).fit(data, out=tmp_path / "whole", checkpoint_every=1, **QUIET)
    with pytest.raises(KeyboardInterrupt):
        VDSM(options).fit(data, out=tmp_path / "run", checkpoint_every=1, callbacks=[Stop()], **QUIET)
    resumed = VDSM(options).fit(data, out=tmp_path / "run", checkpoint_every=1, resume=True, **QUIET)
    assert ties(resumed) == ties(whole)
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], value, rtol=0.0, atol=0.0)


def test_runs_from_before_there_were_ties_load_and_mean_what_they_meant(data: Dataset, tmp_path: Path) -> None:
    system = VDSM(TINY).fit(data, **QUIET)
    system.save(tmp_path / "saved")
    path = tmp_path / "saved" / "config.json"
    config = json.loads(path.read_text())
    options = next(part for part in (config, *config.values()) if isinstance(part, dict) and "tie_segments" in part)
    del options["tie_segments"], options["tie_steps"]
    path.write_text(json.dumps(config))
    again = systems.load(tmp_path / "saved")
    assert isinstance(again, VDSM)
    assert again.model.decoder.ties is None
    clips = data.test.tensors["frames"][:3]
    torch.testing.assert_close(again.swap(clips, clips.flip(0)), system.swap(clips, clips.flip(0)))


def test_ties_need_segments_and_steps() -> None:
    with pytest.raises(ConfigError, match="tie_segments needs segments"):
        VDSM(tie_segments=True)
    with pytest.raises(ConfigError, match="tie_steps"):
        VDSM(TINY, tie_segments=True, tie_steps=0)


def test_other_decoders_are_let_be() -> None:
    stage = SimpleNamespace(name="ties 1")
    for options in ({"basis": 4, "segments": 0}, {}):
        system = VDSM({**TINY, **options})
        system.schema = {"channels": 3, "size": 16, "length": 5, "mean": [0.5] * 3}
        system.build()
        callback = TieSegments(system)
        callback.on_stage(SimpleNamespace(stage=stage))  # type: ignore[arg-type]
        assert callback.before == {}
