"""`phlogiston show`: clips laid out in files, and clear words where that cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

SETS = {"encoder_widths": "[4,4]", "decoder_widths": "[4,4]", "experts": "2", "pose": "2", "dynamics": "2",
        "recurrent": "4", "features": "8", "warm_steps": "1", "sequence_steps": "1", "aggregate": "0"}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from phlogiston.systems import workflow

    folder = tmp_path_factory.mktemp("shown") / "run"
    options = {"sizes": "[8,0,6]", "size": "16", "frames": "4"}
    workflow.train("vdsm", data="pendulum", data_options=options, sets=SETS, steps=3, out=folder, progress="off")
    return folder


def test_a_view_becomes_a_video_or_arrays(command: Any, run: Path) -> None:
    told = command("show", run, "swap_grid", "-n", "3", "--out", "grid.gif", "--json").json
    assert told == {"run": str(run), "what": "swap_grid", "n": 3, "out": "grid.gif"}
    assert Path("grid.gif").read_bytes().startswith(b"GIF8")
    assert command("show", run, "codes", "-n", "5", "--out", "codes.npz").code == 0
    with np.load("codes.npz") as file:
        assert file["blend"].shape == (5, 2)
        assert {"dynamics_loc", "regenerated", "invented", "action", "colour"} <= set(file.files)


def test_a_system_without_views_says_what_to_do_instead(command: Any, trained: Path) -> None:
    refused = command("show", trained, "grid")
    assert refused.code == 2
    assert "drmm has no views to show. `phlogiston sample` draws" in refused.err


def test_what_cannot_be_shown_is_refused_in_one_line(command: Any, run: Path) -> None:
    wrong = command("show", run, "swapgrid", "--out", "grid.gif")
    assert wrong.code == 2
    assert "swap_grid" in wrong.err
    assert command("show", run, "swap_grid", "--out", "grid.txt").code == 2
    Path("kept.png").write_bytes(b"mine")
    assert command("show", run, "swap_grid", "--out", "kept.png").code != 0
    assert Path("kept.png").read_bytes() == b"mine"
