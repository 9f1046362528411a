"""The script for accelerators works: small sizes on a CPU, both precisions."""

from __future__ import annotations

import json
import subprocess

import pytest
import torch

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


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is an accelerator")
def test_without_an_accelerator_it_says_so_at_once() -> None:
    done = subprocess.run(["bash", str(ROOT / "benchmarks" / "gpu.sh")], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "gpu.py: there is no accelerator that torch can use; --tiny runs small sizes on the CPU.\n"
