"""What questions to DRMM cost: conditional samples of a trained 3x16 per CPU second, for every kind of evidence.

    python -P -m pytest benchmarks/test_drmm_query.py -m bench -s

Process time on one thread, the least of several rounds; weighted samples, everything included that `ask` does.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from phlogiston import datasets
from phlogiston.errors import QueryWarning
from phlogiston.inference.query.evidence import HalfSpace, Known, Near, Within
from phlogiston.systems.drmm.query import DRMMQuery
from phlogiston.systems.drmm.system import DRMM

pytestmark = pytest.mark.bench

INF = math.inf
KNOWN, SOFT = Known([2.5, 0.0], [1, 0]), Near([2.0, 1.0], 0.4)
HALF, INTERVAL = HalfSpace([1.0, -1.0], 0.5), Within([0.0, -INF], [2.0, INF])
BOX, HALVES = Within([-1.0, -2.0], [2.0, 3.0]), HalfSpace([[1.0, -1.0], [1.0, 1.0]], [0.5, 0.2])
SINGLE = {"known": KNOWN, "soft": SOFT, "interval": INTERVAL, "half-space": HALF, "box": BOX}
JOINT = {
    "two half-spaces": HALVES,
    "known, half-space": [KNOWN, HALF],
    "soft, box": [SOFT, BOX],
    "box, half-space": [BOX, HALF],
    "soft, two half-spaces": [SOFT, HALVES],
}
LEAST = 1.0  # million samples per CPU second for one piece of evidence


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", QueryWarning)
        yield
    torch.set_num_threads(threads)


def trained(frame: str, layers: int = 3, steps: int = 1000) -> DRMM:
    data = datasets.load("swissroll", noise_sd=0.1)
    return DRMM(preset="swissroll", frame=frame, num_layers=layers, steps=steps).fit(data, seed=0, progress="off")


@pytest.fixture(scope="module")
def systems() -> dict[str, DRMM]:
    return {frame: trained(frame) for frame in ("diag", "tril")}


@pytest.fixture(scope="module")
def queries(systems: dict[str, DRMM]) -> dict[str, DRMMQuery]:
    return {frame: DRMMQuery(system.model) for frame, system in systems.items()}


def cpu_seconds(call: Callable[[], Any], rounds: int = 25) -> float:
    call()
    times = []
    for _ in range(rounds):
        began = time.process_time()
        call()
        times.append(time.process_time() - began)
    return min(times)  # others on the same cores and caches only ever add to it


def test_a_million_samples_per_second(queries: dict[str, DRMMQuery]) -> None:
    print("\nmillion samples per CPU second, 3x16, 10,000 a call (effective samples in brackets)")
    slow = []
    for name, pieces in {**SINGLE, **JOINT}.items():
        line = f"{name:>24}"
        for frame, query in queries.items():
            share = float(query.ask({"x": pieces}, num_samples=10_000).ess) / 10_000
            rate = 0.01 / cpu_seconds(lambda query=query, pieces=pieces: query.ask({"x": pieces}, num_samples=10_000))
            line += f"   {frame} {rate:5.2f} ({rate * share:5.2f})"
            if name in SINGLE and rate < LEAST:
                slow.append((name, frame, rate))
        print(line)
    assert not slow


def rejection(system: DRMM, box: Within, n: int) -> torch.Tensor:
    """Draw from the model until `n` draws lie in the box, by the fastest way there is to sample."""
    lower, upper = box.lower.float(), box.upper.float()
    kept: list[torch.Tensor] = []
    while sum(map(len, kept)) < n:
        x = system.sample(100_000)["x"]
        kept.append(x[((x >= lower) & (x <= upper)).all(1)])
    return torch.cat(kept)[:n]


def test_a_rare_box_against_rejection(systems: dict[str, DRMM], queries: dict[str, DRMMQuery]) -> None:
    print("\nbox of about 1 %: CPU time of rejection from unconditional samples over that of a query")
    for frame, query in queries.items():
        x = query.ask({}, num_samples=100_000, seed=0).samples["x"]
        centre = x[0]
        lengths = (x - centre).abs().amax(1).sort().values
        side = float(lengths[1_000])
        box = Within(centre - side, centre + side)
        share = math.exp(float(query.log_evidence({"x": box})))
        ratios = {}
        for n in (1_000, 10_000):
            answer = query.ask({"x": box}, num_samples=n)
            ours = cpu_seconds(lambda n=n, query=query, box=box: query.ask({"x": box}, num_samples=n))
            theirs = cpu_seconds(lambda n=n, frame=frame, box=box: rejection(systems[frame], box, n), 9)
            ratios[n] = theirs / ours
            print(
                f"  {frame}, {n:>6} a call, acceptance {share:.2%}: {1e3 * theirs:.0f} ms / {1e3 * ours:.1f} ms = "
                f"{ratios[n]:.1f} (for effective samples {ratios[n] * float(answer.ess) / n:.1f})"
            )
        assert ratios[10_000] >= 10


def test_cost_grows_linearly_in_samples_and_layers(queries: dict[str, DRMMQuery]) -> None:
    print("\nms of a query, tril 3x16, samples a call: 1,000  10,000  100,000")
    for name, pieces in {**SINGLE, "two half-spaces": HALVES}.items():
        times = [
            cpu_seconds(lambda n=n, pieces=pieces: queries["tril"].ask({"x": pieces}, num_samples=n), 5)
            for n in (1_000, 10_000, 100_000)
        ]
        print(f"{name:>24} " + "  ".join(f"{1e3 * t:7.1f}" for t in times))
        assert times[2] < 20 * times[1]
    print("ms of a query grown layer by layer, tril, 16 components, 256 particles, 1,000 samples: 2, 3, 4, 5 layers")
    deep = {layers: DRMMQuery(trained("tril", layers, steps=50).model) for layers in (2, 3, 4, 5)}
    for name, pieces in SINGLE.items():
        times = [
            cpu_seconds(
                lambda q=query, pieces=pieces: q.ask({"x": pieces}, num_samples=1000, method="smc", num_particles=256),
                7,
            )
            for query in deep.values()
        ]
        print(f"{name:>24} " + "  ".join(f"{1e3 * t:7.1f}" for t in times))
        # layers after the third weigh equally many children each
        assert times[3] - times[1] < 3 * 2 * max(times[1] - times[0], times[1] / 3)
