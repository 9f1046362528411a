"""The fixture that guards process-wide state has to bite."""

import shutil
import subprocess
import sys
from pathlib import Path

LEAKS = """
import pyro, torch
def test_param(): pyro.param("left", torch.zeros(1))
def test_validation(): pyro.enable_validation(False)
def test_dtype(): torch.set_default_dtype(torch.float64)
def test_innocent(): assert torch.zeros(1).dtype == torch.float32 and not pyro.get_param_store().keys()
"""


def test_a_test_that_leaves_global_state_changed_fails_and_the_next_one_starts_clean(tmp_path: Path) -> None:
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
    (tmp_path / "test_leaks.py").write_text(LEAKS)
    command = [sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", "."]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "4 passed, 3 errors" in done.stdout, done.stdout
    assert "global store: ['left']" in done.stdout
