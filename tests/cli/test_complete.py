"""What a Tab offers, as the shell asks for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def offered(words: str, folder: Path) -> list[str]:
    """What bash would offer for the last of the words."""
    environment = {
        **os.environ,
        "_PHLOGISTON_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }
    command = [sys.executable, "-P", "-X", "importtime", "-m", "phlogiston"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)
    assert " torch\n" not in done.stderr, "a Tab must not wait for torch"
    return [line for line in done.stdout.splitlines() if line]


@pytest.mark.parametrize(
    ("words", "offers"),
    [
        ("phlogiston tr", {"train"}),
        ("phlogiston train d", {"drmm"}),
        ("phlogiston train drmm --preset sw", {"swissroll"}),
        ("phlogiston train drmm --set num_l", {"num_layers="}),
        ("phlogiston train drmm --data swi", {"swissroll"}),
        ("phlogiston train drmm --data mea", {"measurements.csv"}),
        ("phlogiston systems sq", {"sqair"}),
        ("phlogiston data info mo", {"moving_digits"}),
        ("phlogiston evaluate ", {"runs"}),
        ("phlogiston sample runs/", {"runs/mine"}),
        ("phlogiston evaluate mdn/", {"mdn/arcsine"}),
        ("phlogiston train nobody --preset ", set()),
        ("phlogiston train drmm --st", {"--steps"}),
        ("phlogiston query runs/mine be", {"belt"}),
        ("phlogiston query runs/mine si", {r"side\ =\ left", r"side\ =\ right"}),  # one word for bash
        ("phlogiston query runs/mine bo", {r"body\ mass\ \[kg\]"}),
        ('phlogiston query runs/mine "bo', {"body mass [kg]"}),  # inside a quote as it is
    ],
)
def test_a_tab_offers_what_fits(tmp_path: Path, words: str, offers: set[str]) -> None:
    (tmp_path / "measurements.csv").write_text("a,b\n1,2\n")
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    schema = {"columns": ["belt", "age", "body mass [kg]"], "categorical": {"side": ["left", "right"]}}
    (tmp_path / "runs" / "mine" / "config.json").write_text(json.dumps({"config": {"schema": schema}}))
    assert set(offered(words, tmp_path)) == offers
