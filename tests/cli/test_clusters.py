"""The command on several processes: those it starts itself, and those that torchrun has started."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from phlogiston import systems
from phlogiston.inference.svi import checkpoints

ROOT = Path(__file__).resolve().parents[2]
# 320 rows in batches of 127: ragged over two processes, and ragged at the end of each epoch
DATA = ["--data", "swissroll", "--data-set", "sizes=[320, 0, 20]"]
TRAIN = ["train", "drmm", *DATA, "--set", "batch_size=127", "--set", "num_components=4", "--steps", "50"]
TRAIN += ["--accelerator", "cpu", "--json"]
HERE = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> list[torch.Tensor]:
    """Parameters that one process ends with."""
    from phlogiston.systems import workflow

    out = tmp_path_factory.mktemp("one") / "run"
    sets = {"batch_size": "127", "num_components": "4"}
    options = {"sizes": "[320, 0, 20]"}
    workflow.train("drmm", data="swissroll", data_options=options, sets=sets, steps=50, out=out, progress="off")
    return list(systems.load(out).model.parameters())


def check(run: Path, one: list[torch.Tensor]) -> None:
    assert checkpoints.read_state(checkpoints.find(run))["processes"] == 2
    for alone, two in zip(one, systems.load(run).model.parameters(), strict=True):
        torch.testing.assert_close(two, alone, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_two_processes_end_with_the_parameters_of_one(tmp_path: Path, one: list[torch.Tensor]) -> None:
    (tmp_path / "start.py").write_text("from phlogiston.__main__ import main; main()")
    command = [sys.executable, "-P", "start.py", *TRAIN, "--devices", "2", "--out", "runs/two"]
    environment = {k: v for k, v in HERE.items() if k != "GLOO_SOCKET_IFNAME"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["run"] == "runs/two"  # one object, of the first process
    check(tmp_path / "runs" / "two", one)
    assert os.listdir(tmp_path / "runs") == ["two"]


@pytest.mark.slow
def test_torchrun_on_two_machines_ends_with_the_parameters_of_one(tmp_path: Path, one: list[torch.Tensor]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    given = {"PYTHON": sys.executable, "NODES": "2", "HOST": "127.0.0.1", "PORT": port, "ADDRESS": "127.0.0.1"}
    command = ["sh", str(ROOT / "examples" / "cluster" / "torchrun.sh"), *TRAIN, "--out", "run"]
    machines: list[subprocess.Popen[Any]] = [
        subprocess.Popen(
            command, cwd=tmp_path, env={**HERE, **given}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    told = []
    try:
        for machine in machines:
            out, err = machine.communicate(timeout=240)
            assert machine.returncode == 0, err
            told.append(out)
    finally:
        for machine in machines:
            machine.kill()
    (result,) = [json.loads(out) for out in told if out]
    assert result["steps"] == 50
    check(tmp_path / "run", one)


@pytest.mark.slow
def test_ray_on_two_workers_ends_with_the_parameters_of_one(tmp_path: Path, one: list[torch.Tensor]) -> None:
    pytest.importorskip("ray.train.torch", reason='needs Ray: pip install "phlogiston[ray]"')
    options = {"batch_size": 127, "num_components": 4, "steps": 50}
    command = [
        sys.executable,
        "-P",
        str(ROOT / "examples" / "cluster" / "ray_train.py"),
        "--out",
        str(tmp_path / "run"),
    ]
    command += ["--data-options", json.dumps({"sizes": [320, 0, 20]}), "--options", json.dumps(options)]
    environment = {**HERE, "RAY_ADDRESS": "local", "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {"run": str(tmp_path / "run")}
    check(tmp_path / "run", one)
