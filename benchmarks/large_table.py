"""A table larger than memory: how long until the first step, how much memory stays, how fast it trains.

    python -P benchmarks/large_table.py --gib 20

writes a sparse file of so many GiB (256 blocks of 1 MiB hold numbers, the rest is holes), trains a DRMM on it in a
fresh process, then on some of its rows in memory, and compares steps per second.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

COLUMNS = 32
OPTIONS: dict[str, Any] = {"num_layers": 2, "num_components": 8, "batch_size": 1024}


def write(path: Path, gib: float) -> int:
    """Write the table; return its rows."""
    import numpy as np

    rows = int(gib * 2**30) // (8 * COLUMNS)
    mapped = np.lib.format.open_memmap(path, "w+", "f8", (rows, COLUMNS))  # type: ignore[no-untyped-call]
    rng = np.random.default_rng(0)
    block = (1 << 20) // (8 * COLUMNS)
    numbers = rng.normal(size=(block, COLUMNS)) + rng.integers(-3, 4, (block, 1))
    for start in np.linspace(0, rows - block, 256).astype(int):
        mapped[start : start + block] = numbers
    return rows


class Watch:
    """Notes when steps are done, and the memory that is taken."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.cpu: list[float] = []
        self.memory: list[int] = []

    def on_step(self, state: Any) -> None:
        self.times.append(time.time())
        self.cpu.append(time.process_time())
        if state.step % 20 == 0:
            text = Path("/proc/self/status").read_text()
            self.memory.append(int(text.split("VmRSS:")[1].split()[0]) // 1024)


def train(path: Path, steps: int, begun: float, held: bool) -> dict[str, float]:
    """Train in this process; return what was measured."""
    import numpy as np

    from phlogiston import datasets
    from phlogiston.systems.drmm.system import DRMM

    watch = Watch()
    data: Any = np.load(path, mmap_mode="r")[:200_000].copy() if held else datasets.load(path)
    DRMM(steps=steps, **OPTIONS).fit(data, callbacks=[watch])
    warm = len(watch.times) // 4
    rate = (len(watch.times) - 1 - warm) / (watch.times[-1] - watch.times[warm])
    return {
        "first_step_s": watch.times[0] - begun,
        "steps_per_s": rate,
        "cpu_ms_per_step": 1000 * (watch.cpu[-1] - watch.cpu[warm]) / (len(watch.cpu) - 1 - warm),
        "rss_mib_early": watch.memory[len(watch.memory) // 4],
        "rss_mib_most": max(watch.memory),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--gib", type=float, default=20.0)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3, help="turns of both ways, of which the best counts")
    parser.add_argument("--folder", help="for the file; the usual one for temporary files by default")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        path, how = given.child
        print(json.dumps(train(Path(path), given.steps, float(os.environ["BEGUN"]), how == "held")))
        return
    with tempfile.TemporaryDirectory(dir=given.folder) as place:
        path = Path(place) / "table.npy"
        begun = time.time()
        rows = write(path, given.gib)
        size = path.stat()
        print(f"{rows:,} rows, {size.st_size / 2**30:.1f} GiB, {512 * size.st_blocks / 2**30:.2f} GiB on disk, "
              f"{time.time() - begun:.0f} s", flush=True)  # fmt: skip
        found: dict[str, list[dict[str, float]]] = {"streamed": [], "held": []}
        for _ in range(given.rounds):
            for how, results in found.items():
                command = [sys.executable, "-P", __file__, "--steps", str(given.steps), "--child", str(path), how]
                environment = {**os.environ, "BEGUN": str(time.time())}
                done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
                results.append(json.loads(done.stdout.splitlines()[-1]))
                print(how, results[-1], flush=True)
        fast = {how: max(r["steps_per_s"] for r in results) for how, results in found.items()}
        cheap = {how: min(r["cpu_ms_per_step"] for r in results) for how, results in found.items()}
        print(f"rows on disk over rows in memory: {fast['streamed'] / fast['held']:.2f} by the clock, "
              f"{cheap['held'] / cheap['streamed']:.2f} by processor time")  # fmt: skip


if __name__ == "__main__":
    main()
