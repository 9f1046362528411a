"""A long video that is decoded on demand: how long until the first step, how much memory stays, how fast it trains.

    python -P benchmarks/long_video.py --frames 100000

writes a video of so many frames of 64 x 64 pixels (mpeg4, a key frame every 12), trains a VDSM on it in a fresh process
with an empty cache, then on some of its clips in memory, and compares.
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

SIDE = 64
CLIP: dict[str, Any] = {"length": 10, "stride": 10, "colour": True, "background": "none", "tensor": "frames"}
OPTIONS: dict[str, Any] = {
    "encoder_widths": (16, 16, 32, 32), "decoder_widths": (32, 32, 16, 16), "recurrent": 32, "experts": 6,
    "batch_size": 8, "warm_steps": 0, "sequence_steps": 0, "aggregate": 0,
}  # fmt: skip


def write(path: Path, frames: int) -> None:
    """Write the video: squares that move over a still ground."""
    import av
    import numpy as np

    rng = np.random.default_rng(0)
    still = rng.integers(0, 80, (SIDE, SIDE, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, "yuv420p"
        stream.codec_context.gop_size = 12
        for t in range(frames):
            frame = still.copy()
            x, y = (2 * t) % (SIDE - 12), (t // 3) % (SIDE - 12)
            frame[y : y + 12, x : x + 12] = (250, 40 + t % 200, 90)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


class Watch:
    """Notes when steps are done, and the memory that is taken."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.cpu: list[float] = []
        self.memory: list[int] = []

    def on_step(self, state: Any) -> None:
        self.times.append(time.time())
        self.cpu.append(time.process_time())
        text = Path("/proc/self/status").read_text()
        self.memory.append(int(text.split("VmRSS:")[1].split()[0]) // 1024)


def train(path: Path, steps: int, begun: float, held: bool) -> dict[str, float]:
    """Train in this process; return what was measured."""
    import torch

    from phlogiston import datasets
    from phlogiston.systems.vdsm.system import VDSM

    torch.set_num_threads(1)
    watch = Watch()
    data: Any = datasets.load("video_folder", data=path, stream=True, **CLIP)
    if held:
        data = data.train.split(torch.arange(0, len(data.train), max(1, len(data.train) // 500)))
    VDSM(steps=steps, **OPTIONS).fit(data, callbacks=[watch])
    warm = len(watch.times) // 4
    done = len(watch.times) - 1 - warm
    return {
        "first_step_s": watch.times[0] - begun,
        "first_step_cpu_s": watch.cpu[0],
        "steps_per_s": done / (watch.times[-1] - watch.times[warm]),
        "cpu_ms_per_step": 1000 * (watch.cpu[-1] - watch.cpu[warm]) / done,
        "rss_mib_early": watch.memory[warm],
        "rss_mib_most": max(watch.memory),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3, help="turns of both ways, of which the best counts")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        path, how = given.child
        print(json.dumps(train(Path(path), given.steps, float(os.environ["BEGUN"]), how == "held")))
        return
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "long.mp4"
        write(path, given.frames)
        print(f"{given.frames:,} frames, {path.stat().st_size / 2**20:.1f} MiB")
        found: dict[str, list[dict[str, float]]] = {"disk": [], "held": []}
        for how in ("disk", "held") * given.rounds:
            command = [sys.executable, "-P", __file__, "--steps", str(given.steps), "--child", str(path), how]
            environment = {**os.environ, "BEGUN": str(time.time()), "PHLOGISTON_CACHE": f"{place}/cache"}
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            found[how].append(json.loads(done.stdout.splitlines()[-1]))
            print(how, {name: round(value, 2) for name, value in found[how][-1].items()}, flush=True)
        best = {how: min(turn["cpu_ms_per_step"] for turn in turns) for how, turns in found.items()}
        print(f"throughput on disk / in memory: {best['held'] / best['disk']:.3f} in processor time of this process")


if __name__ == "__main__":
    main()
