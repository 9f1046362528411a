"""What two processes gain, and whether the simulation behind docs/clusters.md says so.

    python -P -m pytest benchmarks/test_clusters.py -m bench -s

CPU time of a process per step, the exchange included: on busy cores it is what two free cores would gain, processes
that take equally long provided.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.bench


def test_two_processes_gain_what_was_simulated(tmp_path: Path) -> None:
    out = tmp_path / "clusters.json"
    subprocess.run([sys.executable, "-P", str(Path(__file__).parent / "clusters.py"), "--out", str(out)], check=True)
    entries = {e["name"]: e for e in json.loads(out.read_text())["entries"] if e["name"].startswith("two/")}
    assert len(entries) == 3
    for name, entry in entries.items():
        assert entry["mean"] >= entry["must"], name
        assert abs(entry["mean"] - entry["expected"]) < 0.12, name
