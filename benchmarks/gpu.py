"""Steps per second, use and memory of an accelerator for every system at its largest preset; see `gpu.sh`.

    python -P benchmarks/gpu.py [--tiny] [--budget SECONDS] [SYSTEM ...]

Each system trains in a process of its own, once in fp32 and once with bf16 networks, for the same share of the budget;
what fails is named and the rest goes on. `--tiny` runs small sizes on a CPU, to see that everything works.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from typing import Any

# system -> data, its options, preset, options on top (early stages cut short, so that the last one is measured)
CASES: dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    "drmm": ("digits", {}, "paper", {}),
    "mdn": ("arcsine", {}, "paper", {}),
    "sequence": ("script", {}, "xl", {}),
    "sketch": ("script", {}, "paper", {}),
    "handwriting": ("script", {}, "paper", {}),
    "sqair": ("moving_digits", {"sizes": (512, 4, 4)}, "paper_mlp", {"lengths": (10,), "shares": (1.0,)}),
    "vdsm": ("figures", {}, "cpu-figures", {"warm_steps": 20}),
    "scene": ("courts", {}, "courts", {"draft_steps": 20}),
    "world": ("dodge", {}, "default", {"frame_steps": 20}),
}
TINY: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "drmm": ({}, {"num_layers": 2, "num_components": 4, "batch_size": 64, "beam": 3}),
    "mdn": ({"sizes": (200, 20, 20)}, {"num_components": 3, "hidden": (8,), "batch_size": 32}),
    "handwriting": ({"sizes": (60, 10, 10), "letters": (1, 2)}, {"hidden": 12, "windows": 2, "batch_size": 10}),
    "sqair": ({"sizes": (16, 4, 3), "frames": 4}, {"batch_size": 4, "hidden": 32, "lengths": (2,), "shares": (1.0,)}),
}
PRECISIONS = ("32-true", "bf16-mixed")
WARM = 10  # steps before the clock starts: kernels are chosen, memory is taken


class Enough(Exception):
    """The time for this case is over."""


class Clock:
    """A callback that counts steps for a while, in the last stage that is reached, and then ends the fit."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.entered = 0.0
        self.on_stage(None)

    def on_stage(self, state: Any) -> None:
        """Begin anew."""
        self.steps, self.began = 0, 0.0

    def on_step(self, state: Any) -> None:
        """Count a step; the engine has read its loss, so that the device has done it."""
        self.steps += 1
        now = time.perf_counter()
        self.entered = self.entered or now  # imports and data may take longer than everything that is measured
        if self.steps == WARM:
            self.began = now
        measured = self.steps > WARM and now - self.began > self.seconds
        if measured or now - self.entered > 3 * self.seconds:
            raise Enough

    def rate(self) -> float:
        """Steps per second."""
        return (self.steps - WARM) / (time.perf_counter() - self.began)


def measure(name: str, tiny: bool, seconds: float) -> None:
    """Train one system in both precisions, and print a line of JSON for each."""
    import torch

    from phlogiston import datasets, systems
    from phlogiston.inference.svi.parallel import make_fabric

    data, loading, preset, options = CASES[name]
    if tiny:
        loading, options = TINY[name]
        preset = "default"
    rows = datasets.load(data, **loading)
    for precision in PRECISIONS:
        line: dict[str, Any] = {"system": name, "preset": "tiny" if tiny else preset, "precision": precision}
        cuda = torch.cuda.is_available() and not tiny
        clock, watch = Clock(seconds), _watch() if cuda else None
        try:
            fabric = make_fabric(precision=precision, accelerator="cuda" if cuda else "cpu")
            if cuda:
                torch.cuda.reset_peak_memory_stats()
            systems.get(name)(preset=preset, **options).fit(
                rows, seed=0, progress="off", fabric=fabric, callbacks=[clock]
            )
        except Enough:
            pass
        except Exception as error:  # one system's failure is a line of the table
            line["error"] = f"{type(error).__name__}: {error}".splitlines()[0][:150]
        if clock.steps > WARM:
            line["steps_per_second"] = round(clock.rate(), 2)
        else:
            line.setdefault("error", f"{clock.steps} steps in {3 * seconds:.0f} s; the clock starts after {WARM}")
        if watch is not None:
            watch.terminate()
            used = [int(text) for text in watch.communicate()[0].split() if text.isdigit()]
            line["utilisation_percent"] = round(sum(used) / max(1, len(used)))
            line["memory_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
        print(json.dumps(line), flush=True)


def _watch() -> subprocess.Popen[str]:
    """Ask the driver twice a second how busy the device is."""
    command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "500"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _has_accelerator() -> bool:
    import torch

    return torch.cuda.is_available()


def main() -> None:
    """Run all systems, each in a process of its own."""
    parser = argparse.ArgumentParser()
    parser.add_argument("systems", nargs="*")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--budget", type=float, default=560.0, help="seconds for everything")
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)  # of one case: this process measures
    given = parser.parse_args()
    names = given.systems or sorted(TINY if given.tiny else CASES)
    if given.seconds is not None:
        measure(names[0], given.tiny, given.seconds)
        return
    if not given.tiny and not _has_accelerator():
        parser.exit(1, "gpu.py: there is no accelerator that torch can use; --tiny runs small sizes on the CPU.\n")
    ends = time.perf_counter() + given.budget
    for i, name in enumerate(names):
        left = (ends - time.perf_counter()) / (len(names) - i)
        seconds = max(1.0, (left - 12.0) / (2.0 * len(PRECISIONS)))  # half of a case is data, start and first steps
        command = [sys.executable, "-P", __file__, name, "--seconds", str(seconds), *(["--tiny"] * given.tiny)]
        try:
            subprocess.run(command, check=False, timeout=max(20.0, 2.0 * left))
        except subprocess.TimeoutExpired:
            print(json.dumps({"system": name, "error": "took too long"}), flush=True)


if __name__ == "__main__":
    main()
