"""What many processes gain: a simulation of data-parallel steps, held first to what two processes of this machine do.

    python -P benchmarks/clusters.py

measures, for vdsm, scene and sqair at their default sizes, the steps of one process, what an exchange between two
processes costs, and the steps of two processes with the same rows each, in turn; simulates those; then simulates the
published sizes of sqair and scene on 64 accelerators, over links of several speeds. Writes docs/results/clusters.json,
from which docs/clusters.md has its tables.

Times are CPU time of a process, which other work on the machine does not lengthen, and clock time, which means
something on free cores only: the load is recorded with it.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import platform
import socket
import statistics
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from phlogiston import datasets, systems
from phlogiston.files import write_json
from phlogiston.inference.svi import parallel, step
from phlogiston.inference.svi.processes.exchange import BUCKET_MEGABYTES, Bucketed
from phlogiston.systems.options import preset_options, validate_options

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results" / "clusters.json"
WORLD = 64
TITLES = {"vdsm": "vdsm, frames", "scene": "scene", "sqair": "sqair, 3 frames"}
# system: data, their options, options that bring the stage of interest to the beginning, rows per process
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any], int]] = {
    "vdsm": ("figures", {"size": 32, "characters": (24, 0, 4)}, {"aggregate": 8, "judge_epochs": 0}, 20),
    "scene": ("courts", {"sizes": (96, 9, 9)}, {"draft_steps": 1}, 4),
    "sqair": ("moving_digits", {"sizes": (64, 8, 8)}, {"lengths": (3,), "shares": (1.0,)}, 16),
}
# system: preset, options as above, rows per process, title
PLANS: dict[str, tuple[str, dict[str, Any], int, str]] = {
    "sqair": ("paper_mlp", {}, 8, "sqair as published"),
    "scene": ("paper", {}, 4, "scene as published"),
}
SIZES = (1_000, 100_000, 1_000_000, 4_000_000)
"""Floats in the exchanges that are timed between two processes."""


@dataclass(frozen=True)
class Link:
    """A way between processes.

    Attributes:
        name: in words.
        bandwidth: bytes per second and direction of one machine.
        latency: seconds per hop.
    """

    name: str
    bandwidth: float
    latency: float

    def all_reduce(self, size: float, world: int) -> float:
        """Seconds to sum `size` bytes over `world` processes: a ring, or a tree where that is quicker."""
        if world < 2:
            return 0.0
        ring = 2 * (world - 1) * (self.latency + size / world / self.bandwidth)
        tree = 2 * math.ceil(math.log2(world)) * self.latency + 2 * size / self.bandwidth
        return min(ring, tree)


# Nominal rates of the links of one machine, and latencies per hop as their libraries reach them.
LINKS = (
    Link("Ethernet, 10 Gbit/s", 1.25e9, 30e-6),
    Link("Ethernet, 100 Gbit/s", 12.5e9, 20e-6),
    Link("InfiniBand, 400 Gbit/s", 50e9, 5e-6),
)


@dataclass(frozen=True)
class Profile:
    """The steps of one process.

    Attributes:
        forward, backward, rest: seconds of a step's parts.
        steps: seconds of each step; they differ where the work depends on the rows.
        sizes: bytes of each trainable parameter, in the order their gradients are ready.
    """

    forward: float
    backward: float
    rest: float
    steps: tuple[float, ...]
    sizes: tuple[int, ...]

    @property
    def mean(self) -> float:
        """Seconds of a step."""
        return self.forward + self.backward + self.rest

    def buckets(self) -> list[tuple[float, int]]:
        """Share of the backward pass after which each bucket is full, and its bytes."""
        total, filled, done = sum(self.sizes), 0, 0
        out = []
        for size in self.sizes:
            filled, done = filled + size, done + size
            if filled >= BUCKET_MEGABYTES * 2**20 or done == total:
                out.append((done / total, filled))
                filled = 0
        return out


def simulate(
    profile: Profile, world: int, exchange: Callable[[float, int], float], faster: float = 1.0, draws: int = 2000
) -> float:
    """Mean seconds of a data-parallel step.

    A step waits for the slowest process (its time is drawn from the steps that were measured), then for the exchanges
    that the backward pass has not hidden: a bucket goes round once it is full and the one before is done.

    Args:
        profile: of one process.
        world: number of processes.
        exchange: (bytes, processes) -> seconds.
        faster: by how much the processes compute faster than the one that was measured.
        draws: simulated steps.
    """
    rng = np.random.default_rng(0)
    slowest = float(rng.choice(np.asarray(profile.steps), (draws, world)).max(1).mean()) / statistics.fmean(
        profile.steps
    )
    forward, backward, rest = (slowest * t / faster for t in (profile.forward, profile.backward, profile.rest))
    finished = 0.0
    for ready, size in profile.buckets():
        finished = max(finished, forward + ready * backward) + exchange(size, world)
    return max(finished, forward + backward) + rest


# ---- measuring


class Watch:
    """Times steps, and the parts of a step."""

    def __init__(self, clock: Callable[[], float], skip: int, count: int) -> None:
        self.clock, self.skip, self.count = clock, skip, count
        self.marks: list[float] = []
        self.walls: list[float] = []
        self.forward: list[float] = []
        self.sizes: list[int] = []

    def on_step(self, state: Any) -> None:
        self.marks.append(self.clock())
        self.walls.append(time.perf_counter())
        if state.step == self.skip:
            # as `exchange` has it: parameters of the model, which runs last, have their gradients first
            guides = {id(p) for p in state.guide.parameters()} - {id(p) for p in state.model.parameters()}
            trained = [p for group in state.optimizer.param_groups for p in group["params"]]
            last = [p for p in trained if id(p) in guides]
            order = [*(p for p in reversed(trained) if id(p) not in guides), *reversed(last)]
            self.sizes = [p.numel() * p.element_size() for p in order]
        if state.step >= self.skip + self.count:
            state.request_stop()

    def steps(self) -> list[float]:
        """Seconds of each step, those of the beginning left out."""
        return np.diff(self.marks)[self.skip - 1 :][: self.count].tolist()

    def wall(self) -> list[float]:
        """Likewise by the clock on the wall."""
        return np.diff(self.walls)[self.skip - 1 :][: self.count].tolist()


def train(name: str, config: dict[str, Any], rows: int, count: int, fabric: Any = None) -> dict[str, Any]:
    """Train for a few steps and return what a step costs this process."""
    source, options = CASES[name][:2]
    world = 1 if fabric is None else fabric.world_size
    watch = Watch(time.process_time, 3, count)
    parts: dict[str, list[float]] = {"forward": [], "backward": []}
    compute, backward = step.Stepper._compute, torch.Tensor.backward

    def timed(kind: str, function: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            began = time.process_time()
            try:
                return function(*arguments, **named)
            finally:
                parts[kind].append(time.process_time() - began)

        return call

    step.Stepper._compute = timed("forward", compute)  # type: ignore[method-assign]
    torch.Tensor.backward = timed("backward", backward)  # type: ignore[method-assign]
    data = datasets.load(source, **options)
    system = systems.get(name)({**config, "batch_size": rows * world})
    system.fit(data.train, fabric=fabric, threads=1, callbacks=[watch], progress="off")
    keep = slice(3, 3 + count)
    return {
        "steps": watch.steps(),
        "wall": watch.wall(),
        "forward": parts["forward"][keep],
        "backward": parts["backward"][keep],
        "sizes": watch.sizes,
        "load": os.getloadavg()[0],
    }


def exchanges(fabric: Any) -> dict[str, Any]:
    """Time the engine's exchange of nothing but gradients of several sizes: CPU and clock seconds."""
    out = {}
    for size in SIZES:
        parameter = torch.nn.Parameter(torch.zeros(size))
        bucketed = Bucketed({"model.x": parameter}, 6)

        def alone(parameter: Any = parameter) -> None:
            parameter.grad = None
            parameter.sum().backward()

        def exchanged(parameter: Any = parameter, bucketed: Any = bucketed) -> None:
            parameter.grad = None
            bucketed(lambda: (parameter.sum(), False), [0.0] * 5)

        without, both = _times(alone), _times(exchanged)
        out[str(size)] = [max(0.0, a - b) for a, b in zip(both, without, strict=True)]
    return out


