"""What scoring costs: memory that does not grow with the number of images, and Inception at the speed of Inception.

python -P -m pytest benchmarks/test_evaluate.py -m bench -q -s
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from phlogiston.evaluate.features import InceptionFeatures, extract
from phlogiston.evaluate.images import Rows
from phlogiston.evaluate.inception import Inception, prepare
from phlogiston.evaluate.neighbours import all_four

from .rows import Rows as Table

pytestmark = pytest.mark.bench

MIB = 1024.0
NETWORK = """
import torch


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(3, 16, 5, stride=2), torch.nn.ReLU(), torch.nn.Conv2d(16, 32, 3, stride=2), torch.nn.ReLU(),
            torch.nn.Flatten(), torch.nn.LazyLinear(512),
        )

    def forward(self, images):
        return self.layers(images.float() / 255)
"""
# the peak of this program alone: what getrusage tells a child still counts the parent it was forked from
RUN = """
import pathlib, re, sys
from phlogiston.cli.main import main
try:
    main(sys.argv[1:])
finally:
    print(re.search(r"VmHWM:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1], file=sys.stderr)
"""


def write_images(path: Path, count: int, seed: int) -> Path:
    """Write random 32 x 32 colour images block by block, so that this process stays small too."""
    random = np.random.default_rng(seed)
    images = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(count, 32, 32, 3))
    for start in range(0, count, 1000):
        images[start : start + 1000] = random.integers(0, 256, (1000, 32, 32, 3), dtype=np.uint8)
    images.flush()
    return path


def peak_memory(folder: Path, count: int) -> float:
    """Return the peak resident memory, in MiB, of `phlogiston fid` on two sets of `count` images."""
    real, fake = (write_images(folder / f"{name}.npy", count, seed) for name, seed in (("real", 0), ("fake", 1)))
    packed = folder / "fake.npz"
    if not packed.exists():
        np.savez_compressed(packed, images=np.load(fake, mmap_mode="r"))  # one of the two comes compressed
    arguments = ["fid", real, packed, "--features", f"{folder / 'net.py'}:Net", "--no-cache", "--json"]
    done = subprocess.run(
        [sys.executable, "-P", "-W", "ignore", "-c", RUN, *map(str, arguments)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["n_real"] == count
    return int(done.stderr.split()[-1]) / MIB


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory of a process from /proc")
def test_memory_stays_under_a_gibibyte_and_does_not_grow_with_the_images(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NETWORK)
    peaks = {}
    for count in (50_000, 100_000):
        for old in tmp_path.glob("*.np[yz]"):
            old.unlink()
        peaks[count] = peak_memory(tmp_path, count)
    print("\n" + "\n".join(f"{count:>8,} images: peak {peak:.0f} MiB" for count, peak in peaks.items()))
    assert peaks[50_000] < 1024
    assert peaks[100_000] < peaks[50_000] + 20


def test_the_inception_path_keeps_the_speed_of_bare_forward_passes() -> None:
    torch.set_num_threads(1)
    network = Inception().requires_grad_(False)
    extractor = InceptionFeatures(2048, "tf1", network=network)
    images = np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), dtype=np.uint8)
    ready = prepare(torch.tensor(images).movedim(-1, 1))
    bare, path = [], []
    for _ in range(4):  # in turn, so that both see the same neighbours on the machine
        start = time.process_time()
        with torch.inference_mode():
            for block in ready.split(32):
                network(block)
        bare.append(time.process_time() - start)
        start = time.process_time()
        extract(Rows(images), extractor, batch_size=32, device="cpu", keep=1000)
        path.append(time.process_time() - start)
    ratio = float(np.median(path[1:]) / np.median(bare[1:]))
    speeds = [64 / float(np.median(times[1:])) for times in (bare, path)]
    print(f"\nbare {speeds[0]:.1f} images/s, path {speeds[1]:.1f} images/s, ratio {ratio:.3f}")
    assert ratio < 1.10


def test_four_neighbour_figures_take_three_passes(row: Table) -> None:
    generator = torch.Generator().manual_seed(0)
    real, generated = (torch.randn(2500, 2048, generator=generator) for _ in range(2))

    def pass_over(a: torch.Tensor, b: torch.Tensor, radii: torch.Tensor | None) -> torch.Tensor:
        distances = torch.cdist(a, b)
        return distances.kthvalue(6, dim=1).values if radii is None else (distances <= radii).sum(1)

    def each() -> None:
        for a, b in ((real, generated), (generated, real), (real, generated)):
            pass_over(b, a, pass_over(a, a, None))

    row(
        "evaluate/neighbours",
        work="precision, recall, density and coverage of 2,500 x 2,048 features",
        ours=lambda: all_four(real, generated),
        alternative=each,
        against="each figure by itself, six passes over distances",
        bar=0.6,
        rounds=3,
    )
