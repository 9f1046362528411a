"""What the packaging tests share: the repository's own files, and commands run in a fresh interpreter."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOT_OURS = {".git", ".venv", "build", "dist", "runs", "__pycache__"}

Run = Callable[..., subprocess.CompletedProcess[str]]


def _own_files() -> list[Path]:
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listing.returncode == 0:
        return [ROOT / name for name in listing.stdout.split("\0") if name and os.path.lexists(ROOT / name)]
    found: list[Path] = []  # an unpacked archive has no git to ask
    for folder, folders, files in os.walk(ROOT):
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        folders[:] = [
            n for n in folders if n not in NOT_OURS and n not in links and not n.endswith((".egg-info", "_cache"))
        ]
        found += [Path(folder) / name for name in files + links]
    return found


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's top folder."""
    return ROOT


@pytest.fixture(scope="session")
def own_files() -> list[Path]:
    """Every file and link that belongs to the repository: tracked, or new and not ignored."""
    return sorted(_own_files())


@pytest.fixture(scope="session")
def copy_checkout(own_files: list[Path]) -> Callable[[Path], Path]:
    """A function that copies the repository's own files, links kept as links, and returns the copy."""

    def copy(target: Path) -> Path:
        for path in own_files:
            new = target / path.relative_to(ROOT)
            new.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, new, follow_symlinks=False)
        return target

    return copy


@pytest.fixture
def run() -> Run:
    """A function that runs a command and fails the test with its output when it fails."""

    def call(*command: str | Path, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "COV_"))}
        done = subprocess.run(
            [str(part) for part in command],
            cwd=cwd,
            env=clean | environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, f"{command} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return done

    return call


@pytest.fixture
def python() -> Path:
    """The interpreter that runs the tests."""
    return Path(sys.executable)