def _times(call: Callable[[], Any], rounds: int = 12) -> tuple[float, float]:
    """Median CPU and clock seconds."""
    for _ in range(3):
        call()
    spent = []
    for _ in range(rounds):
        began = time.process_time(), time.perf_counter()
        call()
        spent.append((time.process_time() - began[0], time.perf_counter() - began[1]))
    return statistics.median(a for a, _ in spent), statistics.median(b for _, b in spent)


def on(size: int, job: Callable[[Any], dict[str, Any]]) -> list[dict[str, Any]]:
    """Run a job on forked processes; return what each returns."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    readers = []
    for rank in range(size):
        reader, writer = os.pipe()
        if os.fork() == 0:
            code = 1
            try:
                os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), NODE_RANK="0")
                os.environ.update(LOCAL_RANK=str(rank), GLOO_SOCKET_IFNAME="lo")
                fabric = parallel.make_fabric(devices=size, accelerator="cpu") if size > 1 else None
                with open(writer, "w") as pipe:
                    json.dump(job(fabric), pipe)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        os.close(writer)
        readers.append(reader)
    results = []
    for reader in readers:
        with open(reader, "rb") as pipe:
            results.append(json.loads(pipe.read()))
    for _ in readers:
        os.wait()
    return results


def interpolated(measured: dict[str, Any], which: int) -> Callable[[float, int], float]:
    """Return (bytes, processes) -> seconds between two processes of this machine, by straight lines."""
    sizes = [4.0 * size for size in SIZES]
    seconds = [measured[str(size)][which] for size in SIZES]
    return lambda size, world: float(np.interp(size, sizes, seconds)) if world > 1 else 0.0


# ---- what is written


def profile_of(results: list[dict[str, Any]]) -> Profile:
    """Make the profile of what `train` returned on one process, once or several times."""
    steps, forward, backward = ([t for r in results for t in r[kind]] for kind in ("steps", "forward", "backward"))
    parts = statistics.median(forward), statistics.median(backward)
    rest = max(0.0, statistics.median(steps) - sum(parts))
    return Profile(*parts, rest, tuple(steps), tuple(results[0]["sizes"]))


def milliseconds(seconds: float) -> str:
    """Write a time."""
    return f"{1e3 * seconds:,.0f} ms" if seconds >= 0.01 else f"{1e3 * seconds:.2f} ms"


def two(
    name: str, profile: Profile, alone: list[dict[str, Any]], both: list[dict[str, Any]], cost: Any
) -> dict[str, Any]:
    """The row of a system on two processes: measured, and simulated."""
    together = statistics.median(t for result in both for t in result["steps"])
    # the CPU time of an exchange is spent whether or not it is hidden
    expected = profile.mean + sum(interpolated(cost, 0)(size, 2) for _, size in profile.buckets())
    clock_alone, clock_both = (statistics.median(t for r in part for t in r["wall"]) for part in (alone, both))
    return {
        "name": f"two/{name}",
        "title": TITLES[name],
        "alone": milliseconds(profile.mean),
        "together": milliseconds(together),
        "simulated": milliseconds(expected),
        "mean": profile.mean / together,
        "expected": profile.mean / expected,
        "clock": clock_alone / clock_both,
        "clock_simulated": profile.mean / simulate(profile, 2, interpolated(cost, 1)),
        "load": max(result["load"] for result in (*alone, *both)),
        "must": 0.8,
    }


def plan(name: str, profile: Profile) -> dict[str, Any]:
    """The row of a system's arithmetic on 64 accelerators."""
    preset, _, rows, title = PLANS[name]
    chosen = validate_options(name, preset_options(name, preset))
    size = sum(profile.sizes)
    batch, many = chosen.batch_size, WORLD * rows
    rate, steps = chosen.learning_rate * math.sqrt(many / batch), -(-chosen.steps * batch // many)
    sets = f"--set batch_size={many} --set learning_rate={rate:.2g} --set steps={steps}"
    return {
        "name": f"plan/{name}",
        "title": title,
        "parameters": size // 4,
        "megabytes": f"{size / 1e6:.1f} MB",
        "buckets": len(profile.buckets()),
        "traffic": f"{2 * (WORLD - 1) / WORLD * size / 1e6:.1f} MB",
        "batch": f"{batch} to {many}",
        "rate": f"{chosen.learning_rate:.2g} to {rate:.2g}",
        "steps": f"{chosen.steps:,} to {steps:,}",
        "step": milliseconds(profile.mean),
        "launch": f"`train {name} --preset {preset} {sets} --accelerator cuda --out /shared/runs/{name}`",
    }


def outlook(name: str, profile: Profile) -> list[dict[str, Any]]:
    """The rows of a system on 64 accelerators, by link and by how fast they compute."""
    rows = []
    for link in LINKS:
        shares = {}
        for faster in (1, 10, 100):
            seconds = simulate(profile, WORLD, link.all_reduce, faster)
            shares[f"x{faster}"] = f"{profile.mean / faster / seconds:.0%}"
        title = PLANS[name][-1]
        rows.append({"name": f"outlook/{name}-{link.name}", "title": title, "link": link.name, **shares})
    return rows


def main() -> None:
    """Measure, simulate, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10, help="steps that are timed in a round")
    parser.add_argument("--rounds", type=int, default=2, help="of one process, then two")
    parser.add_argument("--only", choices=["two", "plan", "both"], default="both", help="measure part of it")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    import lightning_fabric  # noqa: F401  (what children then share)

    if given.only in ("two", "both"):
        cost = on(2, exchanges)[0]
        for name, (_, _, config, rows) in CASES.items():
            job = partial(train, name, config, rows, given.steps)
            alone, both = [], []
            for _ in range(given.rounds):
                alone += on(1, job)
                both += on(2, job)
            record(given.out, [two(name, profile_of(alone), alone, both, cost)])
    if given.only in ("plan", "both"):
        for name, (preset, config, rows, _) in PLANS.items():
            profile = profile_of(on(1, partial(train, name, {**preset_options(name, preset), **config}, rows, 4)))
            record(given.out, [plan(name, profile), *outlook(name, profile)])


def record(path: Path, entries: list[dict[str, Any]]) -> None:
    """Put entries into the results, in the places of those of their names or at the end."""
    about = {
        "versions": {"torch": torch.__version__.partition("+")[0]},
        "machine": f"{os.cpu_count()}-core {platform.machine()} CPU",
        "date": datetime.date.today().isoformat(),
        "command": "python -P benchmarks/clusters.py",
    }
    old = json.loads(path.read_text())["entries"] if path.is_file() else []
    by_name = {entry["name"]: entry for entry in (*old, *({**entry, **about} for entry in entries))}
    write_json(path, {"system": "clusters", "entries": list(by_name.values()), **about})
    print("\n".join(json.dumps(entry) for entry in entries), flush=True)


if __name__ == "__main__":
    main()
