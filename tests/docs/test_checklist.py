"""docs/checklist.md: what it names exists, nothing is claimed without a test or an example, no example is left out."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from .reading import ROOT

CHECKLIST = json.loads((ROOT / "docs" / "checklist.json").read_text(encoding="utf-8"))
LINES = [(name, line) for name, system in CHECKLIST.items() for line in system["lines"]]


def test_the_page_is_in_step() -> None:
    done = subprocess.run([sys.executable, ROOT / "docs" / "checklist.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("system", "line"), LINES, ids=[f"{name}-{i}" for i, (name, _) in enumerate(LINES)])
def test_what_a_line_names_exists(system: str, line: dict[str, object]) -> None:
    held_by = line["held_by"]
    assert isinstance(held_by, list)
    assert bool(held_by) != ("missing" in line), f"{system}: {line['what']}: held by something, or said to be missing"
    for name in held_by:
        path, _, test = name.partition("::")
        assert (ROOT / path).is_file(), f"{system}: {path} is not there"
        assert path.startswith(("tests/", "examples/", "docs/"))
        if path.startswith("tests/"):
            text = (ROOT / path).read_text(encoding="utf-8")
            assert re.search(rf"^def {re.escape(test)}\(", text, flags=re.M), f"{system}: {path} has no {test}"


def test_every_example_holds_a_line() -> None:
    named = {name for _, line in LINES for name in line["held_by"]}
    examples = {f"examples/{path.name}" for path in (ROOT / "examples").glob("*.py")}
    assert examples <= named, f"no line of the checklist is held by {sorted(examples - named)}"
