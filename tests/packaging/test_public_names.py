"""`import phlogiston as ph`: every public name is there, is what it says, and costs nothing until it is used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import phlogiston as ph
from phlogiston import systems
from phlogiston.systems.base import System

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", sorted(ph.__all__))
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(ph, name) is not None
    assert name in dir(ph)


def test_every_system_has_its_class() -> None:
    public = [getattr(ph, name) for name in ph.__all__]
    classes = {kind.name: kind for kind in public if isinstance(kind, type) and issubclass(kind, System)}
    assert sorted(classes) == list(systems.names())
    for name, kind in classes.items():
        assert kind is systems.get(name)


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        ph.no_such_name  # noqa: B018


def test_the_names_load_no_torch() -> None:
    code = "import sys; import phlogiston as ph; dir(ph); ph.systems.names(); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-P", "-c", code], cwd=ROOT.parent, env=None, capture_output=True, text=True)
    if "No module named 'phlogiston'" in done.stderr:
        pytest.skip("phlogiston is not installed in this environment")
    assert done.returncode == 0, done.stderr
