"""Fifteen seconds of damaged files for every reader, the same each time: nothing gets out but errors of ours."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

FUZZ = Path(__file__).with_name("fuzz.py")


def test_damaged_files_raise_only_errors_of_ours(tmp_path: Path) -> None:
    command = [sys.executable, "-P", str(FUZZ), "--inputs", "12000", "--seconds", "15", "--seed", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    assert " readers, " in done.stdout


def test_the_net_sees_foreign_errors_memory_time_and_running() -> None:
    script = f"""
import os, sys, signal
sys.path.append({str(FUZZ.parent)!r})
import fuzz, mutations, targets
from pathlib import Path

def reads(what):
    def read(folder, file):
        if what == "foreign": raise KeyError("x")
        if what == "memory":
            try: bytearray(1 << 31)
            except MemoryError as error:
                from phlogiston.errors import DataError
                raise DataError("hidden") from error
        if what == "time":
            while True: pass
        if what == "runs": os.system("true")
        if what == "dies": os.kill(os.getpid(), signal.SIGKILL)
    return read

fuzz.SECONDS = 0.2
for what in ("foreign", "memory", "time", "runs", "dies", "nothing"):
    report = fuzz.Report()
    target = targets.Target(what, "a", [b"abc"], mutations.blind, reads(what))
    fuzz.run_chunk(target, 0, range(2), report)
    print(what, report.inputs, dict(report.faults))
"""
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True)
    found = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert "KeyError" in found["foreign"]
    assert "too much memory" in found["memory"]
    assert "takes too long" in found["time"]
    assert "runs os.system" in found["runs"]
    assert "signal 9" in found["dies"]
    assert found["nothing"] == "nothing 2 {}"


def test_an_input_is_known_by_seed_and_number() -> None:
    sys.path.append(str(FUZZ.parent))
    import mutations

    content = bytes(range(256)) * 4
    first, again, other = (mutations.blind(random.Random(seed), content) for seed in ("1/a/5", "1/a/5", "1/a/6"))
    assert first == again
    assert first != other
