"""The script for accelerators works: small sizes on a CPU, both precisions."""

from __future__ import annotations

import json
import subprocess

import pytest

from .gpu import TINY
from .rows import ROOT

pytestmark = pytest.mark.bench


@pytest.mark.parametrize("name", sorted(TINY))
def test_the_dry_run_measures_every_case(name: str) -> None:
    command = ["bash", str(ROOT / "benchmarks" / "gpu.sh"), "--tiny", "--budget", "30", name]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [line["precision"] for line in lines] == ["32-true", "bf16-mixed"]
    assert all("error" not in line and line["steps_per_second"] > 0 for line in lines), lines
