"""Segments that share a part: tied when stage 1 ends, kept in runs, and nothing that older runs have to know."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from phlogiston import datasets, systems
from phlogiston.datasets.base import Dataset
from phlogiston.errors import ConfigError, RunError
from phlogiston.systems.vdsm import training
from phlogiston.systems.vdsm.system import VDSM

TINY: dict[str, Any] = {
    "experts": 1, "segments": 3, "likelihood": "normal", "pose": 3, "dynamics": 5, "encoder_widths": (6, 6),
    "features": 16, "decoder_widths": (8, 6), "recurrent": 8, "steps": 4, "batch_size": 6, "warm_steps": 3,
    "sequence_steps": 2, "warmup": 1, "aggregate": 2,
}  # fmt: skip
QUIET: dict[str, Any] = {"progress": "off", "tensorboard": False}


@pytest.fixture(scope="module")
def data() -> Dataset:
    return datasets.load("figures", characters=(3, 0, 2), size=16, frames=5)


def ties(system: VDSM) -> list[int]:
    found = system.model.decoder.ties
    assert isinstance(found, torch.Tensor)
    return found.tolist()


def test_ties_are_found_when_stage_one_ends_and_kept_in_the_run(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def found(said: torch.Tensor, squares: torch.Tensor) -> torch.Tensor:
        asked.append((said.shape, squares.shape))
        return torch.tensor([0, 0, 2])

    monkeypatch.setattr(training, "stand_ins", found)
    system = VDSM(TINY, tie_segments=True).fit(data, out=tmp_path / "run", **QUIET)
    assert asked == [((27, 3, 6), (27,))]
    assert ties(system) == [0, 0, 2]
    clips = data.test.tensors["frames"][:3]
    again = systems.load(tmp_path / "run")
    assert isinstance(again, VDSM)
    assert ties(again) == [0, 0, 2]
    torch.testing.assert_close(again.swap(clips, clips.flip(0)), system.swap(clips, clips.flip(0)))
    assert float(system.encode(clips)["identity_loc"].unflatten(1, (3, 3))[:, 1].abs().max()) == 0.0

    taken = VDSM(TINY, tie_segments=True, stage1=str(tmp_path / "run")).fit(data, **QUIET)
    assert ties(taken) == [0, 0, 2]
    with pytest.raises(RunError, match="tie_segments"):
        VDSM(TINY, stage1=str(tmp_path / "run")).fit(data, **QUIET)


def test_runs_from_before_there_were_ties_load_and_mean_what_they_meant(data: Dataset, tmp_path: Path) -> None:
    system = VDSM(TINY).fit(data, **QUIET)
    system.save(tmp_path / "saved")
    path = tmp_path / "saved" / "config.json"
    config = json.loads(path.read_text())
    options = next(part for part in (config, *config.values()) if isinstance(part, dict) and "tie_segments" in part)
    del options["tie_segments"]
    path.write_text(json.dumps(config))
    again = systems.load(tmp_path / "saved")
    assert isinstance(again, VDSM)
    assert again.model.decoder.ties is None
    clips = data.test.tensors["frames"][:3]
    torch.testing.assert_close(again.swap(clips, clips.flip(0)), system.swap(clips, clips.flip(0)))


def test_ties_need_segments() -> None:
    with pytest.raises(ConfigError, match="tie_segments needs segments"):
        VDSM(tie_segments=True)
