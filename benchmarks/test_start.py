"""What is waited for before anything happens: CPU time of commands and of a first fit, bytecode in place.

python -P -m pytest benchmarks/test_start.py -m bench
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from phlogiston import datasets
from phlogiston.systems.drmm.system import DRMM

from .rows import Rows, shown

pytestmark = pytest.mark.bench

COMMAND = "import sys; sys.argv = ['phlogiston', *sys.argv[1:]]; from phlogiston.__main__ import main; main()"
FIT = (
    "import phlogiston as ph; data = ph.datasets.load('swissroll', n=700); "
    "ph.DRMM(num_layers=2, num_components=4, steps=1).fit(data, progress='off')"
)


@pytest.fixture(scope="module")
def cpu(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[float]]:
    """Least CPU seconds of programs, run in turn in processes of their own after a run that leaves their bytecode."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment = {**kept, "PYTHONPYCACHEPREFIX": str(tmp_path_factory.mktemp("bytecode")), "OMP_NUM_THREADS": "1"}

    def measure(*programs: list[str]) -> list[float]:
        times: list[list[float]] = [[] for _ in programs]
        for _ in range(5):
            for taken, program in zip(times, programs, strict=True):
                before = resource.getrusage(resource.RUSAGE_CHILDREN)
                command = [sys.executable, "-P", "-W", "ignore", "-c", *program]
                subprocess.run(command, env=environment, capture_output=True, check=True)
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
                taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        return [min(taken[1:]) for taken in times]

    return measure


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    DRMM(num_layers=2, num_components=4, steps=2).fit(datasets.load("swissroll", n=700), out=out, progress="off")
    return out


@pytest.mark.parametrize(("name", "arguments"), [("runs", ["runs"]), ("data-list", ["data", "list"])])
def test_commands_that_only_look(
    row: Rows, cpu: Callable[..., list[float]], run: Path, name: str, arguments: list[str]
) -> None:
    (took,) = cpu([COMMAND, *arguments, *([str(run.parent)] if name == "runs" else [])])
    row.figure(f"start/{name}", f"`phlogiston {' '.join(arguments)}`", took / 0.3, 1.0, shown(took), "300 ms")


@pytest.mark.parametrize("verb", ["sample", "query", "first fit"])
def test_what_comes_on_top_of_torch(row: Rows, cpu: Callable[..., list[float]], run: Path, verb: str) -> None:
    options = {"sample": ["-n", "10", "--force", "--out", str(run / "x.csv")], "query": ["x0 >= 0", "-n", "10"]}
    program = [FIT] if verb == "first fit" else [COMMAND, verb, str(run), *options[verb]]
    torch, took = cpu(["import torch"], program)
    bar = 0.5 if verb == "first fit" else 0.4
    title = (
        "the first `fit` of a process, one step of a DRMM" if verb == "first fit" else f"`phlogiston {verb}` of a DRMM"
    )
    row.figure(
        f"start/{verb.replace(' ', '-')}",
        f"{title}, beyond `import torch`",
        (took - torch) / bar,
        1.0,
        shown(took - torch),
        f"{shown(bar)}; `import torch`: {shown(torch)}",
    )
