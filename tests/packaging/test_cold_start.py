"""What a user only looks at must not load torch: the import, the help page, the lists."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

HEAVY = ["torch", "pyro", "lightning_fabric", "jinja2", "matplotlib", "sklearn", "tensorboard"]

# runs a statement, swallows the command's exit, and tells on stderr which heavy packages were loaded
PROBE = """
import json, sys
try:
    {statement}
except SystemExit as exit:
    assert exit.code in (0, None), exit.code
print(json.dumps([name for name in {heavy} if name in sys.modules]), file=sys.stderr)
"""


def loaded(run: Callable, python: Path, root: Path, statement: str) -> list[str]:
    done = run(python, "-c", PROBE.format(statement=statement, heavy=HEAVY), cwd=root)
    return json.loads(done.stderr.strip().splitlines()[-1])


def command(*arguments: str) -> str:
    return f"sys.argv = {['phlogiston', *arguments]}; from phlogiston.__main__ import main; main()"


@pytest.mark.parametrize(
    "statement",
    [
        "import phlogiston",
        "import phlogiston.errors, phlogiston.systems, phlogiston.datasets",
        command("--help"),
        command("systems"),
        command("data", "list"),
        command("runs", "docs"),
    ],
    ids=["import", "registries", "help", "systems", "data-list", "runs"],
)
def test_looking_around_loads_no_heavy_package(run: Callable, python: Path, root: Path, statement: str) -> None:
    assert loaded(run, python, root, statement) == []


def test_the_scikit_learn_front_loads_no_torch_until_it_fits(run: Callable, python: Path, root: Path) -> None:
    statement = "from phlogiston.sklearn import DRMMDensity; repr(DRMMDensity())"
    assert "torch" not in loaded(run, python, root, statement)


def test_the_probe_notices_a_heavy_package(run: Callable, python: Path, root: Path) -> None:
    assert loaded(run, python, root, "import sklearn") == ["sklearn"]
