"""What scoring costs: memory that does not grow with the number of images, and Inception at the speed of Inception.

python -P -m pytest benchmarks/test_evaluate.py -m bench -q -s
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from phlogiston.evaluate.features import InceptionFeatures, extract
from phlogiston.evaluate.frechet import Gaussian, frechet_distance, frechet_std_error, gaussian_of
from phlogiston.evaluate.images import Rows
from phlogiston.evaluate.inception import Inception, prepare
from phlogiston.evaluate.neighbours import all_four

from .rows import Rows as Table
from .rows import cpu_seconds, shown

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


@pytest.mark.parametrize(("d", "n"), [(512, 2500), (2048, 5000)])
def test_a_frechet_distance_between_moments(row: Table, d: int, n: int) -> None:
    generator = torch.Generator().manual_seed(0)
    sets = []
    for spread in (1.0, 1.3):
        mix = torch.randn(d, d, generator=generator) / d**0.5
        of = gaussian_of(spread * torch.randn(n, d, generator=generator) @ mix)
        sets.append(Gaussian(of.mean, of.covariance, n))  # as a stream of features leaves it
    one, two = sets

    def unchecked() -> torch.Tensor:
        lower = torch.linalg.cholesky(one.covariance)
        return torch.linalg.eigvalsh(lower.T @ two.covariance @ lower).clamp(min=0.0).sqrt().sum()

    row(
        f"evaluate/frechet-{d}",
        work=f"a Fréchet distance of {d} features between two means and covariances, any rank",
        ours=lambda: frechet_distance(one, two),
        alternative=unchecked,
        against="Cholesky and `eigvalsh`, full rank taken on trust",
        bar=2.0,
        rounds=5 if d < 1000 else 2,
    )


def foreign(name: str) -> Any:
    """A module of torch-fidelity, whose package wants torchvision for the other networks it offers."""
    spec = importlib.util.find_spec("torch_fidelity")
    if spec is None:
        pytest.skip("needs torch-fidelity on the path: pip install --no-deps --target FOLDER torch-fidelity")
    package = types.ModuleType("torch_fidelity")
    package.__path__ = list(spec.submodule_search_locations or ())
    sys.modules.setdefault("torch_fidelity", package)
    return importlib.import_module(f"torch_fidelity.{name}")


def test_fid_of_ten_thousand_images(row: Table, tmp_path: Path) -> None:
    count, some = 10_000, 32
    network = Inception().requires_grad_(False)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    inception = foreign("feature_extractor_inceptionv3").FeatureExtractorInceptionV3
    theirs = inception("theirs", ["2048"], str(tmp_path / "weights.pth"))
    extractor = InceptionFeatures(2048, "tf1", network=network)
    images = np.random.default_rng(0).integers(0, 256, (some, 32, 32, 3), dtype=np.uint8)
    pictures = torch.tensor(images).movedim(-1, 1).contiguous()

    def bare() -> torch.Tensor:
        with torch.no_grad():
            return torch.cat([theirs(block)[0] for block in pictures.split(32)])

    def path() -> Any:
        return extract(Rows(images), extractor, batch_size=32, device="cpu", keep=some // 2)

    each = [seconds / some for seconds in cpu_seconds((path, bare), rounds=2)]
    draw = torch.Generator().manual_seed(0)
    real, made = (torch.randn(count, 2048, generator=draw) for _ in range(2))

    def textbook() -> float:
        """What torch-fidelity does with the features of both sets."""
        (m1, s1), (m2, s2) = ((x.mean(0), np.cov(x, rowvar=False)) for x in (real.numpy(), made.numpy()))
        roots = np.sqrt(np.linalg.eigvals(s1.dot(s2)).astype("complex128")).real
        return float((m1 - m2).dot(m1 - m2) + np.trace(s1) + np.trace(s2) - 2 * roots.sum())

    def ours() -> tuple[float, float]:
        return frechet_distance(gaussian_of(real), gaussian_of(made)), frechet_std_error(real, made)

    assert ours()[0] == pytest.approx(textbook(), rel=1e-4)
    whole = [2 * count * a + b for a, b in zip(each, (once(ours), once(textbook)), strict=True)]
    row.figure(
        "evaluate/fid",
        f"FID of {count:,} pictures of 32 x 32 against as many by Inception, with its error bar, a picture",
        whole[0] / whole[1],
        1.05,
        shown(whole[0] / (2 * count)),
        f"torch-fidelity's network and formula, without an error bar: {shown(whole[1] / (2 * count))}",
    )


def once(call: Callable[[], Any]) -> float:
    """CPU seconds of one call."""
    began = time.process_time()
    call()
    return time.process_time() - began
