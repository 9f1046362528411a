"""The page on systems of your own, followed to the letter: its package is built, installed, and has every verb."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "own-system.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.S)


def files() -> dict[str, str]:
    """The files of the page by name."""
    matches = (re.match(r"# file: (\S+)\n(.*)", b, flags=re.S) for b in [*blocks("toml"), *blocks("python")])
    return {match[1]: match[2] for match in matches if match}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's package, built and installed by pip into a folder of its own."""
    top = tmp_path_factory.mktemp("plugin")
    for name, text in {**files(), "vae_plugin/__init__.py": ""}.items():
        path = top / "vae-plugin" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    command += ["--disable-pip-version-check", "--target", str(top / "site"), str(top / "vae-plugin")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    if "No module named pip" in done.stderr:
        pytest.skip("pip is not installed in this environment")
    assert done.returncode == 0, done.stderr
    return top / "site"


def run(site: Path, folder: Path, *command: str) -> str:
    env = {**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_package_has_fewer_than_170_lines_in_all() -> None:
    parts = {"pyproject.toml", *(f"vae_plugin/{name}.py" for name in ("config", "programs", "report", "system"))}
    assert set(files()) == parts
    assert sum(len(text.splitlines()) for text in files().values()) < 170


def test_every_command_and_snippet_of_the_page_runs(installed: Path, tmp_path: Path) -> None:
    commands = [line for block in blocks("bash") for line in block.splitlines()]
    assert commands.pop(0) == "pip install ./vae-plugin"
    assert [shlex.split(line)[1] for line in commands] == ["systems", "train", "sample", "evaluate"]
    said = ""
    for line in commands:
        program, *arguments = shlex.split(line)
        assert program == "phlogiston"
        said += run(installed, tmp_path, sys.executable, "-P", "-m", "phlogiston", *arguments)
    assert "code" in said
    assert (tmp_path / "samples.npz").is_file()
    assert (tmp_path / "runs" / "vae" / "report.html").is_file()
    snippets = "\n".join(block for block in blocks("python") if block.startswith("# run:"))
    learned = """
rows = ph.datasets.load("digits").test.tensors["x"].float()
import torch
noise = torch.distributions.Normal(vae.model.location, vae.model.scale).log_prob(rows).sum(1).mean()
assert vae.log_prob({"x": rows}).value.mean() > noise + 10.0, "the system did not learn"
inside = vae.query({"x": [ph.Known(rows[0], mask=torch.arange(64) < 32), ph.Within(-1.0, 2.0)]}, ask=["x"], seed=0)
assert torch.equal(inside.samples["x"][..., :32].float(), rows[0][:32].expand_as(inside.samples["x"][..., :32]))
assert inside.samples["x"].min() >= -1.0 and inside.samples["x"].max() <= 2.0
"""
    said = run(installed, tmp_path, sys.executable, "-P", "-W", "ignore", "-c", snippets + learned)
    assert said.startswith("importance")
