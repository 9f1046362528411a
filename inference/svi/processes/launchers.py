"""Who starts the processes of a run: this program itself on one machine; torchrun, srun, Ray on several.

A launcher says how many there are, and that counts: after one was lost, `torchrun --nnodes 1:4` starts fewer.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from phlogiston.console import tell
from phlogiston.errors import ConfigError

GRACE = 20.0
"""Seconds that the first process has to end by itself, with an error and a checkpoint, after another has failed."""


@dataclass(frozen=True)
class Launched:
    """What a launcher has started.

    Attributes:
        by: its name.
        per_node: processes per machine.
        nodes: machines.
    """

    by: str
    per_node: int
    nodes: int

    @property
    def size(self) -> int:
        """Number of processes."""
        return self.per_node * self.nodes


def launched(environment: Mapping[str, str] = os.environ) -> Launched | None:
    """Say which launcher has started this process as one of several (or as the only one that is left), if any.

    A process group that exists already (Ray has made it, or the caller) counts before torchrun and SLURM.

    Raises:
        ConfigError: a launcher that started different numbers of processes per machine.
    """
    e = environment
    torch = sys.modules.get("torch")
    if torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized():
        size = torch.distributed.get_world_size()
        return _even("the process group", size, int(e.get("LOCAL_WORLD_SIZE", size)))
    if "TORCHELASTIC_RUN_ID" in e:
        return _even("torchrun", int(e["WORLD_SIZE"]), int(e["LOCAL_WORLD_SIZE"]))
    tasks, nodes = int(e.get("SLURM_STEP_NUM_TASKS", 1)), int(e.get("SLURM_STEP_NUM_NODES", 1))
    if tasks > 1 and "SLURM_PROCID" in e:
        if tasks % nodes:
            raise ConfigError(f"srun started {tasks} tasks on {nodes} nodes: give --ntasks-per-node, equal on all.")
        return Launched("srun", tasks // nodes, nodes)
    return None


def _even(by: str, size: int, per_node: int) -> Launched:
    if size % per_node:
        raise ConfigError(f"{by} has {size} processes, {per_node} of them on this machine: start equally many on each.")
    return Launched(by, per_node, size // per_node)


def check_nodes(nodes: int, devices: int | str = 1) -> None:
    """Refuse several machines where nothing has started this process on each of them: it would wait for ever.

    Raises:
        ConfigError: with the commands that do.
    """
    by_hand = "NODE_RANK" in os.environ and "MASTER_ADDR" in os.environ
    if nodes > 1 and not by_hand and launched() is None:
        each = "N" if devices == "auto" else devices
        raise ConfigError(
            f"--nodes {nodes}: no launcher has started this process, so no other machine would ever answer. On each "
            f"machine: torchrun --nnodes {nodes} --nproc-per-node {each} --rdzv-backend c10d --rdzv-endpoint "
            f"FIRST_MACHINE:29500 -m phlogiston train ...; or once: srun --nodes {nodes} --ntasks-per-node {each} "
            "phlogiston train ...; or from Python with Ray (examples/cluster/ has a script for each)."
        )


def checked(launch: Launched, devices: int | str) -> Launched:
    """Return a launch whose number of processes per machine is not contradicted by `devices`.

    Raises:
        ConfigError: it is.
    """
    if str(devices) not in ("1", "auto", str(launch.per_node)):
        raise ConfigError(
            f"devices={devices}, but {launch.by} has started {launch.per_node} processes per machine. Say the number "
            "to the launcher alone."
        )
    return launch


def environment_of(launch: Launched) -> Any:
    """Return the Lightning `ClusterEnvironment` of a launch."""
    from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
    from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment

    if launch.by == "torchrun":
        return TorchElasticEnvironment()
    if launch.by == "srun":
        os.environ.setdefault("SLURM_NTASKS_PER_NODE", str(launch.per_node))
        return SLURMEnvironment(auto_requeue=False)
    return _joined()


def _joined() -> Any:
    import torch
    from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment

    class Joined(ClusterEnvironment):
        """A process group that exists already."""

        creates_processes_externally = True
        main_address = os.environ.get("MASTER_ADDR", "127.0.0.1")
        main_port = int(os.environ.get("MASTER_PORT", "0"))

        @staticmethod
        def detect() -> bool:
            return torch.distributed.is_initialized()

        def world_size(self) -> int:
            return torch.distributed.get_world_size()

        def set_world_size(self, size: int) -> None:
            pass

        def global_rank(self) -> int:
            return torch.distributed.get_rank()

        def set_global_rank(self, rank: int) -> None:
            pass

        def local_rank(self) -> int:
            return int(os.environ.get("LOCAL_RANK", torch.distributed.get_rank()))

        def node_rank(self) -> int:
            return int(os.environ.get("NODE_RANK", os.environ.get("GROUP_RANK", "0")))

    return Joined()


def start_others(count: int, nodes: int) -> None:
    """Start this program again as the other processes of this machine, and watch them.

    Fabric's own launcher kills the first process at once when another fails: without an error, and without what it
    could still have written.

    Args:
        count: processes on this machine, this one included.
        nodes: machines.
    """
    if "LOCAL_RANK" in os.environ:
        return  # this is one of the others
    environment = os.environ
    environment.setdefault("MASTER_ADDR", "127.0.0.1")
    environment.setdefault("MASTER_PORT", str(_free_port()))
    environment.setdefault("NODE_RANK", "0")
    environment.update(LOCAL_RANK="0", LOCAL_WORLD_SIZE=str(count), WORLD_SIZE=str(count * nodes))
    if nodes == 1 and "lo" in {name for _, name in socket.if_nameindex()}:
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo")  # the host's name need not lead anywhere
    others = [subprocess.Popen(_command(), env={**environment, "LOCAL_RANK": str(rank)}) for rank in range(1, count)]
    threading.Thread(target=_watch, args=(others,), daemon=True, name="phlogiston-processes").start()


def _command() -> Sequence[str]:
    """The command line of this process."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is None:
        return [sys.executable, *_flags(), os.path.abspath(sys.argv[0]), *sys.argv[1:]]
    return [sys.executable, *_flags(), "-m", spec.name.removesuffix(".__main__"), *sys.argv[1:]]


def _flags() -> list[str]:
    return ["-P"] if sys.flags.safe_path else []


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _watch(others: Sequence[subprocess.Popen[bytes]]) -> None:
    """Wait for the other processes; where one fails, end what is left of the run after a while of grace."""
    while all(process.poll() in (None, 0) for process in others):
        if all(process.returncode == 0 for process in others):
            return
        time.sleep(0.5)
    failed = next(process for process in others if process.poll() not in (None, 0))
    time.sleep(GRACE)  # the daemon thread ends with this process, which by now knows from its next exchange
    tell(
        f"phlogiston: process {failed.pid} of this run has gone (exit code {failed.returncode}), and this one did not "
        "come to its next exchange: it is ended. Start the same command again: it continues from the newest checkpoint."
    )
    for process in others:
        with contextlib.suppress(OSError):
            process.kill()
    os._exit(1)
