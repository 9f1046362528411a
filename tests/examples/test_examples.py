"""Every example runs, in its small form, and none is forgotten."""

from __future__ import annotations

import runpy
import subprocess
import sys
import warnings
from pathlib import Path

import pyro
import pytest

ROOT = Path(__file__).resolve().parents[2]

# file name -> the arguments of the small run; an example without a small form has none to give
SMOKE: dict[str, list[str]] = {
    "drmm_classification.py": ["--smoke"],
    "drmm_completion.py": ["--smoke"],
    "drmm_depths.py": ["--smoke"],
    "drmm_gaps.py": ["--smoke"],
    "drmm_kinematics.py": ["--smoke"],
    "drmm_motion.py": ["--smoke"],
    "drmm_swissroll_queries.py": ["--smoke"],
    "drmm_trajectories.py": ["--smoke"],
    "handwriting_hello.py": ["--smoke", "--out", "hello"],
    "mdn_inverse_sine.py": ["--quick", "--out", "pictures"],
    "mdn_spiral.py": ["--smoke"],
    "sqair_moving_digits.py": ["--quick", "--out", "pictures"],
    "sqair_walkers.py": ["--smoke", "--out", "pictures"],
    "scene_memories.py": ["--smoke"],
    "scene_turn.py": ["--smoke", "--out", "turn"],
    "sequence_streams.py": ["--smoke", "--out", "streams"],
    "sketch_letters.py": ["--smoke", "--out", "letters"],
    "vdsm_pendulum.py": ["--smoke", "--out", "videos"],
    "vdsm_swap.py": ["--smoke", "--out", "pictures"],
    "world_dream.py": ["--smoke", "--out", "dodge"],
}


def test_every_example_is_in_the_smoke_list_and_every_entry_exists() -> None:
    assert sorted(path.name for path in (ROOT / "examples").glob("*.py")) == sorted(SMOKE)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SMOKE))
def test_example_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process, which has loaded torch already: as scripts they would load it 19 times."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name, *SMOKE[name]])
    with warnings.catch_warnings(), pyro.validation_enabled(False):  # as in a process of its own
        warnings.simplefilter("default")
        warnings.simplefilter("error", UserWarning)
        runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
    assert capsys.readouterr().out.strip(), "an example shows something"


def test_an_example_runs_as_a_script(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-W", "error::UserWarning", str(ROOT / "examples" / "mdn_spiral.py"), "--smoke"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip()
