"""The page on adding a system, followed to the letter in a copy of the rooms: three files, and every verb knows it."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "sixth-system.md"
ROOMS = ("cli", "datasets", "distributions", "evaluate", "guides", "inference", "models", "networks", "systems")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.S)


def files() -> dict[str, str]:
    """The files of the page by name."""
    found = (re.match(r"# file: (\S+)\n(.*)", block, flags=re.S) for block in blocks("python"))
    return {match[1]: match[2] for match in found if match}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the rooms with the page's files in their places."""
    top = tmp_path_factory.mktemp("house")
    for room in ROOMS:
        shutil.copytree(ROOT / room, top / room, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(
        ROOT / "phlogiston", top / "phlogiston", symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
    )
    for name, text in files().items():
        assert not (top / name).exists(), f"{name} would overwrite a file of the house"
        (top / name).write_text(text, encoding="utf-8")
    return top


def run(house: Path, folder: Path, *command: str) -> str:
    env = {**os.environ, "PYTHONPATH": str(house), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_three_files_have_fewer_than_150_lines_in_all() -> None:
    found = files()
    assert set(found) == {"systems/configs/vae.py", "models/vae.py", "systems/vae.py"}
    assert sum(len(text.splitlines()) for text in found.values()) < 150


def test_every_command_and_snippet_of_the_page_runs(house: Path, tmp_path: Path) -> None:
    commands = [line for block in blocks("bash") for line in block.splitlines()]
    assert [shlex.split(line)[1] for line in commands] == ["systems", "train", "sample", "evaluate"]
    said = ""
    for line in commands:
        program, *arguments = shlex.split(line)
        assert program == "phlogiston"
        said += run(house, tmp_path, sys.executable, "-P", "-m", "phlogiston", *arguments)
    assert "code" in said
    assert (tmp_path / "samples.npz").is_file()
    assert (tmp_path / "runs" / "vae" / "report.html").is_file()
    (snippet,) = [block for block in blocks("python") if block.startswith("# run:")]
    learned = """
rows = datasets.load("digits").test.tensors["x"].float()
import torch
noise = torch.distributions.Normal(vae.model.location, vae.model.scale).log_prob(rows).sum(1).mean()
assert vae.log_prob(rows).value.mean() > noise + 10.0, "the system did not learn"
inside = vae.query({"x": [Known(rows[0], mask=torch.arange(64) < 32), Within(-1.0, 2.0)]}, ask=["x"], seed=0)
assert torch.equal(inside.samples["x"][..., :32].float(), rows[0][:32].expand_as(inside.samples["x"][..., :32]))
assert inside.samples["x"].min() >= -1.0 and inside.samples["x"].max() <= 2.0
"""
    said = run(house, tmp_path, sys.executable, "-P", "-W", "ignore", "-c", snippet + learned)
    assert said.startswith("importance")
