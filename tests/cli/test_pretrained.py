"""Trained systems in the package, by their names on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

import phlogiston
from phlogiston.systems.pretrained.recipes import told

from .conftest import Command


def test_the_command_line_takes_names(tmp_path: Path, command: Command) -> None:
    listed = command("systems", "--json").json
    assert listed["trained"] == told()
    asked = command("query", "drmm/swissroll", "x0 >= 2", "-n", "100", "--json").json
    answer = phlogiston.load("drmm/swissroll").query("x0 >= 2", num_samples=100, seed=0)
    assert asked["log_evidence"] == pytest.approx(float(answer.log_evidence))
    assert command("summary", "drmm/swissroll", "--json").json["run"] == "drmm/swissroll"
    assert not list(tmp_path.iterdir())
