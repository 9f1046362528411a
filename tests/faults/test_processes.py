"""What may happen to one process of several, or to a run that was to have several: one fault each."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from phlogiston.inference.svi import checkpoints

Note = Callable[[str, str, str, str], None]
ROOT = Path(__file__).resolve().parents[2]
TRAIN = ["train", "drmm", "--data", "swissroll", "--data-set", "n=300", "--set", "num_layers=2", "--set", "beam=3"]
TRAIN += ["--set", "num_components=4", "--set", "batch_size=32", "--steps", "200", "--accelerator", "cpu"]
# the command, of which one process is killed at step 150, once
START = """
import os, signal
from pathlib import Path
from phlogiston.inference.svi import loop

tell = loop.Loop._tell

def told(self):
    tell(self)
    if str(self.processes.rank) == os.environ.get("VICTIM") and self.step == 150 and not Path("killed").exists():
        Path("killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)

loop.Loop._tell = told
from phlogiston.__main__ import main

if __name__ == "__main__":
    main()
"""


def run(folder: Path, command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command and wait for all of its processes."""
    here = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder), **environment}
    return subprocess.run(command, cwd=folder, env=here, capture_output=True, text=True, timeout=1800)


def parameters(run: Path) -> dict[str, torch.Tensor]:
    tensors, state = checkpoints.read(checkpoints.find(run))
    assert (state["step"], state["finished"], state["processes"]) == (200, True, 2)
    return {name: tensors[name] for name in state["names"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    (folder / "start.py").write_text(START)
    return folder


@pytest.fixture(scope="module")
def whole(folder: Path) -> dict[str, torch.Tensor]:
    """Parameters of the run of two processes nothing is done to."""
    done = run(folder, [sys.executable, "-P", "start.py", *TRAIN, "--devices", "2", "--out", "whole"])
    assert done.returncode == 0, done.stderr
    return parameters(folder / "whole")


def test_several_machines_without_a_launcher(server: Any, observed: Note) -> None:
    done = server(argv=[*TRAIN, "--nodes", "2", "--out", "never"])
    assert done.code == 2
    assert "torchrun --nnodes 2" in done.err
    assert "srun --nodes 2" in done.err
    assert not (server.folder / "never").exists()
    title = "`--nodes 2`, and nothing has started the other machine's processes"
    observed("process/nodes", title, "refused at once, with the commands that do", "exit 2, named; no folder")


@pytest.mark.faults
@pytest.mark.parametrize("victim", [0, 1])
def test_one_of_two_processes_is_killed(folder: Path, whole: Any, observed: Note, victim: int) -> None:
    (folder / "killed").unlink(missing_ok=True)
    out = f"run-{victim}"
    command = [sys.executable, "-P", "start.py", *TRAIN, "--devices", "2", "--out", out]
    done = run(folder, command, VICTIM=str(victim))
    seconds = time.time() - (folder / "killed").stat().st_mtime
    assert done.returncode == (1 if victim else -9)
    assert seconds < 30
    (told,) = [line for line in done.stderr.splitlines() if line.startswith("phlogiston: another process")]
    assert "it continues from step 1" in told
    kept = checkpoints.read_state(checkpoints.find(folder / out))["step"]
    assert kept in (149, 150)
    again = run(folder, [*command, "--resume"])
    assert again.returncode == 0, again.stderr
    end = parameters(folder / out)
    assert all(torch.equal(end[name], whole[name]) for name in whole)
    which = "the one that writes" if victim == 0 else "the other one"
    title = f"one process of two is killed (SIGKILL) at step 150: {which}"
    expected = "the other ends in under 30 s with an error, and keeps the last whole step; resumed"
    observed(
        f"process/killed-{victim}",
        title,
        expected,
        f"ended in time, an error; step {kept} kept; resumed, exit 0, parameters equal bit for bit",
    )


@pytest.mark.faults
def test_a_process_under_torchrun_is_killed(folder: Path, whole: Any, observed: Note) -> None:
    (folder / "killed").unlink(missing_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    launcher = [sys.executable, "-P", "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "1"]
    launcher += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--local-addr", "127.0.0.1"]
    command = [*launcher, "-m", "start", *TRAIN, "--out", "elastic", "--auto-resume"]
    done = run(folder, command, VICTIM="1", GLOO_SOCKET_IFNAME="lo", TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1")
    assert done.returncode == 0, done.stderr
    assert (folder / "killed").exists()
    end = parameters(folder / "elastic")
    assert all(torch.equal(end[name], whole[name]) for name in whole)
    observed(
        "process/torchrun",
        "a process under `torchrun --max-restarts 1` is killed (SIGKILL) at step 150, `--auto-resume` given",
        "torchrun starts all again; the run goes on by itself",
        "exit 0, parameters equal bit for bit",
    )


@pytest.mark.faults
def test_what_happens_to_one_process_is_known_to_both(folder: Path, observed: Note) -> None:
    script = ROOT / "tests" / "inference" / "drive_two.py"
    done = run(folder, [sys.executable, "-P", str(script), str(folder), "cases", "noise", "decisions"])
    assert done.returncode == 0, done.stderr
    assert set(map(tuple, json.loads((folder / "codes.json").read_text()).values())) == {(0, 0)}
    noise, decisions = ([json.loads((folder / f"{job}-{rank}.json").read_text()) for rank in range(2)]
                        for job in ("noise", "decisions"))  # fmt: skip
    assert noise[0] == noise[1]
    assert noise[0]["Poisoned"]["skipped"] == noise[0]["Refusing"]["skipped"] == 2
    title = "the loss is NaN, or its program fails on NaN, on one process of two"
    observed("process/nan", title, "both skip the step", "2 steps skipped, parameters equal on both bit for bit")
    cases = json.loads((folder / "cases-0.json").read_text())
    assert decisions[0]["signal"] == decisions[1]["signal"] == 143
    assert decisions[0]["continued"] == decisions[1]["continued"] == cases["elbo"]["end"]
    title = "one process of two gets SIGTERM"
    observed("process/signal", title, "both stop after the same step, with a checkpoint",
             "exit 143 twice; resumed, parameters equal bit for bit")  # fmt: skip


@pytest.mark.faults
def test_a_run_goes_on_with_other_numbers_of_processes(folder: Path, observed: Note) -> None:
    script = ROOT / "tests" / "inference" / "drive_two.py"
    jobs = ["cases", "elastic-2", "elastic-1", "elastic-end"]
    done = run(folder, [sys.executable, "-P", str(script), str(folder), *jobs])
    assert done.returncode == 0, done.stderr
    end, cases = (json.loads((folder / f"{job}-0.json").read_text()) for job in ("elastic-end", "cases"))
    torch.testing.assert_close(torch.tensor(end["end"]), torch.tensor(cases["elbo"]["end"]), rtol=1e-5, atol=1e-6)
    observed(
        "process/elastic",
        "resumed on one process after two, and on two again (no sampled noise)",
        "goes on, says so; parameters of the run of two, to rounding",
        "equal to 1e-5",
    )
